//! The kernel programs that steer packets between slots, host and world: the tc entry points.
//!
//! An entry point only turns the outcome into a verdict and counts what was dropped. What happens
//! to a packet at one place of the topology stands in the module of that name; what may pass is
//! decided by the library's pure functions.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod arrival;
#[cfg(target_arch = "bpf")]
mod clone;
#[cfg(target_arch = "bpf")]
mod collect;
#[cfg(target_arch = "bpf")]
mod drops;
#[cfg(target_arch = "bpf")]
mod flows;
#[cfg(target_arch = "bpf")]
mod fragments;
#[cfg(target_arch = "bpf")]
mod from_host;
#[cfg(target_arch = "bpf")]
mod from_hub;
#[cfg(target_arch = "bpf")]
mod from_slot;
#[cfg(target_arch = "bpf")]
mod from_uplink;
#[cfg(target_arch = "bpf")]
mod global;
#[cfg(target_arch = "bpf")]
mod hairpin;
#[cfg(target_arch = "bpf")]
mod host;
#[cfg(target_arch = "bpf")]
mod inbound;
#[cfg(target_arch = "bpf")]
mod limits;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod names;
#[cfg(target_arch = "bpf")]
mod policy;
#[cfg(target_arch = "bpf")]
mod ports;
#[cfg(target_arch = "bpf")]
mod quota;
#[cfg(target_arch = "bpf")]
mod rewrite;
#[cfg(target_arch = "bpf")]
mod settings;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod sock_addr;
#[cfg(target_arch = "bpf")]
mod sockets;
#[cfg(target_arch = "bpf")]
mod to_hub;
#[cfg(target_arch = "bpf")]
mod verdict;

#[cfg(target_arch = "bpf")]
mod entry {
    //! Entry points; their names are `pcpm_ebpf::abi::names`.

    use aya_ebpf::{
        macros::{cgroup_sock_addr, classifier},
        programs::{SockAddrContext, TcContext},
    };
    use pcpm_ebpf::abi::Hop;

    use crate::{
        collect, from_host, from_hub, from_slot, from_uplink,
        skb::Skb,
        sock_addr::{SocketCall, V4, V6},
        sockets, to_hub, verdict,
    };

    #[classifier]
    fn from_slot(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        verdict::finish(&skb, Hop::FromSlot, from_slot::try_from_slot(&skb))
    }

    #[classifier]
    fn from_host(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        verdict::finish(&skb, Hop::FromHost, from_host::try_from_host(&skb))
    }

    #[classifier]
    fn from_hub(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        verdict::finish(&skb, Hop::FromHub, from_hub::try_from_hub(&skb))
    }

    #[classifier]
    fn to_hub(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        verdict::finish(&skb, Hop::ToHub, to_hub::try_to_hub(&skb))
    }

    #[classifier]
    fn from_uplink(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        verdict::finish(&skb, Hop::FromUplink, from_uplink::try_from_uplink(&skb))
    }

    #[classifier]
    fn collect(ctx: TcContext) -> i32 {
        collect::collect(&Skb::new(&ctx))
    }

    #[cgroup_sock_addr(connect4)]
    fn connect4(ctx: SockAddrContext) -> i32 {
        sockets::connect(&SocketCall::<V4>::new(&ctx))
    }

    #[cgroup_sock_addr(connect6)]
    fn connect6(ctx: SockAddrContext) -> i32 {
        sockets::connect(&SocketCall::<V6>::new(&ctx))
    }

    #[cgroup_sock_addr(sendmsg4)]
    fn sendmsg4(ctx: SockAddrContext) -> i32 {
        sockets::send(&SocketCall::<V4>::new(&ctx))
    }

    #[cgroup_sock_addr(sendmsg6)]
    fn sendmsg6(ctx: SockAddrContext) -> i32 {
        sockets::send(&SocketCall::<V6>::new(&ctx))
    }

    #[cgroup_sock_addr(recvmsg4)]
    fn recvmsg4(ctx: SockAddrContext) -> i32 {
        sockets::tell(&SocketCall::<V4>::new(&ctx))
    }

    #[cgroup_sock_addr(recvmsg6)]
    fn recvmsg6(ctx: SockAddrContext) -> i32 {
        sockets::tell(&SocketCall::<V6>::new(&ctx))
    }

    #[cgroup_sock_addr(getpeername4)]
    fn getpeername4(ctx: SockAddrContext) -> i32 {
        sockets::tell(&SocketCall::<V4>::new(&ctx))
    }

    #[cgroup_sock_addr(getpeername6)]
    fn getpeername6(ctx: SockAddrContext) -> i32 {
        sockets::tell(&SocketCall::<V6>::new(&ctx))
    }
}

pcpm_ebpf::kernel_object!("steer");
