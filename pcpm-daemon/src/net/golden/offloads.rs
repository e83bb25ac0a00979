//! What netlink does not tell of links and namespace: how drivers are set, and BPF programs on the namespace.
#![expect(unsafe_code, reason = "ioctl and bpf have no safe wrappers for this")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::super::error::{During as _, NetError};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// From `include/uapi/linux/ethtool.h`.
const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_GCOALESCE: u32 = 0x0e;
const ETHTOOL_GPFLAGS: u32 = 0x27;

/// What is asked about a link. Every question takes the rtnl lock for a moment.
const ASKED: [u32; 3] = [ETHTOOL_GRINGPARAM, ETHTOOL_GCOALESCE, ETHTOOL_GPFLAGS];

/// A question to the driver of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    link: &'static [u8],
    command: u32,
}

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
    let _unknown = LINKS.map(|link| {
        ethtool(
            &socket,
            Question {
                link,
                command: ETHTOOL_GLINK,
            },
        )
    });
    Ok(())
}

fn any_socket() -> Result<OwnedFd, NetError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Datagram, flags, None)
        .during(|| "open a socket".to_owned())
}

/// The questions that the drivers of a new slot's links answer. A driver that has no answer to one has none
/// as long as the link is that link, and nothing that could be set.
pub(super) fn answered() -> Result<Vec<Question>, NetError> {
    let socket = any_socket()?;
    let all = LINKS
        .iter()
        .flat_map(|link| ASKED.map(|command| Question { link, command }));
    let is_unknown = |question: &Question| {
        let answer = ethtool(&socket, *question);
        answer.is_err_and(|errno| errno == Errno::EOPNOTSUPP as i32)
    };
    Ok(all.filter(|question| !is_unknown(question)).collect())
}

/// The settings of the links' drivers; a link that is not there or refuses is an answer too.
pub(super) fn read(questions: &[Question]) -> Result<Vec<Result<[u32; WORDS], i32>>, NetError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let socket = any_socket()?;
    let answers = questions.iter().map(|question| ethtool(&socket, *question));
    Ok(answers.collect())
}

fn ethtool(socket: &OwnedFd, question: Question) -> Result<[u32; WORDS], i32> {
    let Question { link, command } = question;
    let mut words = [0; WORDS];
    words[0] = command;
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

/// How many programs the namespace has of each kind that it can have.
pub(super) fn programs(netns: BorrowedFd<'_>) -> Result<Vec<(i32, u32)>, NetError> {
    let netns = u32::try_from(netns.as_raw_fd())
        .map_err(io::Error::other)
        .during(|| "ask for programs".to_owned())?;
    Ok([BPF_FLOW_DISSECTOR, BPF_SK_LOOKUP]
        .map(|kind| query(netns, kind))
        .into())
}

fn query(target: u32, kind: u32) -> (i32, u32) {
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
    (errno, query.count)
}
