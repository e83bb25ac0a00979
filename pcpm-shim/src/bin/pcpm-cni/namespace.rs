//! The engine's network namespace, and the pooled one that takes its place.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs, statfs};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use crate::error::{Code, Error};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);
const OWN: &str = "/proc/self/ns/net";

/// A namespace by the path that the engine has for it.
pub(crate) struct Sandbox {
    pub(crate) path: PathBuf,
    namespace: File,
}

impl Sandbox {
    /// Opens the namespace at `path`, which has to be one that another can take the place of.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let namespace = open(&path).map_err(|reason| Error::environment("CNI_NETNS", reason))?;
        Ok(Self { path, namespace })
    }

    /// Whether `other` is this namespace.
    pub(crate) fn is(&self, other: impl AsFd) -> Result<bool, Error> {
        Ok(identity(&self.namespace)? == identity(other)?)
    }

    /// Whether the namespace has an interface `name`. The program is in it from then on: nothing that it does
    /// depends on where it is.
    pub(crate) fn enter_and_find(&self, name: &str) -> Result<bool, Error> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::environment("CNI_NETNS", "cannot be entered").with(errno))?;
        Ok(nix::net::if_::if_nametoindex(name).is_ok())
    }

    /// Has the path be `pooled`. The new one comes below the old one, which then goes: whoever opens the path at
    /// any moment finds a namespace (`MOVE_MOUNT_BENEATH`, Linux 6.5).
    pub(crate) fn replace(&self, pooled: impl AsFd) -> Result<(), Error> {
        let failed = |what: &str, error: rustix::io::Errno| {
            let msg = format!("cannot {what} {}", self.path.display());
            Error::new(Code::Failed, msg).with(error)
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = open_tree(pooled.as_fd(), "", flags)
            .map_err(|error| failed("make a mount for", error))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_BENEATH;
        move_mount(mount, "", CWD, &self.path, flags)
            .map_err(|error| failed("mount the pooled namespace below", error))?;
        unmount(&self.path, UnmountFlags::DETACH)
            .map_err(|error| failed("unmount the engine's namespace at", error))?;
        let now = File::open(&self.path)
            .map_err(|error| Error::new(Code::Failed, "the namespace is gone").with(error))?;
        if identity(&now)? == identity(pooled)? {
            return Ok(());
        }
        let msg = format!("{} is not the pooled namespace", self.path.display());
        Err(Error::new(Code::Failed, msg))
    }
}

fn open(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let parent = path.parent().unwrap_or(Path::new("/"));
    if statfs(parent).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC) {
        return Err(format!(
            "{shown} is a process' namespace, which no other can replace; pcpm-cni needs one that is \
             mounted, as in /run/netns"
        ));
    }
    let namespace = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let is_namespace = fstatfs(&namespace).is_ok_and(|fs| fs.filesystem_type() == NSFS);
    if !is_namespace {
        return Err(format!("{shown} is no namespace"));
    }
    let own = fs::metadata(OWN).map_err(|error| format!("{OWN}: {error}"))?;
    let other = namespace
        .metadata()
        .map_err(|error| format!("{shown}: {error}"))?;
    if (own.dev(), own.ino()) == (other.dev(), other.ino()) {
        return Err(format!("{shown} is the namespace that this runs in"));
    }
    Ok(namespace)
}

/// What tells a namespace from all others.
fn identity(namespace: impl AsFd) -> Result<(u64, u64), Error> {
    let stat = nix::sys::stat::fstat(namespace)
        .map_err(|errno| Error::new(Code::Io, "cannot look at a namespace").with(errno))?;
    Ok((stat.st_dev, stat.st_ino))
}
