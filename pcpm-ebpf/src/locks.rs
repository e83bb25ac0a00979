//! What the lock tracer and the daemon share: who waits for which kernel lock, for how long, and who
//! holds it meanwhile.
//!
//! The kernel tells of waits by two tracepoints (`include/trace/events/lock.h`, 5.19): a wait begins,
//! perhaps several times (a mutex is spun for, slept for, spun for again), and ends once. Only locks
//! that are slept for are looked at: waits for spinlocks are short, and many.

/// Names of maps and programs, as they stand in the object.
pub mod names {
    /// Raw tracepoint of the same name: a task begins to wait.
    pub const CONTENTION_BEGIN: &str = "contention_begin";
    /// Raw tracepoint of the same name: it waits no more.
    pub const CONTENTION_END: &str = "contention_end";
    /// Run by a worker of the daemon itself, with its place in `OPERATIONS`: the number of a thread is another one in
    /// a pid namespace, and only programs see the one that matters.
    pub const WORKER_JOINS: &str = "worker_joins";
    /// Run by a thread of the daemon that ends and had joined.
    pub const WORKER_LEAVES: &str = "worker_leaves";
    /// Run by the daemon itself: returns the number of its process, for the same reason.
    pub const WHO_AM_I: &str = "who_am_i";
    /// `BPF_MAP_TYPE_ARRAY` with one [`super::Tracing`].
    pub const TRACING: &str = "TRACING";
    /// `BPF_MAP_TYPE_ARRAY` of [`super::WaitSet`], by [`super::wait_set`].
    pub const WAITS: &str = "WAITS";
    /// `BPF_MAP_TYPE_PERCPU_HASH`: [`super::WaiterKey`] to [`super::Waiters`].
    pub const WAITERS: &str = "WAITERS";
    /// `BPF_MAP_TYPE_PERCPU_HASH`: [`super::BlockerKey`] to [`super::Blocked`].
    pub const BLOCKERS: &str = "BLOCKERS";
    /// `BPF_MAP_TYPE_ARRAY` of [`super::Holder`], by [`super::holder_place`].
    pub const HOLDERS: &str = "HOLDERS";
    /// `BPF_MAP_TYPE_HASH`: thread id of one of the daemon's workers to its place in `OPERATIONS`.
    pub const WORKERS: &str = "WORKERS";
    /// `BPF_MAP_TYPE_ARRAY` (mmapable) of `u64`: what each worker is doing.
    pub const OPERATIONS: &str = "OPERATIONS";
    /// `BPF_MAP_TYPE_PERCPU_ARRAY` with one [`super::Waiters`]: waits of others for the rtnl lock while a worker of the
    /// daemon held it, and only as long as it did. Never reset.
    pub const PRESSURE: &str = "PRESSURE";
    /// `BPF_MAP_TYPE_PERCPU_ARRAY` with two [`super::Telling`]s: of everybody but the daemon's workers, and of these.
    pub const TELLING: &str = "TELLING";
    /// `BPF_MAP_TYPE_RINGBUF` of [`super::LongWait`].
    pub const LONG_WAITS: &str = "LONG_WAITS";
    /// `BPF_MAP_TYPE_PERCPU_ARRAY` with one [`super::Missed`].
    pub const MISSED: &str = "MISSED";
}

/// Places where workers of the daemon say what they are doing.
pub const WORKERS: u32 = 64;

/// Threads of the daemon that are known to do so. Several may work for one worker.
pub const WORKER_THREADS: u32 = 256;

/// Bytes of a thread's name, with the final zero (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;

/// Frames of a stack that are looked at to find who asked for a lock: those of the tracepoint and of
/// the lock's own functions come first.
pub const CALLER_FRAMES: usize = 12;

/// Sets of waits under way.
pub const WAIT_SETS: u32 = 2048;

/// Waits in one of them.
pub const WAIT_PLACES: usize = 4;

/// Places for the last holders of locks.
pub const HOLDER_PLACES: u32 = 1024;

/// Frames kept of a long wait.
pub const STACK_FRAMES: usize = 32;

/// Long waits that one CPU tells one by one in a second, of the daemon's workers and of everybody else. More are told only if
/// each is longer than all before it.
pub const LONG_WAITS_A_SECOND: u64 = 8;

/// Ranges of kernel text that belong to locks beside the one of their slow paths.
pub const WRAPPERS: usize = 8;

/// Bits of what `contention_begin` says of a lock (`include/trace/events/lock.h`).
pub mod flag {
    /// The task spins.
    pub const SPIN: u32 = 1;
    /// It wants to read.
    pub const READ: u32 = 2;
    /// It wants to write.
    pub const WRITE: u32 = 4;
    /// A lock with priority inheritance.
    pub const RT: u32 = 8;
    /// A per-CPU read-write semaphore.
    pub const PERCPU: u32 = 16;
    /// A mutex.
    pub const MUTEX: u32 = 32;
}

/// Whether a wait is for a lock that is slept for.
#[inline(always)]
pub const fn is_slept_for(flags: u32) -> bool {
    flags & (flag::SPIN | flag::MUTEX) != flag::SPIN
}

/// Where the word is that says who owns a lock of these flags, in bytes from its beginning; nowhere for
/// locks that do not say (`struct mutex`, `struct rw_semaphore`).
#[inline(always)]
pub const fn owner_offset(flags: u32) -> Option<usize> {
    if flags & flag::MUTEX != 0 {
        Some(0)
    } else if flags & (flag::RT | flag::PERCPU | flag::SPIN) == 0 {
        Some(8)
    } else {
        None
    }
}

/// The task in a lock's owner word, 0 for none: the three lowest bits are flags, and the lowest one of a
/// read-write semaphore says that the task only read (`RWSEM_READER_OWNED`).
#[inline(always)]
pub const fn owner_task(flags: u32, word: u64) -> u64 {
    let owned_by_readers = flags & flag::MUTEX == 0 && word & 1 != 0;
    if owned_by_readers { 0 } else { word & !7 }
}

/// A range of addresses, the end not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TextRange {
    /// The first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
}

impl TextRange {
    /// Whether `address` is in it.
    #[inline(always)]
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.start && address < self.end
    }
}

/// What the tracer needs to know. All zero: it does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tracing {
    /// Which of two sets of figures is written; the other one is read. 0: none.
    pub generation: u32,
    /// Offset of `pid` in `struct task_struct`; 0: tasks cannot be looked into.
    pub task_pid: u32,
    /// Offset of `tgid` in `struct task_struct`.
    pub task_tgid: u32,
    /// Offset of `comm` in `struct task_struct`.
    pub task_comm: u32,
    /// Offset of `flags` in `struct task_struct`.
    pub task_flags: u32,
    /// The daemon's process.
    pub daemon: u32,
    /// The rtnl lock, 0 if it is not known.
    pub rtnl: u64,
    /// Waits at least as long as this are told one by one, in nanoseconds.
    pub long_wait_ns: u64,
    /// The functions that sleep for locks (`__sched_text_start`).
    pub lock_text: TextRange,
    /// Functions that do nothing but ask for one certain lock, like `rtnl_lock`.
    pub wrappers: [TextRange; WRAPPERS],
}

/// Who held a lock at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HeldBy {
    /// The thread, 0 if not known.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// What it was doing if it is one of the daemon's workers, else 0.
    pub operation: u32,
    /// Zero.
    pub padding: u32,
    /// Where it had asked for the lock, 0 if not known.
    pub caller: u64,
    /// Its name.
    pub comm: [u8; COMM_BYTES],
}

/// A wait that has begun. What its end needs is put together here, at the beginning: then the thread waits anyway, while
/// at the end it has the lock, and others wait for whatever it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Wait {
    /// The `task_struct` of the waiting thread, 0 where nobody waits. Its number alone may be that of one that died
    /// waiting.
    pub task: u64,
    /// When it began, by `bpf_ktime_get_ns`.
    pub begun_ns: u64,
    /// When the way of waiting changed last.
    pub phase_ns: u64,
    /// How long the daemon's workers were waited for, in the phases before.
    pub behind_workers_ns: u64,
    /// The number of the thread.
    pub tid: u32,
    /// Whether it is neither the daemon's nor the kernel's own.
    pub is_foreign: u32,
    /// Whether a worker held the rtnl lock when this phase began.
    pub behind_worker: u32,
    /// Zero.
    pub padding: u32,
    /// What it will be counted with, but for the generation.
    pub waiter: WaiterKey,
    /// Who held the lock when the wait began, but for the generation.
    pub blocker: BlockerKey,
}

impl Wait {
    /// Whether it is that thread's, for that lock.
    #[inline(always)]
    pub const fn is_of(&self, task: u64, tid: u32, lock: u64) -> bool {
        self.task == task && self.tid == tid && self.waiter.lock == lock
    }

    /// Goes on in another way; `behind_worker` says whether a worker holds the rtnl lock by now.
    #[inline(always)]
    pub const fn next_phase(&mut self, now_ns: u64, behind_worker: bool) {
        self.behind_workers_ns = self.behind_workers_until(now_ns);
        self.phase_ns = now_ns;
        self.behind_worker = behind_worker as u32;
    }

    /// How long the daemon's workers have been waited for. Who held the lock when a phase began counts for all of it.
    #[inline(always)]
    pub const fn behind_workers_until(&self, now_ns: u64) -> u64 {
        if self.behind_worker == 0 {
            return self.behind_workers_ns;
        }
        self.behind_workers_ns + now_ns.saturating_sub(self.phase_ns)
    }
}

/// Waits of threads whose numbers end alike: where four of them wait at one time, the fifth takes the place of the one
/// that has waited longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WaitSet {
    /// In no order.
    pub places: [Wait; WAIT_PLACES],
}

/// The set of a thread. Numbers of threads are given one after the other, which spreads them best.
#[inline(always)]
pub const fn wait_set(tid: u32) -> u32 {
    tid % WAIT_SETS
}

/// Waits that are counted together. All zero: those for which there was no room; they belong to no generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct WaiterKey {
    /// The lock's address.
    pub lock: u64,
    /// Who asked for it: an address in the kernel's text, 0 if not known.
    pub caller: u64,
    /// See [`Tracing::generation`].
    pub generation: u32,
    /// What the daemon's worker was doing, 0 for everybody else.
    pub operation: u32,
    /// [`flag`]s of the lock, those that tell its kind.
    pub kind: u32,
    /// Zero.
    pub padding: u32,
    /// The waiting threads' name.
    pub comm: [u8; COMM_BYTES],
}

/// Figures of waits that are counted together, on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Waiters {
    /// Waits that ended.
    pub count: u64,
    /// Nanoseconds waited.
    pub total_ns: u64,
    /// The longest wait.
    pub max_ns: u64,
    /// Waits by duration, see [`bucket`].
    pub histogram: [u32; BUCKETS],
}

impl Waiters {
    /// No waits.
    pub const ZERO: Self = Self {
        count: 0,
        total_ns: 0,
        max_ns: 0,
        histogram: [0; BUCKETS],
    };

    /// The waits since `earlier`, of figures that are never reset. The longest of them is known as exactly as the histogram
    /// is.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut histogram = self.histogram;
        for (count, earlier) in histogram.iter_mut().zip(earlier.histogram) {
            *count = count.wrapping_sub(earlier);
        }
        let longest = histogram.iter().rposition(|&count| count > 0);
        Self {
            count: self.count - earlier.count,
            total_ns: self.total_ns - earlier.total_ns,
            max_ns: longest.map_or(0, |bucket| bucket_end_ns(bucket).min(self.max_ns)),
            histogram,
        }
    }
}

/// Who was waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct BlockerKey {
    /// The lock's address.
    pub lock: u64,
    /// Who held it.
    pub holder: HeldBy,
    /// See [`Tracing::generation`].
    pub generation: u32,
    /// Zero.
    pub padding: u32,
}

/// How long one was waited for, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Blocked {
    /// Waits during which it held the lock when they began.
    pub count: u64,
    /// Nanoseconds of these waits.
    pub total_ns: u64,
}

/// The place of a lock's last holder. Locks that share one are told apart by their address.
#[inline(always)]
pub const fn holder_place(lock: u64) -> u32 {
    (hash(lock) >> 32) as u32 % HOLDER_PLACES
}

/// Spreads addresses.
#[inline(always)]
pub const fn hash(address: u64) -> u64 {
    // The golden ratio (Knuth, The Art of Computer Programming, 6.4): neighbours end up far apart.
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The last thread that got a lock after it had waited for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Holder {
    /// The lock's address.
    pub lock: u64,
    /// Who asked for it.
    pub caller: u64,
    /// The thread.
    pub tid: u32,
    /// Zero.
    pub padding: u32,
}

/// One wait that took long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LongWait {
    /// The lock's address.
    pub lock: u64,
    /// When it began, by `bpf_ktime_get_ns`.
    pub begun_ns: u64,
    /// How long it took.
    pub waited_ns: u64,
    /// Who asked for the lock, 0 if not known.
    pub caller: u64,
    /// Who held it when the wait began.
    pub holder: HeldBy,
    /// The process that waited.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// What the daemon's worker was doing, 0 for everybody else.
    pub operation: u32,
    /// [`flag`]s of the lock, those that tell its kind.
    pub kind: u32,
    /// Bytes of `stack`.
    pub stack_bytes: i32,
    /// Zero.
    pub padding: u32,
    /// The name of the thread that waited.
    pub comm: [u8; COMM_BYTES],
    /// Its stack at the end of the wait, innermost frame first.
    pub stack: [u64; STACK_FRAMES],
}

/// What one CPU has told one by one in this second. A record with its stack takes microseconds, in which its thread has the lock
/// and others wait for it; what there are thousands of a second would be felt, and nobody reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Telling {
    /// Since boot.
    pub second: u64,
    /// Long waits that were told.
    pub told: u64,
    /// The longest of them.
    pub longest_ns: u64,
}

impl Telling {
    /// Whether a long wait that ends now is told, too.
    #[inline(always)]
    pub const fn admits(&mut self, now_ns: u64, waited_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            *self = Self {
                second,
                told: 0,
                longest_ns: 0,
            };
        }
        if self.told >= LONG_WAITS_A_SECOND && waited_ns <= self.longest_ns {
            return false;
        }
        self.told += 1;
        if waited_ns > self.longest_ns {
            self.longest_ns = waited_ns;
        }
        true
    }
}

/// What could not be told, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Missed {
    /// Waits whose beginning found no room.
    pub begins: u64,
    /// Waits counted under no name, because there were too many.
    pub waiters: u64,
    /// Waits whose blocker was not counted for the same reason.
    pub blockers: u64,
    /// Long waits that were not told one by one: the ring was full, or they were too many.
    pub long_waits: u64,
}

/// Buckets of a histogram of durations: four to each power of two, from a microsecond to two minutes.
pub const BUCKETS: usize = 108;

/// Nanoseconds below which all durations are in the first bucket.
const FIRST_NS: u64 = 1024;

/// The bucket that a duration belongs to.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a bucket is less than BUCKETS"
)]
pub const fn bucket(ns: u64) -> usize {
    if ns < FIRST_NS {
        return 0;
    }
    let octave = log2(ns);
    let quarter = (ns >> (octave - 2)) & 3;
    let bucket = (octave - log2(FIRST_NS)) * 4 + quarter + 1;
    if bucket < BUCKETS as u64 {
        bucket as usize
    } else {
        BUCKETS - 1
    }
}

/// The longest duration that belongs to a bucket, but the last one has no end.
pub const fn bucket_end_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        return FIRST_NS - 1;
    }
    let steps = bucket as u64 - 1;
    let octave = steps / 4 + log2(FIRST_NS);
    let quarter = steps % 4;
    (1 << octave) + ((quarter + 1) << (octave - 2)) - 1
}

/// The shortest duration that belongs to a bucket.
pub const fn bucket_begin_ns(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        _ => bucket_end_ns(bucket - 1) + 1,
    }
}

/// The position of the highest bit; 0 of 0.
#[inline(always)]
const fn log2(n: u64) -> u64 {
    // Without a branch: each would double what the verifier has to follow.
    (n | 1).ilog2() as u64
}

const _: () = {
    assert!(size_of::<Tracing>() == 184);
    assert!(size_of::<HeldBy>() == 40);
    assert!(size_of::<Wait>() == 152);
    assert!(size_of::<WaiterKey>() == 48);
    assert!(size_of::<Waiters>() == 24 + 4 * BUCKETS);
    assert!(size_of::<BlockerKey>() == 56);
    assert!(size_of::<Holder>() == 24);
    assert!(size_of::<Telling>() == 24);
    assert!(size_of::<LongWait>() == 112 + 8 * STACK_FRAMES);
    assert!(bucket(u64::MAX) == BUCKETS - 1);
};
