//! Tables, plots and ratios of `bench cold-start`.

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Locks, Round, Series};
use crate::bench::chart::{Column, Columns, Line, Lines, Point};
use crate::bench::findings::{Findings, Ratio, Rows};
use crate::bench::spread::Spread;
use crate::inside::Method;
use crate::report::time;

/// Of start-up at the most at once.
const LARGEST_NETWORK_SHARE: f64 = 0.05;
const LARGEST_OVER_FLOOR: f64 = 1.3;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) methods: Vec<Method>,
    pub(super) at_once: Vec<u32>,
    pub(super) series: Vec<Series>,
    pub(super) locks: Vec<Locks>,
}

impl Figures {
    pub(super) fn findings(&self, most: u32) -> Result<Findings> {
        Ok(Findings::new("Cold start: from request to first reply", self)?
            .text(
                "Containers of runc with a function in them that speaks OpenWhisk's action protocol, all requested in the same moment; the time \
                 ends with the first answer to `POST /run`. Images are there before, as many idle containers were started and ended, pools are full and are not refilled meanwhile. Networks: \
                 by the CNI plugins bridge (masquerading), host-local and portmap; by plain netlink, the least a network made on demand can \
                 take, without a firewall rule; kept by pause containers that were started before, and joined by path; out of the pool of \
                 `pcpmd` with a published port, asked for on its socket or by `pcpm-runtime`, whose median wait for a slot is given as its \
                 network. The floor has no network namespace and is \
                 invoked through a Unix socket.",
            )
            .table(self.totals()?)
            .chart("cold-start", self.chart()?)
            .text(format!("The phases at {most} at once, means (the daemon's part of the network by its own account, a median), and when the \
                           last one has replied; and the share of all that time that was spent waiting for locks, seen in one more round (waits of several threads for one container add up):"))
            .table(self.phases(most)?)
            .chart("cold-start-phases", self.columns(most)?)
            .ratios(self.ratios(most)?))
    }

    fn series(&self, method: Method, at_once: u32) -> Result<&Series> {
        let mut series = self.series.iter();
        let found = series.find(|series| series.method == method && series.at_once == at_once);
        found.context("a series is missing")
    }

    fn median(&self, method: Method, at_once: u32, of: fn(&Round) -> f64) -> Result<Spread> {
        Spread::of(self.series(method, at_once)?.rounds.iter().map(of))
    }

    fn totals(&self) -> Result<Rows> {
        let counts = self.at_once.iter();
        let heading = counts.flat_map(|count| [format!("{count} at once"), "quartiles".to_owned()]);
        let mut rows = vec![["median".to_owned()].into_iter().chain(heading).collect()];
        for method in self.methods.iter().copied() {
            let mut row = vec![method.name().to_owned()];
            for count in &self.at_once {
                row.extend(
                    self.median(method, *count, |round| round.median_us)?
                        .time_cells(),
                );
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn phases(&self, most: u32) -> Result<Rows> {
        let heading = "|network|the daemon's|create|start|first reply|all|last reply|network's share|waiting for rtnl|for any lock";
        let mut rows: Rows = vec![heading.split('|').map(str::to_owned).collect()];
        for locks in &self.locks {
            let mut row = vec![locks.method.name().to_owned()];
            for of in [
                (|round| round.network_us) as fn(&Round) -> f64,
                |round| round.daemon_us,
                |round| round.create_us,
                |round| round.start_us,
                |round| round.reply_us,
                Round::total_us,
                |round| round.last_us,
            ] {
                let median = self.median(locks.method, most, of)?.median;
                row.push(if median > 0.0 {
                    time(median)
                } else {
                    "-".to_owned()
                });
            }
            let share = self
                .median(locks.method, most, Round::network_share)?
                .median;
            let shares = [share, locks.rtnl_share, locks.all_share];
            row.extend(shares.map(|share| format!("{:.1} %", share * 100.0)));
            rows.push(row);
        }
        Ok(rows)
    }

    fn pooled(&self) -> impl Iterator<Item = Method> {
        let methods = self.methods.iter().copied();
        methods.filter(|method| method.is_pooled())
    }

    fn chart(&self) -> Result<Lines> {
        let line = |method: Method| {
            let points = self.at_once.iter().map(|count| {
                let us = self.median(method, *count, |round| round.median_us / 1e3)?;
                Ok(Point {
                    x: f64::from(*count),
                    y: us,
                })
            });
            Ok(Line {
                name: method.name().to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        };
        Ok(Lines {
            title: "From request to first reply".to_owned(),
            x_title: "containers started at once".to_owned(),
            y_title: "ms, median".to_owned(),
            y_logarithmic: true,
            series: self
                .methods
                .iter()
                .copied()
                .map(line)
                .collect::<Result<_>>()?,
            ..Lines::default()
        })
    }

    fn columns(&self, most: u32) -> Result<Columns> {
        let bar = |method: Method| {
            let rounds = &self.series(method, most)?.rounds;
            let phase = |index: usize| {
                let values = rounds.iter().map(|round| round.phases()[index] / 1e3);
                Ok(Spread::of(values)?.median)
            };
            let parts = (0..4).map(phase).collect::<Result<Vec<f64>>>()?;
            Ok(Column {
                label: method.word().to_owned(),
                note: time(parts.iter().sum::<f64>() * 1e3),
                parts,
            })
        };
        Ok(Columns {
            title: format!("What a start consists of, {most} at once"),
            y_title: "ms, mean".to_owned(),
            parts: ["network", "create", "start", "first reply"]
                .map(str::to_owned)
                .to_vec(),
            bars: self
                .methods
                .iter()
                .copied()
                .map(bar)
                .collect::<Result<_>>()?,
            ..Columns::default()
        })
    }

    fn ratios(&self, most: u32) -> Result<Vec<Ratio>> {
        let over = |method, other, of: fn(&Round) -> f64| -> Result<Vec<f64>> {
            let rounds = self.series(method, most)?.rounds.iter();
            let others = &self.series(other, most)?.rounds;
            let pairs = rounds.zip(others);
            Ok(pairs.map(|(one, other)| of(one) / of(other)).collect())
        };
        let mut ratios = Vec::new();
        let measures = |method| self.methods.contains(&method);
        for method in self.pooled().filter(|_| measures(Method::None)) {
            ratios.push(
                Ratio::lower(
                    &format!("{}-over-floor", method.word()),
                    &format!("{most} at once: {} / no network", method.name()),
                    over(method, Method::None, |round| round.median_us)?,
                )?
                .aim(LARGEST_OVER_FLOOR),
            );
            ratios.push(Ratio::lower(
                &format!("{}-last-over-floor", method.word()),
                &format!(
                    "{most} at once, until the last has replied: {} / no network",
                    method.name()
                ),
                over(method, Method::None, |round| round.last_us)?,
            )?);
        }
        for method in self.pooled() {
            let what = format!(
                "{most} at once: the network's share of a start with {}",
                method.name()
            );
            let rounds = self.series(method, most)?.rounds.iter();
            let name = format!("{}-network-share", method.word());
            let ratio = Ratio::lower(&name, &what, rounds.map(Round::network_share))?;
            ratios.push(ratio.aim(LARGEST_NETWORK_SHARE));
        }
        let peers = [Method::Cni, Method::OnDemand, Method::Pause].into_iter();
        for method in peers.filter(|peer| measures(*peer) && measures(Method::Pooled)) {
            ratios.push(Ratio::higher(
                &format!("{}-over-pooled", method.word()),
                &format!("{most} at once: {} / PCPM", method.name()),
                over(method, Method::Pooled, |round| round.median_us)?,
            )?);
        }
        Ok(ratios)
    }
}
