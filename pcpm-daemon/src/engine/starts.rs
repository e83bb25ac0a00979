//! How long containers take to start, as the engine shims tell: times that the daemon cannot take itself. They are
//! counted and nothing else depends on them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use pcpm_api::{
    error::PoolError,
    limits,
    types::{ContainerStarts, PhaseTime, ReportStartRequest, StartPhase},
};

use super::{Engine, latency::LatencyHistogram};
use crate::{api::Caller, pool::SlotIndex};

/// The times of all starts, by phase.
#[derive(Debug, Default)]
pub(super) struct Starts {
    total: LatencyHistogram,
    attach: LatencyHistogram,
    bundle: LatencyHistogram,
    create: LatencyHistogram,
    engine: LatencyHistogram,
    start: LatencyHistogram,
    add: LatencyHistogram,
    mount: LatencyHistogram,
    created: HashMap<SlotIndex, Created>,
}

/// A container that was made and is not started yet.
#[derive(Clone, Copy, Debug)]
struct Created {
    /// Of the attachment: a slot's next one is another container's.
    epoch: u32,
    at: Instant,
    took: Duration,
}

impl Starts {
    /// What was told at `now` of the attachment in `slot`.
    fn note(&mut self, slot: SlotIndex, epoch: u32, phases: &[PhaseTime], now: Instant) {
        for told in phases {
            let took = Duration::from_micros(told.took_us);
            self.histogram(told.phase).record(took);
        }
        let took = |phase| {
            let mut told = phases.iter().filter(|told| told.phase == phase);
            told.next().map(|told| Duration::from_micros(told.took_us))
        };
        let all = phases.iter().map(|told| told.took_us).sum();
        let all = Duration::from_micros(all);
        match (took(StartPhase::Create), took(StartPhase::Start)) {
            (Some(_), Some(_)) => self.total.record(all),
            (Some(_), None) => {
                let created = Created {
                    epoch,
                    at: now,
                    took: all,
                };
                self.created.insert(slot, created);
            }
            (None, Some(start)) => self.started(slot, epoch, start, now),
            (None, None) => {}
        }
    }

    /// A start ended that took `start`. Where it was not told how the container was made, that is all there is.
    fn started(&mut self, slot: SlotIndex, epoch: u32, start: Duration, now: Instant) {
        let created = self.created.remove(&slot);
        let Some(created) = created.filter(|created| created.epoch == epoch) else {
            return;
        };
        let since = now.saturating_duration_since(created.at);
        self.engine.record(since.saturating_sub(start));
        self.total.record(created.took + since);
    }

    fn histogram(&mut self, phase: StartPhase) -> &mut LatencyHistogram {
        match phase {
            StartPhase::Attach => &mut self.attach,
            StartPhase::Bundle => &mut self.bundle,
            StartPhase::Create => &mut self.create,
            StartPhase::Start => &mut self.start,
            StartPhase::Mount => &mut self.mount,
            StartPhase::Add => &mut self.add,
        }
    }

    /// By their names among the steps.
    pub(super) fn steps(&self) -> [(&'static str, &LatencyHistogram); 8] {
        [
            ("start/total", &self.total),
            ("start/attach", &self.attach),
            ("start/bundle", &self.bundle),
            ("start/create", &self.create),
            ("start/engine", &self.engine),
            ("start/start", &self.start),
            ("start/add", &self.add),
            ("start/mount", &self.mount),
        ]
    }

    pub(super) fn summary(&self) -> ContainerStarts {
        ContainerStarts {
            total: self.total.summary(),
            attach: self.attach.summary(),
            bundle: self.bundle.summary(),
            create: self.create.summary(),
            engine: self.engine.summary(),
            start: self.start.summary(),
            add: self.add.summary(),
            mount: self.mount.summary(),
        }
    }
}

impl Engine {
    /// Counts what is told of the start of an owner's container.
    ///
    /// # Errors
    /// A phase that is told twice or took too long, an owner without an attachment, or one of another user.
    pub(crate) fn report_start(
        &mut self,
        request: &ReportStartRequest,
        caller: Caller,
    ) -> Result<(), PoolError> {
        limits::check_phases(&request.phases)?;
        let slot = self.slot_named(&request.owner, request.id.as_deref())?;
        self.may_touch(slot, caller)?;
        let epoch = self.pool.epoch(slot);
        self.starts
            .note(slot, epoch, &request.phases, Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn phases(told: &[(StartPhase, Duration)]) -> Vec<PhaseTime> {
        let one = |&(phase, took): &(StartPhase, Duration)| PhaseTime {
            phase,
            took_us: u64::try_from(took.as_micros()).unwrap(),
        };
        told.iter().map(one).collect()
    }

    fn made() -> Vec<PhaseTime> {
        phases(&[
            (StartPhase::Attach, MS),
            (StartPhase::Bundle, MS),
            (StartPhase::Create, 30 * MS),
        ])
    }

    fn started() -> Vec<PhaseTime> {
        phases(&[(StartPhase::Start, 5 * MS)])
    }

    /// Within what the histograms tell apart.
    fn assert_about(us: u64, expected: Duration) {
        let us = Duration::from_micros(us);
        assert!(us.abs_diff(expected) * 50 <= expected, "{us:?}");
    }

    #[test]
    fn the_time_between_create_and_start_is_the_engines() {
        let mut starts = Starts::default();
        let begun = Instant::now();
        starts.note(3, 1, &made(), begun);
        starts.note(3, 1, &started(), begun + 15 * MS);
        let told = starts.summary();
        assert_about(told.create.max_us, 30 * MS);
        assert_about(told.engine.max_us, 10 * MS);
        assert_about(told.total.max_us, 47 * MS);
        starts.note(3, 1, &started(), begun + 20 * MS);
        assert_eq!(starts.summary().total.count, 1, "a container starts once");
    }

    #[test]
    fn a_start_belongs_to_no_earlier_attachment_of_its_slot() {
        let mut starts = Starts::default();
        let begun = Instant::now();
        starts.note(3, 1, &made(), begun);
        starts.note(3, 2, &started(), begun + 15 * MS);
        let told = starts.summary();
        assert_eq!((told.start.count, told.total.count), (1, 0));
    }

    #[test]
    fn a_start_told_at_once_is_the_sum_of_its_phases() {
        let mut starts = Starts::default();
        let all = [made(), started()].concat();
        starts.note(3, 1, &all, Instant::now());
        let told = starts.summary();
        assert_about(told.total.max_us, 37 * MS);
        assert_eq!(told.engine.count, 0);
    }

    #[test]
    fn a_start_that_claims_more_time_than_there_was_leaves_none_for_the_engine() {
        let mut starts = Starts::default();
        let begun = Instant::now();
        starts.note(3, 1, &made(), begun);
        let long = phases(&[(StartPhase::Start, 600_000 * MS)]);
        starts.note(3, 1, &long, begun + MS);
        assert_eq!(starts.summary().engine.p50_us, 1);
        assert_about(starts.summary().total.max_us, 33 * MS);
    }
}
