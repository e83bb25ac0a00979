//! How the lock tracer pairs what the kernel tells of a wait, event by event: its programs, attached to nothing, are run
//! with events that the test makes up. A wait belongs to the thread that runs them.
#![expect(
    unsafe_code,
    reason = "says which ABI types are plain memory, for aya's maps"
)]

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod, RawTracePointRunOptions, TestRun as _,
    maps::{Array, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::RawTracePoint,
};
use pcpm_ebpf::{
    LOCKS_OBJECT,
    locks::{
        Blocked, BlockerKey, LONG_WAITS_A_SECOND, Missed, Tracing, WAIT_PLACES, Wait, WaitSet,
        WaiterKey, Waiters,
        flag::{MUTEX, READ, SPIN, WRITE},
        names, wait_set,
    },
};

/// Addresses where no lock is: nothing can be read there.
const LOCK: u64 = 0xdead_0000_0000_0010;
const ANOTHER: u64 = 0xdead_0000_0000_0020;
const KILLED: i64 = -4;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: plain numbers without padding, any of which are valid.
unsafe impl Pod for Plain<Tracing> {}
// SAFETY: as above.
unsafe impl Pod for Plain<WaitSet> {}
// SAFETY: as above.
unsafe impl Pod for Plain<WaiterKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Waiters> {}
// SAFETY: as above.
unsafe impl Pod for Plain<BlockerKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Blocked> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Missed> {}

/// The programs, which count in generation 1.
struct Tracer(Ebpf);

impl Tracer {
    fn load() -> Result<Self> {
        Self::with(1024, u64::MAX)
    }

    /// One that tells so many groups of waits apart.
    fn with_room(groups: u32) -> Result<Self> {
        Self::with(groups, u64::MAX)
    }

    /// One to which any wait is a long one.
    fn impatient() -> Result<Self> {
        Self::with(1024, 0)
    }

    fn with(groups: u32, long_wait_ns: u64) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(names::WAITERS, groups);
        let mut tracer = Self(loader.load(LOCKS_OBJECT)?);
        for name in [names::CONTENTION_BEGIN, names::CONTENTION_END] {
            tracer.program(name)?.load()?;
        }
        let settings = Tracing {
            generation: 1,
            long_wait_ns,
            ..Tracing::default()
        };
        let map = tracer.0.map_mut(names::TRACING).context("TRACING")?;
        Array::<_, Plain<Tracing>>::try_from(map)?.set(0, Plain(settings), 0)?;
        Ok(tracer)
    }

    fn program(&mut self, name: &str) -> Result<&mut RawTracePoint> {
        let program = self.0.program_mut(name).context("no such program")?;
        Ok(program.try_into()?)
    }

    fn run(&self, name: &str, lock: u64, argument: u64) -> Result<()> {
        let program = self.0.program(name).context("no such program")?;
        let program: &RawTracePoint = program.try_into()?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = lock;
        options.args[1] = argument;
        program.test_run(options)?;
        Ok(())
    }

    fn begin(&self, lock: u64, flags: u32) -> Result<()> {
        self.run(names::CONTENTION_BEGIN, lock, flags.into())
    }

    fn end(&self, lock: u64, failure: i64) -> Result<()> {
        self.run(names::CONTENTION_END, lock, failure.cast_unsigned())
    }

    /// Lock, kind and figures of all that was counted, by lock.
    fn counted(&mut self) -> Result<Vec<(WaiterKey, Waiters)>> {
        let map = self.0.map(names::WAITERS).context("WAITERS")?;
        let map = PerCpuHashMap::<_, Plain<WaiterKey>, Plain<Waiters>>::try_from(map)?;
        let mut counted = Vec::new();
        for entry in &map {
            let (key, values) = entry?;
            let mut sum = Waiters::ZERO;
            for cpu in values.iter() {
                sum.count += cpu.0.count;
                sum.total_ns += cpu.0.total_ns;
                sum.max_ns = sum.max_ns.max(cpu.0.max_ns);
            }
            counted.push((key.0, sum));
        }
        counted.sort_by_key(|(key, _)| key.lock);
        Ok(counted)
    }

    /// Takes all that was told one by one, and says how many that were.
    fn told_one_by_one(&mut self) -> Result<u64> {
        let map = self.0.map_mut(names::LONG_WAITS).context("LONG_WAITS")?;
        let mut ring = RingBuf::try_from(map)?;
        let mut told = 0;
        while ring.next().is_some() {
            told += 1;
        }
        Ok(told)
    }

    /// What has not ended.
    fn waits_under_way(&mut self) -> Result<Vec<Wait>> {
        let map = self.0.map(names::WAITS).context("WAITS")?;
        let map = Array::<_, Plain<WaitSet>>::try_from(map)?;
        let mut waits = Vec::new();
        for set in map.iter() {
            waits.extend(set?.0.places);
        }
        waits.retain(|wait| wait.task != 0);
        Ok(waits)
    }

    fn missed(&mut self) -> Result<Missed> {
        let map = self.0.map(names::MISSED).context("MISSED")?;
        let map = PerCpuArray::<_, Plain<Missed>>::try_from(map)?;
        let values = map.get(&0, 0)?;
        Ok(values.iter().fold(Missed::default(), |sum, cpu| Missed {
            begins: sum.begins + cpu.0.begins,
            waiters: sum.waiters + cpu.0.waiters,
            blockers: sum.blockers + cpu.0.blockers,
            long_waits: sum.long_waits + cpu.0.long_waits,
        }))
    }
}

/// Lets time pass, and says how much at least.
fn pass(duration: Duration) -> u64 {
    let begun = Instant::now();
    thread::sleep(duration);
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

const A_WHILE: Duration = Duration::from_millis(5);

#[test]
fn spinning_and_sleeping_and_spinning_again_is_one_wait() -> Result<()> {
    let mut tracer = Tracer::load()?;
    tracer.begin(LOCK, MUTEX | SPIN)?;
    let mut waited = pass(A_WHILE);
    for flags in [MUTEX, MUTEX | SPIN, MUTEX] {
        tracer.begin(LOCK, flags)?;
        waited += pass(A_WHILE);
    }
    tracer.end(LOCK, 0)?;
    let counted = tracer.counted()?;
    let [(key, waits)] = &counted[..] else {
        panic!("{counted:?}");
    };
    assert_eq!((key.lock, key.kind, waits.count), (LOCK, MUTEX, 1));
    assert!(
        waits.total_ns >= waited && waits.max_ns == waits.total_ns,
        "{waits:?}"
    );
    assert!(tracer.waits_under_way()?.is_empty());
    Ok(())
}

#[test]
fn waits_within_a_wait_are_counted_each_for_its_lock() -> Result<()> {
    let mut tracer = Tracer::load()?;
    tracer.begin(LOCK, WRITE)?;
    let before = pass(A_WHILE);
    tracer.begin(ANOTHER, MUTEX | SPIN)?;
    let inner = pass(A_WHILE);
    tracer.end(ANOTHER, 0)?;
    let after = pass(A_WHILE);
    tracer.end(LOCK, 0)?;
    let counted = tracer.counted()?;
    let [(outer_key, outer), (inner_key, within)] = &counted[..] else {
        panic!("{counted:?}");
    };
    assert_eq!((outer_key.lock, inner_key.lock), (LOCK, ANOTHER));
    assert_eq!((outer.count, within.count), (1, 1));
    assert!(outer.total_ns >= before + inner + after, "{outer:?}");
    assert!(
        (inner..outer.total_ns).contains(&within.total_ns),
        "{within:?}"
    );
    Ok(())
}

#[test]
fn spinlocks_and_ends_without_a_beginning_are_nobody_s_waits() -> Result<()> {
    let mut tracer = Tracer::load()?;
    for flags in [SPIN, SPIN | READ, SPIN | WRITE] {
        tracer.begin(LOCK, flags)?;
        tracer.end(LOCK, 0)?;
    }
    tracer.end(ANOTHER, 0)?;
    assert!(tracer.counted()?.is_empty());
    assert_eq!(tracer.missed()?, Missed::default());
    Ok(())
}

#[test]
fn a_wait_that_is_given_up_is_a_wait_all_the_same() -> Result<()> {
    let mut tracer = Tracer::load()?;
    tracer.begin(LOCK, MUTEX)?;
    tracer.end(LOCK, KILLED)?;
    let counted = tracer.counted()?;
    assert_eq!(counted.len(), 1);
    assert_eq!(counted[0].1.count, 1);
    Ok(())
}

#[test]
fn a_lost_end_spoils_no_wait_of_others() -> Result<()> {
    let tracer = Mutex::new(Tracer::load()?);
    let run = |events: &dyn Fn(&mut Tracer) -> Result<()>| {
        let mut tracer = tracer.lock().expect("no thread panics with it");
        events(&mut tracer)
    };
    thread::scope(|scope| {
        let dies = scope.spawn(|| run(&|tracer| tracer.begin(LOCK, MUTEX)));
        dies.join().expect("it does not panic")
    })?;
    // Longer than the next thread may be kept from its processor in a wait.
    let passed = pass(Duration::from_secs(2));
    run(&|tracer| {
        tracer.begin(LOCK, MUTEX)?;
        tracer.end(LOCK, 0)
    })?;
    let mut tracer = tracer.into_inner()?;
    let counted = tracer.counted()?;
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert!(counted[0].1.total_ns < passed, "{counted:?}");
    assert_eq!(tracer.waits_under_way()?.len(), 1);
    Ok(())
}

#[test]
fn a_thread_with_the_number_of_one_that_died_waiting_begins_anew() -> Result<()> {
    let mut tracer = Tracer::load()?;
    tracer.begin(LOCK, MUTEX)?;
    // As if another task had left it.
    let mut left = tracer.waits_under_way()?.remove(0);
    left.task += 64;
    left.begun_ns -= 3_600_000_000_000;
    let set = wait_set(left.tid);
    let mut waits = WaitSet::default();
    waits.places[0] = left;
    let map = tracer.0.map_mut(names::WAITS).context("WAITS")?;
    Array::<_, Plain<WaitSet>>::try_from(map)?.set(set, Plain(waits), 0)?;
    tracer.begin(LOCK, MUTEX)?;
    tracer.end(LOCK, 0)?;
    let counted = tracer.counted()?;
    assert_eq!(counted[0].1.count, 1);
    assert!(counted[0].1.total_ns < 60_000_000_000, "{counted:?}");
    Ok(())
}

#[test]
fn where_too_many_wait_the_oldest_wait_gives_way_and_is_counted_as_missed() -> Result<()> {
    let mut tracer = Tracer::load()?;
    let locks: Vec<_> = (0..=WAIT_PLACES as u64).map(|n| LOCK + n * 16).collect();
    for &lock in &locks {
        tracer.begin(lock, MUTEX)?;
    }
    assert_eq!(tracer.missed()?.begins, 1);
    for &lock in locks.iter().rev() {
        tracer.end(lock, 0)?;
    }
    let counted = tracer.counted()?;
    let told: Vec<_> = counted.iter().map(|(key, _)| key.lock).collect();
    assert_eq!(told, locks[1..]);
    assert!(tracer.waits_under_way()?.is_empty());
    Ok(())
}

#[test]
fn what_finds_no_room_is_counted_as_missed_and_in_no_other_group() -> Result<()> {
    let mut tracer = Tracer::with_room(2)?;
    let locks = [LOCK, ANOTHER, ANOTHER + 16, ANOTHER + 32];
    for lock in locks {
        tracer.begin(lock, MUTEX)?;
        tracer.end(lock, 0)?;
    }
    let counted = tracer.counted()?;
    assert_eq!(
        counted.iter().map(|(_, w)| w.count).sum::<u64>(),
        2,
        "{counted:?}"
    );
    assert_eq!(tracer.missed()?.waiters, 2);
    Ok(())
}

#[test]
fn of_many_long_waits_a_part_is_told_one_by_one_and_the_others_are_counted() -> Result<()> {
    const WAITS: u64 = 2000;
    let mut tracer = Tracer::impatient()?;
    let begun = Instant::now();
    for _ in 0..WAITS {
        tracer.begin(LOCK, MUTEX)?;
        tracer.end(LOCK, 0)?;
    }
    let seconds = begun.elapsed().as_secs() + 2;
    let told = tracer.told_one_by_one()?;
    let cpus = thread::available_parallelism()?.get() as u64;
    // And those that were longer than all before: of n in any order, about log(n).
    let most = seconds * cpus * (LONG_WAITS_A_SECOND + 32);
    assert!((LONG_WAITS_A_SECOND..=most).contains(&told), "{told}");
    assert_eq!(told + tracer.missed()?.long_waits, WAITS);
    assert_eq!(tracer.counted()?[0].1.count, WAITS);
    Ok(())
}

/// Waits for ever new locks until `end`, and how many they were.
fn flood(tracer: &Tracer, first: u64, end: Instant) -> Result<u64> {
    let mut waits = 0;
    while Instant::now() < end {
        for _ in 0..100 {
            let lock = first + waits * 16;
            tracer.begin(lock, MUTEX)?;
            tracer.end(lock, 0)?;
            waits += 1;
        }
    }
    Ok(waits)
}

#[test]
fn events_as_fast_as_they_can_come_fill_the_tables_and_no_more_and_all_are_counted() -> Result<()> {
    const ROOM: u32 = 1024;
    const TIME: Duration = Duration::from_secs(2);
    let mut tracer = Tracer::with_room(ROOM)?;
    let threads = thread::available_parallelism()?.get() as u64;
    let end = Instant::now() + TIME;
    let waits: u64 = thread::scope(|scope| {
        let flood = |n| {
            scope.spawn({
                let tracer = &tracer;
                move || flood(tracer, LOCK + (n << 40), end)
            })
        };
        let floods: Vec<_> = (0..threads).map(flood).collect();
        floods
            .into_iter()
            .map(|flood| flood.join().expect("it does not panic"))
            .sum::<Result<u64>>()
    })?;
    println!("{} events a second", 2 * waits / TIME.as_secs());
    let counted = tracer.counted()?;
    assert!(counted.len() <= ROOM as usize, "{} groups", counted.len());
    let told: u64 = counted.iter().map(|(_, waits)| waits.count).sum();
    assert_eq!(told + tracer.missed()?.waiters, waits);
    Ok(())
}
