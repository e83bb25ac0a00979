//! `cargo xtask demo`: many web servers at once, in pooled networks and in networks made on demand.

use anyhow::{Context, Result, bail};
use clap::Args;
use pcpm_tests::{HttpServer, World};

use crate::inside::BurstResult;
use crate::report::{Spread, ratio, table};
use crate::{plain, progress, release};

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Servers that are started at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000))]
    servers: u32,
}

pub(crate) fn run(arguments: &DemoArguments) -> Result<()> {
    release::enter()?;
    let servers = arguments.servers;
    println!(
        "{servers} networks are asked for at once; then {servers} web servers are started at once,"
    );
    println!("each a process in a network of its own, and a page is fetched from each.");
    println!("All of it happens in private namespaces; nothing of this machine is touched.\n");
    let pooled = pooled(servers)?;
    let on_demand = on_demand(servers)?;
    show(servers, &pooled, &on_demand)
}

fn pooled(servers: u32) -> Result<BurstResult> {
    let world = World::new()?;
    let _internet = HttpServer::start(&world.internet(), "0.0.0.0:80")?;
    // One network for each that is only asked for, and one for each server.
    let slots = 2 * servers;
    let mut daemon = world.spawn_daemon(&["--capacity", &slots.to_string()])?;
    progress::fill(&daemon, slots)?;
    let result = burst(&world, "pooled", servers)?;
    daemon.stop(pcpm_tests::PATIENCE)?;
    drop(world);
    plain::settle()?;
    Ok(result)
}

fn on_demand(servers: u32) -> Result<BurstResult> {
    eprintln!("the same with networks made on demand");
    burst(&World::new()?, "on-demand", servers)
}

fn burst(world: &World, mode: &str, servers: u32) -> Result<BurstResult> {
    let count = servers.to_string();
    let arguments = ["inside", "burst", "--mode", mode, "--count", &count];
    let output = world
        .host()
        .command(std::env::current_exe()?, arguments)
        .run()?;
    serde_json::from_str(&output).context("the burst printed no result")
}

fn show(servers: u32, pooled: &BurstResult, on_demand: &BurstResult) -> Result<()> {
    for error in pooled.errors.iter().chain(&on_demand.errors) {
        eprintln!("{error}");
    }
    let heading = "|time to network|p50|p99|max|  time to first byte|p50|p99|max";
    let heading = heading.split('|').skip(1).map(str::to_owned).collect();
    table(&[
        heading,
        row("pooled", pooled)?,
        row("on demand", on_demand)?,
    ]);
    println!();
    println!("{}", fetched(servers, pooled, on_demand));
    println!("{}", conclusion(servers, pooled, on_demand)?);
    if !pooled.errors.is_empty() || !on_demand.errors.is_empty() {
        bail!("not every page was fetched");
    }
    Ok(())
}

fn row(name: &str, result: &BurstResult) -> Result<Vec<String>> {
    let network = Spread::of_micros(&result.network_us)?.cells();
    let first_byte = Spread::of_micros(&result.first_byte_us)?.cells();
    let name = [name.to_owned()];
    Ok(name
        .into_iter()
        .chain(network)
        .chain([String::new()])
        .chain(first_byte)
        .collect())
}

fn fetched(servers: u32, pooled: &BurstResult, on_demand: &BurstResult) -> String {
    format!(
        "Pages fetched, pooled: {} of {servers} by the host, {} by a neighbour of the same tenant, \
         {} by a server from the internet. On demand: {} by the host.",
        pooled.first_byte_us.len(),
        pooled.from_neighbour,
        pooled.from_internet,
        on_demand.first_byte_us.len(),
    )
}

fn conclusion(servers: u32, pooled: &BurstResult, on_demand: &BurstResult) -> Result<String> {
    let quotient = |of: fn(&BurstResult) -> &[u64]| -> Result<String> {
        let (pooled, on_demand) = (
            Spread::of_micros(of(pooled))?,
            Spread::of_micros(of(on_demand))?,
        );
        Ok(ratio(on_demand.p50_us / pooled.p50_us))
    };
    let network = quotient(|result| &result.network_us)?;
    let first_byte = quotient(|result| &result.first_byte_us)?;
    Ok(format!(
        "With {servers} starts at once, the median network is there {network} sooner out of the pool \
         and the median first byte {first_byte} sooner."
    ))
}
