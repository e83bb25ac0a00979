//! `bench shims`: what `pcpm-cni` and `pcpm-runtime` add to a container's start, in microseconds: beside programs that do nothing,
//! which are the floor, and beside runc.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use pcpm_tests::engines::{Chain, FILES, Runc, Sandbox};
use pcpm_tests::{Daemon, World};
use serde::Serialize;

use super::Part;
use super::chart::{Column, Columns};
use super::findings::{Findings, Ratio, Rows};
use super::spread::Spread;
use crate::report::time;

/// What a shim may take, from `exec` to its end, beside nothing.
const MOST_US: f64 = 2000.0;
/// A container that runc creates may take so much longer.
const MOST_OVER_RUNC: f64 = 1.1;
const SLOTS: u32 = 16;
const CONTAINER: &str = "bench";
const SANDBOX: &str = "sandbox";

#[derive(Debug, Args)]
pub(super) struct ShimsArguments {
    /// How often each is started, one after the other [default: 100; quick: 20].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    rounds: Option<u32>,
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    CniAdd,
    CniDel,
    /// A runtime that does nothing is told to create a container.
    Create,
    /// runc is.
    CreateByRunc,
}

/// A round's times with the shim and without it, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Pair {
    what: What,
    with_us: f64,
    without_us: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    pairs: Vec<Pair>,
}

/// Where it is measured. Fields are dropped in order.
struct Host {
    daemon: Daemon,
    world: World,
}

impl Part for ShimsArguments {
    fn name(&self) -> &'static str {
        "shims"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let rounds = self.rounds.unwrap_or(if quick { 20 } else { 100 });
        let world = World::new()?;
        let daemon = world.pool_of(SLOTS)?;
        let host = Host { daemon, world };
        let plugins = Chain::pooled(&host.world)?;
        let runc = Runc::new(&host.world)?;
        let nothing = host.runtime_that_does_nothing()?;
        let mut pairs = Vec::new();
        for round in 1..=rounds {
            if round % 20 == 1 {
                eprintln!("round {round} of {rounds}");
            }
            pairs.extend(host.plugin(&plugins)?);
            pairs.push(host.create(&runc, What::Create, &nothing)?);
            pairs.push(host.create(&runc, What::CreateByRunc, "/usr/sbin/runc")?);
        }
        Figures { pairs }.findings()
    }
}

impl Host {
    /// A static program that ends at once, whatever it is told.
    fn runtime_that_does_nothing(&self) -> Result<String> {
        // busybox does what it is called.
        let path = format!("{FILES}/true");
        symlink("/bin/busybox", self.world.path(&path)).context("make a runtime")?;
        Ok(path)
    }

    fn settle(&self) -> Result<()> {
        self.daemon.wait_until_ready(SLOTS)
    }

    /// `ADD` and `DEL` of a sandbox, each beside nothing.
    fn plugin(&self, plugins: &Chain) -> Result<[Pair; 2]> {
        self.settle()?;
        self.world.tool(&format!("ip netns add {SANDBOX}")).run()?;
        let sandbox = Sandbox {
            id: SANDBOX.to_owned(),
            netns: format!("/run/netns/{SANDBOX}"),
            port: None,
        };
        let without = self.nothing()?;
        let (result, add) = self.timed(|| plugins.add(&sandbox))?;
        let ((), del) = self.timed(|| plugins.delete(&sandbox, &result))?;
        self.world.tool(&format!("ip netns del {SANDBOX}")).run()?;
        let pair = |what, with| Pair::new(what, with, without);
        Ok([pair(What::CniAdd, add), pair(What::CniDel, del)])
    }

    /// As the plugin is started, with streams to read.
    fn nothing(&self) -> Result<Duration> {
        let nothing = || -> Result<()> {
            let mut command = std::process::Command::new("/bin/busybox");
            command.arg("true").output().context("start busybox")?;
            Ok(())
        };
        self.timed(nothing).map(|((), took)| took)
    }

    /// How long `work` takes, on the host.
    fn timed<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<(T, Duration)> {
        self.world.host().within(|| {
            let begun = Instant::now();
            Ok((work()?, begun.elapsed()))
        })
    }

    /// `create` of a container by `runtime`, with `pcpm-runtime` before it and by itself.
    fn create(&self, runc: &Runc<'_>, what: What, runtime: &str) -> Result<Pair> {
        let line = |bundle: &str| format!("create --bundle {bundle} {CONTAINER}");
        self.settle()?;
        let bundle = runc.bundle(CONTAINER, &["/bin/busybox", "true"], |_| ())?;
        let with = runc.runtime(&line(&bundle))?;
        let with = with.env("PCPM_RUNTIME", runtime).time();
        let with = with.with_context(|| runc.log())?;
        // Nothing has made a container, and so there is none to delete.
        runc.runtime(&format!("delete --force {CONTAINER}"))?
            .run()?;
        runc.remove_bundle(CONTAINER)?;
        self.settle()?;
        let bundle = runc.bundle(CONTAINER, &["/bin/busybox", "true"], |_| ())?;
        let without = match what {
            What::CreateByRunc => runc.runc(&line(&bundle)).time()?,
            _ => self
                .world
                .tool(&format!("{runtime} {}", line(&bundle)))
                .time()?,
        };
        runc.runc(&format!("delete --force {CONTAINER}")).run()?;
        runc.remove_bundle(CONTAINER)?;
        Ok(Pair::new(what, with, without))
    }
}

impl Pair {
    fn new(what: What, with: Duration, without: Duration) -> Self {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        Self {
            what,
            with_us: micros(with),
            without_us: micros(without),
        }
    }

    fn added(&self) -> f64 {
        self.with_us - self.without_us
    }
}

impl What {
    const ALL: [Self; 4] = [Self::CniAdd, Self::CniDel, Self::Create, Self::CreateByRunc];

    const fn describe(self) -> &'static str {
        match self {
            Self::CniAdd => "`pcpm-cni` ADD / nothing",
            Self::CniDel => "`pcpm-cni` DEL / nothing",
            Self::Create => "`pcpm-runtime` create, of nothing / nothing",
            Self::CreateByRunc => "`pcpm-runtime` create, of runc / runc create",
        }
    }

    /// In names of ratios.
    const fn name(self) -> &'static str {
        match self {
            Self::CniAdd => "cni-add-over-nothing",
            Self::CniDel => "cni-del-over-nothing",
            Self::Create => "create-over-nothing",
            Self::CreateByRunc => "create-over-runc",
        }
    }
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let ratios = What::ALL.into_iter().map(|what| self.ratio(what));
        let ratios = ratios.collect::<Result<Vec<_>>>()?;
        Ok(Findings::new("Shims: what pcpm-cni and pcpm-runtime add to a start", self)?
            .text(
                "From exec to the end of the program, one at a time, the pool full. Nothing is a static program that ends at once, started the \
                 same way in the same round. The shims are those of `cargo build --release`; a package has static ones, which start sooner.",
            )
            .table(self.rows()?)
            .chart("shims", self.chart()?)
            .text(self.budget()?)
            .ratios(ratios))
    }

    fn of(&self, what: What, figure: fn(&Pair) -> f64) -> Vec<f64> {
        let pairs = self.pairs.iter().filter(|pair| pair.what == what);
        pairs.map(figure).collect()
    }

    fn ratio(&self, what: What) -> Result<Ratio> {
        let rounds = self.of(what, |pair| pair.with_us / pair.without_us);
        let ratio = Ratio::lower(what.name(), what.describe(), rounds)?;
        Ok(match what {
            What::CreateByRunc => ratio.aim(MOST_OVER_RUNC),
            _ => ratio,
        })
    }

    fn rows(&self) -> Result<Rows> {
        let heading = [
            "",
            "with",
            "quartiles",
            "without",
            "quartiles",
            "added",
            "quartiles",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for what in What::ALL {
            let mut row = vec![what.describe().to_owned()];
            for figure in [
                |pair: &Pair| pair.with_us,
                |pair: &Pair| pair.without_us,
                Pair::added,
            ] {
                row.extend(Spread::of(self.of(what, figure))?.time_cells());
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Whether each adds as little as is wanted.
    fn budget(&self) -> Result<String> {
        let mut said = Vec::new();
        for what in What::ALL {
            let added = Spread::of(self.of(what, Pair::added))?.median;
            let met = if added <= MOST_US {
                "met"
            } else {
                "**missed**"
            };
            said.push(format!("{} adds {}: {met}", what.describe(), time(added)));
        }
        Ok(format!(
            "The aim is to add at most {}. {}.",
            time(MOST_US),
            said.join("; ")
        ))
    }

    fn chart(&self) -> Result<Columns> {
        let mut bars = Vec::new();
        for what in What::ALL {
            let added = Spread::of(self.of(what, Pair::added))?.median;
            bars.push(Column {
                label: what.name().to_owned(),
                parts: vec![added],
                note: time(added),
            });
        }
        Ok(Columns {
            title: "What a shim adds to what it is beside".to_owned(),
            y_title: "us, median".to_owned(),
            bars,
            ..Columns::default()
        })
    }
}
