//! Network namespaces: making, entering and leaving them, and the bind mounts that give them names.
//!
//! Only per-thread things change namespaces here: a thread of a multi-threaded process may unshare
//! and enter network namespaces without the others noticing.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::error::{During, NetError};

const OWN: &str = "/proc/thread-self/ns/net";

/// The calling thread's network namespace.
pub(super) fn current() -> Result<OwnedFd, NetError> {
    File::open(OWN)
        .map(OwnedFd::from)
        .during(|| "open the thread's network namespace".to_owned())
}

/// Moves the calling thread.
pub(super) fn enter(netns: impl AsFd) -> Result<(), NetError> {
    setns(netns, CloneFlags::CLONE_NEWNET).during(|| "enter a network namespace".to_owned())
}

/// Moves the calling thread into a new, empty network namespace.
pub(super) fn enter_new() -> Result<(), NetError> {
    unshare(CloneFlags::CLONE_NEWNET).during(|| "create a network namespace".to_owned())
}

/// Brings the thread home when dropped: a thread that stays in a slot's namespace keeps it alive.
pub(super) struct Away<'a> {
    home: &'a OwnedFd,
}

impl<'a> Away<'a> {
    pub(super) fn from(home: &'a OwnedFd) -> Self {
        Self { home }
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Err(error) = enter(self.home) {
            tracing::error!("a worker thread cannot leave a slot: {error}");
        }
    }
}

/// Runs `work` in a thread of its own, which may change namespaces as it likes.
pub(super) fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Mounts the calling thread's network namespace at `path`, which must not exist.
pub(super) fn mount_current(path: &Path) -> Result<(), NetError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .during(|| format!("create {}", path.display()))?;
    let mounted = mount(
        Some(OWN),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .during(|| format!("mount a network namespace at {}", path.display()));
    mounted.map_err(|error| error.and(unlink(path).err()))
}

/// Unmounts and removes what [`mount_current`] made; fine if it is gone.
pub(super) fn unmount(path: &Path) -> Result<(), NetError> {
    let errors = [detach(path).err(), unlink(path).err()];
    NetError::collect(errors.into_iter().flatten())
}

/// Takes the topmost mount off `path`, even when it is busy. False: nothing was mounted there.
pub(super) fn detach(path: &Path) -> Result<bool, NetError> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(true),
        // EINVAL: not a mount point.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno).during(|| format!("unmount {}", path.display())),
    }
}

fn unlink(path: &Path) -> Result<(), NetError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.during(|| format!("remove {}", path.display())),
    }
}

/// Makes `path` a directory whose mounts are seen by other mount namespaces too, as iproute2 does
/// with `/run/netns`: a container engine that lives in one can then use the slots.
pub(super) fn share_directory(path: &Path) -> Result<(), NetError> {
    let what = || format!("share mounts below {}", path.display());
    fs::create_dir_all(path).during(|| format!("create {}", path.display()))?;
    let none = None::<&str>;
    mount(Some(path), path, none, MsFlags::MS_BIND, none).during(what)?;
    mount(none, path, none, MsFlags::MS_SHARED, none).during(what)
}

/// Undoes [`share_directory`]: takes all mounts off the directory and removes it. A directory that
/// still holds something is somebody else's and stays.
pub(super) fn unshare_directory(path: &Path) -> Result<(), NetError> {
    while detach(path)? {}
    match fs::remove_dir(path) {
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTEMPTY) => Ok(()),
            _ => Err(error).during(|| format!("remove {}", path.display())),
        },
        Ok(()) => Ok(()),
    }
}

/// The files directly below `directory`; none when it does not exist.
pub(super) fn files_below(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
