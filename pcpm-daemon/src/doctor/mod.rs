//! What the host must have before the daemon can run. The checks are pure: what is known about the
//! host comes through [`HostFacts`], whose real source is [`Host`].

mod checks;
mod host;
mod report;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::BpfHelper;
use pcpm_api::types;

use crate::config::PortRange;
use crate::lock_file::Holder;
use crate::net::EgressFacts;

pub(crate) use checks::checks;
pub(crate) use host::{Host, has_ipv6};
pub(crate) use report::{failures, report};

/// What the checks ask of the host. An `Err` says why something could not be found out.
pub(crate) trait HostFacts {
    /// Release of the kernel, as `uname -r` prints it.
    fn kernel_release(&self) -> Fact<String>;
    /// Whether the kernel has a part of BPF, found by trying.
    fn supports(&self, feature: Feature) -> Fact<bool>;
    /// Whether BPF programs are compiled; `None` where the setting is not visible.
    fn jit(&self) -> Option<bool>;
    /// The effective capabilities of this process, a bit each.
    fn capabilities(&self) -> Fact<u64>;
    /// `RLIMIT_NOFILE`.
    fn open_files(&self) -> Fact<Limit>;
    /// `user.max_net_namespaces`.
    fn most_net_namespaces(&self) -> Fact<u64>;
    /// `net.ipv4.ip_local_port_range`.
    fn ephemeral_ports(&self) -> Fact<PortRange>;
    /// `net.ipv4.ip_local_reserved_ports`: what the host's own connections never take.
    fn reserved_ports(&self) -> Fact<Vec<PortRange>>;
    /// What is at `path` or, where nothing is, at the nearest directory above it.
    fn place(&self, path: &Path) -> Fact<Place>;
    /// Whether the kernel has a file system, such as `bpf`.
    fn has_file_system(&self, name: &str) -> Fact<bool>;
    /// Where the root of the unified control group hierarchy is mounted.
    fn control_groups(&self) -> Fact<Option<PathBuf>>;
    /// Who runs in the state directory.
    fn lock(&self, state_dir: &Path) -> Fact<LockState>;
    /// What is at the path of the socket.
    fn socket(&self, path: &Path) -> Fact<SocketUse>;
    /// The interfaces that lead to the world.
    fn uplinks(&self) -> Fact<UplinkFacts>;
    /// Whether the kernel has IPv6.
    fn has_ipv6(&self) -> bool;
    /// A route or address of the host, not the daemon's own, that overlaps the pool, named as an
    /// operator knows it ("route 10.213.4.0/24 dev docker0").
    fn conflict(&self) -> Fact<Option<String>>;
    /// What the host's own stack lacks to send slots' packets, if it is to.
    fn egress(&self) -> Option<EgressFacts>;
    /// As [`conflict`](Self::conflict), a route in the way of the slots' IPv6 addresses.
    fn conflict6(&self) -> Fact<Option<String>>;
}

/// A fact, or why it is not known.
pub(crate) type Fact<T> = Result<T, String>;

/// The facts that come by netlink, gathered by the module that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkFacts {
    /// See [`HostFacts::uplinks`].
    pub(crate) uplinks: Fact<UplinkFacts>,
    /// See [`HostFacts::conflict`].
    pub(crate) conflict: Fact<Option<String>>,
    /// See [`HostFacts::conflict6`].
    pub(crate) conflict6: Fact<Option<String>>,
    /// See [`HostFacts::egress`].
    pub(crate) egress: Option<EgressFacts>,
}

/// Interfaces that lead to the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UplinkFacts {
    pub(crate) usable: Vec<types::Uplink>,
    /// Why others cannot be used.
    pub(crate) refused: Vec<String>,
}

/// A part of BPF that the kernel programs use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Feature {
    /// As the kernel calls it.
    pub(crate) name: &'static str,
    /// How to find out.
    pub(crate) probe: Probe,
}

/// A way to find out what the kernel can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Probe {
    /// Load a program.
    Program(ProgramType),
    /// Make a map.
    Map(MapType),
    /// Load a program of tc that calls a helper.
    TcHelper(BpfHelper),
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What holds now.
    pub(crate) soft: u64,
    /// How far the daemon can raise it itself.
    pub(crate) hard: u64,
}

/// A directory, or where it would be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The path asked for, or the nearest directory above it.
    pub(crate) found: PathBuf,
    /// Name of the file system there.
    pub(crate) file_system: String,
    /// Whether this process can write in it.
    pub(crate) writable: bool,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// Who runs in a state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LockState {
    /// Nobody.
    Free,
    /// This process.
    Own,
    /// Another one.
    Held(Holder),
}

/// What is at the path of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketUse {
    /// The service manager listens there, and passes the socket on.
    Held,
    /// Nothing.
    Free,
    /// A socket that nobody listens on.
    Stale,
    /// A socket that this process listens on.
    Own,
    /// A socket that another process listens on.
    Served(Holder),
    /// Something else.
    NotASocket,
}
