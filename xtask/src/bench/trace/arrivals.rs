//! Arrivals shaped like published serverless traces: when a container's network is asked for, and how long it is held.
//! The same seed makes the same arrivals.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution, Exp, LogNormal, Pareto};
use serde::Serialize;

/// A container that starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Since the trace began.
    pub(super) at: Duration,
    /// How long it keeps its network.
    pub(super) held: Duration,
}

/// What the arrivals are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    /// 2,000 functions of very different popularity, a sixth of them on timers, whose containers live on for ten minutes.
    Functions,
    /// Sandboxes of agents: single ones, and tens to hundreds at once.
    Sandboxes,
    /// Single containers at an even pace over the day.
    Steady,
}

impl Shape {
    pub(super) const ALL: [Self; 3] = [Self::Functions, Self::Sandboxes, Self::Steady];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Functions => "functions",
            Self::Sandboxes => "sandboxes",
            Self::Steady => "steady",
        }
    }

    /// The name of its plot.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Functions => "trace-functions",
            Self::Sandboxes => "trace-sandboxes",
            Self::Steady => "trace-steady",
        }
    }

    /// All starts within `length`, in the order in which they come. The hour before is left out: in the beginning nothing
    /// is warm.
    ///
    /// # Errors
    /// None with the parameters below.
    pub(super) fn starts(self, length: Duration, seed: u64) -> Result<Vec<Start>> {
        let mut random = Random(StdRng::seed_from_u64(seed));
        let all = WARM_UP + length;
        let mut starts = match self {
            Self::Functions => functions(all, &mut random)?,
            Self::Sandboxes => sandboxes(all, &mut random)?,
            Self::Steady => steady(all, &mut random)?,
        };
        starts.retain_mut(|start| {
            let late = start.at.checked_sub(WARM_UP);
            late.inspect(|at| start.at = *at).is_some()
        });
        starts.sort_unstable_by_key(|start| start.at);
        Ok(starts)
    }
}

const WARM_UP: Duration = Duration::from_hours(1);

/// Functions on the node.
const FUNCTIONS: usize = 2_000;
/// Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020), figure 2: a share of the functions is started by timers.
const ON_TIMERS: f64 = 0.16;
/// Figure 5: 45 % of all applications are invoked once an hour at most, 81 % once a minute at most. This is the
/// log-normal distribution, of invocations an hour, that has these two quantiles.
const HOURLY: (f64, f64) = (0.51, 4.08);
/// Assumed: what one node gets of one function; the most popular ones are spread over many.
const MOST_HOURLY: f64 = 3_600.0;
/// Section 3.4: arrivals of 40 % of all applications vary more than those of a Poisson process. Here these come in batches.
const IN_BATCHES: f64 = 0.4;
/// Assumed: the batches' sizes, heavy-tailed with a mean of three.
const BATCH: (f64, f64, f64) = (1.0, 1.5, 200.0);
/// Figure 7: the logarithm of a function's average time in seconds, normally distributed with this mean and deviation.
const EXECUTION: (f64, f64) = (-0.38, 2.36);
/// The longest that Azure's consumption plan let a function run.
const LONGEST_EXECUTION: f64 = 600.0;
/// How long `OpenWhisk` and many others keep an idle container.
const KEEP_ALIVE: Duration = Duration::from_mins(10);
/// Assumed periods of timers, in minutes. They go off at full minutes, with what a scheduler adds.
const TIMER_MINUTES: [u64; 6] = [1, 5, 10, 15, 30, 60];
const TIMER_JITTER: Duration = Duration::from_secs(1);

/// Figure 4: at night there is half as much as at the peak.
const NIGHT: f64 = 0.5;
const PEAK_HOUR: f64 = 15.0;

/// Assumed: single sandboxes a second; fan-outs a second, their sizes (a Pareto distribution of 80 to 20), the time
/// between two of one fan-out, and how long they live (a log-normal distribution with a median of two minutes).
const SINGLE_PER_S: f64 = 1.0;
const FAN_OUTS_PER_S: f64 = 1.0 / 120.0;
const FAN_OUT: (f64, f64, f64) = (10.0, 1.16, 500.0);
const FAN_OUT_GAP: Duration = Duration::from_micros(100);
const SANDBOX_LIFE: (f64, f64) = (4.79, 1.0);

const STEADY_PER_S: f64 = 5.0;
const STEADY_LIFE_S: f64 = 60.0;

struct Random(StdRng);

impl Random {
    fn sample(&mut self, of: &impl Distribution<f64>) -> f64 {
        of.sample(&mut self.0)
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.0.random_range(0..values.len())]
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.0.random())
    }

    /// A heavy-tailed size.
    fn size(&mut self, (least, shape, most): (f64, f64, f64)) -> Result<u32> {
        let size = self.sample(&Pareto::new(least, shape)?).min(most);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between `least` and `most`"
        )]
        Ok(size as u32)
    }

    /// A Poisson process that follows the hours of the day, at most so many a second.
    fn times(&mut self, peak_per_s: f64, length: Duration) -> Result<Vec<Duration>> {
        let gaps = Exp::new(peak_per_s)?;
        let mut times = Vec::new();
        let mut now = self.sample(&gaps);
        while now < length.as_secs_f64() {
            // Thinned out: each is kept with the chance that its hour has.
            if self.chance(share_of_peak(now)) {
                times.push(Duration::from_secs_f64(now));
            }
            now += self.sample(&gaps);
        }
        Ok(times)
    }
}

/// How much there is at this time of the day, of the most.
fn share_of_peak(seconds: f64) -> f64 {
    let hour = seconds / 3_600.0;
    let swing = (1.0 - NIGHT) / 2.0;
    1.0 - swing + swing * ((hour - PEAK_HOUR) / 24.0 * std::f64::consts::TAU).cos()
}

fn functions(length: Duration, random: &mut Random) -> Result<Vec<Start>> {
    let execution = LogNormal::new(EXECUTION.0, EXECUTION.1)?;
    let mut starts = Vec::new();
    for _ in 0..FUNCTIONS {
        let runs_s = random.sample(&execution).min(LONGEST_EXECUTION);
        let invocations = invocations(length, random)?;
        containers(&invocations, Duration::from_secs_f64(runs_s), &mut starts);
    }
    Ok(starts)
}

/// When one function is invoked.
fn invocations(length: Duration, random: &mut Random) -> Result<Vec<Duration>> {
    if random.chance(ON_TIMERS) {
        return Ok(timer(length, random));
    }
    let hourly = random.sample(&LogNormal::new(HOURLY.0, HOURLY.1)?);
    let per_s = hourly.min(MOST_HOURLY) / 3_600.0;
    if !random.chance(IN_BATCHES) {
        return random.times(per_s, length);
    }
    let (least, shape, _) = BATCH;
    let mean = least * shape / (shape - 1.0);
    let mut all = Vec::new();
    for at in random.times(per_s / mean, length)? {
        let size = random.size(BATCH)?;
        all.extend((0..size).map(|_| at));
    }
    Ok(all)
}

fn timer(length: Duration, random: &mut Random) -> Vec<Duration> {
    let period = Duration::from_mins(random.one_of(&TIMER_MINUTES));
    let jitter = random.up_to(TIMER_JITTER);
    let times = (0..).map(|count| period * count + jitter);
    times.take_while(|at| *at < length).collect()
}

/// The containers in which these invocations run: an idle one if there is one, else one that starts.
fn containers(invocations: &[Duration], runs: Duration, starts: &mut Vec<Start>) {
    struct Container {
        started: Duration,
        free: Duration,
    }
    let end = |container: &Container| Start {
        at: container.started,
        held: (container.free + KEEP_ALIVE).saturating_sub(container.started),
    };
    // By when they become free; the last of them is used, so that the others may end.
    let mut all = Vec::<Container>::new();
    for &at in invocations {
        let kept = all.iter().position(|one| one.free + KEEP_ALIVE >= at);
        starts.extend(all.drain(..kept.unwrap_or(all.len())).map(|one| end(&one)));
        let idle = all.iter().rposition(|one| one.free <= at);
        let started = idle.map_or(at, |place| all.remove(place).started);
        all.push(Container {
            started,
            free: at + runs,
        });
    }
    starts.extend(all.iter().map(end));
}

fn sandboxes(length: Duration, random: &mut Random) -> Result<Vec<Start>> {
    let mut times = random.times(SINGLE_PER_S, length)?;
    for at in random.times(FAN_OUTS_PER_S, length)? {
        let size = random.size(FAN_OUT)?;
        times.extend((0..size).map(|number| at + FAN_OUT_GAP * number));
    }
    let life = LogNormal::new(SANDBOX_LIFE.0, SANDBOX_LIFE.1)?;
    Ok(each_for(&times, &life, random))
}

fn steady(length: Duration, random: &mut Random) -> Result<Vec<Start>> {
    let times = random.times(STEADY_PER_S, length)?;
    Ok(each_for(&times, &Exp::new(1.0 / STEADY_LIFE_S)?, random))
}

fn each_for(
    times: &[Duration],
    life_s: &impl Distribution<f64>,
    random: &mut Random,
) -> Vec<Start> {
    let start = |&at| Start {
        at,
        held: Duration::from_secs_f64(random.sample(life_s)),
    };
    times.iter().map(start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn the_same_seed_makes_the_same_arrivals_and_another_one_others() {
        for shape in Shape::ALL {
            let of = |seed| shape.starts(HOUR / 10, seed).unwrap();
            assert_eq!(of(1), of(1));
            assert_ne!(of(1), of(2));
        }
    }

    #[test]
    fn arrivals_come_in_order_and_within_the_length() {
        for shape in Shape::ALL {
            let starts = shape.starts(HOUR, 7).unwrap();
            assert!(starts.is_sorted_by_key(|start| start.at));
            assert!(starts.last().is_some_and(|last| last.at < HOUR * 2));
        }
    }

    #[test]
    fn popularity_has_the_published_quantiles() {
        let mut random = Random(StdRng::seed_from_u64(3));
        let hourly = LogNormal::new(HOURLY.0, HOURLY.1).unwrap();
        let rates: Vec<_> = (0..100_000).map(|_| random.sample(&hourly)).collect();
        for (most_hourly, share) in [(1.0, 0.45), (60.0, 0.81)] {
            let below = rates.iter().filter(|rate| **rate <= most_hourly).count();
            let found = f64::from(u32::try_from(below).unwrap()) / 100_000.0;
            assert!((found - share).abs() < 0.01, "{found} against {share}");
        }
    }

    #[test]
    fn there_is_half_as_much_at_night() {
        let at = |hour: f64| share_of_peak(hour * 3_600.0);
        assert!((at(PEAK_HOUR) - 1.0).abs() < 1e-9);
        assert!((at(PEAK_HOUR - 12.0) - NIGHT).abs() < 1e-9);
    }

    #[test]
    fn an_idle_container_is_used_again_until_it_was_idle_for_too_long() {
        let seconds = Duration::from_secs;
        let mut starts = Vec::new();
        // The second finds the first one's container busy; the third an idle one; the fourth none any more.
        let invocations = [0, 1, 100, 1_000].map(seconds);
        containers(&invocations, seconds(10), &mut starts);
        starts.sort_unstable_by_key(|start| start.at);
        let of = |at, until| Start {
            at: seconds(at),
            held: seconds(until - at),
        };
        assert_eq!(starts, [of(0, 610), of(1, 710), of(1_000, 1_610)]);
    }

    #[test]
    fn timers_go_off_together() {
        let mut random = Random(StdRng::seed_from_u64(5));
        let times: Vec<_> = (0..100).flat_map(|_| timer(HOUR, &mut random)).collect();
        assert!(times.iter().all(|at| at.as_secs() % 60 <= 1));
    }
}
