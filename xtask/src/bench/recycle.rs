//! `bench recycle`: what a used slot costs until somebody can have it again, judged and used again, or destroyed
//! and made anew; with the rtnl lock free, and while others want it all the time.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use pcpm_api::types::{LocksReply, Status};
use pcpm_tests::{Daemon, PATIENCE, Process, World};
use serde::Serialize;
use serde_json::json;

use super::chart::{Column, Columns};
use super::findings::{Findings, Ratio, Rows};
use super::{Part, detach_everybody, spread::Spread};
use crate::{plain, progress};

/// Networks that the other users of the lock make: more than they get made while one batch is measured.
const OTHERS: &str = "10000";

/// The lock's name in the daemon's answers.
const RTNL: &str = "rtnl_mutex";

/// The thread that judges used slots.
const RECYCLER: &str = "pcpm-recycle";

/// Functions of the kernel that ask for the rtnl lock in order to change something.
const WRITERS: [&str; 5] = [
    "rtnl_newlink",
    "rtnl_dellink",
    "rtnl_setlink",
    "cleanup_net",
    "unregister_netdev",
];

#[derive(Debug, Args)]
pub(super) struct RecycleArguments {
    /// Slots that are given back at once [default: 200; quick: 32].
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=2_000))]
    slots: Option<u32>,
    /// How often both ways are measured, one after the other [default: 7; quick: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// A pool of used slots, and what becomes of them.
struct Pool {
    way: Way,
    daemon: Daemon,
    // Dropped last: the daemon lives in it.
    _world: World,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Recycled,
    DestroyedAndMade,
}

/// One batch of slots, given back at once. Microseconds a slot.
#[derive(Clone, Copy, Debug, Serialize)]
struct Batch {
    way: Way,
    /// Whether others wanted the rtnl lock meanwhile.
    contended: bool,
    /// Until all were ready again.
    elapsed_us: f64,
    /// What the daemon took of the processors.
    processor_us: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    batches: Vec<Batch>,
    /// What the thread that judges waited in for the rtnl lock, as the daemon's own tracer saw it; none of it
    /// changes anything.
    recycler_waited_in: Vec<String>,
    recycler_waits_to_write: u64,
    /// Why the tracer saw nothing.
    no_lock_insight: Option<String>,
}

impl Part for RecycleArguments {
    fn name(&self) -> &'static str {
        "recycle"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let slots = self.slots.unwrap_or(if quick { 32 } else { 200 });
        let rounds = self.rounds.unwrap_or(if quick { 3 } else { 7 });
        let pools = [
            Pool::start(Way::Recycled, slots)?,
            Pool::start(Way::DestroyedAndMade, slots)?,
        ];
        let mut batches = Vec::new();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            for contended in [false, true] {
                for pool in &pools {
                    batches.push(pool.batch(slots, contended)?);
                    plain::settle()?;
                }
            }
        }
        Figures::new(slots, batches, &pools[0])?.findings()
    }
}

impl Pool {
    fn start(way: Way, slots: u32) -> Result<Self> {
        let world = World::new()?;
        let recycle = match way {
            Way::Recycled => "verified",
            Way::DestroyedAndMade => "never",
        };
        let file = "/run/pcpmd.toml";
        fs::write(
            world.path(file),
            format!("[refill]\nrecycle = \"{recycle}\"\n"),
        )?;
        let daemon = world.spawn_daemon(&["--config", file, "--capacity", &slots.to_string()])?;
        progress::fill(&daemon, slots)?;
        Ok(Self {
            way,
            daemon,
            _world: world,
        })
    }

    /// All slots are taken and given back, and it is seen how long it takes until all can be had again.
    fn batch(&self, slots: u32, contended: bool) -> Result<Batch> {
        self.wait_until_portrayed(slots)?;
        for number in 0..slots {
            self.daemon.attach(&format!("used-{number}"), "bench")?;
        }
        let before = self.daemon.status()?;
        let others = contended.then(Others::begin).transpose()?;
        let (begun, processor) = (Instant::now(), self.processor_time()?);
        detach_everybody(&self.daemon)?;
        self.daemon.wait_until_ready(slots)?;
        let elapsed = begun.elapsed();
        let processor = self.processor_time()?.saturating_sub(processor);
        if let Some(others) = others {
            others.end()?;
        }
        self.check(&before, slots)?;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(slots);
        Ok(Batch {
            way: self.way,
            contended,
            elapsed_us: each(elapsed),
            processor_us: each(processor),
        })
    }

    /// A slot that is attached before its golden copy is taken is not used again.
    fn wait_until_portrayed(&self, slots: u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.way == Way::Recycled && self.daemon.status()?.recycle.portrayed < slots {
            ensure!(Instant::now() < deadline, "the golden copies are not taken");
            self.daemon.watch("a moment", |_| Some(()))?;
        }
        Ok(())
    }

    fn check(&self, before: &Status, slots: u32) -> Result<()> {
        let now = self.daemon.status()?;
        let recycled = now.recycle.recycled - before.recycle.recycled;
        let made = now.refill.created - before.refill.created;
        let (wanted, counted) = match self.way {
            Way::Recycled => ("used again", recycled),
            Way::DestroyedAndMade => ("made", made),
        };
        ensure!(
            counted == u64::from(slots),
            "{counted} of {slots} slots were {wanted}: {:?}",
            now.recycle.unclean
        );
        Ok(())
    }

    /// What all threads of the daemon took so far.
    fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.daemon.main_thread()))?;
        let fields = stat.rsplit_once(") ").context("an odd stat")?.1;
        let mut fields = fields.split(' ').skip(11);
        let mut ticks = || -> Result<u64> { Ok(fields.next().context("a short stat")?.parse()?) };
        // USER_HZ, whatever the kernel ticks at.
        Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
    }
}

/// Somebody who makes networks by plain netlink all the time.
struct Others {
    process: Process,
    _world: World,
}

impl Others {
    fn begin() -> Result<Self> {
        let world = World::without_uplink()?;
        let tool = world.host().command(
            std::env::current_exe()?,
            ["inside", "floor", "--slots", OTHERS],
        );
        let tool = tool.with(|command| {
            command.stdout(std::process::Stdio::null());
        });
        let process = tool.spawn()?;
        Ok(Self {
            process,
            _world: world,
        })
    }

    fn end(mut self) -> Result<()> {
        ensure!(
            self.process.ended()?.is_none(),
            "the others were done before the batch was: measure fewer slots"
        );
        Ok(())
    }
}

impl Way {
    const fn describe(self) -> &'static str {
        match self {
            Self::Recycled => "judged and used again",
            Self::DestroyedAndMade => "destroyed and made anew (floor)",
        }
    }
}

/// A figure of a batch: what it is, whether others wanted the lock meanwhile, and where it stands.
type Measure = (&'static str, bool, fn(&Batch) -> f64);

const MEASURES: [Measure; 3] = [
    ("elapsed", false, |batch| batch.elapsed_us),
    ("elapsed beside others", true, |batch| batch.elapsed_us),
    ("processor", false, |batch| batch.processor_us),
];

impl Figures {
    fn new(slots: u32, batches: Vec<Batch>, recycling: &Pool) -> Result<Self> {
        let seen: LocksReply = recycling.daemon.connect()?.call("Locks", &json!({}))?;
        let waits = seen.waiters.iter();
        let waits: Vec<_> = waits
            .filter(|wait| wait.lock == RTNL && wait.thread == RECYCLER)
            .collect();
        let to_write = waits
            .iter()
            .filter(|wait| WRITERS.contains(&wait.caller.as_str()));
        Ok(Self {
            recycler_waits_to_write: to_write.map(|wait| wait.waits).sum(),
            recycler_waited_in: waits
                .iter()
                .map(|wait| format!("{} ({} x)", wait.caller, wait.waits))
                .collect(),
            no_lock_insight: seen.unavailable,
            slots,
            batches,
        })
    }

    fn findings(&self) -> Result<Findings> {
        let ratios = MEASURES.iter().map(|measure| self.ratio(measure));
        let ratios = ratios.collect::<Result<Vec<_>>>()?;
        Ok(Findings::new("Recycle: used slots, until they can be had again", self)?
            .text(format!(
                "{} slots are given back at once: judged clean and used again, or destroyed and made anew; with the rtnl lock free, and \
                 beside others who make networks by plain netlink all the time. Per slot.",
                self.slots
            ))
            .table(self.rows()?)
            .chart("recycle", self.chart()?)
            .text(self.locks())
            .ratios(ratios))
    }

    fn batches(&self, way: Way, (_, contended, of): &Measure) -> Vec<f64> {
        let batches = self.batches.iter();
        let these = batches.filter(|batch| batch.way == way && batch.contended == *contended);
        these.map(of).collect()
    }

    fn ratio(&self, measure: &Measure) -> Result<Ratio> {
        let made = self.batches(Way::DestroyedAndMade, measure);
        let recycled = self.batches(Way::Recycled, measure);
        let (name, ..) = measure;
        Ratio::higher(
            &format!("{}-made-over-recycled", name.replace(' ', "-")),
            &format!("{name}: made anew / used again"),
            made.iter()
                .zip(&recycled)
                .map(|(made, recycled)| made / recycled),
        )
    }

    fn rows(&self) -> Result<Rows> {
        let mut heading = vec![String::new()];
        heading.extend(
            MEASURES
                .iter()
                .flat_map(|(name, ..)| [(*name).to_owned(), "quartiles".to_owned()]),
        );
        let mut rows = vec![heading];
        for way in [Way::Recycled, Way::DestroyedAndMade] {
            let mut row = vec![way.describe().to_owned()];
            for measure in &MEASURES {
                row.extend(Spread::of(self.batches(way, measure))?.time_cells());
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Columns> {
        let mut columns = Vec::new();
        for measure in &MEASURES[..2] {
            for way in [Way::Recycled, Way::DestroyedAndMade] {
                let us = Spread::of(self.batches(way, measure))?.median;
                let (beside, what) = match (measure.1, way) {
                    (false, Way::Recycled) => ("", "used again"),
                    (false, Way::DestroyedAndMade) => ("", "made anew"),
                    (true, Way::Recycled) => (", contended", "used again"),
                    (true, Way::DestroyedAndMade) => (", contended", "made anew"),
                };
                columns.push(Column {
                    label: format!("{what}{beside}"),
                    parts: vec![us],
                    note: format!("{us:.0}"),
                });
            }
        }
        Ok(Columns {
            title: "Until a used slot can be had again".to_owned(),
            y_title: "us a slot, median".to_owned(),
            bars: columns,
            ..Columns::default()
        })
    }

    fn locks(&self) -> String {
        if let Some(why) = &self.no_lock_insight {
            return format!("No lock insight: {why}.");
        }
        let waited = match self.recycler_waited_in.as_slice() {
            [] => "in nothing".to_owned(),
            callers => format!("in {}", callers.join(", ")),
        };
        format!(
            "The thread that judges waited for the rtnl lock {waited}; {} times to change something.",
            self.recycler_waits_to_write
        )
    }
}
