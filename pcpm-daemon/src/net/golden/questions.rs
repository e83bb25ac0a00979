//! What is asked over netlink, and what of the answers is left out.

use std::io;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use pcpm_ebpf::witness::Neighbour;

use super::super::raw::{Ask, RawNetlink, attributes};
use super::{Answer, answer};

/// Questions to one family of netlink.
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) protocol: isize,
    pub(super) questions: &'static [Question],
}

/// One question.
pub(super) struct Question {
    /// Names a difference.
    pub(super) section: &'static str,
    ask: Ask,
    kind: u16,
    payload: &'static [u8],
    /// Bytes before the attributes of an answer.
    header: usize,
    /// What is left out of an answer.
    volatile: &'static [Volatile],
    /// Answers that do not count at all.
    ignored: fn(&[u8]) -> bool,
}

/// An attribute that changes by itself, by the path to it.
type Volatile = &'static [u16];

impl Question {
    const fn table(
        section: &'static str,
        kind: u16,
        payload: &'static [u8],
        header: usize,
    ) -> Self {
        Self {
            section,
            ask: Ask::Table,
            kind,
            payload,
            header,
            volatile: &[],
            ignored: |_| false,
        }
    }

    const fn one(section: &'static str, kind: u16, payload: &'static [u8]) -> Self {
        Self {
            ask: Ask::One,
            ..Self::table(section, kind, payload, 0)
        }
    }

    const fn without(self, volatile: &'static [Volatile]) -> Self {
        Self { volatile, ..self }
    }

    /// Has the question answered.
    pub(super) fn ask(&self, socket: &mut RawNetlink) -> io::Result<Answer> {
        answer(socket.ask(
            self.ask,
            self.kind,
            self.payload,
            Vec::new,
            |all, kind, payload| {
                if !(self.ignored)(payload) {
                    all.extend(kind.to_ne_bytes());
                    self.keep(payload, all);
                }
            },
        ))
    }

    fn keep(&self, payload: &[u8], kept: &mut Vec<u8>) {
        let (header, rest) = payload.split_at(self.header.min(payload.len()));
        kept.extend(header);
        if self.volatile.is_empty() {
            kept.extend(rest);
        } else {
            keep_attributes(rest, self.volatile, kept);
        }
    }
}

/// Copies attributes but those that change by themselves.
fn keep_attributes(buffer: &[u8], volatile: &[Volatile], kept: &mut Vec<u8>) {
    for (kind, value) in attributes(buffer) {
        let below: Vec<Volatile> = volatile
            .iter()
            .filter_map(|path| path.split_first())
            .filter_map(|(first, rest)| (*first == kind).then_some(rest))
            .collect();
        if below.iter().any(|path| path.is_empty()) {
            continue;
        }
        kept.extend(kind.to_ne_bytes());
        kept.extend(value.len().to_ne_bytes());
        if below.is_empty() {
            kept.extend(value);
        } else {
            keep_attributes(value, &below, kept);
        }
    }
}

/// From `include/uapi/linux/rtnetlink.h`.
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;
const RTM_GETQDISC: u16 = 38;
const RTM_GETMULTICAST: u16 = 58;
const RTM_GETADDRLABEL: u16 = 74;
const RTM_GETNETCONF: u16 = 82;
const RTM_GETNSID: u16 = 90;
const RTM_GETNEXTHOP: u16 = 106;

const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;

/// From `include/uapi/linux/if_link.h`.
const IFLA_STATS: u16 = 7;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_CACHEINFO: u16 = 5;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const IFA_CACHEINFO: u16 = 6;
const RTA_CACHEINFO: u16 = 12;
const NDA_CACHEINFO: u16 = 3;
const NDA_PROBES: u16 = 4;
const TCA_STATS: u16 = 4;
const TCA_STATS2: u16 = 7;
const IFA_MULTICAST_CACHEINFO: u16 = IFA_CACHEINFO;

/// A header whose first byte is the family, all else zero.
const fn family<const LEN: usize>(family: u8) -> [u8; LEN] {
    let mut header = [0; LEN];
    header[0] = family;
    header
}

/// `struct ifinfomsg` and the wish for no statistics.
const LINKS: &[u8] = &{
    let mut request = [0; 24];
    request[16] = 8;
    [request[18], request[19]] = IFLA_EXT_MASK.to_ne_bytes();
    [request[20], request[21], request[22], request[23]] = RTEXT_FILTER_SKIP_STATS.to_ne_bytes();
    request
};

/// `struct ndmsg` that asks for proxy entries.
const PROXIES: &[u8] = &{
    const NTF_PROXY: u8 = 8;
    let mut request = [0; 12];
    request[10] = NTF_PROXY;
    request
};

const ROUTE: &[Question] = &[
    Question::table("links", RTM_GETLINK, LINKS, 16).without(&[
        &[IFLA_STATS],
        &[IFLA_STATS64],
        &[IFLA_AF_SPEC, AF_INET6 as u16, IFLA_INET6_CACHEINFO],
    ]),
    Question::table("addresses", RTM_GETADDR, &[0; 8], 8).without(&[&[IFA_CACHEINFO]]),
    // Cached exceptions (path MTU, redirects) are told with the routes.
    Question::table("routes", RTM_GETROUTE, &[0; 12], 12).without(&[&[RTA_CACHEINFO]]),
    Question::table("rules", RTM_GETRULE, &[0; 12], 12),
    Question::table("nexthops", RTM_GETNEXTHOP, &[0; 8], 8),
    Question::table("proxy neighbours", RTM_GETNEIGH, PROXIES, 12),
    // Further hardware addresses that links listen to, multicast ones too.
    Question::table(
        "forwarding entries",
        RTM_GETNEIGH,
        &family::<12>(AF_BRIDGE),
        12,
    )
    .without(&[&[NDA_CACHEINFO]]),
    Question::table("qdiscs", RTM_GETQDISC, &[0; 20], 20).without(&[&[TCA_STATS], &[TCA_STATS2]]),
    Question::table(
        "address labels",
        RTM_GETADDRLABEL,
        &family::<12>(AF_INET6),
        12,
    ),
    Question::table("groups", RTM_GETMULTICAST, &[0; 8], 8).without(&[&[IFA_MULTICAST_CACHEINFO]]),
    // Of all families.
    Question::table("settings", RTM_GETNETCONF, &[0; 4], 4),
    Question::table("namespace numbers", RTM_GETNSID, &[0; 4], 4),
];

/// `struct nfgenmsg`.
const NFGEN: &[u8] = &[0; 4];

/// Kinds of nfnetlink: subsystem and message, from include/uapi/linux/netfilter/.
const fn nf(subsystem: u16, message: u16) -> u16 {
    subsystem << 8 | message
}
const CTNETLINK: u16 = 1;
const CTNETLINK_EXP: u16 = 2;
const ACCT: u16 = 7;
const CTTIMEOUT: u16 = 8;
const CTHELPER: u16 = 9;
const NFTABLES: u16 = 10;
const IPSET: u16 = 6;
const CT_GET_STATS: u16 = 5;
const CT_EXP_GET: u16 = 1;
const NFT_GETGEN: u16 = 16;
const IPSET_CMD_LIST: u16 = 7;
const ACCT_GET: u16 = 1;
const CTTIMEOUT_GET: u16 = 1;
const CTHELPER_GET: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;

/// The attribute with the protocol's version that sets are listed with.
const IPSET_LIST: &[u8] = &[0, 0, 0, 0, 5, 0, 1, 0, 7, 0, 0, 0];

const NETFILTER: &[Question] = &[
    // The number of the last change: it says that there never was one, so there are no tables either.
    Question {
        header: 4,
        ..Question::one("nftables changes", nf(NFTABLES, NFT_GETGEN), NFGEN)
    }
    .without(&[&[NFTA_GEN_PROC_PID], &[NFTA_GEN_PROC_NAME]]),
    Question::one("connection tracking", nf(CTNETLINK, CT_GET_STATS), NFGEN),
    Question::table(
        "expected connections",
        nf(CTNETLINK_EXP, CT_EXP_GET),
        NFGEN,
        4,
    ),
    Question::table("IP sets", nf(IPSET, IPSET_CMD_LIST), IPSET_LIST, 4),
    Question::table("accounting objects", nf(ACCT, ACCT_GET), NFGEN, 4),
    Question::table("timeout policies", nf(CTTIMEOUT, CTTIMEOUT_GET), NFGEN, 4),
    Question::table("tracking helpers", nf(CTHELPER, CTHELPER_GET), NFGEN, 4),
];

/// From `include/uapi/linux/xfrm.h`.
const XFRM_MSG_GETSADINFO: u16 = 0x23;
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;

const XFRM: &[Question] = &[
    Question::one("xfrm states", XFRM_MSG_GETSADINFO, &[0xff; 4]),
    Question::one("xfrm policies", XFRM_MSG_GETSPDINFO, &[0xff; 4]),
    Question::one("xfrm defaults", XFRM_MSG_GETDEFAULT, &[0; 4]),
];

/// All questions that any kernel knows.
pub(super) const ALL: &[Group] = &[
    Group {
        name: "links and routes",
        protocol: NETLINK_ROUTE,
        questions: ROUTE,
    },
    Group {
        name: "netfilter",
        protocol: NETLINK_NETFILTER,
        questions: NETFILTER,
    },
    Group {
        name: "xfrm",
        protocol: NETLINK_XFRM,
        questions: XFRM,
    },
];

/// All neighbours of a namespace. The kernel walks those of all namespaces for it.
pub(super) const NEIGHBOURS: Question = Question {
    ignored: is_of_the_kernel,
    ..Question::table("neighbours", RTM_GETNEIGH, &[0; 12], 12)
        .without(&[&[NDA_CACHEINFO], &[NDA_PROBES]])
};

/// Whether the kernel makes the neighbour of this message by itself, and takes it away.
pub(in super::super) fn is_of_the_kernel(payload: &[u8]) -> bool {
    neighbour(payload)
        .is_some_and(|(neighbour, link, is_v6)| neighbour.is_of_the_kernel(link, is_v6))
}

/// What says whose a neighbour is, with its link and whether it is one of IPv6.
fn neighbour(payload: &[u8]) -> Option<(Neighbour, u32, bool)> {
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    let (header, rest) = payload.split_at_checked(12)?;
    let value =
        |wanted| attributes(rest).find_map(|(kind, value)| (kind == wanted).then_some(value));
    let to = value(NDA_DST)?;
    let mut address = [0; 16];
    address.get_mut(..to.len())?.copy_from_slice(to);
    let neighbour = Neighbour {
        address,
        hardware: value(NDA_LLADDR)?.try_into().ok()?,
        // The states of the kernel's header fit a byte.
        state: header[8],
        ..Neighbour::default()
    };
    let link = u32::from_ne_bytes(*header[4..].first_chunk()?);
    Some((neighbour, link, to.len() == address.len()))
}

#[cfg(test)]
mod tests {
    use super::super::super::raw::push_attribute;
    use super::{is_of_the_kernel, keep_attributes};

    fn neighbour(ifindex: u32, state: u16, destination: &[u8], hardware: [u8; 6]) -> Vec<u8> {
        let mut message = vec![0; 4];
        message.extend(ifindex.to_ne_bytes());
        message.extend(state.to_ne_bytes());
        message.extend([0, 0]);
        push_attribute(&mut message, 1, destination);
        push_attribute(&mut message, 2, &hardware);
        message
    }

    #[test]
    fn neighbours_that_the_kernel_makes_by_itself_do_not_count() {
        let group = [0x01, 0, 0x5e, 0, 0, 22];
        let kernels = neighbour(2, 0x40, &[224, 0, 0, 22], group);
        assert!(is_of_the_kernel(&kernels));
        let somebodys = neighbour(2, 0x40, &[224, 0, 0, 23], group);
        assert!(!is_of_the_kernel(&somebodys));
        let permanent = neighbour(2, 0x80, &[224, 0, 0, 22], group);
        assert!(!is_of_the_kernel(&permanent));
    }

    #[test]
    fn what_changes_by_itself_is_left_out_wherever_it_is_nested() {
        let message = |age: u8, value: u8| {
            let mut inner = Vec::new();
            push_attribute(&mut inner, 5, &[age]);
            push_attribute(&mut inner, 6, &[value]);
            let mut message = Vec::new();
            push_attribute(&mut message, 26, &inner);
            push_attribute(&mut message, 7, &[age]);
            let mut kept = Vec::new();
            keep_attributes(&message, &[&[26, 5], &[7]], &mut kept);
            kept
        };
        assert_eq!(message(1, 3), message(2, 3));
        assert_ne!(message(1, 3), message(1, 4));
    }
}
