//! Asks for many networks at once; then starts as many web servers at once, each a process in another
//! network of its own, and fetches a page from each: from the host, from a neighbour, and by each from
//! the internet. The networks are timed by themselves because the start of a process takes longer
//! than an attach, and a few processors would be measured instead.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use pcpm_api::types::{AttachReply, ListReply};
use pcpm_tests::{INTERNET_ADDRESS, Wire};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{in_threads, micros, on_demand, page};
use crate::plain::{Netns, OnDemand};

/// Where networks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Out of the daemon's pool.
    Pooled,
    /// Made by plain netlink when asked for.
    OnDemand,
}

/// What happened, times in microseconds from the moment a network or a server was asked for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct BurstResult {
    /// Until the network was there, while nothing else was done.
    pub(crate) network_us: Vec<u64>,
    /// Until the first byte of the server's page was there, its network included.
    pub(crate) first_byte_us: Vec<u64>,
    /// Servers whose page a neighbour fetched.
    pub(crate) from_neighbour: usize,
    /// Servers' networks from which a page of the internet was fetched.
    pub(crate) from_internet: usize,
    /// What went wrong, one line each.
    pub(crate) errors: Vec<String>,
}

/// A running server. Dropping it kills it.
struct Server {
    process: Child,
    netns: PathBuf,
    address: Ipv4Addr,
    first_byte_us: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Network {
    netns: PathBuf,
    address: Ipv4Addr,
}

pub(super) fn run(mode: Mode, count: u32) -> Result<BurstResult> {
    if mode == Mode::OnDemand {
        on_demand::prepare()?;
    }
    let host = Netns::current()?;
    let together = Barrier::new(count as usize);
    let mut result = BurstResult::default();
    let networks = in_threads(0..count, |index| {
        let (asked, _) = get_network(mode, &host, index, &together)?;
        Ok(micros(asked, Instant::now()))
    });
    result.network_us = good(networks, &mut result.errors);
    let servers = in_threads(count..2 * count, |index| {
        let (asked, network) = get_network(mode, &host, index, &together)?;
        start_server(&host, asked, network)
    });
    let servers = good(servers, &mut result.errors);
    result.first_byte_us = servers.iter().map(|server| server.first_byte_us).collect();
    if mode == Mode::Pooled {
        visit_each_other(&servers, &mut result);
        visit_the_internet(&servers, &mut result);
    }
    Ok(result)
}

/// Waits until all are here, then asks for a network. Returns when it asked, and the network.
fn get_network(
    mode: Mode,
    host: &Netns,
    index: u32,
    together: &Barrier,
) -> Result<(Instant, Network)> {
    let wire = match mode {
        Mode::Pooled => Some(connect()),
        Mode::OnDemand => None,
    };
    // Everybody comes here, also with an error, or the others would wait for ever.
    together.wait();
    let mut wire = wire.transpose()?;
    let asked = Instant::now();
    let network = match wire.as_mut() {
        Some(wire) => attach(wire, index)?,
        None => make(host, index)?,
    };
    Ok((asked, network))
}

fn start_server(host: &Netns, asked: Instant, network: Network) -> Result<Server> {
    let process = start_process(&network.netns)?;
    host.enter()?;
    let first_byte = page::fetch(network.address)?;
    Ok(Server {
        process,
        netns: network.netns,
        address: network.address,
        first_byte_us: micros(asked, first_byte),
    })
}

/// A connection that has been used, as an engine has one.
fn connect() -> Result<Wire> {
    let mut wire = Wire::connect(Path::new(pcpm_api::DEFAULT_SOCKET))?;
    wire.call::<ListReply>("List", &json!({}))?;
    Ok(wire)
}

fn attach(wire: &mut Wire, index: u32) -> Result<Network> {
    let request = json!({"owner": format!("server-{index}"), "tenant": "demo"});
    let reply: AttachReply = wire.call("Attach", &request)?;
    let attachment = reply.attachment;
    let address = attachment
        .addresses
        .first()
        .context("an attachment without an address")?;
    Ok(Network {
        address: address.parse()?,
        netns: attachment.netns.into(),
    })
}

fn make(host: &Netns, index: u32) -> Result<Network> {
    let made = OnDemand::create(host, index, Path::new(on_demand::DIRECTORY))?;
    made.wait_until_usable()?;
    Ok(Network {
        netns: made.netns,
        address: made.address,
    })
}

/// Starts the server in `netns` and waits until it listens.
fn start_process(netns: &Path) -> Result<Child> {
    enter(netns)?;
    let mut process = Command::new(std::env::current_exe()?)
        .args(["inside", "serve"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start a web server")?;
    let output = process.stdout.take().context("a server without output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line.is_empty() {
        let status = process.wait()?;
        return Err(anyhow!("a web server ended with {status}"));
    }
    Ok(process)
}

/// Each server's page is fetched from the network of the next one.
fn visit_each_other(servers: &[Server], result: &mut BurstResult) {
    let neighbours = servers.iter().cycle().skip(1);
    let pairs = servers.iter().zip(neighbours);
    let visits = in_threads(pairs, |(server, neighbour)| {
        enter(&neighbour.netns)?;
        page::fetch(server.address)
    });
    result.from_neighbour = good(visits, &mut result.errors).len();
}

/// Each server's network fetches a page from the internet.
fn visit_the_internet(servers: &[Server], result: &mut BurstResult) {
    let visits = in_threads(servers, |server| {
        enter(&server.netns)?;
        page::fetch(INTERNET_ADDRESS.parse()?)
    });
    result.from_internet = good(visits, &mut result.errors).len();
}

fn enter(netns: &Path) -> Result<()> {
    Netns::open(netns)?.enter()
}

/// The good results; the errors go to `errors`.
fn good<T>(results: Vec<Result<T>>, errors: &mut Vec<String>) -> Vec<T> {
    let mut good = Vec::new();
    for result in results {
        match result {
            Ok(result) => good.push(result),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    good
}
