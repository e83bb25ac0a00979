//! Finding the rtnl lock. Kernels show addresses of data only when they are built to (`KALLSYMS_ALL`). All are
//! made to show it: two threads ask for the lock, over and over and to no effect, until the tracer has
//! seen them wait for a mutex; there is no other that both of them take.
#![expect(unsafe_code, reason = "an ioctl without a safe wrapper")]

use std::{
    collections::HashMap,
    io,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use pcpm_ebpf::locks::flag;

use super::Comm;
use crate::bpf::{BpfError, Counted, LockTracer};

/// What the threads are called.
const NAME: &str = "pcpm-find-rtnl";
/// How long they may take in all, where others hold the lock for long.
const LONGEST: Duration = Duration::from_secs(3);
/// How soon it is looked at what was seen: their waits are counted as those of others are, so they are to be few. Each look
/// is twice as late as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LATEST_LOOK: Duration = Duration::from_millis(32);
/// Waits that are no accident.
const ENOUGH: u64 = 3;

/// A lock that our threads waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forced {
    pub(super) lock: u64,
    /// Where they asked for it.
    pub(super) caller: u64,
    pub(super) waits: u64,
}

/// The rtnl lock, if it could be made to show; begins the tracer's first generation. All that was counted meanwhile is
/// added to `counted`.
pub(super) fn find_rtnl(
    tracer: &mut LockTracer,
    counted: &mut Counted,
) -> Result<Option<Forced>, BpfError> {
    tracer.next_generation()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            let done = &done;
            let asking = move || ask_until(done);
            // With one thread only nobody waits, and the lock is not found.
            let _started = thread::Builder::new()
                .name(NAME.into())
                .spawn_scoped(scope, asking);
        }
        let found = watch(tracer, counted);
        done.store(true, Ordering::Relaxed);
        found
    })
}

fn watch(tracer: &mut LockTracer, counted: &mut Counted) -> Result<Option<Forced>, BpfError> {
    let begun = Instant::now();
    let mut seen = HashMap::<(u64, u64), u64>::new();
    let mut look_after = FIRST_LOOK;
    while begun.elapsed() < LONGEST {
        thread::sleep(look_after);
        look_after = LATEST_LOOK.min(look_after * 2);
        let over = tracer.next_generation()?;
        let look = tracer.take(over)?;
        for (key, waiters) in &look.waiters {
            if key.lock != 0 && key.kind & flag::MUTEX != 0 && Comm::from(key.comm).as_str() == NAME
            {
                *seen.entry((key.lock, key.caller)).or_default() += waiters.count;
            }
        }
        counted.extend(look);
        let most = seen.iter().max_by_key(|&(_, &waits)| waits);
        if let Some((&(lock, caller), &waits)) = most.filter(|&(_, &waits)| waits >= ENOUGH) {
            return Ok(Some(Forced {
                lock,
                caller,
                waits,
            }));
        }
    }
    Ok(None)
}

/// Sets the length of the loopback's queue to what it is, which takes the lock (`net/core/dev_ioctl.c`).
fn ask_until(done: &AtomicBool) {
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else {
        return;
    };
    let Ok(length) = queue_length(&socket, libc::SIOCGIFTXQLEN, 0) else {
        return;
    };
    while !done.load(Ordering::Relaxed) {
        if queue_length(&socket, libc::SIOCSIFTXQLEN, length).is_err() {
            return;
        }
    }
}

/// Gets or sets the length of the loopback's queue.
fn queue_length(socket: &UdpSocket, request: libc::Ioctl, length: i32) -> io::Result<i32> {
    // SAFETY: a structure of numbers.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in interface.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed();
    }
    interface.ifr_ifru.ifru_metric = length;
    // SAFETY: both requests take an `ifreq`, which outlives the call.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut interface) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel wrote the length, the one number that both requests use.
    Ok(unsafe { interface.ifr_ifru.ifru_metric })
}
