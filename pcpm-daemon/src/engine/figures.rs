//! What watchers get once a second who ask for it: figures of the whole pool, and what each attachment used.

use std::time::{Duration, Instant};

use pcpm_api::{
    times,
    types::{SlotUsage, Source, StepTimes, TenantQuota, TimeCount, WatchFrame, WatchRequest},
};

use super::{Engine, latency::LatencyHistogram, latency::TimeCounts};
use crate::{net::slot_name, pool::SlotIndex};

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// The most records of dropped packets in a frame.
const DROPS_TOLD: u64 = 256;

/// How long attaches took, by where the slot came from.
#[derive(Debug, Default)]
pub(super) struct SourceLatency {
    warm: LatencyHistogram,
    cold: LatencyHistogram,
}

/// What a watcher wants to hear of once a second, and was told last.
#[derive(Debug)]
pub(super) struct Ticker {
    figures: bool,
    usage: bool,
    due: Instant,
    steps: Vec<TimeCounts>,
    used: Vec<SlotUsage>,
    next_drop: u64,
}

impl Ticker {
    /// What `request` asks for; due at once.
    pub(super) fn new(request: &WatchRequest) -> Self {
        Self {
            figures: request.figures.unwrap_or(false),
            usage: request.usage.unwrap_or(false),
            due: Instant::now(),
            steps: Vec::new(),
            used: Vec::new(),
            next_drop: 0,
        }
    }

    /// Whether the watcher wants the events before it came, too.
    pub(super) fn wants_past(&self) -> bool {
        self.figures
    }

    /// When something is due, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.figures || self.usage).then_some(self.due)
    }

    /// Adds to `frame` what is due.
    pub(super) fn add(&mut self, engine: &Engine, frame: &mut WatchFrame, now: Instant) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        // A watcher that was late goes on from now.
        self.due = (self.due + EVERY).max(now);
        if self.figures {
            frame.figures = Some(engine.status());
            frame.steps = Some(self.new_times(engine));
            frame.tenants = Some(engine.tenant_quotas());
            frame.dropped = Some(engine.drops.last(DROPS_TOLD, self.next_drop));
            self.next_drop = engine.drops.next_sequence();
        }
        if self.usage {
            frame.usage = Some(self.new_usage(engine));
        }
    }

    fn new_times(&mut self, engine: &Engine) -> Vec<StepTimes> {
        let steps = engine.steps();
        self.steps.resize(steps.len(), [0; times::BUCKETS]);
        let mut told = Vec::new();
        for ((step, now), before) in steps.into_iter().zip(&mut self.steps) {
            let times = since(now.counts(), before);
            before.clone_from(now.counts());
            if !times.is_empty() {
                let step = step.to_owned();
                told.push(StepTimes { step, times });
            }
        }
        told
    }

    /// The attachments whose use has changed.
    fn new_usage(&mut self, engine: &Engine) -> Vec<SlotUsage> {
        // Both are in the order of slots, whose names grow longer from the 10,000th on.
        fn place(usage: &SlotUsage) -> (usize, &str) {
            (usage.slot.len(), &usage.slot)
        }
        let used = engine.all_usage();
        let mut before = self.used.iter().peekable();
        let mut told = Vec::new();
        for usage in &used {
            while before
                .next_if(|known| place(known) < place(usage))
                .is_some()
            {}
            if before.peek() != Some(&usage) {
                told.push(usage.clone());
            }
        }
        self.used = used;
        told
    }
}

/// What was counted since `before`.
fn since(now: &TimeCounts, before: &TimeCounts) -> Vec<TimeCount> {
    let grown = now.iter().zip(before).enumerate();
    grown
        .filter(|(_, (now, before))| now > before)
        .map(|(bucket, (now, before))| TimeCount {
            from_us: times::from_us(bucket),
            count: now - before,
        })
        .collect()
}

impl Engine {
    /// An attach was answered after so long.
    pub(super) fn note_attach_time(&mut self, source: Source, took: Duration) {
        self.attach_latency.record(took);
        match source {
            Source::Warm => self.sources.warm.record(took),
            Source::Cold => self.sources.cold.record(took),
        }
    }

    pub(super) fn steps(&self) -> Vec<(&'static str, &LatencyHistogram)> {
        let create = &self.create_latency;
        let own = [
            ("warm", &self.sources.warm),
            ("cold", &self.sources.cold),
            ("create", &create.whole),
            ("namespace", &create.namespace),
            ("mount", &create.mount),
            ("link", &create.link),
            ("configure", &create.configure),
            ("recycle", &self.recycling.took),
            ("retire", &self.retire_latency),
        ];
        own.into_iter().chain(self.starts.steps()).collect()
    }

    fn tenant_quotas(&self) -> Vec<TenantQuota> {
        let limited = self.pool.limited_tenants();
        limited
            .map(|(tenant, attachments, limit)| TenantQuota {
                tenant: tenant.to_owned(),
                attachments,
                limit: Some(limit),
            })
            .collect()
    }

    /// What each attachment used so far, by slot; nothing where it cannot be read.
    fn all_usage(&self) -> Vec<SlotUsage> {
        let Ok(counters) = self.datapath.all_slot_counters() else {
            return Vec::new();
        };
        let usage = |slot: SlotIndex| {
            let now = *counters.get(slot as usize)?;
            Some(SlotUsage {
                slot: slot_name(slot),
                epoch: self.pool.epoch(slot),
                traffic: self.traffic_until(slot, now),
                flows: self.flows(slot),
            })
        };
        self.pool.attached_slots().filter_map(usage).collect()
    }
}
