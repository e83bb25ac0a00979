//! Waits, from their beginning to their end.
#![expect(unsafe_code, reason = "fills records in the ring in place")]

use core::hint::black_box;

use aya_ebpf::programs::RawTracePointContext;
use pcpm_ebpf::locks::{
    Holder, LongWait, Tracing, WAIT_PLACES, Wait, WaiterKey, Waiters, bucket, flag, is_slept_for,
};

use crate::{
    caller::caller,
    maps::{self, LONG_WAITS},
    task::{self, Thread},
};

/// The running task begins to wait for `lock`, or goes on in another way: a mutex is spun for, slept for,
/// and spun for again. All of that is one wait.
#[inline(always)]
pub(crate) fn begins(ctx: &RawTracePointContext, lock: u64, flags: u32) {
    if !is_slept_for(flags) {
        return;
    }
    let Some(tracing) = maps::tracing() else {
        return;
    };
    let me = task::current();
    let Some(places) = maps::waits(me.tid) else {
        return;
    };
    match find(places, &me, lock) {
        Some(wait) => goes_on(tracing, wait, lock, flags),
        None => begin(ctx, tracing, free(places), &me, lock, flags),
    }
}

/// The wait of that thread for that lock.
#[inline(always)]
fn find<'a>(places: &'a mut [Wait; WAIT_PLACES], me: &Thread, lock: u64) -> Option<&'a mut Wait> {
    places
        .iter_mut()
        .find(|wait| wait.is_of(me.task, me.tid, lock))
}

/// A place for one more wait: a free one, or that of the oldest wait, which is missed then. Its thread has died, or there
/// are too many that wait.
#[inline(always)]
fn free(places: &mut [Wait; WAIT_PLACES]) -> &mut Wait {
    let mut oldest = 0;
    for place in 0..WAIT_PLACES {
        if places[place].task == 0 {
            return &mut places[place];
        }
        if places[place].begun_ns < places[oldest].begun_ns {
            oldest = place;
        }
    }
    miss_begin();
    &mut places[oldest]
}

#[inline(always)]
fn miss_begin() {
    if let Some(missed) = maps::missed() {
        missed.begins += 1;
    }
}

#[inline(always)]
fn begin(
    ctx: &RawTracePointContext,
    tracing: &Tracing,
    wait: &mut Wait,
    me: &Thread,
    lock: u64,
    flags: u32,
) {
    let now_ns = task::now_ns();
    wait.task = me.task;
    wait.begun_ns = now_ns;
    wait.phase_ns = now_ns;
    wait.tid = me.tid;
    wait.behind_workers_ns = 0;
    wait.is_foreign = u32::from(me.pid != tracing.daemon && !me.is_of_kernel(tracing));
    wait.waiter.lock = lock;
    wait.waiter.kind = kind(flags);
    wait.waiter.operation = operation(tracing, me.tid, me.pid);
    task::current_comm(&mut wait.waiter.comm);
    wait.waiter.caller = caller(ctx, tracing);
    let holder = &mut wait.blocker.holder;
    task::owner(tracing, lock, flags, holder);
    holder.operation = operation(tracing, holder.tid, holder.pid);
    holder.caller = caller_of(lock, holder.tid);
    wait.behind_worker = u32::from(lock == tracing.rtnl && holder.operation != 0);
    wait.blocker.lock = lock;
    // SAFETY: a field.
    if unsafe { (&raw const wait.task).read_volatile() } != me.task {
        // Another thread of this set took the place in the same moment.
        miss_begin();
    }
}

/// The wait goes on in another way, perhaps for somebody else by now. That matters for the rtnl lock only.
#[inline(always)]
fn goes_on(tracing: &Tracing, wait: &mut Wait, lock: u64, flags: u32) {
    if lock == tracing.rtnl {
        let (tid, pid) = task::owner_ids(tracing, lock, flags);
        wait.next_phase(task::now_ns(), operation(tracing, tid, pid) != 0);
    }
}

/// What a thread is doing, if it is a worker of the daemon, else 0.
#[inline(always)]
fn operation(tracing: &Tracing, tid: u32, pid: u32) -> u32 {
    if pid != tracing.daemon {
        return 0;
    }
    maps::operation(tid)
}

/// The running task waits no more for `lock`: it has it if `failure` is 0, and whatever is done here adds to the waits of
/// others.
#[inline(always)]
pub(crate) fn ends(ctx: &RawTracePointContext, lock: u64, failure: i32) {
    let Some(tracing) = maps::tracing() else {
        return;
    };
    let me = task::current();
    let Some(places) = maps::waits(me.tid) else {
        return;
    };
    // Spinlocks end here, too, and cannot be told apart.
    let Some(wait) = find(places, &me, lock) else {
        return;
    };
    let now_ns = task::now_ns();
    let waited_ns = now_ns.saturating_sub(wait.begun_ns);
    if failure == 0 && wait.waiter.kind & flag::MUTEX != 0 {
        now_holds(wait);
    }
    count(tracing, wait, waited_ns);
    count_blocker(tracing, wait, waited_ns);
    let behind_workers_ns = wait.behind_workers_until(now_ns);
    if behind_workers_ns != 0 {
        press(wait, behind_workers_ns);
    }
    if waited_ns >= tracing.long_wait_ns && !tell(ctx, wait, &me, now_ns, waited_ns) {
        miss_long_wait();
    }
    wait.task = 0;
}

/// Counts a wait for the daemon's workers, if it was somebody else's. The kernel's own threads have nobody who waits
/// for them, and mostly come after what the workers did.
#[inline(always)]
fn press(wait: &Wait, behind_workers_ns: u64) {
    if wait.is_foreign != 0
        && let Some(pressure) = maps::pressure()
    {
        add(pressure, behind_workers_ns);
    }
}

/// Counts one more wait.
#[inline(always)]
fn add(waiters: &mut Waiters, waited_ns: u64) {
    waiters.count += 1;
    waiters.total_ns += waited_ns;
    if waited_ns > waiters.max_ns {
        waiters.max_ns = waited_ns;
    }
    // The compiler knows that there is such a bucket, the verifier wants to see it.
    let bucket = black_box(bucket(waited_ns));
    if let Some(count) = waiters.histogram.get_mut(bucket) {
        *count += 1;
    }
}

/// Where the thread that holds a lock had asked for it, if it had to wait for it itself.
#[inline(always)]
fn caller_of(lock: u64, tid: u32) -> u64 {
    let Some(holder) = maps::holder(lock) else {
        return 0;
    };
    // SAFETY: plain numbers; a mixture of two holders is told by lock and thread.
    let holder = unsafe { holder.read_volatile() };
    if holder.lock == lock && holder.tid == tid {
        holder.caller
    } else {
        0
    }
}

#[inline(always)]
fn now_holds(wait: &Wait) {
    if let Some(place) = maps::holder(wait.waiter.lock) {
        let holder = Holder {
            lock: wait.waiter.lock,
            caller: wait.waiter.caller,
            tid: wait.tid,
            padding: 0,
        };
        // SAFETY: array elements live as long as the map.
        unsafe { place.write_volatile(holder) };
    }
}

#[inline(always)]
fn count(tracing: &Tracing, wait: &mut Wait, waited_ns: u64) {
    wait.waiter.generation = tracing.generation;
    let mut waiters = maps::waiters(&wait.waiter);
    if waiters.is_none() {
        if let Some(missed) = maps::missed() {
            missed.waiters += 1;
        }
        // The daemon has put this one in place.
        waiters = maps::waiters(&WaiterKey::default());
    }
    if let Some(waiters) = waiters {
        add(waiters, waited_ns);
    }
}

#[inline(always)]
fn count_blocker(tracing: &Tracing, wait: &mut Wait, waited_ns: u64) {
    if wait.blocker.holder.tid == 0 {
        return;
    }
    wait.blocker.generation = tracing.generation;
    match maps::blocked(&wait.blocker) {
        Some(blocked) => {
            blocked.count += 1;
            blocked.total_ns += waited_ns;
        }
        None => {
            if let Some(missed) = maps::missed() {
                missed.blockers += 1;
            }
        }
    }
}

#[inline(always)]
fn miss_long_wait() {
    if let Some(missed) = maps::missed() {
        missed.long_waits += 1;
    }
}

/// Tells of a long wait by itself, if there is room and there were not too many.
#[inline(always)]
fn tell(ctx: &RawTracePointContext, wait: &Wait, me: &Thread, now_ns: u64, waited_ns: u64) -> bool {
    let of_worker = wait.waiter.operation != 0;
    let telling = maps::telling(of_worker);
    if !telling.is_some_and(|telling| telling.admits(now_ns, waited_ns)) {
        return false;
    }
    let Some(mut entry) = LONG_WAITS.reserve_untyped::<LongWait>(0) else {
        return false;
    };
    // SAFETY: the entry has room for a record, all of whose fields are written here.
    unsafe {
        let record = entry.as_mut_ptr();
        (*record).lock = wait.waiter.lock;
        (*record).begun_ns = wait.begun_ns;
        (*record).waited_ns = waited_ns;
        (*record).caller = wait.waiter.caller;
        (*record).pid = me.pid;
        (*record).tid = me.tid;
        (*record).holder = wait.blocker.holder;
        (*record).operation = wait.waiter.operation;
        (*record).kind = wait.waiter.kind;
        (*record).padding = 0;
        (*record).comm = wait.waiter.comm;
        (*record).stack_bytes = task::stack(ctx, &mut (*record).stack);
    }
    entry.submit(0);
    true
}

/// What tells the kind of a lock and the wish to read or write, not the way of waiting.
#[inline(always)]
fn kind(flags: u32) -> u32 {
    flags & !flag::SPIN
}
