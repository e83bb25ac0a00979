//! What is wrong, since when, how much, and what to do about it.

use pcpm_api::types::{SlotCounts, Status};

use super::{
    Model,
    history::{Range, Sample},
    locks::RTNL,
};
use crate::render::humanise;

/// How far back lock waits, drops and events are looked at.
const RECENT_MS: u64 = 30_000;

/// Waits of this length together, in a second of which somebody outside is the blocker, are worth a warning.
const BLOCKED_US_PER_S: u64 = 20_000;

/// A pool is below its target after every attach; for so long, or by half, it is worth a warning.
const BELOW_MS: u64 = 5_000;

/// Packets a second that are worth a warning.
const DROPS_PER_S: f64 = 1.0;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Warning,
    Bad,
}

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) level: Level,
    /// What is wrong, with the number.
    pub(crate) what: String,
    /// Since when, if that is known.
    pub(crate) since_ms: Option<u64>,
    pub(crate) advice: String,
}

impl Warning {
    fn new(level: Level, what: String, advice: &str) -> Self {
        Self {
            level,
            what,
            since_ms: None,
            advice: advice.to_owned(),
        }
    }

    fn since(self, since_ms: Option<u64>) -> Self {
        Self { since_ms, ..self }
    }
}

/// All warnings, the worst first.
pub(crate) fn warnings(model: &Model) -> Vec<Warning> {
    let Some(status) = &model.figures else {
        return Vec::new();
    };
    let mut warnings: Vec<_> = of_counts(model, status)
        .into_iter()
        .chain(of_supply(model, status))
        .chain(of_traffic(model, status))
        .chain(of_events(model))
        .chain(of_locks(model))
        .collect();
    warnings.extend(others(status));
    warnings.sort_by_key(|warning| std::cmp::Reverse(warning.level));
    warnings
}

fn since(model: &Model, is_so: impl Fn(&SlotCounts) -> bool) -> Option<u64> {
    model.history.since(|sample| is_so(&sample.counts))
}

fn of_counts(model: &Model, status: &Status) -> Vec<Warning> {
    let counts = model.counts;
    let mut found = Vec::new();
    if counts.waiting > 0 {
        let longest = status.waiting.first().map_or(String::new(), |first| {
            format!(", the first since {}", humanise::millis(first.waited_ms))
        });
        let what = format!(
            "{} for a slot{longest}",
            plural(counts.waiting, "request waits", "requests wait")
        );
        let advice = if counts.attached.saturating_add(counts.beyond) >= counts.capacity {
            "all slots are taken: 'pcpm resize --capacity N', or detach what nobody uses"
        } else {
            "slots are being made; if it happens often keep more ready: 'pcpm resize --ready N'"
        };
        let warning = Warning::new(Level::Bad, what, advice);
        found.push(warning.since(since(model, |counts| counts.waiting > 0)));
    }
    if counts.failed > 0 {
        let reason = status.failures.first().map_or(String::new(), |failure| {
            format!(": {} {}", failure.slot, failure.reason)
        });
        let what = format!(
            "{}{reason}",
            plural(counts.failed, "slot failed", "slots failed")
        );
        let warning = Warning::new(
            Level::Bad,
            what,
            "they are tried again by themselves; if the reason stays, 'pcpm doctor' says what the host lacks",
        );
        found.push(warning.since(since(model, |counts| counts.failed > 0)));
    }
    found
}

fn of_supply(model: &Model, status: &Status) -> Vec<Warning> {
    let counts = model.counts;
    let mut found = Vec::new();
    if status.draining {
        found.push(Warning::new(
            Level::Warning,
            format!("draining: no new attachments, {} are left", counts.attached),
            "'pcpm drain --undo' takes attachments again",
        ));
        return found;
    }
    let is_below = |counts: &SlotCounts| counts.ready < counts.target.min(room(counts));
    let below_since = since(model, is_below);
    let is_long =
        below_since.is_some_and(|since_ms| model.now_ms.saturating_sub(since_ms) >= BELOW_MS);
    let is_half = |counts: &SlotCounts| counts.ready < counts.target.min(room(counts)) / 2;
    if is_half(&counts) || is_below(&counts) && is_long {
        let target = counts.target.min(room(&counts));
        let missing = target - counts.ready;
        let rate = u64::from(status.target.refill_per_s);
        let eta = u64::from(missing)
            .checked_div(rate)
            .map_or_else(String::new, |seconds| {
                format!(
                    ", about {} at {rate}/s",
                    humanise::long(std::time::Duration::from_secs(seconds.max(1)))
                )
            });
        let what = format!("pool below target: {} of {target} ready{eta}", counts.ready);
        let advice = if counts.ready == 0 {
            "attaches wait: keep more ready, or see Locks for who slows the refill"
        } else {
            "the refill catches up; if not, see Locks for who slows it"
        };
        let level = if counts.ready == 0 {
            Level::Bad
        } else {
            Level::Warning
        };
        found.push(Warning::new(level, what, advice).since(below_since));
    } else if room(&counts) == 0 {
        found.push(
            Warning::new(
                Level::Warning,
                format!("all {} slots are attached", counts.capacity),
                "the next request waits: 'pcpm resize --capacity N'",
            )
            .since(since(model, |counts| room(counts) == 0)),
        );
    }
    found
}

/// Slots that nobody holds, and that may be ready.
fn room(counts: &SlotCounts) -> u32 {
    counts.capacity.saturating_sub(counts.attached)
}

fn of_traffic(model: &Model, status: &Status) -> Vec<Warning> {
    let mut found = Vec::new();
    let flows = &status.flows;
    if flows.capacity > 0 && u64::from(flows.used) * 10 >= u64::from(flows.capacity) * 9 {
        let percent = u64::from(flows.used) * 100 / u64::from(flows.capacity);
        found.push(Warning::new(
            Level::Warning,
            format!("the flow table is {percent}% full: {} of {}", flows.used, flows.capacity),
            "connections are refused soon: raise nat.flows, or sort Slots by flows for who has most",
        ));
    }
    let rising = |sample: &Sample| sample.rates.drops >= DROPS_PER_S;
    if let Some(last) = model.history.last().filter(|last| rising(last)) {
        let what = format!("{:.0} packets a second are dropped", last.rates.drops);
        let warning = Warning::new(
            Level::Warning,
            what,
            "see Tenants for whose and why; 'pcpm drops --explain REASON'",
        );
        found.push(warning.since(model.history.since(rising)));
    }
    found
}

fn of_events(model: &Model) -> Vec<Warning> {
    let recent = model.now_ms.saturating_sub(RECENT_MS * 10);
    let lately = model
        .log
        .lines()
        .rev()
        .take_while(|line| line.time_ms >= recent);
    let tampered: Vec<_> = lately.filter(|line| line.kind == "tampered").collect();
    let Some(last) = tampered.first() else {
        return Vec::new();
    };
    let slot = last.slot.as_deref().unwrap_or("a slot");
    let what = format!(
        "{} cases of tampering, the last in {slot}: {}",
        tampered.len(),
        last.message
    );
    let warning = Warning::new(
        Level::Bad,
        what,
        "the slot is destroyed when given back; see Events for whose, detach it if in doubt",
    );
    vec![warning.since(tampered.last().map(|line| line.time_ms))]
}

fn of_locks(model: &Model) -> Vec<Warning> {
    let range = Range {
        end_ms: model.now_ms,
        span_ms: RECENT_MS,
    };
    let waits = model.locks.waits(range);
    let foreign = waits.blockers.iter().find(|blocker| {
        blocker.lock == RTNL
            && !blocker.thread.starts_with("pcpm")
            && !blocker.thread.starts_with('?')
            && !blocker.thread.starts_with("kworker")
    });
    let Some(blocker) = foreign else {
        return Vec::new();
    };
    if blocker.total_us.saturating_mul(1000) / waits.observed_ms.max(1) < BLOCKED_US_PER_S {
        return Vec::new();
    }
    let caller = blocker
        .caller
        .as_deref()
        .map_or(String::new(), |caller| format!(" in {caller}"));
    let pid = blocker
        .pid
        .map_or_else(String::new, |pid| format!("({pid})"));
    let what = format!(
        "{}{pid} holds rtnl{caller}: {} of waits in {}",
        blocker.thread,
        humanise::micros(blocker.total_us),
        humanise::millis(waits.observed_ms)
    );
    vec![Warning::new(
        Level::Warning,
        what,
        "it slows the refill: see Locks; run it less often, or keep more ready",
    )]
}

fn plural(count: u32, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// What the daemon itself warns of and nothing above says.
fn others(status: &Status) -> Vec<Warning> {
    let said = [
        "requests wait",
        "could not be made",
        "every slot is attached",
        "flow table",
    ];
    let others = status.warnings.iter();
    others
        .filter(|text| !said.iter().any(|said| text.contains(said)))
        .map(|text| {
            Warning::new(
                Level::Warning,
                text.clone(),
                "'pcpm status' and 'pcpm doctor' say more",
            )
        })
        .collect()
}
