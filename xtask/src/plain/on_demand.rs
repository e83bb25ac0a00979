//! A network made when it is asked for, as an engine without a pool does at its quickest: namespace,
//! link, address, routes, by one process that is already running, with no address management, no
//! firewall rule and no program to start. What engines do in practice only comes on top.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::message::{Link, Message};
use super::namespace::{Netns, mount_own, sysctls};
use super::socket::RouteSocket;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 1);
const MTU: u32 = 1500;
const LOOPBACK: i32 = 1;
const ETH0: i32 = 2;
const FIRST_LINK: u32 = 10_000;

/// One network made on demand.
#[derive(Debug)]
pub(crate) struct OnDemand {
    name: String,
    pub(crate) netns: PathBuf,
    pub(crate) address: Ipv4Addr,
    far_index: i32,
}

/// What an engine does once per host, not per network. The calling thread is the host.
pub(crate) fn prepare_host() -> Result<()> {
    sysctls(&[("ipv4/ip_forward", "1")])?;
    let gateway = vec![Message::address(LOOPBACK, GATEWAY, 32)];
    RouteSocket::open()?.request("add the gateway's address", gateway)
}

impl OnDemand {
    /// Makes network `index` with a link to `host`, mounted in `directory`. The calling thread ends
    /// up in the new namespace.
    pub(crate) fn create(host: &Netns, index: u32, directory: &Path) -> Result<Self> {
        host.enter()?;
        let mut host_socket = RouteSocket::open()?;
        let name = format!("d{index}");
        let netns = directory.join(&name);
        let namespace = Netns::create()?;
        mount_own(&netns)?;
        let made = Self {
            name,
            netns,
            address: address(index),
            far_index: (FIRST_LINK + index).cast_signed(),
        };
        host_socket.request(
            &format!("make the link {}", made.name),
            made.link(&namespace),
        )?;
        let configure = format!("configure {}", made.name);
        RouteSocket::open()?.request(&configure, made.configuration())?;
        Ok(made)
    }

    /// Waits until the host's side of the link is up: before, the kernel drops what is sent there and
    /// TCP tries again after a second. Engines wait for it in the same way, only longer.
    pub(crate) fn wait_until_usable(&self) -> Result<()> {
        let path = format!("/sys/class/net/{}/operstate", self.name);
        while fs::read_to_string(&path).with_context(|| path.clone())? != "up\n" {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn link(&self, namespace: &Netns) -> Vec<Message> {
        let far = Link {
            name: &self.name,
            index: self.far_index,
            mac: None,
        };
        let near = Link {
            name: "eth0",
            index: ETH0,
            mac: None,
        };
        vec![
            Message::new_veth(far, near, namespace.raw(), MTU),
            Message::up(self.far_index),
            Message::host_route(self.far_index, self.address),
        ]
    }

    fn configuration(&self) -> Vec<Message> {
        vec![
            Message::up(LOOPBACK),
            Message::up(ETH0),
            Message::address(ETH0, self.address, 32),
            Message::default_route(ETH0, GATEWAY),
        ]
    }
}

fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 215, 0, 0).to_bits() + index)
}
