//! CNI plugins by themselves: `pcpm-cni` beside `bridge`, `host-local` and `portmap`, and a program that does nothing.

use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pcpm_tests::engines::{Chain, Network, Sandbox, at_once};
use serde_json::Value;

use super::{Host, Sample, What, micros};
use crate::report::median;

/// What costs no more than to be started.
const NOTHING: [&str; 2] = ["/bin/busybox", "true"];
const PORT_INSIDE: u16 = 80;
const FIRST_PORT: u16 = 30_000;

/// The plugins of a host.
pub(super) struct Plugins<'h> {
    host: &'h Host,
    pooled: Chain,
    bridge: Chain,
}

/// How long a sandbox took to be added and to be taken off, in microseconds.
type Times = (f64, f64);

impl<'h> Plugins<'h> {
    pub(super) fn new(host: &'h Host) -> Result<Self> {
        Ok(Self {
            host,
            pooled: Chain::pooled(&host.world)?,
            bridge: Chain::bridge(&host.world)?,
        })
    }

    /// Alone and together.
    pub(super) fn measure(&self, network: Network, count: usize) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for _ in 0..self.host.alone {
            let (add, del) = self.many(network, 1)?;
            samples.push(Sample::alone(What::CniAdd, network, add));
            samples.push(Sample::alone(What::CniDel, network, del));
        }
        let (add, del) = self.many(network, count)?;
        samples.push(Sample::together(What::CniAdd, network, add));
        samples.push(Sample::together(What::CniDel, network, del));
        Ok(samples)
    }

    /// The medians of `count` at once, each with a namespace that is there before and goes afterwards.
    fn many(&self, network: Network, count: usize) -> Result<Times> {
        self.host.settle()?;
        let sandboxes: Vec<_> = (FIRST_PORT..).take(count).map(sandbox).collect();
        self.netns("add", &sandboxes)?;
        let barrier = Barrier::new(count);
        let times = at_once(count, |index| {
            let here = self.host.world.host();
            here.within(|| self.one(network, &sandboxes[index], &barrier))
        });
        self.netns("delete", &sandboxes)?;
        let times = times.with_context(|| format!("plugins, {network:?}"))?;
        let (add, del): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        Ok((median(add), median(del)))
    }

    fn netns(&self, verb: &str, sandboxes: &[Sandbox]) -> Result<()> {
        let each = |sandbox: &Sandbox| format!("netns {verb} {}\n", sandbox.id);
        let lines: String = sandboxes.iter().map(each).collect();
        let ip = self.host.world.command("ip", ["-batch", "-"]);
        ip.input(lines).run().map(drop)
    }

    /// All begin at once, and none is taken off before all are there. Who fails waits for the others, too.
    fn one(&self, network: Network, sandbox: &Sandbox, all: &Barrier) -> Result<Times> {
        all.wait();
        let begun = Instant::now();
        let added = self.add(network, sandbox);
        let add = micros(begun.elapsed());
        all.wait();
        let begun = Instant::now();
        self.delete(network, sandbox, &added?)?;
        Ok((add, micros(begun.elapsed())))
    }

    fn add(&self, network: Network, sandbox: &Sandbox) -> Result<Value> {
        match network {
            Network::Pooled => self.pooled.add(sandbox),
            Network::Bridge => self.bridge.add(sandbox),
            Network::None => start_nothing().map(|()| Value::Null),
        }
    }

    fn delete(&self, network: Network, sandbox: &Sandbox, result: &Value) -> Result<()> {
        match network {
            Network::Pooled => self.pooled.delete(sandbox, result),
            Network::Bridge => self.bridge.delete(sandbox, result),
            Network::None => start_nothing(),
        }
    }
}

fn sandbox(port: u16) -> Sandbox {
    let id = format!("sandbox-{port}");
    Sandbox {
        netns: format!("/run/netns/{id}"),
        port: Some((port, PORT_INSIDE)),
        id,
    }
}

/// The floor.
fn start_nothing() -> Result<()> {
    let [program, argument] = NOTHING;
    let mut command = Command::new(program);
    let ended = command.arg(argument).stdin(Stdio::null()).status()?;
    ensure!(ended.success(), "{program} failed");
    Ok(())
}
