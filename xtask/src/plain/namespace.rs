//! Network namespaces of threads.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
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
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
    }
    Ok(())
}
