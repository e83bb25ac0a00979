//! Network namespaces of threads.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    /// The calling thread's.
    pub(crate) fn current() -> Result<Self> {
        Ok(Self(
            File::open(OWN).with_context(|| format!("open {OWN}"))?,
        ))
    }

    /// The one mounted at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self(
            File::open(path).with_context(|| format!("open {}", path.display()))?,
        ))
    }

    /// Moves the calling thread into a new namespace.
    pub(super) fn create() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        Self::current()
    }

    /// Makes one that is mounted at `path`, with nothing in it. The calling thread ends up in it.
    pub(crate) fn mounted(path: &Path) -> Result<()> {
        Self::create()?;
        mount_own(path)
    }

    /// Moves the calling thread into it.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("enter a network namespace")
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Mounts the calling thread's namespace at `path`.
pub(super) fn mount_own(path: &Path) -> Result<()> {
    File::create_new(path).with_context(|| format!("create {}", path.display()))?;
    mount(
        Some(OWN),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("mount a namespace at {}", path.display()))
}

/// Writes sysctls of the calling thread's namespace.
pub(super) fn sysctls(settings: &[(&str, &str)]) -> Result<()> {
    write_below(Path::new("/proc"), settings)
}

fn write_below(procfs: &Path, settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        let path = procfs.join("sys/net").join(name);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))?;
    }
    Ok(())
}

/// A procfs for the sysctls of many namespaces. The kernel keeps the names below `/proc/sys/net` of
/// all namespaces in one hash chain of the procfs they were looked up in, so a procfs that serves
/// thousands is slow; this one is replaced before.
#[derive(Debug)]
pub(super) struct FreshProcfs {
    at: PathBuf,
    namespaces: u32,
}

impl FreshProcfs {
    const NAMESPACES: u32 = 64;

    /// Mounts one at `at`, a directory that this makes.
    pub(super) fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir(&at).with_context(|| format!("create {}", at.display()))?;
        mount_procfs(&at)?;
        Ok(Self { at, namespaces: 0 })
    }

    /// Writes sysctls of the calling thread's namespace.
    pub(super) fn sysctls(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        if self.namespaces == Self::NAMESPACES {
            umount2(&self.at, MntFlags::MNT_DETACH).context("unmount a procfs")?;
            mount_procfs(&self.at)?;
            self.namespaces = 0;
        }
        self.namespaces += 1;
        write_below(&self.at, settings)
    }
}

fn mount_procfs(at: &Path) -> Result<()> {
    mount(
        Some("proc"),
        at,
        Some("proc"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mount a procfs at {}", at.display()))
}
