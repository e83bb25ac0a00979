//! The way out: a bounded queue and the thread behind it, the only one that waits for whoever reads the log.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::journald::Journal;

/// Lines that may wait to be written.
const QUEUED: usize = 1024;

/// How long the end of the process waits for what is queued.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Pause between two looks at a queue that is full, at the end of the process.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Lines that found no room, or nobody to take them.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines of the log that were lost since the start.
pub(crate) fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Where lines are written.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    Journal(Journal),
}

/// The sending end.
#[derive(Clone)]
pub(super) struct Outlet(SyncSender<Item>);

enum Item {
    Line(Vec<u8>),
    /// All before it is written.
    Flushed(SyncSender<()>),
}

impl Outlet {
    /// Starts the thread, which ends with the process. `lost` is the line that says how many were lost.
    pub(super) fn open(
        sink: Sink,
        lost: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, queue) = mpsc::sync_channel(QUEUED);
        let thread = thread::Builder::new().name("pcpm-log".to_owned());
        thread.spawn(move || write_out(&sink, &queue, lost))?;
        Ok(Self(sender))
    }

    /// Queues a line; never waits.
    pub(super) fn write(&self, line: Vec<u8>) {
        if self.0.try_send(Item::Line(line)).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all is written, but not for a reader that does not read.
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + LAST_LINES;
        let (done, written) = mpsc::sync_channel(1);
        while let Err(TrySendError::Full(_)) = self.0.try_send(Item::Flushed(done.clone())) {
            if Instant::now() > deadline {
                return;
            }
            thread::sleep(LOOK_AGAIN);
        }
        let _in_time = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_out(sink: &Sink, queue: &Receiver<Item>, lost: impl Fn(u64) -> Vec<u8>) {
    let mut told = 0;
    while let Ok(item) = queue.recv() {
        match item {
            Item::Line(line) => {
                if sink.write(&line).is_err() {
                    LOST.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let all = lost_lines();
                if all > told && sink.write(&lost(all - told)).is_ok() {
                    told = all;
                }
            }
            // Whoever waited may have given up.
            Item::Flushed(done) => drop(done.try_send(())),
        }
    }
}

impl Sink {
    fn write(&self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => write_to_stderr(line),
            Self::Journal(journal) => journal.send(line),
        }
    }
}

/// Stderr may be a pipe that somebody made non-blocking.
fn write_to_stderr(mut line: &[u8]) -> io::Result<()> {
    let mut stderr = io::stderr();
    while !line.is_empty() {
        match stderr.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut writable = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                poll(&mut writable, PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
