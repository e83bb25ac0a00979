//! Signals as things to read instead of interruptions.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::libc::SI_KERNEL;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// A signal that arrived.
pub(crate) struct Arrived {
    pub(crate) signal: Signal,
    /// The kernel sent it to the whole foreground group, as for Ctrl-C.
    pub(crate) by_terminal: bool,
}

/// Signals that no longer interrupt this program and are read here instead.
pub(crate) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Starts catching `signals`. To be called while the program has one thread.
    pub(crate) fn catch(signals: &[Signal]) -> Result<Self> {
        let mask: SigSet = signals.iter().copied().collect();
        let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let before = before.context("block signals")?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).context("make a signalfd")?;
        Ok(Self { fd, before })
    }

    /// The signals that were blocked before, which is what programs started from here should find.
    pub(crate) fn before(&self) -> SigSet {
        self.before
    }

    /// Waits for the next one.
    pub(crate) fn next(&self) -> Result<Arrived> {
        loop {
            let info = self.fd.read_signal().context("read signals")?;
            let Some(info) = info else { continue };
            if let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed()) {
                let by_terminal = info.ssi_code == SI_KERNEL;
                return Ok(Arrived {
                    signal,
                    by_terminal,
                });
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Stops this program until it is continued, as Ctrl-Z does, though the signal is caught.
pub(crate) fn stop_myself() -> Result<()> {
    let stop: SigSet = [Signal::SIGTSTP].into_iter().collect();
    // Raised before it is let through: with one that waits already it is still a single stop.
    raise(Signal::SIGTSTP).context("stop")?;
    stop.thread_unblock().context("unblock signals")?;
    stop.thread_block().context("block signals")
}
