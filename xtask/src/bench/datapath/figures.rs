//! Medians, ratios and aims of `bench datapath`.

use anyhow::{Context, Result};
use serde::Serialize;

use super::load::Sample;
use super::paths::{Kind, RULES_PER_SLOT, Route};
use crate::report::{median, ratio, table, time};

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
    seconds: f64,
    rules_per_slot: u32,
    rows: Vec<Row>,
    medians: Vec<Medians>,
    ratios: Vec<Ratios>,
    aims: Vec<Aim>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Medians {
    route: Route,
    path: Kind,
    throughput_bit_s: f64,
    p50_us: f64,
    p99_us: f64,
    connections_s: f64,
    small_packets_s: f64,
}

/// The product beside another path: throughput, round trip, connections and packets, more than 1
/// being better.
#[derive(Clone, Copy, Debug, Serialize)]
struct Ratios {
    route: Route,
    path: Kind,
    other: Kind,
    times_as_good: [f64; MERITS.len()],
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
    of: fn(&Sample) -> f64,
}

const THROUGHPUT: Merit = Merit {
    name: "throughput",
    of: |sample| sample.throughput_bit_s,
};
const LATENCY: Merit = Merit {
    name: "round trip",
    of: |sample| 1.0 / sample.round_trip.p50_us,
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
        let of = |figure: fn(&Sample) -> f64| median(self.rounds.iter().map(figure));
        Medians {
            route: self.route,
            path: self.path,
            throughput_bit_s: of(|sample| sample.throughput_bit_s),
            p50_us: of(|sample| sample.round_trip.p50_us),
            p99_us: of(|sample| sample.round_trip.p99_us),
            connections_s: of(|sample| sample.connections_s),
            small_packets_s: of(|sample| sample.small_packets_s),
        }
    }

    /// How many times as good as `other`, round by round.
    fn over(&self, other: &Self, merit: Merit) -> f64 {
        let rounds = self.rounds.iter().zip(&other.rounds);
        median(rounds.map(|(own, other)| (merit.of)(own) / (merit.of)(other)))
    }
}

impl Figures {
    pub(super) fn new(seconds: f64, rows: Vec<Row>) -> Result<Self> {
        Ok(Self {
            seconds,
            rules_per_slot: RULES_PER_SLOT,
            medians: rows.iter().map(Row::medians).collect(),
            ratios: ratios(&rows),
            aims: aims(&rows)?,
            rows,
        })
    }

    pub(super) fn show(&self) {
        println!("{}", self.conditions());
        for route in Route::ALL {
            self.show_route(route);
        }
        println!();
        for aim in &self.aims {
            println!("{}", aim.line());
        }
    }

    fn conditions(&self) -> String {
        format!(
            "Medians of {} interleaved rounds of {} s, and within them the median round trip, the median connection, \
             the median 5 ms of throughput and packets. Everywhere: MTU 1500, the offloads of veth on, the same \
             code as client and server; both on one CPU for round trips and connections, on two for throughput \
             and packets. (c) and (d) see bridged packets as well (bridge-nf-call-iptables), and let known \
             connections pass first; (d) has {} rules a slot.",
            self.rows.first().map_or(0, |row| row.rounds.len()),
            self.seconds,
            self.rules_per_slot,
        )
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
        println!();
        let ratios = self.ratios.iter().filter(|row| row.route == route);
        let heading = ["times as good as"].into_iter();
        let heading = heading.chain(MERITS.map(|merit| merit.name));
        let heading = heading.map(str::to_owned).collect();
        table(&[vec![heading], ratios.map(Ratios::row).collect()].concat());
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

fn aims(rows: &[Row]) -> Result<Vec<Aim>> {
    let mut aims = Vec::new();
    for product in rows.iter().filter(|row| row.is_product()) {
        let peer = |kind| {
            let mut rows = rows.iter();
            rows.find(|row| row.route == product.route.compared() && row.path == kind)
                .with_context(|| format!("no row for {}", kind.name()))
        };
        let share = product.over(peer(Kind::Veth)?, THROUGHPUT);
        aims.push(Aim::at_least(
            product,
            LEAST_THROUGHPUT,
            share,
            "throughput of (a)",
        ));
        for (kind, letter) in [(Kind::Bridge, "(b)"), (Kind::Nftables, "(c)")] {
            for merit in [LATENCY, CONNECTIONS] {
                let times = product.over(peer(kind)?, merit);
                let what = format!("{} of {letter}", merit.name);
                aims.push(Aim::at_least(product, 1.0, times, &what));
            }
        }
    }
    for route in Route::ALL {
        aims.extend(changes(rows, route));
    }
    Ok(aims)
}

/// The most slots beside the fewest.
fn changes(rows: &[Row], route: Route) -> Vec<Aim> {
    let mut products = rows
        .iter()
        .filter(|row| row.route == route && row.is_product());
    let (Some(few), Some(many)) = (products.next(), products.next_back()) else {
        return Vec::new();
    };
    let changes = MERITS.map(|merit| {
        let what = format!("{} of {}", merit.name, few.path.name());
        Aim::at_least(many, 1.0 - SAME, many.over(few, merit), &what)
    });
    changes.into()
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
            format!("{:.1} Gbit/s", self.throughput_bit_s / 1e9),
            time(self.p50_us),
            time(self.p99_us),
            format!("{:.0}", self.connections_s),
            format!("{:.0}", self.small_packets_s),
        ]
    }
}

impl Ratios {
    fn row(&self) -> Vec<String> {
        let name = format!("{} / {}", self.path.name(), self.other.name());
        let cells = self.times_as_good.map(ratio);
        [name].into_iter().chain(cells).collect()
    }
}
