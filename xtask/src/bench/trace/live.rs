//! The busiest moments of a trace in real time, against `pcpmd`: is the simulation told apart from it?

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pcpm_api::types::OnEmpty;
use pcpm_pool::Target;
use pcpm_tests::World;
use serde::Serialize;
use serde_json::{Value, json};

use super::arrivals::Start;
use super::simulation::{self, Host};

const CONFIG: &str = "/run/pcpmd.toml";

/// What the daemon and the simulation made of the same arrivals.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) ready: u32,
    pub(super) starts: usize,
    /// Slots a second that the daemon measured while it filled.
    pub(super) slots_per_s: u32,
    /// Starts that found nothing ready.
    pub(super) cold: u64,
    pub(super) cold_simulated: u64,
}

/// The part of this length with the most starts, which begins at zero.
pub(super) fn busiest(starts: &[Start], length: Duration) -> Vec<Start> {
    let part = |first: usize| {
        let behind = &starts[first..];
        let count = behind.partition_point(|start| start.at < starts[first].at + length);
        &behind[..count]
    };
    let busiest = (0..starts.len()).map(part).max_by_key(|part| part.len());
    let busiest = busiest.unwrap_or_default();
    let begin = busiest.first().map_or(Duration::ZERO, |start| start.at);
    let moved = |start: &Start| Start {
        at: start.at.saturating_sub(begin),
        ..*start
    };
    busiest.iter().map(moved).collect()
}

/// Plays `starts` to a daemon that keeps `ready` slots, and to the simulation of one. Who finds nothing is refused.
///
/// # Errors
/// When the daemon cannot be started, or refuses an attach for another reason.
pub(super) fn compare(
    starts: &[Start],
    length: Duration,
    ready: u32,
    host: Host,
) -> Result<Compared> {
    let world = World::new()?;
    fs::write(world.path(CONFIG), format!("ready = {ready}\n"))?;
    let capacity = host.capacity.to_string();
    let daemon = world.spawn_daemon(&["--config", CONFIG, "--capacity", &capacity])?;
    daemon.wait_until("the pool is filled", |counts| counts.ready >= ready)?;
    let slots_per_s = daemon.status()?.target.refill_per_s;
    let cold = play(starts, &mut daemon.connect()?)?;
    let host = Host {
        slots_per_s: f64::from(slots_per_s.max(1)),
        on_empty: OnEmpty::Fail,
        ..host
    };
    let simulated = simulation::play(starts, length, Target::Fixed(ready), host, 1)?;
    Ok(Compared {
        ready,
        starts: starts.len(),
        slots_per_s,
        cold,
        cold_simulated: simulated.refused,
    })
}

/// How many found nothing ready.
fn play(starts: &[Start], wire: &mut pcpm_tests::Wire) -> Result<u64> {
    let mut leaving = BinaryHeap::<Reverse<(Duration, usize)>>::new();
    let mut cold = 0;
    let begun = Instant::now();
    for (number, start) in starts.iter().enumerate() {
        while let Some(&Reverse((at, gone))) = leaving.peek()
            && at <= start.at
        {
            leaving.pop();
            wait_until(begun + at);
            wire.call::<Value>("Detach", &json!({"owner": owner(gone)}))?;
        }
        wait_until(begun + start.at);
        let request = json!({"owner": owner(number), "on_empty": "fail"});
        match wire.try_call("Attach", &request)? {
            Ok(_) => leaving.push(Reverse((start.at + start.held, number))),
            Err(refusal) if refusal.name.ends_with("PoolExhausted") => cold += 1,
            Err(refusal) => bail!("an attach was refused: {refusal:?}"),
        }
    }
    Ok(cold)
}

fn owner(number: usize) -> String {
    format!("trace-{number}")
}

fn wait_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_part_begins_at_zero() {
        let seconds = Duration::from_secs;
        let start = |at| Start {
            at: seconds(at),
            held: seconds(1),
        };
        let starts = [1, 20, 21, 22, 40, 41].map(start);
        let busiest = busiest(&starts, seconds(10));
        assert_eq!(busiest, [0, 1, 2].map(start));
    }
}
