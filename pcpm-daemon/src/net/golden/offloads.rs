//! What netlink does not tell of links: features, channels, and BPF programs on links and namespace.
#![expect(unsafe_code, reason = "ioctl and bpf have no safe wrappers for this")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::super::error::{During as _, NetError};
use super::super::namespace;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// From `include/uapi/linux/ethtool.h`.
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_GCOALESCE: u32 = 0x0e;
const ETHTOOL_GPFLAGS: u32 = 0x27;

/// What is asked about a link: the command, and its second word, which for features is the number of
/// blocks that there is room for.
const ASKED: [(u32, u32); 5] = [
    (ETHTOOL_GFEATURES, 8),
    (ETHTOOL_GCHANNELS, 0),
    (ETHTOOL_GRINGPARAM, 0),
    (ETHTOOL_GCOALESCE, 0),
    (ETHTOOL_GPFLAGS, 0),
];

const LINKS: [&[u8]; 2] = [b"lo", b"eth0"];

/// Words of the largest answer.
const WORDS: usize = 64;

#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    /// `struct ifreq` is larger than what is used of it.
    rest: [usize; 2],
}

/// Has the kernel do at once what it puts off after a link came up (`linkwatch_sync_dev`): state and
/// qdisc are then as they stay.
pub(super) fn settle() -> Result<(), NetError> {
    const ETHTOOL_GLINK: u32 = 0x0a;
    let socket = any_socket()?;
    // Where a driver knows nothing of its link there is nothing put off.
    let _unknown = LINKS.map(|link| ethtool(&socket, link, (ETHTOOL_GLINK, 0)));
    Ok(())
}

fn any_socket() -> Result<OwnedFd, NetError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Datagram, flags, None)
        .during(|| "open a socket".to_owned())
}

/// The settings of the links' drivers; a link that is not there or refuses is an answer too.
pub(super) fn read() -> Result<Vec<Result<[u32; WORDS], i32>>, NetError> {
    let socket = any_socket()?;
    let all = LINKS.iter().flat_map(|link| ASKED.map(|ask| (*link, ask)));
    Ok(all.map(|(link, ask)| ethtool(&socket, link, ask)).collect())
}

fn ethtool(socket: &OwnedFd, link: &[u8], ask: (u32, u32)) -> Result<[u32; WORDS], i32> {
    let mut words = [0; WORDS];
    [words[0], words[1]] = [ask.0, ask.1];
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        data: words.as_mut_ptr(),
        rest: [0; 2],
    };
    request.name[..link.len()].copy_from_slice(link);
    // SAFETY: the request is a `struct ifreq` whose data has room for the answer of each command.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    match Errno::result(status) {
        Ok(_) => Ok(words),
        Err(errno) => Err(errno as i32),
    }
}

const BPF_PROG_QUERY: libc::c_long = 16;
/// From `include/uapi/linux/bpf.h`.
const BPF_FLOW_DISSECTOR: u32 = 17;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// The part of `union bpf_attr` that a query uses.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    attach_flags_of: u64,
    links: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// How many programs are at each place, and how often that changed.
pub(super) fn programs() -> Result<Vec<(i32, u32, u64)>, NetError> {
    let netns = namespace::current()?;
    let netns = u32::try_from(netns.as_raw_fd())
        .map_err(io::Error::other)
        .during(|| "ask for programs".to_owned())?;
    let places = [
        (netns, BPF_FLOW_DISSECTOR),
        (netns, BPF_SK_LOOKUP),
        (1, BPF_TCX_INGRESS),
        (1, BPF_TCX_EGRESS),
        (2, BPF_TCX_INGRESS),
        (2, BPF_TCX_EGRESS),
    ];
    Ok(places.map(|(target, kind)| query(target, kind)).into())
}

fn query(target: u32, kind: u32) -> (i32, u32, u64) {
    let mut query = Query {
        target,
        kind,
        ..Query::default()
    };
    // SAFETY: the query is the start of a `union bpf_attr`, and asks for numbers only.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    let errno = match Errno::result(status) {
        Ok(_) => 0,
        Err(errno) => errno as i32,
    };
    (errno, query.count, query.revision)
}
