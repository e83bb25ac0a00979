//! Waits, from their beginning to their end.
#![expect(unsafe_code, reason = "fills records in the ring in place")]

use core::hint::black_box;

use aya_ebpf::programs::RawTracePointContext;
use pcpm_ebpf::locks::{
    BlockerKey, Holder, LongWait, Tracing, Wait, WaitKey, WaiterKey, Waiters, bucket, flag,
    is_slept_for,
};

use crate::{
    maps::{self, HOLDERS, LONG_WAITS, WAITS},
    task,
};

/// The running task begins to wait for `lock`, or goes on in another way: a mutex is spun for, slept for,
/// and spun for again. All of that is one wait.
#[inline(always)]
pub(crate) fn begins(lock: u64, flags: u32) {
    if !is_slept_for(flags) {
        return;
    }
    let Some(tracing) = maps::tracing() else {
        return;
    };
    let key = key(lock);
    let task = task::current_task();
    if let Some(wait) = WAITS.get_ptr_mut(&key) {
        // SAFETY: an entry of this task, which does nothing else now; plain numbers.
        let wait = unsafe { &mut *wait };
        if wait.task == task {
            goes_on(tracing, wait, lock, flags);
            return;
        }
        // Its thread died waiting, and this one has its number: it gives way.
    }
    let mut holder = task::owner(tracing, lock, flags);
    if holder.tid != 0 {
        holder.operation = maps::operation(holder.tid);
        holder.caller = caller_of(lock, holder.tid);
    }
    let is_rtnl = lock == tracing.rtnl;
    let wait = Wait::begin(task, task::now_ns(), flags, holder, is_rtnl);
    if WAITS.insert(&key, wait, 0).is_err()
        && let Some(missed) = maps::missed()
    {
        missed.begins += 1;
    }
}

/// The wait goes on in another way, perhaps for somebody else by now. That matters for the rtnl lock only.
#[inline(always)]
fn goes_on(tracing: &Tracing, wait: &mut Wait, lock: u64, flags: u32) {
    if lock == tracing.rtnl {
        let holder = task::owner_tid(tracing, lock, flags);
        let behind_worker = holder != 0 && maps::operation(holder) != 0;
        wait.next_phase(task::now_ns(), behind_worker);
    }
}

/// The running task waits no more for `lock`: it has it if `failure` is 0.
#[inline(always)]
pub(crate) fn ends(ctx: &RawTracePointContext, lock: u64, failure: i32) {
    let Some(tracing) = maps::tracing() else {
        return;
    };
    let key = key(lock);
    let Some(wait) = WAITS.get_ptr(&key) else {
        // Spinlocks end here, too, and cannot be told apart.
        return;
    };
    // SAFETY: an entry of this task, which does nothing else now; plain numbers.
    let wait = unsafe { wait.read() };
    let _ = WAITS.remove(&key);
    let now_ns = task::now_ns();
    let ended = Ended {
        lock,
        tid: key.tid,
        waited_ns: now_ns.saturating_sub(wait.begun_ns),
        caller: task::caller(ctx, tracing),
        operation: maps::operation(key.tid),
    };
    if failure == 0 && wait.flags & flag::MUTEX != 0 {
        ended.now_holds();
    }
    ended.count(tracing, &wait);
    ended.count_blocker(tracing, &wait);
    press(tracing, wait.behind_workers_until(now_ns));
    if ended.waited_ns >= tracing.long_wait_ns {
        ended.tell(ctx, &wait);
    }
}

/// Counts a wait for the daemon's workers, if it was somebody else's. The kernel's own threads have nobody who waits
/// for them, and mostly come after what the workers did.
#[inline(always)]
fn press(tracing: &Tracing, behind_workers_ns: u64) {
    if behind_workers_ns == 0 {
        return;
    }
    let (_, pid) = task::current();
    if pid == tracing.daemon || task::is_kernel_thread(tracing) {
        return;
    }
    if let Some(pressure) = maps::pressure() {
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

#[inline(always)]
fn key(lock: u64) -> WaitKey {
    let (tid, _) = task::current();
    WaitKey {
        lock,
        tid,
        padding: 0,
    }
}

/// Where the thread that holds a lock had asked for it, if it had to wait for it itself.
#[inline(always)]
fn caller_of(lock: u64, tid: u32) -> u64 {
    let Some(holder) = HOLDERS.get_ptr(lock) else {
        return 0;
    };
    // SAFETY: plain numbers; a mixture of two holders is told by the thread.
    let holder = unsafe { holder.read_volatile() };
    if holder.tid == tid { holder.caller } else { 0 }
}

/// A wait of the running task that is over.
struct Ended {
    lock: u64,
    tid: u32,
    waited_ns: u64,
    caller: u64,
    operation: u32,
}

impl Ended {
    #[inline(always)]
    fn now_holds(&self) {
        let holder = Holder {
            caller: self.caller,
            tid: self.tid,
            padding: 0,
        };
        let _ = HOLDERS.insert(self.lock, holder, 0);
    }

    #[inline(always)]
    fn count(&self, tracing: &Tracing, wait: &Wait) {
        let mut key = WaiterKey {
            lock: self.lock,
            caller: self.caller,
            generation: tracing.generation,
            operation: self.operation,
            kind: kind(wait.flags),
            padding: 0,
            comm: task::current_comm(),
        };
        let mut waiters = maps::waiters(&key);
        if waiters.is_none() {
            if let Some(missed) = maps::missed() {
                missed.waiters += 1;
            }
            // The daemon has put this one in place.
            key = WaiterKey::default();
            waiters = maps::waiters(&key);
        }
        if let Some(waiters) = waiters {
            add(waiters, self.waited_ns);
        }
    }

    #[inline(always)]
    fn count_blocker(&self, tracing: &Tracing, wait: &Wait) {
        if wait.holder.tid == 0 {
            return;
        }
        let key = BlockerKey {
            lock: self.lock,
            holder: wait.holder,
            generation: tracing.generation,
            padding: 0,
        };
        match maps::blocked(&key) {
            Some(blocked) => {
                blocked.count += 1;
                blocked.total_ns += self.waited_ns;
            }
            None => {
                if let Some(missed) = maps::missed() {
                    missed.blockers += 1;
                }
            }
        }
    }

    #[inline(always)]
    fn tell(&self, ctx: &RawTracePointContext, wait: &Wait) {
        let Some(mut entry) = LONG_WAITS.reserve_untyped::<LongWait>(0) else {
            if let Some(missed) = maps::missed() {
                missed.long_waits += 1;
            }
            return;
        };
        let (_, pid) = task::current();
        // SAFETY: the entry has room for a record, all of whose fields are written here.
        unsafe {
            let record = entry.as_mut_ptr();
            (*record).lock = self.lock;
            (*record).begun_ns = wait.begun_ns;
            (*record).waited_ns = self.waited_ns;
            (*record).caller = self.caller;
            (*record).pid = pid;
            (*record).tid = self.tid;
            (*record).holder = wait.holder;
            (*record).operation = self.operation;
            (*record).kind = kind(wait.flags);
            (*record).padding = 0;
            (*record).comm = task::current_comm();
            (*record).stack_bytes = task::stack(ctx, &mut (*record).stack);
        }
        entry.submit(0);
    }
}

/// What tells the kind of a lock and the wish to read or write, not the way of waiting.
#[inline(always)]
fn kind(flags: u32) -> u32 {
    flags & !flag::SPIN
}
