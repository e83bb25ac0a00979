//! When a daemon is killed: at any moment, or certainly in the middle of what takes longest to be right.

use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::PATIENCE;
use crate::daemon::Daemon;
use crate::random::Random;

/// The longest that a daemon lives under load when it is killed at any moment.
const LIFE_MS: u64 = 250;

/// The directory of the journal, and the file that a compaction writes.
const STATE_DIRECTORY: &str = "/run/pcpm";
const COMPACTED: &str = "journal.new";

/// A moment to kill a daemon in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Whenever that is.
    Any,
    /// While slots are made and destroyed.
    Refill,
    /// While the journal is written anew.
    Compaction,
}

impl Moment {
    /// That of a cycle: every other one is any.
    pub(super) const fn of(cycle: u32) -> Self {
        match cycle % 4 {
            1 => Self::Refill,
            3 => Self::Compaction,
            _ => Self::Any,
        }
    }
}

/// Waits for a moment in the life of one daemon.
pub(super) struct Waiting {
    moment: Moment,
    compactions: Inotify,
}

impl Waiting {
    /// Begins to look before there is load.
    pub(super) fn begin(moment: Moment, root: &Path) -> Result<Self> {
        let compactions = Inotify::init(InitFlags::IN_CLOEXEC).context("start inotify")?;
        let directory = root.join(STATE_DIRECTORY.trim_start_matches('/'));
        compactions
            .add_watch(&directory, AddWatchFlags::IN_CREATE)
            .with_context(|| format!("watch {}", directory.display()))?;
        Ok(Self {
            moment,
            compactions,
        })
    }

    /// Returns in that moment.
    pub(super) fn wait(&self, daemon: &Daemon, random: &mut Random) -> Result<()> {
        match self.moment {
            Moment::Any => {
                thread::sleep(Duration::from_millis(random.below(LIFE_MS)));
                Ok(())
            }
            Moment::Refill => daemon.wait_until("slots are made and destroyed", |counts| {
                counts.creating > 0 && counts.retiring > 0
            }),
            Moment::Compaction => self.until_compaction(),
        }
    }

    fn until_compaction(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.compactions.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).context("poll")? == 0 {
                break;
            }
            let events = self.compactions.read_events().context("read inotify")?;
            if events
                .iter()
                .any(|event| event.name.as_deref() == Some(COMPACTED.as_ref()))
            {
                return Ok(());
            }
        }
        bail!("the journal was never compacted")
    }
}
