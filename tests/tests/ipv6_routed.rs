//! IPv6 without translation: slots have addresses that the network routes to the host, and the world
//! sees them. What it may send there is the same as with translation.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use pcpm_api::types::AttachReply;
use pcpm_tests::{Daemon, HOST_ADDRESS6, HttpServer, INTERNET_ADDRESS6, PATIENCE, Place, World};
use serde_json::{Value, json};

const PREFIX: &str = "2001:db8:7::/64";
const CONFIGURATION: &str = "pool_cidr6 = \"2001:db8:7::/64\"\n[ipv6]\negress = \"routed\"\n";

struct Slot {
    place: Place,
    address: String,
}

/// A host with a routed prefix, and an internet that knows the way to it.
fn routed() -> Result<(World, Daemon)> {
    let world = World::new()?;
    let route = format!("ip -6 route add {PREFIX} via {HOST_ADDRESS6}");
    world.internet().tool(&route).run()?;
    std::fs::write(world.path("/run/pcpmd.toml"), CONFIGURATION)?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "4"])?;
    daemon.wait_until_ready(4)?;
    Ok((world, daemon))
}

fn attach(daemon: &Daemon, parameters: &Value) -> Result<Slot> {
    let reply: AttachReply = daemon.attach_with(parameters)?;
    let address = reply.attachment.addresses.get(1);
    Ok(Slot {
        place: daemon.place(&reply),
        address: address.context("no IPv6 address")?.clone(),
    })
}

fn curl(from: &Place, host: &str) -> Result<String> {
    from.command("curl", ["-gsS", "-m5", &format!("http://[{host}]:80/")])
        .run()
}

fn no_curl(from: &Place, host: &str) -> Result<()> {
    let url = format!("http://[{host}]:80/");
    from.command("curl", ["-gsS", "-m1", &url])
        .fails()
        .map(drop)
}

#[test]
fn the_world_sees_a_slots_own_address() -> Result<()> {
    let (world, daemon) = routed()?;
    let slot = attach(&daemon, &json!({"owner": "web"}))?;
    assert!(slot.address.starts_with("2001:db8:7::"), "{}", slot.address);
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    let seen_as = curl(&slot.place, INTERNET_ADDRESS6)?;
    assert!(seen_as.contains(&slot.address), "{seen_as}");
    for options in ["-c2 -i0.2", "-c1 -s4000"] {
        let ping = format!("ping -6 -n -W5 {options} {INTERNET_ADDRESS6}");
        slot.place.tool(&ping).run()?;
    }
    let trace = format!("traceroute -6 -n -q1 -w10 -m5 -U {INTERNET_ADDRESS6}");
    let report = slot.place.tool(&trace).run()?;
    assert!(
        report.contains(&format!("2  {INTERNET_ADDRESS6}")),
        "{report}"
    );
    Ok(())
}

#[test]
fn nobody_outside_opens_a_connection_to_a_slot() -> Result<()> {
    let (world, daemon) = routed()?;
    let slot = attach(&daemon, &json!({"owner": "web", "publish": ["8080:80"]}))?;
    let _server = HttpServer::start(&slot.place, "[::]:80")?;
    let internet = world.internet();
    no_curl(&internet, &slot.address)?;
    let ping = format!("ping -6 -n -c1 -W1 {}", slot.address);
    internet.tool(&ping).fails()?;
    assert!(daemon.dropped("pool-from-uplink")? >= 2);
    let url = format!("http://[{HOST_ADDRESS6}]:8080/");
    internet.command("curl", ["-gsS", "-m5", &url]).run()?;
    curl(world.host(), &slot.address).map(drop)
}

#[test]
fn rules_and_tenants_count_as_with_translation() -> Result<()> {
    let (world, daemon) = routed()?;
    let [one, other] = ["a", "b"].map(|tenant| {
        let denied = format!("{INTERNET_ADDRESS6}/128");
        let parameters = json!({"owner": tenant, "tenant": tenant, "deny": [denied]});
        attach(&daemon, &parameters)
    });
    let (one, other) = (one?, other?);
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    let _neighbour = HttpServer::start(&other.place, "[::]:80")?;
    no_curl(&one.place, INTERNET_ADDRESS6)?;
    assert!(daemon.dropped("policy-denied")? >= 1);
    no_curl(&one.place, &other.address)?;
    assert!(daemon.dropped("other-tenant")? >= 1);
    Ok(())
}

#[test]
fn a_detach_cuts_what_is_under_way() -> Result<()> {
    let (world, daemon) = routed()?;
    let slot = attach(&daemon, &json!({"owner": "web"}))?;
    let listener = world
        .internet()
        .within(|| Ok(TcpListener::bind((INTERNET_ADDRESS6, 9))?))?;
    let mut client = slot
        .place
        .within(|| Ok(TcpStream::connect((INTERNET_ADDRESS6, 9))?))?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"here")?;
    server.read_exact(&mut [0; 4])?;
    daemon.detach("web")?;
    server.write_all(b"anybody?")?;
    client.set_read_timeout(Some(PATIENCE / 20))?;
    let error = client.read(&mut [0; 8]).err().context("still connected")?;
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(daemon.dropped("pool-from-uplink")? >= 1);
    Ok(())
}
