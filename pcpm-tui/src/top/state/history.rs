//! The past, second by second, as far as it is remembered.

use std::collections::VecDeque;

use pcpm_api::types::{SlotCounts, Status, StepTimes};

use super::times::{Spread, Step, Times};
use crate::top::num::float;

/// Seconds remembered.
pub(crate) const REMEMBERED: usize = 900;

/// A second without a sample is bridged, a longer time is a gap.
const BRIDGED_MS: u64 = 2_500;

/// What happened a second, each second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) warm: f64,
    pub(crate) cold: f64,
    pub(crate) detached: f64,
    pub(crate) refused: f64,
    pub(crate) created: f64,
    pub(crate) retired: f64,
    pub(crate) recycled: f64,
    /// Packets dropped that somebody may miss.
    pub(crate) drops: f64,
    pub(crate) flows: f64,
}

impl Rates {
    /// What was counted between two frames.
    fn between(before: &Status, now: &Status, seconds: f64) -> Self {
        let rate = |field: fn(&Status) -> u64| {
            float(field(now).saturating_sub(field(before))) / seconds.max(0.001)
        };
        Self {
            warm: rate(|s| s.attach.warm),
            cold: rate(|s| s.attach.cold),
            detached: rate(|s| s.attach.detached),
            refused: rate(|s| s.attach.exhausted.saturating_add(s.attach.refused)),
            created: rate(|s| s.refill.created),
            retired: rate(|s| s.refill.retired),
            recycled: rate(|s| s.recycle.recycled),
            drops: rate(dropped_of_somebody),
            flows: rate(|s| s.flows.opened),
        }
    }

    pub(crate) fn attached(&self) -> f64 {
        self.warm + self.cold
    }
}

/// Why packets are dropped that nobody misses: the kernel announces multicast groups on every link that comes up, on those of slots before
/// anybody holds them, and on the host's.
const OF_NOBODY: [&str; 2] = ["detached", "multicast"];

/// Packets dropped so far, for whatever reason.
pub(crate) fn dropped(status: &Status) -> u64 {
    packets(status, |_| true)
}

/// Those that somebody may miss.
fn dropped_of_somebody(status: &Status) -> u64 {
    packets(status, |reason| !OF_NOBODY.contains(&reason))
}

fn packets(status: &Status, counts: impl Fn(&str) -> bool) -> u64 {
    let drops = status.drops.iter().filter(|drop| counts(&drop.reason));
    drops.fold(0, |sum, drop| sum.saturating_add(drop.packets))
}

/// One second.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) time_ms: u64,
    pub(crate) counts: SlotCounts,
    pub(crate) rates: Rates,
    /// How many slots a second the daemon was measured to make.
    pub(crate) refill_per_s: u32,
    times: [Times; Step::ALL.len()],
}

impl Sample {
    /// What `now` says, and what came since `before` was said.
    pub(crate) fn new(
        time_ms: u64,
        now: &Status,
        before: Option<(u64, &Status)>,
        steps: &[StepTimes],
    ) -> Self {
        let rates = before.map(|(before_ms, before)| {
            let seconds = float(time_ms.saturating_sub(before_ms)) / 1000.0;
            Rates::between(before, now, seconds)
        });
        let told = |step: &Step| steps.iter().find(|told| told.step == step.name());
        Self {
            time_ms,
            counts: now.slots,
            rates: rates.unwrap_or_default(),
            refill_per_s: now.target.refill_per_s,
            times: Step::ALL.map(|step| {
                told(&step).map_or_else(Times::default, |told| Times::new(&told.times))
            }),
        }
    }

    pub(crate) fn times(&self, step: Step) -> &Times {
        &self.times[step as usize]
    }
}

/// A time on the screen: `span_ms` up to `end_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) end_ms: u64,
    pub(crate) span_ms: u64,
}

impl Range {
    pub(crate) fn start_ms(self) -> u64 {
        self.end_ms.saturating_sub(self.span_ms)
    }

    pub(crate) fn contains(self, time_ms: u64) -> bool {
        time_ms > self.start_ms() && time_ms <= self.end_ms
    }
}

/// The samples, oldest first, in the order of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(VecDeque<Sample>);

impl History {
    /// A clock that went back begins a new history: there is one order of time.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self
            .last()
            .is_some_and(|last| last.time_ms >= sample.time_ms)
        {
            self.0.clear();
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(crate) fn first(&self) -> Option<&Sample> {
        self.0.front()
    }

    pub(crate) fn last(&self) -> Option<&Sample> {
        self.0.back()
    }

    /// The last sample that is not later than `time_ms`.
    pub(crate) fn at(&self, time_ms: u64) -> Option<&Sample> {
        let after = self.0.partition_point(|sample| sample.time_ms <= time_ms);
        self.0.get(after.checked_sub(1)?)
    }

    pub(crate) fn within(&self, range: Range) -> impl Iterator<Item = &Sample> {
        let from = self
            .0
            .partition_point(|sample| sample.time_ms <= range.start_ms());
        let to = self
            .0
            .partition_point(|sample| sample.time_ms <= range.end_ms);
        self.0.range(from..to.max(from))
    }

    /// The range in `columns` parts, each with its samples; one that has none has the sample before, unless
    /// that is long ago.
    pub(crate) fn columns(&self, range: Range, columns: usize) -> Vec<Vec<&Sample>> {
        let count = columns.max(1) as u64;
        let bound = |column: u64| {
            let past = u128::from(range.span_ms) * u128::from(column) / u128::from(count);
            range.start_ms() + u64::try_from(past).unwrap_or(u64::MAX)
        };
        let part = |column: u64| {
            let end_ms = bound(column + 1);
            let span_ms = end_ms - bound(column);
            let samples: Vec<_> = self.within(Range { end_ms, span_ms }).collect();
            if !samples.is_empty() {
                return samples;
            }
            let held = self.at(end_ms);
            held.filter(|sample| end_ms - sample.time_ms <= BRIDGED_MS)
                .into_iter()
                .collect()
        };
        (0..count).map(part).collect()
    }

    /// All times of a step in the range.
    pub(crate) fn spread(&self, step: Step, range: Range) -> Spread {
        let mut spread = Spread::default();
        for sample in self.within(range) {
            spread.add(sample.times(step));
        }
        spread
    }

    /// Since when, up to the last sample, all of them were so.
    pub(crate) fn since(&self, is_so: impl Fn(&Sample) -> bool) -> Option<u64> {
        let so = self.0.iter().rev().take_while(|sample| is_so(sample));
        so.last().map(|sample| sample.time_ms)
    }
}
