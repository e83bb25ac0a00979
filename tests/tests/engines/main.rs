//! The container engines that people run, with networks out of the pool, as `docs/engines.md` says:
//! each is started in a world of its own, used as its users do, alone and by many at once, and must leave nothing attached.

mod containerd;
mod docker;
mod guide;
mod podman;
mod pods;
mod runc;

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pcpm_tests::engines::{Engine, FILES, Network, SHOW_ADDRESS, at_once};
use pcpm_tests::{Daemon, HostState, PATIENCE, World};
use serde_json::Value;

/// What containers are that others ask.
const SERVER: &str = "/bin/busybox httpd -f -p 80";
/// What an engine is told to do with a container that runs; afterwards it runs anew.
const ONE_AFTER_THE_OTHER: [&str; 7] = [
    "restart -t 0",
    "pause",
    "unpause",
    "inspect",
    "logs",
    "kill",
    "start",
];
const SLOTS: u32 = 24;
const AT_ONCE: usize = 20;
const CHURNED: usize = 100;
const WORKERS: usize = 4;
/// Slots that are mounted in the host while nobody is attached: those that are next.
const SHOWN_WHEN_READY: usize = 16;

/// A host with a pool. Fields are dropped in order: what runs in the world ends before it.
struct Host {
    daemon: Daemon,
    world: World,
}

impl Host {
    fn new() -> Result<Self> {
        let world = World::new()?;
        let daemon = world.pool_of(SLOTS)?;
        Ok(Self { daemon, world })
    }

    /// What is attached.
    fn attachments(&self) -> Result<Vec<Value>> {
        let attachments = self.world.pcpm(["--json", "ls"])?.json()?;
        Ok(attachments.as_array().context("no list")?.clone())
    }

    fn addresses(&self) -> Result<BTreeSet<String>> {
        let attachments = self.attachments()?;
        let addresses = attachments.iter().map(|attachment| {
            let address = attachment["addresses"][0].as_str();
            Ok(address.context("no address")?.to_owned())
        });
        addresses.collect()
    }

    /// The address of the one attachment there is.
    fn address(&self) -> Result<String> {
        let addresses = self.addresses()?;
        ensure!(addresses.len() == 1, "{addresses:?}");
        addresses.into_iter().next().context("none")
    }

    /// Whether a container serves at `url`, as soon as it does.
    fn fetch(&self, url: &str) -> Result<()> {
        // busybox has nothing to show, and says so: the connection is what counts.
        let line = format!(
            "curl -sS -o /dev/null --retry 20 --retry-delay 1 --retry-connrefused --max-time 60 {url}"
        );
        self.world.tool(&line).run().map(drop)
    }

    fn expect_nothing_left(&self) -> Result<()> {
        self.daemon
            .wait_until("nothing is attached", |slots| slots.attached == 0)?;
        self.daemon.wait_until_ready(SLOTS)
    }

    /// Kills the process that says `words` in its command line, without a word to any engine.
    fn kill_behind_its_back(&self, words: &str) -> Result<()> {
        let kill = ["-KILL", "-f", "-x", words];
        self.world.command("pkill", kill).run().map(drop)
    }

    /// Many containers at once, then more of them that come and go: each has a slot of its own, and nothing is left of any.
    fn expect_to_serve_many(&self, engine: &impl Engine) -> Result<()> {
        // What an engine makes for itself at its first container is nobody's.
        engine.pass("first")?;
        self.expect_nothing_left()?;
        let before = HostState::of(self.world.host())?;
        self.expect_to_serve_at_once(engine).context("at once")?;
        self.expect_to_serve_one_after_the_other(engine)
            .context("one after the other")?;
        self.expect_to_become(&before)
    }

    /// What an engine still removes is soon gone. The files that it keeps for itself are its own business, its mounts are not;
    /// which ready slots are mounted in the host is the pool's.
    fn expect_to_become(&self, before: &HostState) -> Result<()> {
        let kept = format!(" {FILES}/");
        let is_kept = |line: &str| {
            line.starts_with("find ") && line.contains(&kept)
                || line.contains("/run/pcpm/attached/s")
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = HostState::of(self.world.host())?.difference(before);
            if left.lines().all(is_kept) && self.shown_slots()? <= SHOWN_WHEN_READY {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "left behind: {left}");
        }
    }

    /// Slots that are mounted in the host.
    fn shown_slots(&self) -> Result<usize> {
        let mounts = self.world.tool("cat /proc/mounts").run()?;
        let shown = mounts
            .lines()
            .filter(|line| line.contains(" /run/pcpm/attached/s"));
        Ok(shown.count())
    }

    fn expect_to_serve_at_once(&self, engine: &impl Engine) -> Result<()> {
        let name = |index| format!("once-{index}");
        let shown = at_once(AT_ONCE, |index| {
            engine.start(Network::Pooled, &name(index))?;
            engine.exec(&name(index), SHOW_ADDRESS)
        })?;
        let addresses = self.addresses()?;
        assert_eq!(addresses.len(), AT_ONCE, "each has one of its own");
        let of_each = shown.iter().filter_map(|text| address_in(text));
        assert_eq!(of_each.collect::<BTreeSet<_>>(), addresses, "{shown:?}");
        at_once(AT_ONCE, |index| engine.remove(&name(index)))?;
        self.expect_nothing_left()
    }

    fn expect_to_serve_one_after_the_other(&self, engine: &impl Engine) -> Result<()> {
        let before = self.attached_so_far()?;
        at_once(WORKERS, |worker| {
            for index in 0..CHURNED / WORKERS {
                engine.pass(&format!("churn-{worker}-{index}"))?;
            }
            Ok(())
        })?;
        let attached = self.attached_so_far()? - before;
        assert_eq!(attached, CHURNED as u64, "one slot for each");
        self.expect_nothing_left()
    }

    fn attached_so_far(&self) -> Result<u64> {
        let attach = self.daemon.status()?.attach;
        Ok(attach.warm + attach.cold)
    }
}

/// The address of the pool in what a container shows.
fn address_in(text: &str) -> Option<String> {
    let mut words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let address = words.find(|word| word.starts_with("10.213."));
    address.map(str::to_owned)
}
