//! Waiting for a file to appear.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::PATIENCE;
use crate::process::Process;

/// Waits until `path` exists, or `maker`, who is to make it, has ended.
///
/// # Errors
/// When neither happens.
pub fn wait_for_path(path: &Path, maker: &Process) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // A directory on the way there may be what appears.
        let changes = watch_nearest(path)?;
        if path.exists() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::new(changes.as_fd(), PollFlags::POLLIN),
            PollFd::new(maker.pidfd().as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).context("poll")? == 0 {
            bail!("{} did not appear within {PATIENCE:?}", path.display());
        }
        if fds[1].any() == Some(true) {
            return Ok(());
        }
    }
}

/// Watches the nearest directory above `path` that exists.
fn watch_nearest(path: &Path) -> Result<Inotify> {
    let changes = Inotify::init(InitFlags::IN_CLOEXEC).context("start inotify")?;
    let directory = path
        .ancestors()
        .skip(1)
        .find(|directory| directory.is_dir())
        .with_context(|| format!("no directory above {} exists", path.display()))?;
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    changes
        .add_watch(directory, flags)
        .with_context(|| format!("watch {}", directory.display()))?;
    Ok(changes)
}
