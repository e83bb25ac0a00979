//! The figures of `Status`.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use pcpm_api::types::{
    AttachTotals, DropCount, Failure, Memory, RefillTotals, SlotCounts, Source, Status, TargetMode,
    WaitingRequest, WarmTarget,
};
use pcpm_ebpf::drop_reason::DropReason;

use super::{Engine, latency::LatencyHistogram};
use crate::{
    log,
    memory::{self, FillMeter, KernelMemory},
    net::{CreateTimings, slot_name},
    pool::{ClassIndex, Decision, Target, Why},
};

/// Failed slots that `Status` names; `slots.failed` counts all of them.
const FAILURES_SHOWN: usize = 20;

/// Waiting requests that `Status` names; `slots.waiting` counts all of them.
const WAITING_SHOWN: usize = 20;

/// What happened since start.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) warm: u64,
    pub(super) cold: u64,
    pub(super) detached: u64,
    pub(super) exhausted: u64,
    pub(super) refused: u64,
    pub(super) created: u64,
    pub(super) retired: u64,
    pub(super) failed: u64,
}

impl Totals {
    pub(super) fn count_attach(&mut self, source: Source) {
        match source {
            Source::Warm => self.warm += 1,
            Source::Cold => self.cold += 1,
        }
    }
}

/// How long the daemon's own memory is remembered: the kernel walks all pages to tell it, 0.3 ms for a thousand slots, and
/// nobody is attached meanwhile.
const MEMORY_FOR: Duration = Duration::from_secs(1);

/// The daemon's memory, and the kernel's, measured around the first fill.
#[derive(Debug, Default)]
pub(super) struct MemoryFigures {
    meter: Option<FillMeter>,
    per_slot: Option<KernelMemory>,
    resident: Cell<Option<(Instant, u64)>>,
}

impl MemoryFigures {
    pub(super) fn start_fill(&mut self) {
        self.meter = FillMeter::start().ok();
    }

    pub(super) fn end_fill(&mut self, slots: u32) {
        let measured = self.meter.take().map(|meter| meter.finish(slots));
        self.per_slot = measured.and_then(Result::ok).flatten();
    }

    fn resident_bytes(&self) -> u64 {
        let now = Instant::now();
        match self.resident.get() {
            Some((at, bytes)) if now - at < MEMORY_FOR => bytes,
            _ => {
                let bytes = memory::resident_bytes().unwrap_or_default();
                self.resident.set(Some((now, bytes)));
                bytes
            }
        }
    }

    fn figures(&self) -> Memory {
        Memory {
            daemon_rss_bytes: self.resident_bytes(),
            kernel_slab_bytes_per_slot: self.per_slot.map(|kernel| kernel.slab_bytes_per_slot),
            kernel_percpu_bytes_per_slot: self.per_slot.map(|kernel| kernel.percpu_bytes_per_slot),
        }
    }
}

/// How long it takes to make a slot, all together and by step.
#[derive(Debug, Default)]
pub(super) struct CreateLatency {
    pub(super) whole: LatencyHistogram,
    pub(super) namespace: LatencyHistogram,
    pub(super) mount: LatencyHistogram,
    pub(super) link: LatencyHistogram,
    pub(super) configure: LatencyHistogram,
}

impl CreateLatency {
    pub(super) fn record(&mut self, timings: CreateTimings) {
        let CreateTimings {
            namespace,
            mount,
            link,
            configure,
        } = timings;
        self.whole.record(namespace + mount + link + configure);
        self.namespace.record(namespace);
        self.mount.record(mount);
        self.link.record(link);
        self.configure.record(configure);
    }
}

impl Engine {
    /// Counts, totals and health.
    pub(crate) fn status(&self) -> Status {
        let drops = self.datapath.drops().unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            draining: self.pool.is_draining(),
            pool_cidr: self.world.pool_cidr.to_string(),
            slots: self.pool.counts(),
            target: self.warm_target(0),
            classes: self.class_statuses(),
            attach: self.attach_totals(),
            waiting: self.waiting(),
            attach_latency: self.attach_latency.summary(),
            refill: self.refill_totals(),
            pacing: self.pacer.as_ref().map(|pacer| pacer.figures()),
            recycle: self.recycle_totals(),
            starts: self.starts.summary(),
            uplink: self.world.uplinks.first().cloned(),
            uplinks: self.world.uplinks.clone(),
            published_ports: self.reservations.count(),
            flows: self.flow_table(&drops),
            clients: self.clients,
            memory: self.memory.figures(),
            drops: drop_counts(&drops),
            failures: self.failures(),
            warnings: self.warnings(),
        }
    }

    /// When a refused client may find a slot: those who wait get theirs first.
    pub(super) fn retry_after_ms(&self, counts: &SlotCounts) -> u64 {
        const GUESS_US: u64 = 10_000;
        const NOTHING_COMING_MS: u64 = 1000;
        let create_us = match self.create_latency.whole.summary().p50_us {
            0 => GUESS_US,
            measured => measured,
        };
        if counts.creating + counts.vacant + counts.retiring + counts.failed + counts.kept == 0 {
            // Somebody has to detach first, and nobody knows when.
            return NOTHING_COMING_MS;
        }
        let ahead = u64::from(counts.waiting) + 1;
        (create_us * ahead).div_ceil(1000)
    }

    fn attach_totals(&self) -> AttachTotals {
        let Totals {
            warm,
            cold,
            detached,
            exhausted,
            refused,
            ..
        } = self.totals;
        AttachTotals {
            warm,
            cold,
            detached,
            exhausted,
            refused,
        }
    }

    fn refill_totals(&self) -> RefillTotals {
        RefillTotals {
            created: self.totals.created,
            retired: self.totals.retired,
            failed: self.totals.failed,
            create: self.create_latency.whole.summary(),
            namespace: self.create_latency.namespace.summary(),
            mount: self.create_latency.mount.summary(),
            link: self.create_latency.link.summary(),
            configure: self.create_latency.configure.summary(),
        }
    }

    pub(super) fn warm_target(&self, class: ClassIndex) -> WarmTarget {
        let Decision { burst, .. } = self.pool.decision(class);
        let target = self.pool.counts_of(class).target;
        let (mode, floor, ceiling) = match self.pool.target_setting(class) {
            Target::Fixed(target) => (TargetMode::Fixed, target, target),
            Target::Adaptive(bounds) => (TargetMode::Adaptive, bounds.floor, bounds.ceiling),
        };
        WarmTarget {
            mode,
            target,
            floor,
            ceiling,
            burst,
            refill_per_s: self.pool.refill_per_s(class),
            reason: self.explanation(class),
        }
    }

    /// Why the target is what it is, for people.
    fn explanation(&self, class: ClassIndex) -> String {
        if self.pool.drains(class) {
            return "draining".to_owned();
        }
        let Target::Adaptive(bounds) = self.pool.target_setting(class) else {
            return "fixed".to_owned();
        };
        let Decision { burst, why, .. } = self.pool.decision(class);
        let seen = format!(
            "{} burst of the last {} min was {burst}, refill {}/s",
            percentile(bounds.one_in),
            bounds.window.as_secs().div_ceil(60),
            self.pool.refill_per_s(class)
        );
        match why {
            Why::Fixed | Why::Burst => seen,
            Why::Unknown => format!("not lowered before demand is known; {seen}"),
            Why::Floor => format!("the floor; {seen}"),
            Why::Ceiling => format!("the ceiling; {seen}"),
            Why::UnderWay(depth) => format!("a burst of {depth} is under way; {seen}"),
            Why::Lowering(wanted) => format!("slowly down to {wanted}; {seen}"),
        }
    }

    fn waiting(&self) -> Vec<WaitingRequest> {
        let now = self.now();
        let classes = 0..self.classes.len();
        let mut all: Vec<_> = classes.flat_map(|class| self.pool.waiting(class)).collect();
        all.sort_unstable_by_key(|request| request.id);
        let shown = all.into_iter().take(WAITING_SHOWN);
        shown
            .map(|request| WaitingRequest {
                owner: request.holder.owner.clone(),
                tenant: request.holder.tenant.clone(),
                class: request.holder.class.to_string(),
                on_empty: request.on_empty,
                waited_ms: millis(now.saturating_sub(request.asked_at)),
                remaining_ms: millis(request.deadline.saturating_sub(now)),
            })
            .collect()
    }

    /// What is said of classes all of whose slots are attached.
    fn full_classes(&self) -> impl Iterator<Item = String> {
        let classes = self.classes.iter().enumerate();
        classes.filter_map(|(index, class)| {
            let counts = self.pool.counts_of(index);
            let is_full = counts.capacity > 0 && counts.attached >= counts.capacity;
            let whose = if self.classes.len() == 1 {
                String::new()
            } else {
                format!(" of class {}", class.name)
            };
            is_full.then(|| format!("every slot{whose} is attached: raise capacity"))
        })
    }

    fn failures(&self) -> Vec<Failure> {
        let now = self.now();
        let failed = self.pool.failed_slots().filter_map(|slot| {
            let (reason, retry_at) = self.pool.failure(slot)?;
            Some(Failure {
                slot: slot_name(slot),
                reason: reason.to_owned(),
                retry_in_ms: millis(retry_at.saturating_sub(now)),
            })
        });
        failed.take(FAILURES_SHOWN).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let counts = self.pool.counts();
        let mut warnings: Vec<_> = self.journal_warnings().collect();
        if !self.restart_needed.is_empty() {
            let keys = self.restart_needed.join(", ");
            warnings.push(format!("restart needed for: {keys}"));
        }
        let destroyed = self.cannot_recycle.as_ref();
        warnings.extend(destroyed.map(|why| format!("used slots are destroyed: {why}")));
        let lost = log::lost_lines();
        if lost > 0 {
            warnings.push(format!(
                "{lost} lines of the log were lost: whoever reads it is too slow"
            ));
        }
        if counts.failed > 0 {
            warnings.push(format!(
                "{} slots could not be made or destroyed",
                counts.failed
            ));
        }
        warnings.extend(self.broken_warning());
        if !self.unreserved.is_empty() {
            warnings.push(format!(
                "{} published ports lead to slots but are taken on the host by other programs",
                self.unreserved.len()
            ));
        }
        if counts.waiting > 0 {
            warnings.push(format!("{} requests wait for a slot", counts.waiting));
        }
        warnings.extend(self.full_classes());
        warnings.extend(self.flow_warning());
        warnings
    }
}

/// All but one in so many, as people write it: `p99.9`.
fn percentile(one_in: u32) -> String {
    let percent = 100.0 - 100.0 / f64::from(one_in.max(1));
    let text = format!("{percent:.4}");
    format!("p{}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn drop_counts(packets: &[u64]) -> Vec<DropCount> {
    let reasons = DropReason::ALL.iter().zip(packets);
    reasons
        .map(|(reason, &packets)| DropCount {
            reason: reason.name().to_owned(),
            description: reason.description().to_owned(),
            packets,
        })
        .collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
