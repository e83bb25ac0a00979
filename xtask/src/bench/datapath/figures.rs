//! Medians, ratios and aims of `bench datapath`.

use anyhow::Result;
use serde::Serialize;

use super::conditions::Conditions;
use super::load::Sample;
use super::paths::{Kind, Route};
use crate::bench::chart::{Column, Columns};
use crate::bench::findings::{Findings, Ratio, Rows};
use crate::report::{quartile, ratio, time};

/// The least share of a bare pair's throughput.
const LEAST_THROUGHPUT: f64 = 0.95;
/// What counts as no change between few slots and many.
const SAME: f64 = 0.1;

/// Of the drawings of [`Route::ALL`].
const FILES: [&str; Route::ALL.len()] = [
    "datapath-slot-to-slot",
    "datapath-slot-to-far-slot",
    "datapath-slot-to-world",
    "datapath-world-to-port",
];

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
    #[serde(skip)]
    aims: Vec<Ratio>,
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

/// A figure of a sample, larger being better.
#[derive(Clone, Copy)]
struct Merit {
    name: &'static str,
    key: &'static str,
    of: fn(&Sample) -> Option<f64>,
}

const THROUGHPUT: Merit = Merit {
    name: "throughput",
    key: "throughput",
    of: |sample| sample.throughput_bit_s,
};
const LATENCY: Merit = Merit {
    name: "round trip",
    key: "round-trip",
    of: |sample| Some(1.0 / sample.round_trip?.p50_us),
};
const CONNECTIONS: Merit = Merit {
    name: "connections/s",
    key: "connections",
    of: |sample| sample.connections_s,
};
const SMALL_PACKETS: Merit = Merit {
    name: "64-byte packets/s",
    key: "packets",
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

    /// How many times as good as `other`, in each round that measured it.
    fn over(&self, other: &Self, merit: Merit) -> Vec<f64> {
        let rounds = self.rounds.iter().zip(&other.rounds);
        let ratios = rounds.map(|(own, other)| Some((merit.of)(own)? / (merit.of)(other)?));
        ratios.flatten().collect()
    }

    /// The same as a ratio that shall be `least`; none where it was not measured.
    fn aim(&self, other: &Self, merit: Merit, least: f64) -> Option<Ratio> {
        let name = format!(
            "{}-{}-{}-over-{}",
            self.route.key(),
            merit.key,
            self.path.key(),
            other.path.key()
        );
        let what = format!(
            "{}: {}, {} / {}",
            self.route.name(),
            merit.name,
            self.path.name(),
            other.path.name()
        );
        let ratio = Ratio::higher(&name, &what, self.over(other, merit));
        Some(ratio.ok()?.aim(least))
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

    pub(super) fn findings(self) -> Result<Findings> {
        let mut findings =
            Findings::new("Datapath: what packets cost", &self)?.text(self.conditions.text());
        for (route, file) in Route::ALL.into_iter().zip(FILES) {
            let rows = self.medians(route);
            if rows.len() < 2 {
                continue;
            }
            findings = findings.text(format!("### {}", route.name())).table(rows);
            let ratios = self.ratios(route);
            if ratios.len() > 1 {
                findings = findings.table(ratios);
            }
            findings = findings.chart(file, self.chart(route));
        }
        Ok(findings.ratios(self.aims))
    }

    fn medians(&self, route: Route) -> Rows {
        let heading = "|throughput|round trip p50|p99|connections/s|64-byte packets/s";
        let heading = heading.split('|').map(str::to_owned).collect();
        let medians = self.medians.iter().filter(|row| row.route == route);
        [heading]
            .into_iter()
            .chain(medians.map(Medians::row))
            .collect()
    }

    fn ratios(&self, route: Route) -> Rows {
        let heading = ["times as good as"].into_iter();
        let heading = heading.chain(MERITS.map(|merit| merit.name));
        let heading = heading.map(str::to_owned).collect();
        let ratios = self.ratios.iter().filter(|row| row.route == route);
        [heading]
            .into_iter()
            .chain(ratios.map(Ratios::row))
            .collect()
    }

    /// Round trips: what every packet pays.
    fn chart(&self, route: Route) -> Columns {
        let rows = self.medians.iter().filter(|row| row.route == route);
        let columns = rows.filter_map(|row| {
            let p50 = row.p50_us?.median;
            Some(Column {
                label: row.path.short(),
                parts: vec![p50],
                note: format!("{p50:.1}"),
            })
        });
        Columns {
            title: format!("Round trip, {}", route.name()),
            y_title: "us, median".to_owned(),
            bars: columns.collect(),
            ..Columns::default()
        }
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
                    times_as_good: MERITS.map(|merit| quartile(&product.over(other, merit), 2)),
                })
        })
        .collect()
}

/// What was measured of what the product shall reach.
fn aims(rows: &[Row]) -> Vec<Ratio> {
    let products = rows.iter().filter(|row| row.is_product());
    let beside = products.flat_map(|product| aims_of(product, rows));
    let changes = Route::ALL
        .into_iter()
        .flat_map(|route| changes(rows, route));
    beside.chain(changes).collect()
}

/// The product beside others.
fn aims_of(product: &Row, rows: &[Row]) -> Vec<Ratio> {
    let aims = [
        (Kind::Veth, THROUGHPUT, LEAST_THROUGHPUT),
        (Kind::Bridge, LATENCY, 1.0),
        (Kind::Bridge, CONNECTIONS, 1.0),
        (Kind::Nftables, LATENCY, 1.0),
        (Kind::Nftables, CONNECTIONS, 1.0),
    ];
    let aims = aims.into_iter().filter_map(|(kind, merit, least)| {
        let mut rows = rows.iter();
        let peer = rows.find(|row| row.route == product.route.compared() && row.path == kind)?;
        product.aim(peer, merit, least)
    });
    aims.collect()
}

/// The most slots beside the fewest.
fn changes(rows: &[Row], route: Route) -> Vec<Ratio> {
    let mut products = rows
        .iter()
        .filter(|row| row.route == route && row.is_product());
    let (Some(few), Some(many)) = (products.next(), products.next_back()) else {
        return Vec::new();
    };
    let changes = MERITS
        .into_iter()
        .filter_map(|merit| many.aim(few, merit, 1.0 - SAME));
    changes.collect()
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
