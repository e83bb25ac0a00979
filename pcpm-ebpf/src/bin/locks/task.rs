//! What the kernel tells of tasks: the one that runs, the one that owns a lock, and who called whom.
#![expect(unsafe_code, reason = "calls kernel helpers")]

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_stack,
        bpf_ktime_get_ns, bpf_probe_read_kernel,
    },
    programs::RawTracePointContext,
};
use pcpm_ebpf::locks::{CALLER_FRAMES, COMM_BYTES, HeldBy, Tracing, owner_offset, owner_task};

/// Of `task_struct::flags`: a thread of the kernel (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;

/// The running thread, and its process.
#[inline(always)]
pub(crate) fn current() -> (u32, u32) {
    // SAFETY: no arguments.
    let ids = unsafe { bpf_get_current_pid_tgid() };
    (ids as u32, (ids >> 32) as u32)
}

/// The name of the running thread.
#[inline(always)]
pub(crate) fn current_comm() -> [u8; COMM_BYTES] {
    let mut comm = [0; COMM_BYTES];
    // SAFETY: the helper writes at most that many bytes.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), COMM_BYTES as u32) };
    comm
}

/// The running thread's `task_struct`.
#[inline(always)]
pub(crate) fn current_task() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_get_current_task() }
}

/// Whether the running thread is one of the kernel's own.
#[inline(always)]
pub(crate) fn is_kernel_thread(tracing: &Tracing) -> bool {
    let mut flags = 0_u32;
    read(&mut flags, current_task() + u64::from(tracing.task_flags));
    flags & PF_KTHREAD != 0
}

#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The `task_struct` of the thread that owns `lock`, 0 if that is not known.
#[inline(always)]
fn owner_of(tracing: &Tracing, lock: u64, flags: u32) -> u64 {
    let Some(offset) = owner_offset(flags) else {
        return 0;
    };
    if tracing.task_pid == 0 {
        return 0;
    }
    let mut word = 0_u64;
    read(&mut word, lock + offset as u64);
    owner_task(flags, word)
}

/// The number of the thread that owns `lock`, 0 if that is not known.
#[inline(always)]
pub(crate) fn owner_tid(tracing: &Tracing, lock: u64, flags: u32) -> u32 {
    let mut tid = 0;
    let task = owner_of(tracing, lock, flags);
    if task != 0 {
        read(&mut tid, task + u64::from(tracing.task_pid));
    }
    tid
}

/// The thread that owns `lock`, as far as its `task_struct` says; all zero if it is not known.
#[inline(always)]
pub(crate) fn owner(tracing: &Tracing, lock: u64, flags: u32) -> HeldBy {
    let mut holder = HeldBy::default();
    let task = owner_of(tracing, lock, flags);
    if task != 0 {
        read(&mut holder.tid, task + u64::from(tracing.task_pid));
        read(&mut holder.pid, task + u64::from(tracing.task_tgid));
        read(&mut holder.comm, task + u64::from(tracing.task_comm));
    }
    holder
}

/// Reads kernel memory, which may be gone by now: then it is all zeroes.
#[inline(always)]
fn read<T: Copy>(to: &mut T, from: u64) {
    let size = size_of::<T>() as u32;
    let to = (&raw mut *to).cast();
    // SAFETY: the helper writes `size` bytes to `to` whatever stands at `from`; `T` is plain numbers.
    unsafe { bpf_probe_read_kernel(to, size, from as *const c_void) };
}

/// Writes the kernel's frames below the running program to `stack`, innermost first, and says how many
/// bytes they are.
#[inline(always)]
pub(crate) fn stack(ctx: &RawTracePointContext, stack: &mut [u64]) -> i32 {
    let bytes = size_of_val(stack) as u32;
    // SAFETY: the helper writes at most that many bytes.
    unsafe { bpf_get_stack(ctx.as_ptr(), stack.as_mut_ptr().cast(), bytes, 0) as i32 }
}

/// Who asked for the lock: the first frame behind those of locks, 0 if that is not known.
#[inline(always)]
pub(crate) fn caller(ctx: &RawTracePointContext, tracing: &Tracing) -> u64 {
    let mut frames = [0; CALLER_FRAMES];
    stack(ctx, &mut frames);
    let mut in_lock = false;
    for frame in frames {
        // SAFETY: a reference.
        match unsafe { kind_of_frame(tracing, frame) } {
            LOCK_FRAME => in_lock = true,
            OTHER_FRAME if in_lock => return frame,
            _ => {}
        }
    }
    0
}

const LOCK_FRAME: u32 = 1;
const OTHER_FRAME: u32 = 2;

/// Whether `frame` is one of locks, or neither that nor a wrapper. A global function (its name is
/// exported), which the verifier follows once instead of for every way to every frame: 122,000
/// instructions without.
///
/// # Safety
/// `tracing` is null or valid.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn kind_of_frame(tracing: *const Tracing, frame: u64) -> u32 {
    // SAFETY: the caller's promise.
    match unsafe { tracing.as_ref() } {
        Some(tracing) if tracing.lock_text.contains(frame) => LOCK_FRAME,
        Some(tracing) if !is_wrapper(tracing, frame) => OTHER_FRAME,
        _ => 0,
    }
}

#[inline(always)]
fn is_wrapper(tracing: &Tracing, frame: u64) -> bool {
    let mut found = false;
    for wrapper in &tracing.wrappers {
        found |= wrapper.contains(frame);
    }
    found
}
