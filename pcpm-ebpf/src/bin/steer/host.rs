//! What the host knows: its routing table, and the sockets that hold its ports.
#![expect(unsafe_code, reason = "calls kernel helpers")]

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup as FibLookup,
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    },
    helpers::generated::{bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use pcpm_ebpf::{abi::FlowKey, drop_reason::DropReason, packet::Frame, packet::protocol};

use crate::skb::Skb;

const AF_INET: u8 = 2;

/// Where the host's routing table sends a packet.
pub(crate) enum Route {
    /// Out of a link.
    Forward(Hop),
    /// Nowhere: the address is the host's own, or there is no route.
    NotForwarded,
}

/// A link and the neighbour behind it, whose address may be an IPv6 one for an IPv4 route.
pub(crate) struct Hop {
    pub(crate) ifindex: u32,
    /// `AF_INET` or `AF_INET6`.
    pub(crate) family: u8,
    /// In network byte order; an IPv4 address is the first word.
    pub(crate) neighbour: [u32; 4],
}

/// Room for a lookup.
#[repr(C, align(8))]
struct Aligned(MaybeUninit<FibLookup>);

impl Aligned {
    /// Zeroes in place, word by word: the compiler would call `memset`, which goes byte by byte.
    #[inline(always)]
    fn zero(&mut self) -> &mut FibLookup {
        let words = self.0.as_mut_ptr().cast::<u64>();
        for index in 0..size_of::<FibLookup>() / 8 {
            // SAFETY: within the structure, which is aligned for words.
            unsafe { words.add(index).write_volatile(0) };
        }
        // SAFETY: every word was written; the structure consists of numbers.
        unsafe { self.0.assume_init_mut() }
    }
}

const _: () = assert!(size_of::<FibLookup>() % 8 == 0);

/// Looks up the route of a packet that came in on one of the hub links.
#[inline(always)]
pub(crate) fn route(skb: &Skb, frame: &Frame) -> Result<Route, DropReason> {
    let mut place = Aligned(MaybeUninit::uninit());
    let lookup = place.zero();
    lookup.family = AF_INET;
    lookup.l4_protocol = frame.protocol;
    lookup.ifindex = skb.ifindex();
    lookup.__bindgen_anon_3.ipv4_src = frame.source.to_be();
    lookup.__bindgen_anon_4.ipv4_dst = frame.destination.to_be();
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: `lookup` is initialised and of the given size.
    let status = unsafe { bpf_fib_lookup(skb.context(), lookup, size, BPF_FIB_LOOKUP_SKIP_NEIGH) };
    match status as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => Ok(Route::Forward(Hop {
            ifindex: lookup.ifindex,
            family: lookup.family,
            // SAFETY: the longest member of the union; all of it was initialised.
            neighbour: unsafe { lookup.__bindgen_anon_4.ipv6_dst },
        })),
        BPF_FIB_LKUP_RET_NOT_FWDED => Ok(Route::NotForwarded),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(DropReason::TooBig),
        _ => Err(DropReason::NoRoute),
    }
}

/// Whether the host has a socket that an answer to `ingress` would belong to.
#[inline(always)]
pub(crate) fn has_socket(skb: &Skb, ingress: &FlowKey) -> bool {
    let mut tuple = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: ingress.remote_address.to_be(),
                daddr: ingress.local_address.to_be(),
                sport: ingress.remote_port.to_be(),
                dport: ingress.local_port.to_be(),
            },
        },
    };
    let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
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
