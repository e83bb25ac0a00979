//! `bench datapath`: what the product's packets cost beside a veth pair, a bridge, and firewalls.

mod conditions;
mod figures;
mod load;
mod paths;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use self::conditions::Conditions;
use self::figures::{Figures, Row};
use self::load::{Load, Pair};
use self::paths::{Beside, Kind, Path, Route};
use super::Part;
use super::findings::Findings;
use crate::plain;

/// Slots that the firewall has rules for.
const RULED_SLOTS: [u32; 3] = [10, 100, 1000];

#[derive(Debug, Args)]
pub(super) struct DatapathArguments {
    /// Numbers of attached slots, for instance 10,100,1000 [default: 10,4000; quick: 10,100].
    #[arg(long, value_name = "N,N,..", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(2..=10_000))]
    slots: Vec<u32>,
    /// How long each kind of load runs on each path in each round [default: 0.5; quick: 0.05].
    #[arg(long)]
    seconds: Option<f64>,
    /// How often all paths are measured, one after the other [default: 3; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Only these routes [default: all].
    #[arg(long, value_name = "ROUTE,..", value_delimiter = ',', value_enum)]
    routes: Vec<Route>,
    /// Only these kinds of load [default: all].
    #[arg(long, value_name = "LOAD,..", value_delimiter = ',', value_enum)]
    loads: Vec<Load>,
    /// What is measured beside the product [default: all].
    #[arg(long, value_name = "PATH,..", value_delimiter = ',', value_enum)]
    beside: Vec<Beside>,
}

impl Part for DatapathArguments {
    fn name(&self) -> &'static str {
        "datapath"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let paths = self.build(quick)?;
        let (rounds, seconds) = (self.rounds(quick), self.seconds(quick));
        let conditions = Conditions::read(&paths, rounds, seconds)?;
        let span = Duration::from_secs_f64(seconds);
        let loads = self.loads();
        let mut rows = rows(&paths, &self.routes());
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            for (row, pair) in &mut rows {
                let sample = pair.measure(&loads, span);
                row.rounds.push(sample.with_context(|| row.name())?);
            }
        }
        let rows = rows.into_iter().map(|(row, _)| row).collect();
        drop(paths);
        plain::settle()?;
        Figures::new(conditions, rows).findings()
    }
}

impl DatapathArguments {
    fn slots(&self, quick: bool) -> Vec<u32> {
        match (self.slots.as_slice(), quick) {
            ([], true) => vec![10, 100],
            ([], false) => vec![10, 4000],
            (slots, _) => slots.to_vec(),
        }
    }

    fn seconds(&self, quick: bool) -> f64 {
        let default = if quick { 0.05 } else { 0.5 };
        self.seconds.unwrap_or(default)
    }

    fn rounds(&self, quick: bool) -> u32 {
        let default = if quick { 1 } else { 3 };
        self.rounds.unwrap_or(default)
    }

    fn routes(&self) -> Vec<Route> {
        or_all(&self.routes, &Route::ALL)
    }

    /// All worlds at once, so that rounds can go through one after the other.
    fn build(&self, quick: bool) -> Result<Vec<Path>> {
        let product = self.slots(quick).into_iter().map(Kind::Product);
        let kinds = self.beside().into_iter().chain(product);
        kinds
            .map(|kind| Path::build(kind).with_context(|| format!("build {}", kind.name())))
            .collect()
    }

    fn loads(&self) -> Vec<Load> {
        or_all(&self.loads, &Load::ALL)
    }

    fn beside(&self) -> Vec<Kind> {
        let beside = or_all(&self.beside, &Beside::ALL);
        let kinds = |beside| match beside {
            Beside::Nothing => Vec::new(),
            Beside::Veth => vec![Kind::Veth],
            Beside::Routed => vec![Kind::Routed],
            Beside::Bridge => vec![Kind::Bridge],
            Beside::Nftables => vec![Kind::Nftables],
            Beside::Iptables => RULED_SLOTS.map(Kind::Iptables).to_vec(),
        };
        beside.into_iter().flat_map(kinds).collect()
    }
}

fn or_all<T: Copy>(chosen: &[T], all: &[T]) -> Vec<T> {
    if chosen.is_empty() { all } else { chosen }.to_vec()
}

/// Routes one after the other, so that what is compared is measured close together.
fn rows(paths: &[Path], routes: &[Route]) -> Vec<(Row, Pair)> {
    let of_route = |route: &Route| {
        let route = *route;
        let pairs = paths
            .iter()
            .filter_map(move |path| Some((Row::new(route, path.kind), path.pair(route)?)));
        pairs.collect::<Vec<_>>()
    };
    routes.iter().flat_map(of_route).collect()
}
