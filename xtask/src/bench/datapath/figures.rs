//! Medians, ratios and aims of `bench datapath`.

use serde::Serialize;

use super::conditions::Conditions;
use super::load::Sample;
use super::paths::{Kind, Route};
use crate::report::{quartile, ratio, table, time};

/// The least share of a bare pair's throughput.
const LEAST_THROUGHPUT: f64 = 0.95;
/// What counts as no change between few slots and many.
const SAME: f64 = 0.1;

/// One path of one route, and what its rounds measured.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    route: Route,
    path: Kind,
    pub(super) rounds: Vec<Sample>,
}

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    #[serde(flatten)]
    conditions: Conditions,
    rows: Vec<Row>,
    medians: Vec<Medians>,
    ratios: Vec<Ratios>,
    aims: Vec<Aim>,
}

/// A figure over all rounds, if it was measured.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    median: f64,
    lower_quartile: f64,
    upper_quartile: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Medians {
    route: Route,
    path: Kind,
    throughput_bit_s: Option<Figure>,
    p50_us: Option<Figure>,
    p99_us: Option<Figure>,
    connections_s: Option<Figure>,
    small_packets_s: Option<Figure>,
}

/// The product beside another path: throughput, round trip, connections and packets, more than 1
/// being better.
#[derive(Clone, Copy, Debug, Serialize)]
struct Ratios {
    route: Route,
    path: Kind,
    other: Kind,
    times_as_good: [Option<f64>; MERITS.len()],
}

/// Something the product shall reach.
#[derive(Debug, Serialize)]
struct Aim {
    what: String,
    least: f64,
    times: f64,
    met: bool,
}

/// A figure of a sample, larger being better.
#[derive(Clone, Copy)]
struct Merit {
    name: &'static str,
    of: fn(&Sample) -> Option<f64>,
}

const THROUGHPUT: Merit = Merit {
    name: "throughput",
    of: |sample| sample.throughput_bit_s,
};
const LATENCY: Merit = Merit {
    name: "round trip",
    of: |sample| Some(1.0 / sample.round_trip?.p50_us),
};
const CONNECTIONS: Merit = Merit {
    name: "connections/s",
    of: |sample| sample.connections_s,
};
const SMALL_PACKETS: Merit = Merit {
    name: "64-byte packets/s",
    of: |sample| sample.small_packets_s,
};
const MERITS: [Merit; 4] = [THROUGHPUT, LATENCY, CONNECTIONS, SMALL_PACKETS];

impl Row {
    pub(super) fn new(route: Route, path: Kind) -> Self {
        Self {
            route,
            path,
            rounds: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{}, {}", self.route.name(), self.path.name())
    }

    fn is_product(&self) -> bool {
        matches!(self.path, Kind::Product(_))
    }

    fn medians(&self) -> Medians {
        let of = |figure: fn(&Sample) -> Option<f64>| Figure::of(self.rounds.iter().map(figure));
        Medians {
            route: self.route,
            path: self.path,
            throughput_bit_s: of(|sample| sample.throughput_bit_s),
            p50_us: of(|sample| Some(sample.round_trip?.p50_us)),
            p99_us: of(|sample| Some(sample.round_trip?.p99_us)),
            connections_s: of(|sample| sample.connections_s),
            small_packets_s: of(|sample| sample.small_packets_s),
        }
    }

    /// How many times as good as `other`, round by round.
    fn over(&self, other: &Self, merit: Merit) -> Option<f64> {
        let rounds = self.rounds.iter().zip(&other.rounds);
        let ratios = rounds.map(|(own, other)| Some((merit.of)(own)? / (merit.of)(other)?));
        Some(Figure::of(ratios)?.median)
    }
}

impl Figure {
    /// Over the rounds that measured it.
    fn of(rounds: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<_> = rounds.flatten().collect();
        let at = |quarter| quartile(&values, quarter);
        Some(Self {
            median: at(2)?,
            lower_quartile: at(1)?,
            upper_quartile: at(3)?,
        })
    }

    /// Half of what lies between the quartiles, as a percentage of the median.
    fn spread(self) -> f64 {
        50.0 * (self.upper_quartile - self.lower_quartile) / self.median
    }
}

/// A cell of a table; `text` shows the median.
fn cell(figure: Option<Figure>, text: fn(f64) -> String) -> String {
    figure.map_or("-".to_owned(), |figure| {
        format!("{} +-{:.0}%", text(figure.median), figure.spread())
    })
}

impl Figures {
    pub(super) fn new(conditions: Conditions, rows: Vec<Row>) -> Self {
        Self {
            conditions,
            medians: rows.iter().map(Row::medians).collect(),
            ratios: ratios(&rows),
            aims: aims(&rows),
            rows,
        }
    }

    pub(super) fn show(&self) {
        self.conditions.show();
        for route in Route::ALL {
            self.show_route(route);
        }
        println!();
        for aim in &self.aims {
            println!("{}", aim.line());
        }
    }

    fn show_route(&self, route: Route) {
        let medians = self.medians.iter().filter(|row| row.route == route);
        let rows: Vec<_> = medians.map(Medians::row).collect();
        if rows.is_empty() {
            return;
        }
        println!("\n{}:\n", route.name());
        let heading = "|throughput|round trip p50|p99|connections/s|64-byte packets/s";
        let heading = heading.split('|').map(str::to_owned).collect();
        table(&[vec![heading], rows].concat());
        let ratios = self.ratios.iter().filter(|row| row.route == route);
        let ratios: Vec<_> = ratios.map(Ratios::row).collect();
        if ratios.is_empty() {
            return;
        }
        println!();
        let heading = ["times as good as"].into_iter();
        let heading = heading.chain(MERITS.map(|merit| merit.name));
        let heading = heading.map(str::to_owned).collect();
        table(&[vec![heading], ratios].concat());
    }
}

/// Every number of slots beside every other path of the route.
fn ratios(rows: &[Row]) -> Vec<Ratios> {
    let products = rows.iter().filter(|row| row.is_product());
    products
        .flat_map(|product| {
            let others = rows.iter().filter(|row| !row.is_product());
            others
                .filter(|other| other.route == product.route.compared())
                .map(|other| Ratios {
                    route: product.route,
                    path: product.path,
                    other: other.path,
                    times_as_good: MERITS.map(|merit| product.over(other, merit)),
                })
        })
        .collect()
}

/// What was measured of what the product shall reach.
fn aims(rows: &[Row]) -> Vec<Aim> {
    let products = rows.iter().filter(|row| row.is_product());
    let beside = products.flat_map(|product| aims_of(product, rows));
    let changes = Route::ALL
        .into_iter()
        .flat_map(|route| changes(rows, route));
    beside.chain(changes).collect()
}

/// The product beside others.
fn aims_of(product: &Row, rows: &[Row]) -> Vec<Aim> {
    let aims = [
        (Kind::Veth, THROUGHPUT, LEAST_THROUGHPUT, "(a)"),
        (Kind::Bridge, LATENCY, 1.0, "(b)"),
        (Kind::Bridge, CONNECTIONS, 1.0, "(b)"),
        (Kind::Nftables, LATENCY, 1.0, "(c)"),
        (Kind::Nftables, CONNECTIONS, 1.0, "(c)"),
    ];
    let aims = aims.into_iter().filter_map(|(kind, merit, least, letter)| {
        let mut rows = rows.iter();
        let peer = rows.find(|row| row.route == product.route.compared() && row.path == kind)?;
        let times = product.over(peer, merit)?;
        let what = format!("{} of {letter}", merit.name);
        Some(Aim::at_least(product, least, times, &what))
    });
    aims.collect()
}

/// The most slots beside the fewest.
fn changes(rows: &[Row], route: Route) -> Vec<Aim> {
    let mut products = rows
        .iter()
        .filter(|row| row.route == route && row.is_product());
    let (Some(few), Some(many)) = (products.next(), products.next_back()) else {
        return Vec::new();
    };
    let changes = MERITS.into_iter().filter_map(|merit| {
        let what = format!("{} of {}", merit.name, few.path.name());
        let times = many.over(few, merit)?;
        Some(Aim::at_least(many, 1.0 - SAME, times, &what))
    });
    changes.collect()
}

impl Aim {
    fn at_least(row: &Row, least: f64, times: f64, what: &str) -> Self {
        Self {
            what: format!("{}: {what}", row.name()),
            least,
            times,
            met: times >= least,
        }
    }

    fn line(&self) -> String {
        let verdict = if self.met { "met" } else { "MISSED" };
        let (times, least) = (ratio(self.times), ratio(self.least));
        format!("aim {verdict}: {}: {times}, at least {least}", self.what)
    }
}

impl Medians {
    fn row(&self) -> Vec<String> {
        vec![
            self.path.name(),
            cell(self.throughput_bit_s, |bits| {
                format!("{:.1} Gbit/s", bits / 1e9)
            }),
            cell(self.p50_us, time),
            cell(self.p99_us, time),
            cell(self.connections_s, |number| format!("{number:.0}")),
            cell(self.small_packets_s, |number| format!("{number:.0}")),
        ]
    }
}

impl Ratios {
    fn row(&self) -> Vec<String> {
        let name = format!("{} / {}", self.path.name(), self.other.name());
        let cells = self.times_as_good;
        let cells = cells.map(|times| times.map_or("-".to_owned(), ratio));
        [name].into_iter().chain(cells).collect()
    }
}
