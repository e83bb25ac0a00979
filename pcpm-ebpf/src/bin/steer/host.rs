//! What the host knows: its routing table, and the sockets that hold its ports.
#![expect(unsafe_code, reason = "calls kernel helpers")]

use core::ptr;

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS,
        bpf_fib_lookup as FibLookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Ipv4Tuple,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Ipv6Tuple,
    },
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup, bpf_jiffies64, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
};
use pcpm_ebpf::{
    abi::FlowKey,
    address::Address,
    drop_reason::DropReason,
    packet::{ETHERNET_LENGTH, Family, Frame, protocol},
    policy::gateway,
};

use crate::{global, maps, skb::Skb};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What the routing table said to somebody on this CPU, and when. It is asked once a jiffy (1 to 10 ms) for
/// each way that packets take: it costs as much as all else that a packet needs in `from_hub`.
#[repr(C)]
pub(crate) struct Route {
    lookup: FibLookup,
    source: Address,
    destination: Address,
    /// The link that the packets came in on.
    ingress: u32,
    protocol: u32,
    jiffy: u64,
    /// That of the link.
    mtu: u32,
}

impl Route {
    /// Whether it is the one that a packet shown as one of `source` takes in this `jiffy`.
    #[inline(always)]
    fn is_of(&self, skb: Skb, frame: &Frame, source: &Address, jiffy: u64) -> bool {
        self.jiffy == jiffy
            && self.destination == frame.destination
            && self.source == *source
            && self.protocol == u32::from(frame.protocol)
            && self.ingress == skb.ifindex()
    }
}

/// A link and the neighbour behind it, as the last lookup of this program left them.
#[derive(Clone, Copy)]
pub(crate) struct Hop(&'static Route);

impl Hop {
    /// The link.
    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        self.0.lookup.ifindex
    }

    /// The neighbour's address, which may be an IPv6 one for an IPv4 route.
    #[inline(always)]
    pub(crate) fn neighbour(self) -> bpf_redir_neigh {
        bpf_redir_neigh {
            nh_family: self.0.lookup.family.into(),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                // SAFETY: the longest member of the union; all of it was initialised.
                ipv6_nh: unsafe { self.0.lookup.__bindgen_anon_4.ipv6_dst },
            },
        }
    }
}

/// Zeroes in place, word by word: the compiler would call `memset`, which goes byte by byte.
#[inline(always)]
fn zero(lookup: &mut FibLookup) {
    let words = ptr::from_mut(lookup).cast::<u32>();
    for index in 0..size_of::<FibLookup>() / 4 {
        // SAFETY: within the structure, which is aligned for words and consists of numbers.
        unsafe { words.add(index).write_volatile(0) };
    }
}

const _: () = assert!(size_of::<FibLookup>() % 4 == 0);

/// Where the host's routing table sends a packet that came in on one of the hub links; nowhere if
/// the address is the host's own, or there is no route.
#[inline(always)]
pub(crate) fn route(skb: &Skb, frame: &Frame) -> Result<Option<Hop>, DropReason> {
    route_from(skb, frame, &frame.source)
}

/// As [`route`], for a packet that is shown as one of `source`: rules of the host may ask for it.
#[inline(always)]
pub(crate) fn route_from(
    skb: &Skb,
    frame: &Frame,
    source: &Address,
) -> Result<Option<Hop>, DropReason> {
    let mut place = 0;
    if !global::find_route(*skb, frame, source, &mut place)? {
        return Ok(None);
    }
    Ok(Some(Hop(maps::route(place)?)))
}

/// One of [`maps::ROUTES_REMEMBERED`] places: the upper bits of a multiplicative hash.
#[inline(always)]
fn mixed(source: &Address, destination: &Address) -> u32 {
    let fold = |address: &Address| address.0.into_iter().fold(0, |all, word| all ^ word);
    let both = fold(source).rotate_left(16) ^ fold(destination);
    both.wrapping_mul(0x9e37_79b1) >> (u32::BITS - maps::ROUTES_REMEMBERED.ilog2())
}

/// Looks for a route: whether there is one, which is at `place` then. Whether the packet is too big for it is
/// asked later, see [`is_too_big`].
#[inline(always)]
pub(crate) fn find_route(
    skb: Skb,
    frame: &Frame,
    source: &Address,
    place: &mut u32,
) -> Result<bool, DropReason> {
    *place = mixed(source, &frame.destination);
    let route = maps::route(*place)?;
    // SAFETY: no arguments.
    let jiffy = unsafe { bpf_jiffies64() };
    if route.is_of(skb, frame, source, jiffy) {
        return Ok(true);
    }
    // Of another jiffy until all of it is written.
    route.jiffy = 0;
    if !look_up(skb, frame, source, &mut route.lookup)? {
        return Ok(false);
    }
    route.source = *source;
    route.destination = frame.destination;
    route.ingress = skb.ifindex();
    route.protocol = frame.protocol.into();
    route.mtu = mtu(skb, route.lookup.ifindex);
    route.jiffy = jiffy;
    Ok(true)
}

#[inline(always)]
fn look_up(
    skb: Skb,
    frame: &Frame,
    source: &Address,
    lookup: &mut FibLookup,
) -> Result<bool, DropReason> {
    zero(lookup);
    lookup.l4_protocol = frame.protocol;
    lookup.ifindex = skb.ifindex();
    match frame.family {
        Family::V4 => {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_3.ipv4_src = source.0[3];
            lookup.__bindgen_anon_4.ipv4_dst = frame.destination.0[3];
        }
        Family::V6 => {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_3.ipv6_src = source.0;
            lookup.__bindgen_anon_4.ipv6_dst = frame.destination.0;
        }
    }
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: `lookup` is initialised and of the given size.
    let status = unsafe { bpf_fib_lookup(skb.context(), lookup, size, BPF_FIB_LOOKUP_SKIP_NEIGH) };
    match status as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_FRAG_NEEDED => Ok(true),
        BPF_FIB_LKUP_RET_NOT_FWDED => Ok(false),
        _ => Err(DropReason::NoRoute),
    }
}

/// Whether a packet, or one of the segments it will be sent in, is larger than the link can take.
#[inline(always)]
pub(crate) fn is_too_big(skb: &Skb, hop: Hop) -> bool {
    global::exceeds(*skb, hop.ifindex(), hop.0.mtu)
}

/// Whether a packet exceeds the MTU of `ifindex`, which was `mtu` a moment ago.
#[inline(always)]
pub(crate) fn exceeds(skb: Skb, ifindex: u32, mtu: u32) -> bool {
    let segments = u64::from(BPF_MTU_CHK_SEGS);
    skb.len() > ETHERNET_LENGTH + mtu && check_mtu(&skb, ifindex, segments, &mut 0) > 0
}

#[inline(always)]
fn mtu(skb: Skb, ifindex: u32) -> u32 {
    let mut mtu = 0;
    check_mtu(&skb, ifindex, 0, &mut mtu);
    mtu
}

#[inline(always)]
fn check_mtu(skb: &Skb, ifindex: u32, flags: u64, mtu: &mut u32) -> i64 {
    // SAFETY: the helper writes the link's MTU to `mtu`.
    unsafe { bpf_check_mtu(skb.context(), ifindex, &raw mut *mtu, 0, flags) }
}

/// Whether `address` is one of the host's own, the slots' gateway among them.
#[inline(always)]
pub(crate) fn is_own(address: &Address) -> bool {
    *address == gateway(address.is_v4()) || maps::is_host_address(address)
}

/// Whether the host has a socket that an answer to `ingress` would belong to.
#[inline(always)]
pub(crate) fn has_socket(skb: Skb, ingress: &FlowKey) -> bool {
    let (mut tuple, size) = tuple_of(ingress);
    let here = BPF_F_CURRENT_NETNS as u64;
    let context = skb.context();
    // SAFETY: `tuple` is initialised and of the given size.
    let socket = unsafe {
        match ingress.protocol {
            protocol::TCP => bpf_skc_lookup_tcp(context, &raw mut tuple, size, here, 0),
            protocol::UDP => bpf_sk_lookup_udp(context, &raw mut tuple, size, here, 0),
            _ => return false,
        }
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the lookup returned a reference, which is given back once.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}

/// The addresses and ports of a packet with this key, as the lookups want them. All of the tuple is
/// written, because the compiler would copy what is not as well.
#[inline(always)]
fn tuple_of(arriving: &FlowKey) -> (bpf_sock_tuple, u32) {
    let (sport, dport) = (arriving.remote_port.to_be(), arriving.local_port.to_be());
    let mut tuple = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv6: Ipv6Tuple {
                saddr: arriving.remote.0,
                daddr: arriving.local.0,
                sport,
                dport,
            },
        },
    };
    if !arriving.local.is_v4() {
        return (tuple, size_of::<Ipv6Tuple>() as u32);
    }
    tuple.__bindgen_anon_1.ipv4 = Ipv4Tuple {
        saddr: arriving.remote.0[3],
        daddr: arriving.local.0[3],
        sport,
        dport,
    };
    (tuple, size_of::<Ipv4Tuple>() as u32)
}
