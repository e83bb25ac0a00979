//! `bench memory`: what a slot takes of the kernel's memory and of processes', beside other things that one may keep ready for
//! a container.

use anyhow::{Context, Result};
use clap::Args;
use pcpm_tests::World;
use serde::Serialize;
use serde_json::{Value, json};

use super::Part;
use super::chart::{Column, Columns};
use super::findings::{Findings, Ratio, Rows};
use super::insight::seconds_pass;
use super::spread::Spread;
use crate::inside::Kept;
use crate::memory::Memory;
use crate::plain;

#[derive(Debug, Args)]
pub(super) struct MemoryArguments {
    /// How many of each are made [default: 200; quick: 40].
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=2_000))]
    count: Option<u32>,
    /// How often all are made, one kind after the other [default: 5; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: Option<u32>,
}

/// What is kept ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// A slot of a pool.
    Slot,
    Other(Kept),
}

#[derive(Debug, Serialize)]
struct Figures {
    count: u32,
    /// What the daemon and its maps take before there are many slots, in each round.
    pools: Vec<Memory>,
    kinds: Vec<Used>,
}

/// What all of a kind took, in each round.
#[derive(Debug, Serialize)]
struct Used {
    kind: Kind,
    rounds: Vec<Memory>,
}

/// A part of what is taken.
type Share = (&'static str, fn(&Memory) -> i64);

const SHARES: [Share; 5] = [
    ("slab", |memory| memory.slab),
    ("percpu", |memory| memory.percpu),
    ("page tables", |memory| memory.page_tables),
    ("vmalloc", |memory| memory.vmalloc),
    ("processes", |memory| memory.user),
];

impl Part for MemoryArguments {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let count = self.count.unwrap_or(if quick { 40 } else { 200 });
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { 5 });
        let used = |kind| Used {
            kind,
            rounds: Vec::new(),
        };
        let mut kinds = Kind::ALL.map(used);
        let mut pools = Vec::new();
        for round in 1..=rounds {
            for used in &mut kinds {
                eprintln!("round {round} of {rounds}: {}", used.kind.name());
                plain::settle()?;
                match used.kind {
                    Kind::Slot => {
                        let [pool, slots] = measure_pool(count)?;
                        pools.push(pool);
                        used.rounds.push(slots);
                    }
                    Kind::Other(_) => used.rounds.push(used.kind.measure(count)?),
                }
            }
        }
        let figures = Figures {
            count,
            pools,
            kinds: kinds.into(),
        };
        figures.findings()
    }
}

/// What a pool takes with one slot in it, and what as many more take.
fn measure_pool(count: u32) -> Result<[Memory; 2]> {
    let world = World::new()?;
    let before = Memory::read([])?;
    let capacity = (count + 1).to_string();
    let daemon = world.spawn_daemon(&["--capacity", &capacity, "--ready", "1"])?;
    daemon.wait_until_ready(1)?;
    // The kernel's symbols, which lock insight reads when it begins, are the pool's and not the slots'.
    seconds_pass(&daemon)?;
    let pid = u32::try_from(daemon.main_thread().as_raw())?;
    let pool = Memory::read([pid])?;
    let all = json!({"ready": count + 1});
    daemon.connect()?.call::<Value>("Resize", &all)?;
    daemon.wait_until_ready(count + 1)?;
    Ok([pool - before, Memory::read([pid])? - pool])
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Slot,
        Self::Other(Kept::Namespace),
        Self::Other(Kept::Link),
        Self::Other(Kept::Created),
        Self::Other(Kept::Pause),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Slot => "slot of PCPM",
            Self::Other(Kept::Namespace) => "empty namespace (floor)",
            Self::Other(Kept::Link) => "namespace with a link",
            Self::Other(Kept::Created) => "created container",
            Self::Other(Kept::Pause) => "pause container",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Other(Kept::Namespace) => "namespace",
            Self::Other(Kept::Link) => "link",
            Self::Other(Kept::Created) => "created",
            Self::Other(Kept::Pause) => "pause",
        }
    }

    fn measure(self, count: u32) -> Result<Memory> {
        let world = World::new()?;
        let count = count.to_string();
        let words = ["inside", "keep", "--kept", self.word(), "--count", &count];
        let tool = world.host().command(std::env::current_exe()?, words);
        let used = tool.json().context(self.name())?;
        Ok(serde_json::from_value(used)?)
    }
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let others = [
            (Kept::Namespace, "an empty namespace"),
            (Kept::Link, "a namespace with a link"),
            (Kept::Created, "a created container"),
            (Kept::Pause, "a pause container"),
        ];
        let ratios = others.map(|(kept, name)| {
            let other = Kind::Other(kept);
            let pairs = self.rounds(Kind::Slot)?.iter().zip(self.rounds(other)?);
            Ratio::lower(
                &format!("slot-over-{}", other.word()),
                &format!("a slot / {name}"),
                pairs.map(|(slot, other)| in_float(total(slot)) / in_float(total(other))),
            )
        });
        Ok(Findings::new("Memory: what one takes that is ready", self)?
            .text(format!(
                "{} of each are made; what the kernel says of its memory before and after, and what processes map (shared pages by share). Links are made by plain netlink; containers by \
                 runc, each in a namespace with a link. KiB each, medians of {} rounds.",
                self.count,
                self.kinds.first().map_or(0, |used| used.rounds.len())
            ))
            .text(format!(
                "Whatever the number of slots, the pool takes {} MiB: {} MiB of maps (vmalloc), which hold the most slots and flows that \
                 there may be, {} MiB of the daemon, {} MiB of the rest.",
                self.pool_mib(total)?,
                self.pool_mib(|pool| pool.vmalloc)?,
                self.pool_mib(|pool| pool.user)?,
                self.pool_mib(|pool| pool.slab + pool.percpu + pool.page_tables)?
            ))
            .table(self.rows()?)
            .chart("memory", self.chart()?)
            .ratios(ratios.into_iter().collect::<Result<Vec<_>>>()?))
    }

    fn rounds(&self, kind: Kind) -> Result<&[Memory]> {
        let used = self.kinds.iter().find(|used| used.kind == kind);
        Ok(&used.context("a kind is missing")?.rounds)
    }

    fn pool_mib(&self, of: fn(&Memory) -> i64) -> Result<String> {
        let mib = self
            .pools
            .iter()
            .map(|pool| in_float(of(pool)) / f64::from(1 << 20));
        Ok(format!("{:.1}", Spread::of(mib)?.median))
    }

    /// KiB of each.
    fn each(&self, used: &Used, of: fn(&Memory) -> i64) -> Result<Spread> {
        let each = |memory| in_float(of(memory)) / 1024.0 / f64::from(self.count);
        Spread::of(used.rounds.iter().map(each))
    }

    fn rows(&self) -> Result<Rows> {
        let names = SHARES.map(|(name, _)| name);
        let heading = [&[""][..], &names, &["all", "quartiles"]].concat();
        let mut rows = vec![heading.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        for used in &self.kinds {
            let mut row = vec![used.kind.name().to_owned()];
            for (_, of) in SHARES {
                row.push(format!("{:.1}", self.each(used, of)?.median));
            }
            row.extend(self.each(used, total)?.whole_cells());
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Columns> {
        let bar = |used: &Used| {
            let parts = SHARES.map(|(_, of)| Ok(self.each(used, of)?.median.max(0.0)));
            Ok(Column {
                label: used.kind.word().to_owned(),
                parts: parts.into_iter().collect::<Result<_>>()?,
                note: format!("{:.0}", self.each(used, total)?.median),
            })
        };
        Ok(Columns {
            title: "Memory of one that is ready".to_owned(),
            y_title: "KiB, median".to_owned(),
            parts: SHARES.map(|(name, _)| name.to_owned()).to_vec(),
            bars: self.kinds.iter().map(bar).collect::<Result<_>>()?,
            ..Columns::default()
        })
    }
}

fn total(memory: &Memory) -> i64 {
    SHARES.iter().map(|(_, of)| of(memory)).sum()
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory fit")]
fn in_float(bytes: i64) -> f64 {
    bytes as f64
}
