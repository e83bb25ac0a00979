//! Starts function containers, all at once: a network, a container of runc, the first reply of its function. The ways to a
//! network differ, all else is the same.

mod action;
mod bundle;
mod cni;
mod keep;
mod network;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::bundle::Bundle;
use self::network::{Networks, Way};
use super::in_threads;

pub(crate) use self::keep::Kept;
pub(super) use self::{action::serve, keep::keep};

/// Where a container's network comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    /// The plugins bridge, host-local and portmap, with masquerading.
    Cni,
    /// A namespace and a link, made by plain netlink.
    OnDemand,
    /// That of a container that was started before and does nothing else than keep it.
    Pause,
    /// A slot out of the pool, asked for on the socket.
    Pooled,
    /// The same, asked for by `pcpm-runtime`.
    PooledRuntime,
    /// None: a function that is invoked through a Unix socket. The floor.
    None,
}

/// How long the phases of one start took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Phases {
    pub(crate) network: Duration,
    pub(crate) create: Duration,
    pub(crate) start: Duration,
    /// From the end of `start` until the function has answered.
    pub(crate) reply: Duration,
}

pub(super) fn run(method: Method, count: u32) -> Result<Vec<Phases>> {
    warm_up(count)?;
    let networks = Networks::prepare(method, count)?;
    let prepare = |index| Bundle::function(method, index);
    let bundles = (0..count).map(prepare).collect::<Result<Vec<_>>>()?;
    let together = Barrier::new(bundles.len());
    let starts = in_threads((0..).zip(&bundles), |(index, bundle)| {
        start(&networks, bundle, index, &together).with_context(|| bundle.id.clone())
    });
    let deleted = in_threads(&bundles, Bundle::delete);
    networks.end()?;
    deleted.into_iter().collect::<Result<()>>()?;
    starts.into_iter().collect()
}

/// Starts and ends as many containers, because pause containers are started beforehand: the first ones pay for what
/// the kernel keeps for those that follow.
fn warm_up(count: u32) -> Result<()> {
    let prepare = |index| Bundle::idle("warm-up", index);
    let bundles = (0..count).map(prepare).collect::<Result<Vec<_>>>()?;
    let started = in_threads(&bundles, |bundle| bundle.create(None)?.start());
    let deleted = in_threads(&bundles, Bundle::delete);
    started.into_iter().chain(deleted).collect()
}

fn start(networks: &Networks, bundle: &Bundle, index: u32, together: &Barrier) -> Result<Phases> {
    let way = networks.way();
    // Everybody comes here, also with an error, or the others would wait for ever.
    together.wait();
    let mut way = way?;
    let begun = Instant::now();
    let network = way.get(index)?;
    let networked = Instant::now();
    let container = bundle.create(network.as_ref())?;
    let created = Instant::now();
    container.start()?;
    let started = Instant::now();
    container.wait_until_it_listens()?;
    let address = network.map(|network| network.address);
    invoke(&mut way, bundle, address).context("invoke the function")?;
    Ok(Phases {
        network: networked - begun,
        create: created - networked,
        start: started - created,
        reply: started.elapsed(),
    })
}

fn invoke(way: &mut Way<'_>, bundle: &Bundle, address: Option<std::net::Ipv4Addr>) -> Result<()> {
    match address.map_or_else(|| way.address_of(&bundle.id), |address| Ok(Some(address)))? {
        Some(address) => action::invoke_at(address),
        None => action::invoke_through(&bundle.socket()),
    }
}
