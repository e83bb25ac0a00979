//! To the daemon all files of the host are read-only but those it works with. It has mounts of its own for that,
//! and they stay shared with the host's: a slot that it mounts is seen by everybody, and what others unmount is
//! gone here too. The mounts that a service manager gives a service (systemd's `ProtectSystem=` and its like) only
//! receive, so container engines would never see a slot.
#![expect(unsafe_code, reason = "calls mount_setattr(2)")]

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, unshare},
    sys::statvfs::{FsFlags, statvfs},
};

use crate::{config::Config, metrics::Endpoint, net};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// All but what the daemon works with is read-only.
    On,
    /// Mounts made here would not be seen by the host, so nothing was changed.
    NotShared,
}

/// Makes it so for the calling thread and those it starts; must come before the first of them.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn protect(config: &Config) -> anyhow::Result<Protection> {
    for made_in in [&config.state_dir, &config.bpffs] {
        let directory = existing_part(made_in);
        if !net::is_shared(directory).with_context(|| format!("look at {}", directory.display()))? {
            return Ok(Protection::NotShared);
        }
    }
    unshare(CloneFlags::CLONE_NEWNS).context("get mounts of its own")?;
    let recursive = libc::AT_RECURSIVE.cast_unsigned();
    // What the host has read-only stays so.
    let places = writable(config)
        .into_iter()
        .filter(|place| is_writable(place));
    let places: Vec<_> = places.collect();
    set_read_only("/".as_ref(), true, recursive).context("make all files read-only")?;
    for place in places {
        let mounted = mount_of(existing_part(&place), |mount| {
            set_read_only(mount, false, 0)
        });
        mounted.with_context(|| format!("make {} writable", place.display()))?;
    }
    Ok(Protection::On)
}

fn writable(config: &Config) -> Vec<PathBuf> {
    let mut places = vec![
        config.state_dir.clone(),
        config.bpffs.clone(),
        config.socket.clone(),
        // Settings of the kernel.
        "/proc/sys/net".into(),
    ];
    if let Some(Endpoint::Unix(path)) = &config.metrics {
        places.push(path.clone());
    }
    places
}

fn is_writable(path: &Path) -> bool {
    statvfs(existing_part(path)).is_ok_and(|found| !found.flags().contains(FsFlags::ST_RDONLY))
}

/// Calls `change` with the mount point that `path` lies below.
fn mount_of(path: &Path, change: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    for part in path.ancestors() {
        match change(part) {
            // Not a mount point.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            changed => return changed,
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

fn existing_part(path: &Path) -> &Path {
    path.ancestors().find(|part| part.is_dir()).unwrap_or(path)
}

/// For the mount at `path`, in this mount namespace alone.
fn set_read_only(path: &Path, read_only: bool, flags: u32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (attr_set, attr_clr) = if read_only {
        (libc::MOUNT_ATTR_RDONLY, 0)
    } else {
        (0, libc::MOUNT_ATTR_RDONLY)
    };
    let attributes = libc::mount_attr {
        attr_set,
        attr_clr,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: path and attributes live through the call, which reads them and no more than the size says.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop).map_err(io::Error::from)
}
