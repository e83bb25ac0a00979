//! Network namespaces: making, entering and leaving them, and the bind mounts that give them names.
//!
//! Only per-thread things change namespaces here: a thread of a multi-threaded process may unshare
//! and enter network namespaces without the others noticing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{FileStat, fstat};
use nix::sys::statfs::{FsType, fstatfs};

use super::error::{During, NetError};
use crate::locks::operation;

const OWN: &str = "/proc/thread-self/ns/net";

/// From include/uapi/linux/magic.h.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

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
    #[cfg(test)]
    super::faults::step("create a network namespace")?;
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
    #[cfg(test)]
    let plan = super::faults::plan();
    let told = operation::hand_on();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let _helper = told.take();
            #[cfg(test)]
            super::faults::adopt(plan);
            work()
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Mounts the calling thread's namespace `own`, a file of procfs, at `path`, which must not exist.
pub(super) fn mount_own(own: &str, path: &Path) -> Result<(), NetError> {
    make_mount_point(path)?;
    let mounted = bind(own.as_ref(), path);
    mounted.map_err(|error| error.and(unlink(path).err()))
}

/// Mounts the calling thread's network namespace at `path`, which must not exist.
pub(super) fn mount_current(path: &Path) -> Result<(), NetError> {
    mount_own(OWN, path)
}

/// Mounts an open namespace at `path`, which must not exist.
pub(super) fn mount_file(namespace: &OwnedFd, path: &Path) -> Result<(), NetError> {
    mount_own(&format!("/proc/self/fd/{}", namespace.as_raw_fd()), path)
}

/// Creates the file that something is to be mounted on.
pub(super) fn make_mount_point(path: &Path) -> Result<(), NetError> {
    #[cfg(test)]
    super::faults::step("create a mount point")?;
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    created
        .map(drop)
        .during(|| format!("create {}", path.display()))
}

fn bind(own: &Path, path: &Path) -> Result<(), NetError> {
    #[cfg(test)]
    super::faults::step("mount a namespace")?;
    mount(
        Some(own),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .during(|| format!("mount a namespace at {}", path.display()))
}

/// Mounts `netns` at `path` unless it is what is mounted there. Returns whether it was not.
pub(super) fn ensure_mounted(netns: &OwnedFd, path: &Path) -> Result<bool, NetError> {
    if is_mounted(netns, path) {
        return Ok(false);
    }
    while detach(path)? {}
    unlink(path)?;
    mount_file(netns, path).map(|()| true)
}

/// Whether `netns` is what is mounted at `path`.
pub(super) fn is_mounted(netns: &OwnedFd, path: &Path) -> bool {
    File::open(path).is_ok_and(|there| is_same(&there, netns))
}

/// Whether two files are the same namespace.
pub(super) fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    let identity = |stat: FileStat| (stat.st_dev, stat.st_ino);
    let one = fstat(one).map(identity);
    one.is_ok() && one == fstat(other).map(identity)
}

/// Opens the namespace mounted at `path`; `None` where none is.
pub(super) fn open_mounted(path: &Path) -> Result<Option<OwnedFd>, NetError> {
    let Ok(file) = File::open(path) else {
        return Ok(None);
    };
    let kind = fstatfs(&file).during(|| format!("look at {}", path.display()))?;
    Ok((kind.filesystem_type() == NSFS_MAGIC).then(|| file.into()))
}

/// Unmounts and removes what [`mount_own`] made; fine if it is gone.
pub(super) fn unmount(path: &Path) -> Result<(), NetError> {
    let errors = [detach(path).err(), unlink(path).err()];
    NetError::collect(errors.into_iter().flatten())
}

/// Takes the topmost mount off `path`, even when it is busy. False: nothing was mounted there.
pub(super) fn detach(path: &Path) -> Result<bool, NetError> {
    #[cfg(test)]
    super::faults::step("unmount")?;
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(true),
        // EINVAL: not a mount point.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno).during(|| format!("unmount {}", path.display())),
    }
}

pub(super) fn unlink(path: &Path) -> Result<(), NetError> {
    #[cfg(test)]
    super::faults::step("remove a mount point")?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.during(|| format!("remove {}", path.display())),
    }
}

/// Makes `path` a directory whose mounts are seen by other mount namespaces too: a container engine
/// that lives in one can then use the slots.
pub(super) fn share_directory(path: &Path) -> Result<(), NetError> {
    let what = || format!("share mounts below {}", path.display());
    fs::create_dir_all(path).during(|| format!("create {}", path.display()))?;
    // A bind of a shared directory on itself would show every mount below it twice.
    if is_shared(path).during(what)? {
        return Ok(());
    }
    let none = None::<&str>;
    mount(Some(path), path, none, MsFlags::MS_BIND, none).during(what)?;
    mount(none, path, none, MsFlags::MS_SHARED, none).during(what)
}

/// Whether mounts made in a directory spread to other mount namespaces.
pub(crate) fn is_shared(directory: &Path) -> io::Result<bool> {
    let opened = File::open(directory)?;
    let fdinfo = format!("/proc/thread-self/fdinfo/{}", opened.as_raw_fd());
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(mount_is_shared(&fs::read_to_string(fdinfo)?, &mounts))
}

fn mount_is_shared(fdinfo: &str, mountinfo: &str) -> bool {
    let id = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = id.map(str::trim);
    mountinfo
        .lines()
        .map(|line| line.split(' '))
        .filter_map(|mut fields| (fields.next() == id).then_some(fields))
        // The optional fields end with a dash; what stands behind it is the file system's.
        .any(|fields| {
            fields
                .take_while(|f| *f != "-")
                .any(|f| f.starts_with("shared:"))
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
        21 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        87 21 0:45 / /run rw,relatime - tmpfs shared:odd rw\n\
        88 87 0:46 / /run/slave rw,relatime master:4 - tmpfs t rw\n\
        89 87 0:47 / /run/both rw,relatime shared:5 master:4 - tmpfs t rw\n";

    #[test]
    fn knows_a_shared_mount_by_its_number() {
        let cases = [(21, true), (87, false), (88, false), (89, true), (2, false)];
        for (id, shared) in cases {
            let fdinfo = format!("pos:\t0\nflags:\t0100000\nmnt_id:\t{id}\nino:\t7\n");
            assert_eq!(mount_is_shared(&fdinfo, MOUNTINFO), shared, "mount {id}");
        }
    }
}
