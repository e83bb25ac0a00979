//! What comes of the measurements: tables, plots, ratios.

use anyhow::Result;
use pcpm_tests::engines::Network;
use serde::Serialize;

use super::{NETWORKS, Sample, What};
use crate::bench::chart::{Column, Columns};
use crate::bench::findings::{Findings, Ratio, Rows};
use crate::bench::spread::Spread;
use crate::report::time;

/// A pooled start is to take no longer than one without a network, but for this.
const MOST_OVER_NONE: f64 = 1.1;
/// A plugin that asks the pool is to be so much quicker than those that make a network.
const LEAST_OF_PLUGINS: f64 = 10.0;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) at_once: usize,
    pub(super) samples: Vec<Sample>,
}

impl What {
    const ENGINES: [Self; 3] = [Self::Podman, Self::Docker, Self::Pod];
    const PLUGINS: [Self; 2] = [Self::CniAdd, Self::CniDel];

    const fn describe(self) -> &'static str {
        match self {
            Self::Podman => "podman run",
            Self::Docker => "docker run",
            Self::Pod => "pod (CRI)",
            Self::CniAdd => "CNI ADD",
            Self::CniDel => "CNI DEL",
        }
    }

    /// In names of ratios.
    const fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::Pod => "pod",
            Self::CniAdd => "cni-add",
            Self::CniDel => "cni-del",
        }
    }

    fn is_plugin(self) -> bool {
        Self::PLUGINS.contains(&self)
    }
}

impl Figures {
    pub(super) fn findings(&self) -> Result<Findings> {
        let title =
            "Engines: until containers run, with networks of their engine's and of the pool's";
        let mut ratios = Vec::new();
        for what in What::ENGINES.into_iter().chain(What::PLUGINS) {
            for together in [false, true] {
                ratios.extend(self.ratios(what, together)?);
            }
        }
        let at_once = self.at_once;
        Ok(Findings::new(title, self)?
            .text(format!(
                "From the command to its end, when the container runs: `podman run -d`, `docker run -d`, and a pod with one container over \
                 containerd's CRI. Each with the engine's own bridge (podman: netavark; docker: docker0; pods: `bridge`, `host-local` and \
                 `portmap`), with a slot of the pool (podman, docker: `pcpm-runtime`; pods: `pcpm-cni`), and with nothing to be made \
                 (`--network none`; pods with a plugin that says so and makes nothing). The pool is full before each start; what refills it \
                 and what removes containers is not in these times. One by one, and {at_once} at once until all run."
            ))
            .table(self.rows(&What::ENGINES, false)?)
            .table(self.rows(&What::ENGINES, true)?)
            .chart("engines", self.chart(false)?)
            .chart("engines-at-once", self.chart(true)?)
            .text(format!(
                "The plugins by themselves, called as engines call them, with a port to publish: `pcpm-cni`, beside `bridge` with `ipMasq` and \
                 `host-local`, and then `portmap`. To start a program that does nothing is the floor. Of {at_once} at once, the median of each round."
            ))
            .table(self.rows(&What::PLUGINS, false)?)
            .table(self.rows(&What::PLUGINS, true)?)
            .ratios(ratios))
    }

    fn of(&self, what: What, network: Network, together: bool) -> Vec<f64> {
        let samples = self.samples.iter().filter(|sample| {
            (sample.what, sample.network, sample.together) == (what, network, together)
        });
        samples.map(|sample| sample.us).collect()
    }

    fn ratios(&self, what: What, together: bool) -> Result<Vec<Ratio>> {
        let [none, bridge, pooled] = NETWORKS.map(|network| self.of(what, network, together));
        let (at_once, many) = if together {
            ("-at-once", format!(", {} at once", self.at_once))
        } else {
            ("", String::new())
        };
        let over = |one: &[f64], other: &[f64]| -> Vec<f64> {
            one.iter()
                .zip(other)
                .map(|(one, other)| one / other)
                .collect()
        };
        let peer = Ratio::higher(
            &format!("{}{at_once}-bridge-over-pooled", what.name()),
            &format!("{}{many}: bridge / pooled", what.describe()),
            over(&bridge, &pooled),
        )?;
        if what.is_plugin() {
            return Ok(vec![peer.aim(LEAST_OF_PLUGINS)]);
        }
        let floor = Ratio::lower(
            &format!("{}{at_once}-pooled-over-none", what.name()),
            &format!("{}{many}: pooled / none", what.describe()),
            over(&pooled, &none),
        )?;
        Ok(vec![peer, floor.aim(MOST_OVER_NONE)])
    }

    fn rows(&self, whats: &[What], together: bool) -> Result<Rows> {
        let corner = if together {
            format!("{} at once", self.at_once)
        } else {
            "alone".to_owned()
        };
        let mut heading = vec![corner];
        for network in ["none (floor)", "bridge", "pooled"] {
            heading.extend([network.to_owned(), "quartiles".to_owned()]);
        }
        let mut rows = vec![heading];
        for what in whats {
            let mut row = vec![what.describe().to_owned()];
            for network in NETWORKS {
                row.extend(Spread::of(self.of(*what, network, together))?.time_cells());
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self, together: bool) -> Result<Columns> {
        let mut bars = Vec::new();
        for what in What::ENGINES {
            for (network, name) in NETWORKS.into_iter().zip(["none", "bridge", "pooled"]) {
                let us = Spread::of(self.of(what, network, together))?.median;
                bars.push(Column {
                    label: format!("{}, {name}", what.name()),
                    parts: vec![us / 1e3],
                    note: time(us),
                });
            }
        }
        let title = if together {
            format!("Until {} containers, started at once, run", self.at_once)
        } else {
            "Until a container runs".to_owned()
        };
        Ok(Columns {
            title,
            y_title: "ms, median".to_owned(),
            bars,
            ..Columns::default()
        })
    }
}
