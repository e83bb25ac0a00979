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
        bpf_check_mtu, bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
};
use pcpm_ebpf::{
    abi::FlowKey,
    address::Address,
    drop_reason::DropReason,
    packet::{Family, Frame, protocol},
    policy::gateway,
};

use crate::{global, maps, skb::Skb};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A link and the neighbour behind it, as the last lookup of this program left them.
#[derive(Clone, Copy)]
pub(crate) struct Hop(&'static FibLookup);

impl Hop {
    /// The link.
    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        self.0.ifindex
    }

    /// The neighbour's address, which may be an IPv6 one for an IPv4 route.
    #[inline(always)]
    pub(crate) fn neighbour(self) -> bpf_redir_neigh {
        bpf_redir_neigh {
            nh_family: self.0.family.into(),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                // SAFETY: the longest member of the union; all of it was initialised.
                ipv6_nh: unsafe { self.0.__bindgen_anon_4.ipv6_dst },
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
    let lookup = maps::route()?;
    let is_found = global::find_route(*skb, frame, source, lookup)?;
    Ok(is_found.then_some(Hop(lookup)))
}

/// Looks for a route in `lookup`: whether there is one. Whether the packet is too big for it is asked
/// later, see [`is_too_big`].
#[inline(always)]
pub(crate) fn find_route(
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
    let mut mtu = 0;
    let segments = u64::from(BPF_MTU_CHK_SEGS);
    // SAFETY: the helper writes the link's MTU to `mtu`.
    let fits = unsafe { bpf_check_mtu(skb.context(), hop.ifindex(), &raw mut mtu, 0, segments) };
    fits > 0
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
