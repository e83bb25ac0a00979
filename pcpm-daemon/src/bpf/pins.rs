//! The directory under which maps and the uplinks' program are pinned, on a bpf file system that is
//! mounted if it is missing and unmounted again by whoever mounted it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use pcpm_ebpf::abi::names;

use super::BpfError;

/// What is pinned beside [`names::SOCKET_PROGRAMS`] and [`UplinkPins`]: all maps that are declared (the
/// compiler's own live with the programs).
const PINNED: [&str; 18] = [
    names::ATTACHMENTS,
    names::HUBS,
    names::FLOWS,
    names::FRAGMENTS,
    names::SLOT_COUNTERS,
    names::DROPS,
    names::DROP_EVENTS,
    names::DROP_WINDOWS,
    names::SETTINGS,
    names::POLICY,
    names::DOMAIN_NAMES,
    names::LEARNED,
    names::BUCKETS,
    names::PORTS,
    names::HOST_ADDRESSES,
    names::HOST_PEERS,
    names::UPLINKS,
    names::CONFIG,
];

/// Whether `name` is the name of a pin.
pub(super) fn is_pinned(name: &str) -> bool {
    pinned().any(|pinned| pinned == name)
}

fn pinned() -> impl Iterator<Item = &'static str> {
    PINNED.into_iter().chain(names::SOCKET_PROGRAMS)
}

const MOUNTS: &str = "/proc/self/mounts";

/// What a file system that we mount says it comes from: a bpf file system comes from nowhere, so this
/// can tell whose it is.
const MOUNT_SOURCE: &str = "pcpm";

/// A directory of pins. Dropping it keeps them: they survive the daemon on purpose.
#[derive(Debug)]
pub(crate) struct PinDir {
    path: PathBuf,
    mounted: Option<PathBuf>,
    lock: Flock<File>,
}

impl PinDir {
    /// Makes `path` an empty directory of pins; what a killed daemon pinned there is removed. Those of
    /// a living one, which may have another state directory, are protected by a lock.
    pub(crate) fn create(path: &Path) -> Result<Self, BpfError> {
        let mounted = mount_if_missing(path)?;
        fs::create_dir_all(path).map_err(|e| failed("create", path, &e))?;
        let dir = Self {
            path: path.to_owned(),
            mounted,
            lock: lock(path)?,
        };
        dir.remove_pins()?;
        Ok(dir)
    }

    /// Where `name` is pinned.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the pins, the directory and the file system if [`create`](Self::create) mounted it.
    pub(crate) fn remove(self) -> Vec<BpfError> {
        let pins = self.remove_pins();
        // An open file would keep the file system busy.
        drop(self.lock);
        let dir = match &self.mounted {
            Some(mounted) if *mounted == self.path => Ok(()),
            _ => fs::remove_dir(&self.path).map_err(|e| failed("remove", &self.path, &e)),
        };
        let mount = self.mounted.as_ref().map_or(Ok(()), |at| {
            umount(at).map_err(|e| BpfError::new(format!("unmount {}", at.display()), &e))
        });
        [pins, dir, mount]
            .into_iter()
            .filter_map(Result::err)
            .collect()
    }

    /// Where the links that hold the uplinks' program are pinned.
    pub(super) fn uplinks(&self) -> UplinkPins {
        UplinkPins(self.path.clone())
    }

    /// Removes what we pin, by name: the root of a bpf file system has files of the kernel's own.
    fn remove_pins(&self) -> Result<(), BpfError> {
        let uplinks = self.uplinks().present()?;
        for path in pinned().map(|name| self.path(name)).chain(uplinks) {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("unpin", &path, &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Pins of the links that hold the uplinks' program, one for each interface.
#[derive(Debug)]
pub(super) struct UplinkPins(PathBuf);

impl UplinkPins {
    /// The pin for the interface with this index.
    pub(super) fn path(&self, ifindex: u32) -> PathBuf {
        self.0.join(format!("{}_{ifindex}", names::FROM_UPLINK))
    }

    /// All that there are.
    fn present(&self) -> Result<Vec<PathBuf>, BpfError> {
        let list = || -> io::Result<Vec<PathBuf>> {
            let entries = fs::read_dir(&self.0)?.map(|entry| entry.map(|entry| entry.path()));
            entries.collect()
        };
        let mut paths = list().map_err(|e| failed("list", &self.0, &e))?;
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(names::FROM_UPLINK)
        });
        Ok(paths)
    }
}

fn lock(path: &Path) -> Result<Flock<File>, BpfError> {
    let dir = File::open(path).map_err(|e| failed("open", path, &e))?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => BpfError {
            what: format!("use {} for pins", path.display()),
            cause: "another daemon does; give each its own --bpffs".into(),
        },
        other => failed("lock", path, &other.into()),
    })
}

/// Mounts a bpf file system for `path` unless it lies on one; says where a daemon mounted it, this one
/// or one that was killed. `/sys` takes no new directories, so the file system is mounted on the part
/// of the path that exists.
fn mount_if_missing(path: &Path) -> Result<Option<PathBuf>, BpfError> {
    if is_bpffs(existing_part(path)) {
        let mounts = fs::read_to_string(MOUNTS).map_err(|e| failed("read", MOUNTS.as_ref(), &e))?;
        return Ok(mounted_by_us(&mounts, path));
    }
    let at = match fs::create_dir_all(path) {
        Ok(()) => path,
        Err(_) => existing_part(path),
    };
    mount(
        Some(MOUNT_SOURCE),
        at,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|e| BpfError::new(format!("mount a bpf file system at {}", at.display()), &e))?;
    Ok(Some(at.to_owned()))
}

/// The mount point above `path` that carries our mark.
fn mounted_by_us(mounts: &str, path: &Path) -> Option<PathBuf> {
    let mut ours = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (source, at, kind) = (words.next()?, words.next()?, words.next()?);
        (source == MOUNT_SOURCE && kind == "bpf").then(|| PathBuf::from(at))
    });
    ours.rfind(|at| path.starts_with(at))
}

fn existing_part(path: &Path) -> &Path {
    path.ancestors().find(|part| part.is_dir()).unwrap_or(path)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn failed(operation: &str, path: &Path, error: &io::Error) -> BpfError {
    BpfError::new(format!("{operation} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_system_that_a_daemon_mounted_is_ours() {
        let mounts = "sysfs /sys sysfs rw 0 0\n\
                      bpf /sys/fs/bpf bpf rw,mode=700 0 0\n\
                      pcpm /run/second/bpf bpf rw,mode=700 0 0\n";
        assert_eq!(mounted_by_us(mounts, "/sys/fs/bpf/pcpm".as_ref()), None);
        let second = mounted_by_us(mounts, "/run/second/bpf/pins".as_ref());
        assert_eq!(second, Some("/run/second/bpf".into()));
    }
}
