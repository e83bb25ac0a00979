//! The target over simulated hours: arrivals of several kinds against a pool with a refill of 600 slots
//! a second. `cargo test -p pcpm-daemon simulated -- --nocapture` prints the figures.

use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc};

use pcpm_api::types::OnEmpty;

use super::*;
use crate::{
    AttachRequest, ClassSettings, Command, Event, Pool, PoolSettings, Quotas, Recycle, SlotIndex,
    tests::{class, holder},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

const BOUNDS: Adaptive = Adaptive {
    first: 64,
    floor: 8,
    ceiling: 1024,
    one_in: 1000,
    window: Duration::from_mins(10),
};

/// Asks for slots `count` at once, and says what the target is then.
fn burst(demand: &mut Demand, count: u32, now: Now) -> u32 {
    (0..count).for_each(|_| demand.taken(now));
    demand.target()
}

#[test]
fn a_burst_raises_the_target_before_it_is_over() {
    let mut demand = Demand::new(Target::Adaptive(BOUNDS));
    assert_eq!(burst(&mut demand, 40, SECOND), 64);
    let halfway = burst(&mut demand, 60, SECOND);
    assert!(halfway > 100, "{halfway}");
    assert_eq!(demand.decision().why, Why::UnderWay(100));
    assert!(burst(&mut demand, 100, SECOND) > 200);
}

#[test]
fn the_target_goes_down_slowly_and_not_below_the_floor() {
    let mut demand = Demand::new(Target::Adaptive(BOUNDS));
    let high = burst(&mut demand, 300, SECOND);
    let (mut now, mut before) = (SECOND, high);
    while let Some(due) = demand.next_tick() {
        now = due;
        demand.tick(now);
        assert!(demand.target() <= before && before - demand.target() <= high.div_ceil(64));
        before = demand.target();
        if now < 10 * MINUTE {
            assert_eq!(before, high, "the burst is not forgotten after {now:?}");
        }
    }
    assert_eq!(before, BOUNDS.floor);
    assert!(now > 12 * MINUTE && now < 20 * MINUTE, "{now:?}");
}

#[test]
fn a_client_that_asks_again_and_again_is_not_taken_for_a_crowd() {
    let mut demand = Demand::new(Target::Adaptive(BOUNDS));
    burst(&mut demand, 60, SECOND);
    (0..10_000).for_each(|_| demand.missed(SECOND));
    assert_eq!(demand.target(), 82);
}

#[test]
fn a_refill_that_is_slower_wants_more_slots_ready() {
    let target_at = |interval| {
        let mut demand = Demand::new(Target::Adaptive(BOUNDS));
        (0..200).for_each(|n| demand.made(n * interval, n > 0));
        // Attaches come at 100 a second, five at a time.
        for n in 0..1000 {
            burst(&mut demand, 5, 700 * SECOND + n * 50 * MS);
        }
        demand.tick(750 * SECOND);
        demand.decision().burst
    };
    assert_eq!(target_at(2 * MS), 5);
    assert!(target_at(12 * MS) > 100);
}

#[test]
fn a_fixed_target_does_not_move() {
    let mut demand = Demand::new(Target::Fixed(7));
    assert_eq!(burst(&mut demand, 100, SECOND), 7);
    assert_eq!(
        (demand.next_tick(), demand.decision().why),
        (None, Why::Fixed)
    );
}

/// A small generator with a known sequence (xorshift64*): a test must play the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From 0 to 1, neither included.
    fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 33).unwrap() + 1) / f64::from(1_u32 << 31).next_up()
    }

    /// A time from an exponential distribution.
    fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-self.unit().ln())
    }
}

/// `count` arrivals half a millisecond apart.
fn crowd(arrivals: &mut Vec<Now>, at: Now, count: u32) {
    arrivals.extend((0..count).map(|n| at + n * MS / 2));
}

/// The nearest whole number of a small one.
fn whole(number: f64) -> u32 {
    (0..=1000).find(|&n| f64::from(n) + 0.5 > number).unwrap()
}

/// A crowd of 60 every minute, at any moment of it.
fn bursty(random: &mut Random, minutes: u32) -> Vec<Now> {
    let mut arrivals = Vec::new();
    for minute in 0..minutes {
        let at = minute * MINUTE + MINUTE.mul_f64(random.unit());
        crowd(&mut arrivals, at, 60);
    }
    arrivals
}

/// Crowds whose size has a heavy tail (Pareto, 1.5), one every second.
fn heavy_tailed(random: &mut Random, minutes: u32) -> Vec<Now> {
    let (mut arrivals, mut now) = (Vec::new(), Now::ZERO);
    while now < minutes * MINUTE {
        let size = (1.0 / random.unit().powf(1.0 / 1.5)).min(500.0);
        crowd(&mut arrivals, now, whole(size));
        now += random.exponential(SECOND);
    }
    arrivals
}

/// Quiet and busy quarters of a day of two hours: a crowd of 4 or of 120 every 20 s.
fn diurnal(random: &mut Random, minutes: u32) -> Vec<Now> {
    let (mut arrivals, mut now) = (Vec::new(), Now::ZERO);
    while now < minutes * MINUTE {
        let busy = now.as_secs() / 1800 % 4 == 2;
        crowd(&mut arrivals, now, if busy { 120 } else { 4 });
        now += random.exponential(20 * SECOND);
    }
    arrivals
}

/// What became of a trace.
#[derive(Debug)]
struct Outcome {
    attaches: u32,
    /// Attaches that found nothing ready, of 100,000.
    missed: u32,
    /// Slots held ready, on average over time.
    held: f64,
}

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Arrival,
    Made(SlotIndex),
    Retired(SlotIndex),
    Detach(SlotIndex),
    Tick,
}

struct Simulation {
    pool: Pool,
    agenda: BinaryHeap<Reverse<(Now, Next)>>,
    random: Random,
    now: Now,
    /// When the refill has made all it was told to.
    refill_free: Now,
    armed: Option<Now>,
    requests: u64,
    attaches: u32,
    missed: u32,
    held: f64,
}

/// The first window is not judged: demand was not known.
const JUDGED_FROM: Duration = Duration::from_mins(10);

impl Simulation {
    fn play(target: Target, arrivals: &[Now]) -> Outcome {
        let settings = PoolSettings {
            classes: vec![ClassSettings {
                target,
                ..class(2048, 0, Recycle::Never)
            }],
            shared: 2048,
            creating: 32,
            quotas: Quotas::default(),
        };
        let mut simulation = Self {
            pool: Pool::new(settings),
            agenda: arrivals
                .iter()
                .map(|&at| Reverse((at, Next::Arrival)))
                .collect(),
            random: Random(7),
            now: Now::ZERO,
            refill_free: Now::ZERO,
            armed: None,
            requests: 0,
            attaches: 0,
            missed: 0,
            held: 0.0,
        };
        simulation.feed(Event::Tick);
        let end = arrivals.last().copied().unwrap_or_default();
        while let Some(Reverse((at, next))) = simulation.agenda.pop()
            && at <= end
        {
            simulation.pass_time(at);
            simulation.happen(next);
        }
        Outcome {
            attaches: simulation.attaches,
            missed: u32::try_from(
                u64::from(simulation.missed) * 100_000 / u64::from(simulation.attaches),
            )
            .unwrap(),
            held: simulation.held / end.saturating_sub(JUDGED_FROM).as_secs_f64(),
        }
    }

    fn pass_time(&mut self, at: Now) {
        if self.now >= JUDGED_FROM {
            let ready = f64::from(self.pool.counts().ready);
            self.held += ready * at.saturating_sub(self.now).as_secs_f64();
        }
        self.now = at;
    }

    fn happen(&mut self, next: Next) {
        let event = match next {
            Next::Arrival => return self.arrival(),
            Next::Made(slot) => Event::Created(slot),
            Next::Retired(slot) => Event::Retired(slot),
            Next::Detach(slot) => Event::Detach(slot),
            Next::Tick => Event::Tick,
        };
        self.feed(event);
    }

    fn arrival(&mut self) {
        let id = self.requests;
        self.requests += 1;
        let request = AttachRequest {
            id,
            class: 0,
            holder: Rc::new(holder(&format!("o{id}"), "t")),
            exclusive: false,
            on_empty: OnEmpty::Wait,
            asked_at: self.now,
            deadline: self.now + 10 * MINUTE,
        };
        let granted = self.feed(Event::Attach(request));
        if self.now >= JUDGED_FROM {
            self.attaches += 1;
            self.missed += u32::from(!granted.contains(&id));
        }
    }

    /// Lets the pool decide; returns the requests that got a slot.
    fn feed(&mut self, event: Event) -> Vec<u64> {
        let mut commands = Vec::new();
        self.pool.handle(event, self.now, &mut commands);
        let mut granted = Vec::new();
        for command in commands {
            match command {
                Command::Create(slot) => {
                    self.refill_free = self.refill_free.max(self.now) + SECOND / 600;
                    self.agenda
                        .push(Reverse((self.refill_free, Next::Made(slot))));
                }
                Command::Retire(slot) => self
                    .agenda
                    .push(Reverse((self.now + 20 * MS, Next::Retired(slot)))),
                Command::Grant { request, slot, .. } => {
                    granted.push(request);
                    let until = self.now + self.random.exponential(2 * SECOND);
                    self.agenda.push(Reverse((until, Next::Detach(slot))));
                }
                _ => {}
            }
        }
        let due = self.pool.next_deadline();
        if let Some(due) = due.filter(|_| due != self.armed) {
            self.armed = Some(due);
            self.agenda.push(Reverse((due, Next::Tick)));
        }
        granted
    }
}

fn simulated(name: &str, arrivals: &[Now]) -> (Outcome, Vec<(u32, Outcome)>) {
    let adaptive = Simulation::play(Target::Adaptive(BOUNDS), arrivals);
    let fixed: Vec<_> = [16, 64, 128, 256]
        .into_iter()
        .map(|size| (size, Simulation::play(Target::Fixed(size), arrivals)))
        .collect();
    println!("{name}: {} attaches", adaptive.attaches);
    let all = [("adaptive".to_owned(), &adaptive)].into_iter();
    for (size, outcome) in all.chain(
        fixed
            .iter()
            .map(|(size, outcome)| (size.to_string(), outcome)),
    ) {
        let missed = f64::from(outcome.missed) / 1000.0;
        println!(
            "  {size:>8}: {missed:>6.3} % missed, {:>5.1} held",
            outcome.held
        );
    }
    (adaptive, fixed)
}

#[test]
fn simulated_bursts_find_slots_ready_with_a_third_more_than_they_take() {
    let (adaptive, _) = simulated("bursty", &bursty(&mut Random(1), 60));
    assert!(adaptive.missed <= 100, "{adaptive:?}");
    assert!(adaptive.held < 80.0, "{adaptive:?}");
}

/// What comes once in an hour is not seen in ten minutes: no window serves a heavy tail as well as bursts.
#[test]
fn simulated_heavy_tails_are_served_nearly_always() {
    let (adaptive, _) = simulated("heavy-tailed", &heavy_tailed(&mut Random(2), 60));
    assert!(adaptive.missed <= 2000, "{adaptive:?}");
}

#[test]
fn simulated_days_cost_less_than_the_fixed_size_that_serves_them() {
    let (adaptive, fixed) = simulated("diurnal", &diurnal(&mut Random(3), 240));
    let as_good = fixed
        .iter()
        .find(|(_, outcome)| outcome.missed <= adaptive.missed);
    let (_, as_good) = as_good.expect("256 slots are always enough");
    assert!(adaptive.held < as_good.held, "{adaptive:?}, {as_good:?}");
}
