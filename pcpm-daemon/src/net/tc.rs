//! Traffic control messages: the qdiscs that packets are steered from and their BPF filters.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
    TcOption,
};

/// The block that all slot links of a hub share: one filter serves all of them.
pub(super) const SLOT_BLOCK: u32 = 1;

/// Not yet known to netlink-packet-route (include/uapi/linux/rtnetlink.h).
const TCA_INGRESS_BLOCK: u16 = 13;

const ETH_P_ALL: u16 = 3;
const PRIORITY: u32 = 1;

/// What the kernel gives to the first filter; said, so that the same one is replaced.
const FILTER_HANDLE: u32 = 1;

/// Where a filter sits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    /// On all devices of a block.
    Block(u32),
    Ingress(u32),
    Egress(u32),
}

/// An `ingress` qdisc. A `clsact` would register its blocks in a list that the kernel walks for
/// every new one.
pub(super) fn ingress(ifindex: u32) -> RouteNetlinkMessage {
    qdisc(ifindex, "ingress", vec![])
}

/// An `ingress` qdisc that runs the filters of `block`.
pub(super) fn ingress_in_block(ifindex: u32, block: u32) -> RouteNetlinkMessage {
    let block = DefaultNla::new(TCA_INGRESS_BLOCK, block.to_ne_bytes().to_vec());
    qdisc(ifindex, "ingress", vec![TcAttribute::Other(block)])
}

/// Whether an attribute of a qdisc says that it has joined the slots' block.
pub(super) fn is_slot_block(attribute: &DefaultNla) -> bool {
    let mut value = [0; 4];
    let is_block = attribute.kind() == TCA_INGRESS_BLOCK && attribute.value_len() == value.len();
    if is_block {
        attribute.emit_value(&mut value);
    }
    is_block && u32::from_ne_bytes(value) == SLOT_BLOCK
}

/// A qdisc with both directions.
pub(super) fn clsact(ifindex: u32) -> RouteNetlinkMessage {
    qdisc(ifindex, "clsact", vec![])
}

/// Removes whatever qdisc is at the ingress of a link.
pub(super) fn remove_ingress(ifindex: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelQueueDiscipline(TcMessage::from_parts(ingress_of(ifindex), vec![]))
}

fn qdisc(ifindex: u32, kind: &str, more: Vec<TcAttribute>) -> RouteNetlinkMessage {
    let mut attributes = vec![TcAttribute::Kind(kind.to_owned())];
    attributes.extend(more);
    let message = TcMessage::from_parts(ingress_of(ifindex), attributes);
    RouteNetlinkMessage::NewQueueDiscipline(message)
}

fn ingress_of(ifindex: u32) -> TcHeader {
    TcHeader {
        index: ifindex.cast_signed(),
        handle: TcHandle {
            major: u16::MAX,
            minor: 0,
        },
        parent: TcHandle::INGRESS,
        ..TcHeader::default()
    }
}

/// A BPF filter whose return value decides about the packet. Without `NLM_F_EXCL` it takes the place of the
/// one that is there: every packet meets the old program or the new one (`cls_bpf_change`).
pub(super) fn filter(hook: Hook, program: BorrowedFd<'_>, name: &str) -> RouteNetlinkMessage {
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
        TcFilterBpfOption::ProgName(name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    RouteNetlinkMessage::NewTrafficFilter(TcMessage::from_parts(hook.header(), attributes))
}

impl Hook {
    fn header(self) -> TcHeader {
        let minor = |minor| TcHandle {
            major: u16::MAX,
            minor,
        };
        let (index, parent) = match self {
            // A block's number stands where the parent otherwise does (struct tcmsg).
            Self::Block(block) => (TcHeader::TCM_IFINDEX_MAGIC_BLOCK, TcHandle::from(block)),
            Self::Ingress(ifindex) => (ifindex, minor(TcHandle::MIN_INGRESS)),
            Self::Egress(ifindex) => (ifindex, minor(TcHandle::MIN_EGRESS)),
        };
        TcHeader {
            index: index.cast_signed(),
            parent,
            info: PRIORITY << 16 | u32::from(ETH_P_ALL.to_be()),
            handle: TcHandle::from(FILTER_HANDLE),
            ..TcHeader::default()
        }
    }
}

/// The filters of a hook.
pub(super) fn filters(hook: Hook) -> RouteNetlinkMessage {
    let header = TcHeader {
        handle: TcHandle::default(),
        info: 0,
        ..hook.header()
    };
    RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, vec![]))
}

/// The number of the program of our filter, if this is it.
pub(super) fn program_of(message: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
        return None;
    };
    if filter.header.handle != TcHandle::from(FILTER_HANDLE) || filter.header.info >> 16 != PRIORITY
    {
        return None;
    }
    let options = filter
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        })?;
    options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })
}
