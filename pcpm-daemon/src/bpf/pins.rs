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

use super::{BpfError, programs};

/// The maps that are pinned: all that are declared (the compiler's own live with the programs).
pub(super) const MAPS: [&str; 20] = [
    names::ATTACHMENTS,
    names::HUBS,
    names::FLOWS,
    names::FRAGMENTS,
    names::SLOT_FLOWS,
    names::FLOW_TABLE,
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

/// How the names of directories of programs begin.
const PROGRAMS: &str = "programs-";

/// The directory of programs that are being pinned.
pub(super) const NEXT_PROGRAMS: &str = "next-programs";

/// Whether `name` is the name of a pinned map.
pub(super) fn is_pinned(name: &str) -> bool {
    MAPS.contains(&name)
}

/// The name under which a map is pinned that is to take the place of another. (A bpf file system takes
/// no names with dots.)
pub(super) fn next(name: &str) -> String {
    format!("next-{name}")
}

/// All files that we may have pinned beside [`UplinkPins`] and the sets of programs.
fn files() -> impl Iterator<Item = String> {
    let maps = MAPS
        .into_iter()
        .flat_map(|name| [name.to_owned(), next(name)]);
    maps.chain(names::SOCKET_PROGRAMS.map(str::to_owned))
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
    /// Opens the directory of pins at `path`, with all that an earlier life pinned there; makes it if
    /// there is none. Those of a living daemon, which may have another state directory, are protected by
    /// a lock.
    pub(crate) fn open(path: &Path) -> Result<Self, BpfError> {
        let mounted = mount_if_missing(path)?;
        fs::create_dir_all(path).map_err(|e| failed("create", path, &e))?;
        Ok(Self {
            path: path.to_owned(),
            mounted,
            lock: lock(path)?,
        })
    }

    /// Opens the directory of pins at `path`, to be removed; `None` where no file system takes pins.
    pub(crate) fn open_existing(path: &Path) -> Result<Option<Self>, BpfError> {
        if !is_bpffs(existing_part(path)) {
            return Ok(None);
        }
        Self::open(path).map(Some)
    }

    /// Where `name` is pinned.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether `name` is pinned.
    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The directory, to be shown.
    pub(super) fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Where the programs of the object with this hash are pinned.
    pub(super) fn program_set(&self, hash: &str) -> PathBuf {
        self.path(&format!("{PROGRAMS}{hash}"))
    }

    /// The directories of programs that are there, complete or not.
    pub(super) fn program_sets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let is_set = |name: &str| name.starts_with(PROGRAMS) || name == NEXT_PROGRAMS;
        entries
            .filter(|entry| entry.file_name().to_str().is_some_and(is_set))
            .map(|entry| entry.path())
            .collect()
    }

    /// Removes a pin; fine if it is gone.
    pub(super) fn unpin(&self, name: &str) -> Result<bool, BpfError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed("unpin", &path, &e)),
        }
    }

    /// Puts a pin in the place of another.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), BpfError> {
        let from = self.path(from);
        fs::rename(&from, self.path(to)).map_err(|e| failed("rename", &from, &e))
    }

    /// Removes the pins, the directory and the file system if a daemon mounted it. Says how many pins
    /// there were, and what could not be removed.
    pub(crate) fn remove(self) -> (usize, Vec<BpfError>) {
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
        let (removed, pins) = match pins {
            Ok(removed) => (removed, Ok(())),
            Err(error) => (0, Err(error)),
        };
        let errors = [pins, dir, mount].into_iter().filter_map(Result::err);
        (removed, errors.collect())
    }

    /// Where the links that hold the uplinks' program are pinned.
    pub(super) fn uplinks(&self) -> UplinkPins {
        UplinkPins(self.path.clone())
    }

    /// Removes what we pin, by name: the root of a bpf file system has files of the kernel's own.
    fn remove_pins(&self) -> Result<usize, BpfError> {
        let mut removed = 0;
        for name in files() {
            removed += usize::from(self.unpin(&name)?);
        }
        for uplink in self.uplinks().present()? {
            fs::remove_file(&uplink).map_err(|e| failed("unpin", &uplink, &e))?;
            removed += 1;
        }
        for set in self.program_sets() {
            programs::remove(&set)?;
            removed += 1;
        }
        Ok(removed)
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

    /// The interfaces that there are pins for.
    pub(super) fn interfaces(&self) -> Result<Vec<u32>, BpfError> {
        let index = |path: &PathBuf| path.file_name()?.to_str()?.rsplit_once('_')?.1.parse().ok();
        Ok(self.present()?.iter().filter_map(index).collect())
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
