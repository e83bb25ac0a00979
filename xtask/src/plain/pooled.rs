//! The kernel work behind one pooled slot and nothing else: the floor that filling a pool stands on.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::message::{Link, Message};
use super::namespace::{FreshProcfs, Netns, mount_own, sysctls};
use super::socket::RouteSocket;

/// Slots whose far ends share one namespace.
pub(crate) const HUB_SLOTS: u32 = 512;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0xff, 0xff, 0xff];
const MTU: u32 = 1500;
const BLOCK: u32 = 1;
const FIRST_LINK: u32 = 1000;
const LOOPBACK: i32 = 1;
const ETH0: i32 = 2;

const HUB_SYSCTLS: &[(&str, &str)] = &[("ipv6/conf/default/disable_ipv6", "1")];
const SLOT_SYSCTLS: &[(&str, &str)] = &[
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ping_group_range", "0 2147483647"),
    ("ipv4/ip_unprivileged_port_start", "0"),
];

/// A namespace for far ends, with a socket to make them.
#[derive(Debug)]
pub(crate) struct Hub {
    netns: Netns,
}

impl Hub {
    /// Makes a hub; the calling thread ends up in it.
    pub(crate) fn create() -> Result<Self> {
        let netns = Netns::create()?;
        sysctls(HUB_SYSCTLS)?;
        let join_block = vec![Message::ingress_qdisc(LOOPBACK, BLOCK)];
        RouteSocket::open()?.request("make the hub's filter block", join_block)?;
        Ok(Self { netns })
    }
}

/// One thread's means to make slots: a socket in every hub.
#[derive(Debug)]
pub(crate) struct SlotMaker {
    hubs: Vec<RouteSocket>,
    procfs: FreshProcfs,
    directory: PathBuf,
}

impl SlotMaker {
    /// `number` tells the makers of one `directory` apart. The calling thread ends up in some hub.
    pub(crate) fn new(hubs: &[Hub], directory: &Path, number: u32) -> Result<Self> {
        let open = |hub: &Hub| {
            hub.netns.enter()?;
            RouteSocket::open()
        };
        Ok(Self {
            hubs: hubs.iter().map(open).collect::<Result<_>>()?,
            procfs: FreshProcfs::mount(directory.join(format!("proc{number}")))?,
            directory: directory.to_owned(),
        })
    }

    /// Makes slot `index`, its namespace mounted in the directory. The calling thread ends up in it.
    pub(crate) fn make(&mut self, index: u32) -> Result<()> {
        let name = format!("s{index:04}");
        let slot = Netns::create()?;
        self.procfs.sysctls(SLOT_SYSCTLS)?;
        mount_own(&self.directory.join(&name))?;
        let hub = &mut self.hubs[(index / HUB_SLOTS) as usize];
        hub.request(&format!("make the link {name}"), link(&name, index, &slot))?;
        RouteSocket::open()?.request(&format!("configure {name}"), configuration(index))
    }
}

fn link(name: &str, index: u32, slot: &Netns) -> Vec<Message> {
    let far_index = (FIRST_LINK + index).cast_signed();
    let far = Link {
        name,
        index: far_index,
        mac: Some(GATEWAY_MAC),
    };
    let near = Link {
        name: "eth0",
        index: ETH0,
        mac: Some(mac(index)),
    };
    vec![
        Message::new_veth(far, near, slot.raw(), MTU),
        Message::ingress_qdisc(far_index, BLOCK),
        Message::up(far_index),
    ]
}

fn configuration(index: u32) -> Vec<Message> {
    vec![
        Message::up(LOOPBACK),
        Message::up(ETH0),
        Message::address(ETH0, address(index), 32),
        Message::neighbour(ETH0, GATEWAY, GATEWAY_MAC),
        Message::default_route(ETH0, GATEWAY),
    ]
}

fn mac(index: u32) -> [u8; 6] {
    let [_, high, mid, low] = index.to_be_bytes();
    [2, 0, 0, high, mid, low]
}

fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 214, 0, 0).to_bits() + index)
}
