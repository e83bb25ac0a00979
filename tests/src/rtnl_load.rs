//! Threads that ask for the rtnl lock, over and over and to no effect, and measure themselves how long that takes.
#![expect(unsafe_code, reason = "an ioctl without a safe wrapper")]

use std::{
    io,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, unshare};

/// The running threads. They end when it is dropped.
#[derive(Debug)]
pub struct RtnlLoad {
    ended: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Asked>>>,
}

/// What the threads measured.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// How often they asked for the lock.
    pub calls: u64,
    /// How long these calls took in all.
    pub took: Duration,
    /// How long each took, in nanoseconds; the first of a thread only where they are very many.
    pub times_ns: Vec<u64>,
}

/// Times that a thread keeps.
const TIMES: usize = 100_000;

impl RtnlLoad {
    /// Starts threads of that name, each in a network namespace of its own. Each asks what is to come before its next
    /// call, which may take a pause or another name.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(name: &str, threads: u32, before: fn(calls: u64)) -> Result<Self> {
        let mut load = Self {
            ended: Arc::default(),
            calls: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..threads {
            let (ended, calls) = (load.ended.clone(), load.calls.clone());
            let thread = thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(move || ask_until(&ended, &calls, before));
            load.threads.push(thread.context("start a thread")?);
        }
        Ok(load)
    }

    /// Calls of all threads so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Ends the threads.
    ///
    /// # Errors
    /// When one of them could not ask.
    pub fn stop(mut self) -> Result<Asked> {
        self.ended.store(true, Ordering::Relaxed);
        let mut sum = Asked::default();
        for thread in self.threads.drain(..) {
            let asked = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            sum.calls += asked.calls;
            sum.took += asked.took;
            sum.times_ns.extend(asked.times_ns);
        }
        Ok(sum)
    }
}

impl Drop for RtnlLoad {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn ask_until(ended: &AtomicBool, all: &AtomicU64, before: fn(u64)) -> Result<Asked> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare the network")?;
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    let mut asked = Asked::default();
    while !ended.load(Ordering::Relaxed) {
        before(asked.calls);
        let begun = Instant::now();
        set_queue_length(&socket).context("ask for the lock")?;
        let took = begun.elapsed();
        asked.took += took;
        asked.calls += 1;
        if asked.times_ns.len() < TIMES {
            asked.times_ns.push(u64::try_from(took.as_nanos())?);
        }
        all.fetch_add(1, Ordering::Relaxed);
    }
    Ok(asked)
}

/// Sets the length of the loopback's queue, which takes the lock (`net/core/dev_ioctl.c`) and hardly anything else.
fn set_queue_length(socket: &UdpSocket) -> io::Result<()> {
    // SAFETY: a structure of numbers.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in interface.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed();
    }
    interface.ifr_ifru.ifru_metric = 1000;
    // SAFETY: the request takes an `ifreq`, which outlives the call.
    let status =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw mut interface) };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
