//! Writing sysctls of the namespace that the calling thread is in.
//!
//! `/proc/sys/net` shows the namespace of whoever looks a name up: a directory descriptor may be kept
//! only above it.

#![expect(
    unsafe_code,
    reason = "mounting a procfs without a path has no safe wrapper"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::error::{During, NetError};

/// From include/uapi/linux/mount.h; libc does not have them.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID_NODEV_NOEXEC: libc::c_uint = 2 | 4 | 8;

/// How many namespaces are written to through one procfs.
const NAMESPACES_PER_PROCFS: u32 = 64;

/// A procfs to write sysctls through.
///
/// The names below `/proc/sys/net` are cached once for each namespace they were looked up in, all of
/// them in one hash chain (`proc_sys_compare`): with 2,000 namespaces a write takes 0.6 ms instead
/// of 5 us, for everybody who uses that procfs. So writes go through a procfs of our own, which is
/// thrown away with its cache after a while.
pub(super) struct Sysctls {
    root: OwnedFd,
    namespaces: u32,
}

impl Sysctls {
    pub(super) fn open() -> Result<Self, NetError> {
        Ok(Self {
            root: own_procfs().or_else(|_| common_procfs())?,
            namespaces: 0,
        })
    }

    /// To be called for each new namespace.
    pub(super) fn begin_namespace(&mut self) -> Result<(), NetError> {
        if self.namespaces == NAMESPACES_PER_PROCFS {
            *self = Self::open()?;
        }
        self.namespaces += 1;
        Ok(())
    }

    /// No IPv6 on links to come. Written before the first one is made: every link with IPv6 adds
    /// routes to one table, and the kernel walks it for the next one.
    ///
    /// Not for "all", which would take in `lo`: that write needs `rtnl_mutex` and does not wait for
    /// it but spins (`addrconf_disable_ipv6`), which costs two workers a sixth of their speed.
    pub(super) fn disable_ipv6(&self) -> Result<(), NetError> {
        match self.set("ipv6/conf/default/disable_ipv6", "1") {
            // A kernel without IPv6.
            Err(error) if error.errno == Some(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Lets everybody in the namespace ping, and bind low ports: it is theirs alone.
    pub(super) fn open_to_users(&self) -> Result<(), NetError> {
        self.set("ipv4/ping_group_range", "0 2147483647")?;
        self.set("ipv4/ip_unprivileged_port_start", "0")
    }

    /// Sets a sysctl below `net/` if it has another value; true if it had. A kernel without it has no need
    /// of it. Writing some of them spins until it gets `rtnl_mutex`, so no more is written than has to be.
    pub(super) fn ensure(&self, name: &str, value: &str) -> Result<bool, NetError> {
        if self.get(name).as_deref() == Some(value) {
            return Ok(false);
        }
        match self.set(name, value) {
            Ok(()) => Ok(true),
            Err(error) if error.errno == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets a sysctl below `net/`.
    pub(super) fn set(&self, name: &str, value: &str) -> Result<(), NetError> {
        #[cfg(test)]
        super::faults::step("set a sysctl")?;
        self.write(name, value)
            .during(|| format!("set sysctl net/{name} to {value}"))
    }

    /// What a sysctl below `net/` says, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let path = format!("sys/net/{name}");
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.root, path.as_str(), flags, Mode::empty()).ok()?;
        let text = io::read_to_string(File::from(file)).ok()?;
        Some(text.trim_end().to_owned())
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let path = format!("sys/net/{name}");
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.root, path.as_str(), flags, Mode::empty())?;
        File::from(file).write_all(value.as_bytes())
    }
}

/// The procfs that everybody uses, for a kernel before 5.8 or a refused mount.
fn common_procfs() -> Result<OwnedFd, NetError> {
    File::open("/proc")
        .map(OwnedFd::from)
        .during(|| "open /proc".to_owned())
}

/// A procfs that nobody else sees.
fn own_procfs() -> Result<OwnedFd, NetError> {
    try_own_procfs().during(|| "mount a procfs".to_owned())
}

fn try_own_procfs() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string that outlives the call.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the command takes no key and no value.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            none,
            none,
            0,
        )
    };
    Errno::result(created)?;
    // SAFETY: takes numbers only.
    let root = unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            MOUNT_ATTR_NOSUID_NODEV_NOEXEC,
        )
    };
    owned(root)
}

/// Takes the file descriptor that a system call returned.
fn owned(returned: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(returned)?;
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned it to us, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
