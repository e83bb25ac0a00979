//! A system call with a socket address, as the kernel shows it to a control group's program.
#![expect(unsafe_code, reason = "reads and writes the context")]

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use pcpm_ebpf::address::Address;

/// A family of socket addresses: each has its fields in the context, and a program that reads those
/// of the other is refused.
///
/// # Safety
/// All functions are called with a valid context of a program for this family.
pub(crate) unsafe trait SocketAddress {
    /// Whether a socket can be connected to an address of the other family: `tcp_v6_connect` and
    /// `__ip6_datagram_connect` take IPv4 addresses in their mapped form.
    const MAY_CHANGE_FAMILY: bool;

    unsafe fn address(raw: *const bpf_sock_addr) -> Address;
    unsafe fn set_address(raw: *mut bpf_sock_addr, address: &Address);
    unsafe fn message_source(raw: *const bpf_sock_addr) -> Address;
    unsafe fn bound_to(socket: *const bpf_sock) -> Address;
}

/// `AF_INET`.
pub(crate) enum V4 {}

/// `AF_INET6`.
pub(crate) enum V6 {}

// SAFETY: touches what programs for IPv4 addresses may.
unsafe impl SocketAddress for V4 {
    const MAY_CHANGE_FAMILY: bool = false;

    #[inline(always)]
    unsafe fn address(raw: *const bpf_sock_addr) -> Address {
        // SAFETY: the context is valid.
        Address::v4(u32::from_be(unsafe {
            (&raw const (*raw).user_ip4).read_volatile()
        }))
    }

    #[inline(always)]
    unsafe fn set_address(raw: *mut bpf_sock_addr, address: &Address) {
        // SAFETY: as above.
        unsafe { (&raw mut (*raw).user_ip4).write_volatile(address.0[3]) };
    }

    #[inline(always)]
    unsafe fn message_source(raw: *const bpf_sock_addr) -> Address {
        // SAFETY: as above.
        Address::v4(u32::from_be(unsafe {
            (&raw const (*raw).msg_src_ip4).read_volatile()
        }))
    }

    #[inline(always)]
    unsafe fn bound_to(socket: *const bpf_sock) -> Address {
        // SAFETY: the socket is valid.
        Address::v4(u32::from_be(unsafe {
            (&raw const (*socket).src_ip4).read_volatile()
        }))
    }
}

// SAFETY: touches what programs for IPv6 addresses may.
unsafe impl SocketAddress for V6 {
    const MAY_CHANGE_FAMILY: bool = true;

    #[inline(always)]
    unsafe fn address(raw: *const bpf_sock_addr) -> Address {
        // SAFETY: the context is valid.
        unsafe { words((&raw const (*raw).user_ip6).cast()) }
    }

    #[inline(always)]
    unsafe fn set_address(raw: *mut bpf_sock_addr, address: &Address) {
        let [a, b, c, d] = address.0;
        // SAFETY: as above; four words.
        unsafe {
            let field = (&raw mut (*raw).user_ip6).cast::<u32>();
            field.write_volatile(a);
            field.add(1).write_volatile(b);
            field.add(2).write_volatile(c);
            field.add(3).write_volatile(d);
        }
    }

    #[inline(always)]
    unsafe fn message_source(raw: *const bpf_sock_addr) -> Address {
        // SAFETY: as above.
        unsafe { words((&raw const (*raw).msg_src_ip6).cast()) }
    }

    #[inline(always)]
    unsafe fn bound_to(socket: *const bpf_sock) -> Address {
        // SAFETY: the socket is valid.
        unsafe { words((&raw const (*socket).src_ip6).cast()) }
    }
}

/// The kernel lets these fields be read word by word.
///
/// # Safety
/// `field` is an address of four words.
#[inline(always)]
unsafe fn words(field: *const u32) -> Address {
    // SAFETY: the caller's promise.
    unsafe {
        Address([
            field.read_volatile(),
            field.add(1).read_volatile(),
            field.add(2).read_volatile(),
            field.add(3).read_volatile(),
        ])
    }
}

/// A system call in the hands of a program.
pub(crate) struct SocketCall<A> {
    raw: *mut bpf_sock_addr,
    family: PhantomData<A>,
}

impl<A: SocketAddress> SocketCall<A> {
    #[inline(always)]
    pub(crate) fn new(context: &SockAddrContext) -> Self {
        Self {
            raw: context.sock_addr,
            family: PhantomData,
        }
    }

    /// The address in the call.
    #[inline(always)]
    pub(crate) fn address(&self) -> Address {
        // SAFETY: the kernel passes a valid context; the verifier checks the access.
        unsafe { A::address(self.raw) }
    }

    /// The port in the call.
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        // SAFETY: as above.
        u16::from_be(unsafe { (&raw const (*self.raw).user_port).read_volatile() } as u16)
    }

    /// Replaces address and port.
    #[inline(always)]
    pub(crate) fn set(&self, address: &Address, port: u16) {
        // SAFETY: as above; both may be written.
        unsafe {
            A::set_address(self.raw, address);
            (&raw mut (*self.raw).user_port).write_volatile(port.to_be().into());
        }
    }

    /// The socket's IP protocol, 0 for one that is none of IP's.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        // SAFETY: as above.
        let number = unsafe { (&raw const (*self.raw).protocol).read_volatile() };
        u8::try_from(number).unwrap_or(0)
    }

    /// The address that the socket is bound to; in `connect` only.
    #[inline(always)]
    pub(crate) fn bound_to(&self) -> Address {
        // SAFETY: as above; these programs always have a socket.
        unsafe { A::bound_to((*self.raw).__bindgen_anon_1.sk) }
    }

    /// The address that the datagram is sent from; in `sendmsg` only.
    #[inline(always)]
    pub(crate) fn message_source(&self) -> Address {
        // SAFETY: as above.
        unsafe { A::message_source(self.raw) }
    }

    /// Tells the socket from all others that ever were.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_socket_cookie(self.raw.cast()) }
    }

    /// The network namespace of the socket.
    #[inline(always)]
    pub(crate) fn netns(&self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_netns_cookie(self.raw.cast()) }
    }
}
