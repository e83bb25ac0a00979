//! The ways to a container's network.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use pcpm_api::types::{AttachReply, GetReply, ListReply};
use pcpm_tests::Wire;
use serde_json::json;

use super::bundle::Bundle;
use super::{Method, cni};
use crate::inside::{in_threads, on_demand};
use crate::plain::{Netns, OnDemand};

/// The first of the host's ports that functions are published at.
const FIRST_PORT: u32 = 20_000;

/// The number of a network that nobody uses.
const WARM_UP: u32 = 10_000;

/// A container's network.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) netns: PathBuf,
    pub(super) address: Ipv4Addr,
}

/// What was prepared of the networks of one method.
#[derive(Debug)]
pub(super) struct Networks {
    method: Method,
    host: Netns,
    /// Those that are kept ready, and the containers that keep them.
    pool: Mutex<Vec<Network>>,
    pauses: Vec<Bundle>,
}

/// One engine's thread's way to a network.
pub(super) struct Way<'a> {
    networks: &'a Networks,
    /// A connection to the daemon that has been used, as an engine has one.
    wire: Option<Wire>,
}

/// Where function `index` is published.
pub(super) fn host_port(index: u32) -> u32 {
    FIRST_PORT + index
}

impl Networks {
    /// What an engine does once, and what a pool does before.
    pub(super) fn prepare(method: Method, count: u32) -> Result<Self> {
        let mut networks = Self {
            method,
            host: Netns::current()?,
            pool: Mutex::default(),
            pauses: Vec::new(),
        };
        match method {
            Method::Cni => networks.warm_up()?,
            Method::OnDemand => on_demand::prepare()?,
            Method::Pause => networks.start_pauses(count)?,
            Method::Pooled | Method::PooledRuntime | Method::None => {}
        }
        Ok(networks)
    }

    pub(super) fn way(&self) -> Result<Way<'_>> {
        let asks = matches!(self.method, Method::Pooled | Method::PooledRuntime);
        Ok(Way {
            networks: self,
            wire: asks.then(connect).transpose()?,
        })
    }

    /// Removes what does not go with the world.
    pub(super) fn end(&self) -> Result<()> {
        let deleted = in_threads(&self.pauses, Bundle::delete);
        deleted.into_iter().collect()
    }

    /// The bridge is there before the first function is.
    fn warm_up(&self) -> Result<()> {
        fs::create_dir_all(cni::NAMESPACES)?;
        self.plug(WARM_UP).map(drop)
    }

    fn start_pauses(&mut self, count: u32) -> Result<()> {
        on_demand::prepare()?;
        for index in 0..count {
            let network = self.make(index)?;
            let pause = Bundle::idle("pause", index)?;
            let container = pause.create(Some(&network))?;
            container.start()?;
            let netns = format!("/proc/{}/ns/net", pause.pid()?).into();
            let pool = self.pool.get_mut().unwrap_or_else(PoisonError::into_inner);
            pool.push(Network { netns, ..network });
            self.pauses.push(pause);
        }
        Ok(())
    }

    /// By plain netlink.
    pub(super) fn make(&self, index: u32) -> Result<Network> {
        let made = OnDemand::create(&self.host, index, Path::new(on_demand::DIRECTORY))?;
        made.wait_until_usable()?;
        self.leave()?;
        Ok(Network {
            netns: made.netns,
            address: made.address,
        })
    }

    /// Has the calling thread return to the host.
    pub(super) fn leave(&self) -> Result<()> {
        self.host.enter()
    }

    fn plug(&self, index: u32) -> Result<Network> {
        let netns = Path::new(cni::NAMESPACES).join(format!("cni-{index}"));
        Netns::mounted(&netns)?;
        self.leave()?;
        let address = cni::add(&format!("function-{index}"), &netns, host_port(index))?;
        Ok(Network { netns, address })
    }
}

impl Way<'_> {
    /// The network of function `index`; `None` where there is none, and where the runtime gets it.
    pub(super) fn get(&mut self, index: u32) -> Result<Option<Network>> {
        match self.networks.method {
            Method::Cni => self.networks.plug(index).map(Some),
            Method::OnDemand => self.networks.make(index).map(Some),
            Method::Pause => {
                let pool = self.networks.pool.lock();
                let network = pool.unwrap_or_else(PoisonError::into_inner).pop();
                network.context("the pool is empty").map(Some)
            }
            Method::Pooled => self.attach(index).map(Some),
            Method::PooledRuntime | Method::None => Ok(None),
        }
    }

    /// The address of a function whose network the runtime got.
    pub(super) fn address_of(&mut self, owner: &str) -> Result<Option<Ipv4Addr>> {
        let Some(wire) = &mut self.wire else {
            return Ok(None);
        };
        let reply: GetReply = wire.call("Get", &json!({"owner": owner}))?;
        first(&reply.attachment.addresses).map(Some)
    }

    fn attach(&mut self, index: u32) -> Result<Network> {
        let wire = self.wire.as_mut().context("no connection")?;
        let request = json!({
            "owner": format!("function-{index}"), "tenant": "bench",
            "publish": [format!("{}:8080", host_port(index))],
        });
        let attachment = wire.call::<AttachReply>("Attach", &request)?.attachment;
        Ok(Network {
            address: first(&attachment.addresses)?,
            netns: attachment.netns.into(),
        })
    }
}

fn first(addresses: &[String]) -> Result<Ipv4Addr> {
    let address = addresses.first().context("no address")?;
    Ok(address.parse()?)
}

fn connect() -> Result<Wire> {
    let mut wire = Wire::connect(Path::new(pcpm_api::DEFAULT_SOCKET))?;
    wire.call::<ListReply>("List", &json!({}))?;
    Ok(wire)
}
