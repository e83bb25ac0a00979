//! What the kernel tells of tasks: the one that runs, its stack, and the one that owns a lock.
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
use pcpm_ebpf::locks::{COMM_BYTES, HeldBy, Tracing, owner_offset, owner_task};

/// Of `task_struct::flags`: a thread of the kernel (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;

/// The running thread.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    /// Its `task_struct`.
    pub(crate) task: u64,
    pub(crate) tid: u32,
    /// Its process.
    pub(crate) pid: u32,
}

#[inline(always)]
pub(crate) fn current() -> Thread {
    // SAFETY: no arguments.
    let (task, ids) = unsafe { (bpf_get_current_task(), bpf_get_current_pid_tgid()) };
    Thread {
        task,
        tid: ids as u32,
        pid: (ids >> 32) as u32,
    }
}

/// Writes the name of the running thread to `comm`.
#[inline(always)]
pub(crate) fn current_comm(comm: &mut [u8; COMM_BYTES]) {
    // SAFETY: the helper writes at most that many bytes.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), COMM_BYTES as u32) };
}

impl Thread {
    /// Whether it is one of the kernel's own.
    #[inline(always)]
    pub(crate) fn is_of_kernel(&self, tracing: &Tracing) -> bool {
        let mut flags = 0_u32;
        read(&mut flags, self.task + u64::from(tracing.task_flags));
        flags & PF_KTHREAD != 0
    }
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

/// The thread that owns `lock` and its process, 0 if that is not known.
#[inline(always)]
pub(crate) fn owner_ids(tracing: &Tracing, lock: u64, flags: u32) -> (u32, u32) {
    ids(tracing, owner_of(tracing, lock, flags))
}

/// Writes to `holder` who owns `lock`, as far as its `task_struct` says; all zero if it is not known.
#[inline(always)]
pub(crate) fn owner(tracing: &Tracing, lock: u64, flags: u32, holder: &mut HeldBy) {
    let task = owner_of(tracing, lock, flags);
    (holder.tid, holder.pid) = ids(tracing, task);
    if task == 0 {
        holder.comm = [0; COMM_BYTES];
    } else {
        read(&mut holder.comm, task + u64::from(tracing.task_comm));
    }
}

/// The numbers of a task and its process.
#[inline(always)]
fn ids(tracing: &Tracing, task: u64) -> (u32, u32) {
    let (mut tid, mut pid) = (0, 0);
    if task != 0 {
        read(&mut tid, task + u64::from(tracing.task_pid));
        read(&mut pid, task + u64::from(tracing.task_tgid));
    }
    (tid, pid)
}

/// Reads kernel memory, which may be gone by now: then it is all zeroes.
#[inline(always)]
pub(crate) fn read<T: Copy>(to: &mut T, from: u64) {
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
