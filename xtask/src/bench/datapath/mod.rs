//! `bench datapath`: what the product's packets cost beside a veth pair, a bridge, and firewalls.

mod figures;
mod load;
mod paths;

use std::time::Duration;

use anyhow::{Context, Result};

use self::figures::{Figures, Row};
use self::load::Pair;
use self::paths::{Kind, Path, Route};
use super::DatapathArguments;
use crate::plain;
use crate::report::write_json;

/// Slots that the firewall has rules for.
const RULED_SLOTS: [u32; 3] = [10, 100, 1000];

pub(super) fn run(arguments: &DatapathArguments) -> Result<()> {
    let paths = build(&arguments.slots)?;
    let span = Duration::from_secs_f64(arguments.seconds);
    let mut rows = rows(&paths);
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for (row, pair) in &mut rows {
            let sample = pair.measure(span);
            row.rounds.push(sample.with_context(|| row.name())?);
        }
    }
    let rows = rows.into_iter().map(|(row, _)| row).collect();
    drop(paths);
    plain::settle()?;
    let figures = Figures::new(arguments.seconds, rows)?;
    figures.show();
    write_json(arguments.json.as_deref(), &figures)
}

/// All worlds at once, so that rounds can go through one after the other.
fn build(slots: &[u32]) -> Result<Vec<Path>> {
    let plain = [Kind::Veth, Kind::Routed, Kind::Bridge, Kind::Nftables];
    let ruled = RULED_SLOTS.map(Kind::Iptables);
    let product = slots.iter().map(|slots| Kind::Product(*slots));
    let kinds = plain.into_iter().chain(ruled).chain(product);
    kinds
        .map(|kind| Path::build(kind).with_context(|| format!("build {}", kind.name())))
        .collect()
}

/// Routes one after the other, so that what is compared is measured close together.
fn rows(paths: &[Path]) -> Vec<(Row, Pair)> {
    let of_route = |route| {
        let pairs = paths
            .iter()
            .filter_map(move |path| Some((Row::new(route, path.kind), path.pair(route)?)));
        pairs.collect::<Vec<_>>()
    };
    Route::ALL.into_iter().flat_map(of_route).collect()
}
