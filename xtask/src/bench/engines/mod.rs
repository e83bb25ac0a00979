//! `bench engines`: how long containers of podman and docker and pods of containerd take to start, with a bridge of their engine's
//! own, with a slot of the pool, and with no network to be made; and the CNI plugins by themselves. All in one run.

mod figures;
mod plugins;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use pcpm_tests::engines::{Containerd, Docker, Engine, Network, Podman, Pods, at_once};
use pcpm_tests::{Daemon, World};
use serde::Serialize;

use self::figures::Figures;
use self::plugins::Plugins;
use super::Part;
use super::findings::Findings;
use crate::plain;

/// The ways to compare. Each round begins with another one.
const NETWORKS: [Network; 3] = [Network::None, Network::Bridge, Network::Pooled];
/// Starts of one after the other, each round.
const ALONE: usize = 3;
/// The same in a hurry.
const ALONE_QUICK: usize = 1;

#[derive(Debug, Args)]
pub(super) struct EnginesArguments {
    /// How many are started at once [default: 20; quick: 4].
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=100))]
    at_once: Option<u16>,
    /// How often each way is measured, one after the other [default: 5; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    what: What,
    network: Network,
    together: bool,
    /// Alone: until it was done. Together: until all containers were started, or of a plugin's calls the median.
    us: f64,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Podman,
    Docker,
    Pod,
    CniAdd,
    CniDel,
}

/// A host with a pool that is deep enough. Fields are dropped in order.
struct Host {
    daemon: Daemon,
    world: World,
    slots: u32,
    /// How often one container is started in a round.
    alone: usize,
}

impl Part for EnginesArguments {
    fn name(&self) -> &'static str {
        "engines"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let at_once = usize::from(self.at_once.unwrap_or(if quick { 4 } else { 20 }));
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { 5 });
        let alone = if quick { ALONE_QUICK } else { ALONE };
        let hosts = (0..4).map(|_| Host::new(at_once, alone));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let podman = Podman::new(&hosts[0].world)?;
        let docker = Docker::start(&hosts[1].world)?;
        let containerd = Containerd::start(&hosts[2].world)?;
        let pods = Pods::of(containerd.cri());
        let plugins = Plugins::new(&hosts[3])?;
        let engines: [(What, &dyn Engine); 3] = [
            (What::Podman, &podman),
            (What::Docker, &docker),
            (What::Pod, &pods),
        ];
        let mut samples = Vec::new();
        for round in 0..rounds as usize {
            eprintln!("round {} of {rounds}", round + 1);
            let networks = (0..NETWORKS.len()).map(|index| NETWORKS[(index + round) % 3]);
            for network in networks {
                for ((what, engine), host) in engines.iter().zip(&hosts) {
                    let us = host.start_alone(*engine, network);
                    let us = us.with_context(|| format!("{what:?}, {network:?}"))?;
                    samples.extend(us.map(|us| Sample::alone(*what, network, us)));
                    let us = host.start_together(*engine, network, at_once);
                    let us = us.with_context(|| format!("{what:?}, {network:?}, many"))?;
                    samples.push(Sample::together(*what, network, us));
                }
                samples.extend(plugins.measure(network, at_once)?);
            }
        }
        Figures { at_once, samples }.findings()
    }
}

impl Host {
    fn new(at_once: usize, alone: usize) -> Result<Self> {
        let world = World::new()?;
        let slots = u32::try_from(at_once)? + 4;
        let daemon = world.pool_of(slots)?;
        Ok(Self {
            daemon,
            world,
            slots,
            alone,
        })
    }

    /// Nothing goes on any more of what was measured before.
    fn settle(&self) -> Result<()> {
        self.daemon.wait_until_ready(self.slots)?;
        plain::settle()
    }

    /// Microseconds of each start of one container.
    fn start_alone(
        &self,
        engine: &dyn Engine,
        network: Network,
    ) -> Result<impl Iterator<Item = f64> + use<>> {
        let mut all = Vec::new();
        for index in 0..self.alone {
            self.settle()?;
            let name = format!("alone-{index}");
            let begun = Instant::now();
            engine.start(network, &name)?;
            all.push(micros(begun.elapsed()));
            engine.remove(&name)?;
        }
        Ok(all.into_iter())
    }

    /// Microseconds until `count` containers, started at once, all run.
    fn start_together(&self, engine: &dyn Engine, network: Network, count: usize) -> Result<f64> {
        self.settle()?;
        let name = |index| format!("together-{index}");
        let begun = Instant::now();
        at_once(count, |index| engine.start(network, &name(index)))?;
        let us = micros(begun.elapsed());
        at_once(count, |index| engine.remove(&name(index)))?;
        Ok(us)
    }
}

impl Sample {
    fn alone(what: What, network: Network, us: f64) -> Self {
        Self {
            what,
            network,
            together: false,
            us,
        }
    }

    fn together(what: What, network: Network, us: f64) -> Self {
        Self {
            together: true,
            ..Self::alone(what, network, us)
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
