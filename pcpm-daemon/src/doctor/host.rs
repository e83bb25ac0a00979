//! The host as it is. Nothing here changes it: probes are closed again, paths are only looked at.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aya::programs::ProgramType;
use aya::sys::{is_helper_supported, is_map_supported, is_program_supported};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
    sockopt::PeerCredentials,
};
use nix::sys::statfs::{self, FsType, statfs};
use nix::unistd::{AccessFlags, access};

use super::{
    Fact, Feature, HostFacts, Limit, LockState, NetworkFacts, Place, Probe, SocketUse, UplinkFacts,
};
use crate::bpf::{control_group, to_the_end};
use crate::config::PortRange;
use crate::lock_file::{self, Holder};
use crate::net::EgressFacts;

/// The facts of the host that this process runs on.
#[derive(Debug)]
pub(crate) struct Host {
    network: NetworkFacts,
}

impl Host {
    /// The host, with what is known of its network.
    pub(crate) fn new(network: NetworkFacts) -> Self {
        Self { network }
    }
}

impl HostFacts for Host {
    fn kernel_release(&self) -> Fact<String> {
        read("/proc/sys/kernel/osrelease")
    }

    fn supports(&self, feature: Feature) -> Fact<bool> {
        match feature.probe {
            Probe::Program(kind) => {
                to_the_end(|| is_program_supported(kind)).map_err(|e| causes(&e))
            }
            Probe::Map(map_type) => is_map_supported(map_type).map_err(|e| causes(&e)),
            Probe::TcHelper(helper) => {
                to_the_end(|| is_helper_supported(TC, helper)).map_err(|e| causes(&e))
            }
        }
    }

    fn jit(&self) -> Option<bool> {
        // Only the first network namespace of the machine shows it.
        read("/proc/sys/net/core/bpf_jit_enable")
            .ok()
            .map(|text| text != "0")
    }

    fn capabilities(&self) -> Fact<u64> {
        let status = read("/proc/self/status")?;
        capabilities(&status).ok_or_else(|| "no CapEff in /proc/self/status".to_owned())
    }

    fn open_files(&self) -> Fact<Limit> {
        match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, hard)) => Ok(Limit { soft, hard }),
            Err(e) => Err(format!("read RLIMIT_NOFILE: {e}")),
        }
    }

    fn most_net_namespaces(&self) -> Fact<u64> {
        let path = "/proc/sys/user/max_net_namespaces";
        read(path)?.parse().map_err(|e| format!("read {path}: {e}"))
    }

    fn ephemeral_ports(&self) -> Fact<PortRange> {
        let path = "/proc/sys/net/ipv4/ip_local_port_range";
        let text = read(path)?;
        port_range(&text, char::is_whitespace).ok_or_else(|| format!("{path} says '{text}'"))
    }

    fn reserved_ports(&self) -> Fact<Vec<PortRange>> {
        let path = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let text = read(path)?;
        port_list(&text).ok_or_else(|| format!("{path} says '{text}'"))
    }

    fn place(&self, path: &Path) -> Fact<Place> {
        let existing = path
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let metadata = fs::metadata(existing).map_err(|e| at("look at", existing, &e))?;
        if !metadata.is_dir() {
            return Err(format!("{} is not a directory", existing.display()));
        }
        let stat = statfs(existing).map_err(|e| at("look at", existing, &e))?;
        Ok(Place {
            found: existing.to_owned(),
            file_system: file_system(stat.filesystem_type()),
            writable: access(existing, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
            mode: metadata.permissions().mode() & 0o7777,
        })
    }

    fn has_file_system(&self, name: &str) -> Fact<bool> {
        let list = read("/proc/filesystems")?;
        Ok(list
            .lines()
            .any(|line| line.split_whitespace().next_back() == Some(name)))
    }

    fn control_groups(&self) -> Fact<Option<PathBuf>> {
        control_group::root().map_err(|e| e.to_string())
    }

    fn lock(&self, state_dir: &Path) -> Fact<LockState> {
        match lock_file::holder(state_dir).map_err(|e| causes(&e))? {
            None => Ok(LockState::Free),
            Some(holder) if holder.pid == Some(std::process::id()) => Ok(LockState::Own),
            Some(holder) => Ok(LockState::Held(holder)),
        }
    }

    fn socket(&self, path: &Path) -> Fact<SocketUse> {
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(SocketUse::Free),
            Err(e) => Err(at("look at", path, &e)),
            Ok(metadata) if !metadata.file_type().is_socket() => Ok(SocketUse::NotASocket),
            Ok(_) => knock(path).map_err(|e| at("connect to", path, &e)),
        }
    }

    fn has_ipv6(&self) -> bool {
        has_ipv6()
    }

    fn egress(&self) -> Option<EgressFacts> {
        self.network.egress.clone()
    }

    fn uplinks(&self) -> Fact<UplinkFacts> {
        self.network.uplinks.clone()
    }

    fn conflict(&self) -> Fact<Option<String>> {
        self.network.conflict.clone()
    }

    fn conflict6(&self) -> Fact<Option<String>> {
        self.network.conflict6.clone()
    }
}

const TC: ProgramType = ProgramType::SchedClassifier;

/// File systems that state directories are found on; `statfs` gives numbers, people know names.
const FILE_SYSTEMS: [(FsType, &str); 7] = [
    (statfs::BPF_FS_MAGIC, "bpf"),
    (statfs::TMPFS_MAGIC, "tmpfs"),
    (statfs::SYSFS_MAGIC, "sysfs"),
    (statfs::EXT4_SUPER_MAGIC, "ext4"),
    (statfs::XFS_SUPER_MAGIC, "xfs"),
    (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
    (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
];

fn file_system(magic: FsType) -> String {
    match FILE_SYSTEMS.iter().find(|(known, _)| *known == magic) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("file system {:#x}", magic.0),
    }
}

/// The first process: systemd, where it listens in other programs' place.
const INIT: u32 = 1;

/// Whether somebody answers at a socket. Does not wait: a full queue means that somebody listens.
fn knock(path: &Path) -> nix::Result<SocketUse> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(served_by(getsockopt(&socket, PeerCredentials)?.pid())),
        Err(Errno::EAGAIN) => Ok(served_by(0)),
        Err(Errno::ECONNREFUSED) => Ok(SocketUse::Stale),
        Err(Errno::ENOENT) => Ok(SocketUse::Free),
        Err(e) => Err(e),
    }
}

/// `pid` is the process that began to listen, 0 where that is not known.
fn served_by(pid: i32) -> SocketUse {
    match u32::try_from(pid).unwrap_or(0) {
        own if own == std::process::id() => SocketUse::Own,
        INIT => SocketUse::Held,
        pid => SocketUse::Served(Holder::with_pid(pid)),
    }
}

fn capabilities(status: &str) -> Option<u64> {
    let field = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(field.trim(), 16).ok()
}

fn port_range(text: &str, separator: impl Fn(char) -> bool) -> Option<PortRange> {
    let (first, last) = text.split_once(separator)?;
    Some(PortRange {
        first: first.trim().parse().ok()?,
        last: last.trim().parse().ok()?,
    })
}

/// `1,3000-3010`, the form of the kernel's port bitmaps; nothing at all for none.
fn port_list(text: &str) -> Option<Vec<PortRange>> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| match part.parse() {
            Ok(port) => Some(PortRange {
                first: port,
                last: port,
            }),
            Err(_) => port_range(part, |c| c == '-'),
        })
        .collect()
}

fn read(path: &str) -> Fact<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(e) => Err(format!("read {path}: {e}")),
    }
}

fn at(operation: &str, path: &Path, error: &dyn std::error::Error) -> String {
    format!("{operation} {}: {error}", path.display())
}

/// An error and its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Whether the kernel has IPv6: built in, and not switched off when it was booted.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/default").exists()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn host() -> Host {
        Host::new(NetworkFacts {
            uplinks: Ok(UplinkFacts::default()),
            conflict: Ok(None),
            conflict6: Ok(None),
            egress: None,
        })
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "Name:\tx\nCapPrm:\t00000000a80425fb\nCapEff:\t0000000000001000\n";
        assert_eq!(capabilities(status), Some(1 << 12));
        assert_eq!(capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn lists_of_ports_are_read_as_the_kernel_prints_them() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(port_list("").unwrap(), []);
        assert_eq!(
            port_list("80,3000-3010").unwrap(),
            [range(80, 80), range(3000, 3010)]
        );
        assert_eq!(port_list("80,x"), None);
        assert_eq!(
            port_range("32768\t60999", char::is_whitespace),
            Some(range(32_768, 60_999))
        );
    }

    #[test]
    fn a_missing_directory_is_judged_by_the_nearest_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let place = host().place(&dir.path().join("a/b/c")).unwrap();
        assert_eq!(place.found, dir.path());
        assert_eq!(place.mode, 0o750);
        assert!(place.writable);
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = host().place(&file.path().join("x")).unwrap_err();
        assert_eq!(
            error,
            format!("{} is not a directory", file.path().display())
        );
    }

    #[test]
    fn a_socket_is_free_our_own_stale_or_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(host().socket(&path).unwrap(), SocketUse::Free);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(host().socket(&path).unwrap(), SocketUse::Own);
        drop(listener);
        assert_eq!(host().socket(&path).unwrap(), SocketUse::Stale);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(host().socket(&path).unwrap(), SocketUse::NotASocket);
    }

    #[test]
    fn the_lock_of_this_process_is_told_from_a_free_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(host().lock(dir.path()).unwrap(), LockState::Free);
        let _lock = lock_file::LockFile::acquire(dir.path()).unwrap();
        assert_eq!(host().lock(dir.path()).unwrap(), LockState::Own);
    }

    #[test]
    fn the_facts_that_every_linux_has_are_found() {
        assert!(
            host()
                .kernel_release()
                .unwrap()
                .starts_with(|c: char| c.is_ascii_digit())
        );
        assert!(host().capabilities().is_ok());
        assert!(host().open_files().unwrap().hard > 0);
        assert!(host().ephemeral_ports().unwrap().first > 0);
        assert!(host().reserved_ports().is_ok());
        assert!(host().has_file_system("proc").unwrap());
        assert!(!host().has_file_system("no such file system").unwrap());
    }
}
