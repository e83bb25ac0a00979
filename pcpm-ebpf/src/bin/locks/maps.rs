//! The maps. All have a fixed number of entries: what finds no room is counted as missed.
#![expect(unsafe_code, reason = "map values are reached through raw pointers")]

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use pcpm_ebpf::locks::{
    Blocked, BlockerKey, HOLDER_PLACES, Holder, Missed, Telling, Tracing, WAIT_PLACES, WAIT_SETS,
    WORKER_THREADS, WORKERS as MOST_WORKERS, Wait, WaitSet, WaiterKey, Waiters, holder_place,
    wait_set,
};

use crate::caller::{LESSONS, Lesson, Stack};

/// Groups of waits in both generations. All memory is taken at once: an entry is made by a thread that waits, or has the lock
/// already, and making it from new memory takes microseconds.
const GROUPS: usize = 4096;
const LONG_WAITS_BYTES: usize = 512 * 1024;

#[btf_map]
static TRACING: Array<Tracing, 1> = Array::new();

#[btf_map]
static WAITS: Array<WaitSet, { WAIT_SETS as usize }> = Array::new();

#[btf_map]
pub(crate) static WAITERS: PerCpuHashMap<WaiterKey, Waiters, GROUPS> = PerCpuHashMap::new();

#[btf_map]
pub(crate) static BLOCKERS: PerCpuHashMap<BlockerKey, Blocked, GROUPS> = PerCpuHashMap::new();

#[btf_map]
static HOLDERS: Array<Holder, { HOLDER_PLACES as usize }> = Array::new();

#[btf_map]
static LEARNT: PerCpuArray<Lesson, { LESSONS as usize }> = PerCpuArray::new();

/// Room for what is read of the waiting thread's stack, for which the program's own is too small.
#[btf_map]
static STACK: PerCpuArray<Stack, 1> = PerCpuArray::new();

#[btf_map]
static WORKERS: HashMap<u32, u32, { WORKER_THREADS as usize }> = HashMap::new();

#[btf_map]
static OPERATIONS: Array<u64, { MOST_WORKERS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

#[btf_map]
static PRESSURE: PerCpuArray<Waiters, 1> = PerCpuArray::new();

#[btf_map]
static TELLING: PerCpuArray<Telling, 2> = PerCpuArray::new();

/// Of [`pcpm_ebpf::locks::LongWait`]s.
#[btf_map]
pub(crate) static LONG_WAITS: RingBuf<(), LONG_WAITS_BYTES> = RingBuf::new();

#[btf_map]
static MISSED: PerCpuArray<Missed, 1> = PerCpuArray::new();

/// Room for an entry that is being made, for which the stack is too small.
#[btf_map]
static NEW_WAITERS: PerCpuArray<Waiters, 1> = PerCpuArray::new();

/// What there is to know, once the daemon has said.
#[inline(always)]
pub(crate) fn tracing() -> Option<&'static Tracing> {
    TRACING.get(0).filter(|tracing| tracing.generation != 0)
}

/// The places for waits of threads like `tid`.
#[inline(always)]
pub(crate) fn waits(tid: u32) -> Option<&'static mut [Wait; WAIT_PLACES]> {
    // SAFETY: array elements live as long as the map. Two threads of one set may write to it at one time, each to a place
    // of its own, or else one of both waits is missed, as `wait::begins` says.
    let set = WAITS
        .get_ptr_mut(wait_set(tid))
        .map(|set| unsafe { &mut *set })?;
    Some(&mut set.places)
}

/// The last holder of `lock`, or of another one in its place.
#[inline(always)]
pub(crate) fn holder(lock: u64) -> Option<*mut Holder> {
    HOLDERS.get_ptr_mut(holder_place(lock))
}

/// This CPU's place for a lesson.
#[inline(always)]
pub(crate) fn lesson(place: u32) -> Option<&'static mut Lesson> {
    // SAFETY: as in `missed`.
    LEARNT
        .get_ptr_mut(place)
        .map(|lesson| unsafe { &mut *lesson })
}

/// This CPU's room for a stack.
#[inline(always)]
pub(crate) fn stack() -> Option<&'static mut Stack> {
    // SAFETY: as in `missed`.
    STACK.get_ptr_mut(0).map(|stack| unsafe { &mut *stack })
}

/// What the worker `tid` of the daemon is doing; 0 for everybody else.
#[inline(always)]
pub(crate) fn operation(tid: u32) -> u32 {
    let Some(worker) = WORKERS.get_ptr(tid) else {
        return 0;
    };
    // SAFETY: the value is a word, and stays one.
    let Some(operation) = OPERATIONS.get_ptr(unsafe { worker.read_volatile() }) else {
        return 0;
    };
    // SAFETY: array elements live as long as the map, and are written as whole words.
    unsafe { operation.read_volatile() as u32 }
}

/// The thread `tid` is a worker of the daemon, which says at that place of [`OPERATIONS`] what it is doing.
#[inline(always)]
pub(crate) fn worker_joins(tid: u32, place: u32) -> bool {
    WORKERS.insert(tid, place, 0).is_ok()
}

/// The thread `tid` is none any more.
#[inline(always)]
pub(crate) fn worker_leaves(tid: u32) {
    let _ = WORKERS.remove(tid);
}

/// This CPU's figures of waits for the daemon's workers.
#[inline(always)]
pub(crate) fn pressure() -> Option<&'static mut Waiters> {
    // SAFETY: as in `missed`.
    PRESSURE
        .get_ptr_mut(0)
        .map(|pressure| unsafe { &mut *pressure })
}

/// What this CPU has told of late: of the daemon's workers, or of everybody else.
#[inline(always)]
pub(crate) fn telling(of_workers: bool) -> Option<&'static mut Telling> {
    // SAFETY: as in `missed`.
    TELLING
        .get_ptr_mut(of_workers.into())
        .map(|telling| unsafe { &mut *telling })
}

/// This CPU's counts of what could not be told.
#[inline(always)]
pub(crate) fn missed() -> Option<&'static mut Missed> {
    // SAFETY: the element is this CPU's own, and the kernel runs no program within itself.
    MISSED.get_ptr_mut(0).map(|missed| unsafe { &mut *missed })
}

/// This CPU's figures of `key`, made if there are none.
#[inline(always)]
pub(crate) fn waiters(key: &WaiterKey) -> Option<&'static mut Waiters> {
    let place = match WAITERS.get_ptr_mut(key) {
        Some(place) => place,
        None => {
            // Nothing ever writes to it: it is all zeroes.
            let zeroes = NEW_WAITERS.get(0)?;
            WAITERS.insert(key, zeroes, 0).ok()?;
            WAITERS.get_ptr_mut(key)?
        }
    };
    // SAFETY: as in `missed`; the entry is deleted when its generation is over.
    Some(unsafe { &mut *place })
}

/// This CPU's figures of `key`, made if there are none.
#[inline(always)]
pub(crate) fn blocked(key: &BlockerKey) -> Option<&'static mut Blocked> {
    let place = match BLOCKERS.get_ptr_mut(key) {
        Some(place) => place,
        None => {
            BLOCKERS.insert(key, Blocked::default(), 0).ok()?;
            BLOCKERS.get_ptr_mut(key)?
        }
    };
    // SAFETY: as in `waiters`.
    Some(unsafe { &mut *place })
}
