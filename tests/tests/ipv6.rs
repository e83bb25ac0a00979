//! Slots have IPv6 beside IPv4: what they reach and what reaches them, judged by ping, curl, traceroute
//! and tracepath.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use pcpm_api::types::AttachReply;
use pcpm_tests::{Daemon, HOST_ADDRESS6, HttpServer, INTERNET_ADDRESS6, PATIENCE, Place, World};
use serde_json::json;

const GATEWAY: &str = "fe80::1%eth0";

/// An attached slot.
struct Slot {
    place: Place,
    address: String,
}

fn attach(daemon: &Daemon, owner: &str, tenant: &str) -> Result<Slot> {
    let reply: AttachReply = daemon.attach(owner, tenant)?;
    let address = reply.attachment.addresses.get(1);
    Ok(Slot {
        place: daemon.place(&reply),
        address: address.context("no IPv6 address")?.clone(),
    })
}

fn ping(from: &Place, to: &str) -> Result<String> {
    from.command("ping", ["-6", "-n", "-c2", "-i0.2", "-W5", to])
        .run()
}

fn no_ping(from: &Place, to: &str) -> Result<()> {
    from.command("ping", ["-6", "-n", "-c1", "-W1", to])
        .fails()
        .map(drop)
}

fn curl(from: &Place, address: &str) -> Result<String> {
    from.command("curl", ["-gsS", "-m10", &format!("http://[{address}]/")])
        .run()
}

#[test]
fn slots_of_one_tenant_reach_each_other_and_no_others() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "520"])?;
    daemon.wait_until_ready(520)?;
    let slots = (0..520)
        .map(|i| {
            attach(
                &daemon,
                &format!("o{i}"),
                if i == 2 { "other" } else { "t" },
            )
        })
        .collect::<Result<Vec<_>>>()?;
    let far = slots
        .iter()
        .find(|slot| slot.address == "fd00:7063:706d::205")
        .context("a slot of the second hub")?;
    let [near, next, stranger] = [&slots[0], &slots[1], &slots[2]];
    for other in [next, far] {
        ping(&near.place, &other.address)?;
        let _server = HttpServer::start(&other.place, "[::]:80")?;
        let seen_as = curl(&near.place, &other.address)?;
        assert!(seen_as.contains(&near.address), "{seen_as}");
    }
    no_ping(&near.place, &stranger.address)?;
    no_ping(&stranger.place, &far.address)?;
    assert!(daemon.dropped("other-tenant")? >= 2);
    ping(&far.place, GATEWAY)?;
    ping(&far.place, INTERNET_ADDRESS6)?;
    ping(world.host(), &far.address).map(drop)
}

#[test]
fn a_slot_reaches_the_world_as_the_host() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    let seen_as = curl(&slot.place, INTERNET_ADDRESS6)?;
    assert!(seen_as.contains(HOST_ADDRESS6), "{seen_as}");
    ping(&slot.place, INTERNET_ADDRESS6)?;
    slot.place
        .command(
            "ping",
            [
                "-6",
                "-n",
                "-c2",
                "-i0.2",
                "-W5",
                "-s3000",
                INTERNET_ADDRESS6,
            ],
        )
        .run()
        .map(drop)
}

#[test]
fn traceroute_shows_every_hop() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    // One error a second and destination is the default, with a small reserve.
    world
        .internet()
        .tool("sysctl -qw net.ipv6.icmp.ratelimit=0")
        .run()?;
    for method in ["-U", "-I", "-T"] {
        let trace = format!("traceroute -6 -n -q1 -w10 -m5 {method} {INTERNET_ADDRESS6}");
        let report = slot.place.tool(&trace).run()?;
        let lines = report.lines().skip(1);
        let hops: Vec<_> = lines
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert_eq!(hops, [GATEWAY, INTERNET_ADDRESS6], "{report}");
    }
    Ok(())
}

#[test]
fn the_path_mtu_is_found() -> Result<()> {
    const SERVER: &str = "2001:db8:3::2";
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let internet = world.internet();
    world.tool("ip netns add server").run()?;
    internet
        .tool("sysctl -qw net.ipv6.conf.all.forwarding=1")
        .run()?;
    let links = "link add narrow mtu 1300 type veth peer name eth0 mtu 1300 netns server\n\
                 addr add 2001:db8:3::1/64 dev narrow nodad\nlink set narrow up\n";
    internet.tool("ip -batch -").input(links).run()?;
    let settings = format!(
        "link set lo up\nlink set eth0 up\naddr add {SERVER}/64 dev eth0 nodad\n\
         route add default via 2001:db8:3::1\n"
    );
    let server = world.slot("/run/netns/server");
    server.tool("ip -batch -").input(settings).run()?;
    let report = slot
        .place
        .tool(&format!("tracepath -6 -n -m5 {SERVER}"))
        .run()?;
    assert!(report.contains("pmtu 1300"), "{report}");
    let _server = HttpServer::start(&server, "[::]:80")?;
    curl(&slot.place, SERVER).map(drop)
}

#[test]
fn a_detach_cuts_what_is_under_way() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
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
    client.write_all(b"gone")?;
    server.set_read_timeout(Some(PATIENCE / 10))?;
    // Silence; or a reset by the host, which an acknowledgement of the server's came to that was delayed until
    // the connection was nobody's.
    let error = server.read(&mut [0; 4]).err().context("still connected")?;
    let silent_or_reset = [ErrorKind::WouldBlock, ErrorKind::ConnectionReset];
    assert!(silent_or_reset.contains(&error.kind()), "{error}");
    Ok(())
}

#[test]
fn what_opens_the_world_opens_neither_other_tenants_nor_metadata() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let [one, other] = ["a", "b"].map(|owner| {
        let parameters = json!({"owner": owner, "tenant": owner, "allow": ["::/0"]});
        let reply = daemon.attach_with(&parameters)?;
        let address = reply.attachment.addresses.get(1).cloned();
        let address = address.context("no IPv6 address")?;
        let place = daemon.place(&reply);
        anyhow::Ok(Slot { place, address })
    });
    let (one, other) = (one?, other?);
    ping(&one.place, INTERNET_ADDRESS6)?;
    no_ping(&one.place, &other.address)?;
    assert!(daemon.dropped("other-tenant")? >= 1);
    no_ping(&one.place, "fd00:ec2::254")?;
    assert!(daemon.dropped("metadata")? >= 1);
    Ok(())
}

#[test]
fn nothing_link_local_but_the_gateways_echo_is_reached() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(world.host(), "[::]:80")?;
    ping(&slot.place, GATEWAY)?;
    for refused in ["fe80::1%25eth0", HOST_ADDRESS6] {
        let url = format!("http://[{refused}]/");
        slot.place.command("curl", ["-gsS", "-m1", &url]).fails()?;
    }
    assert!(daemon.dropped("host-closed")? >= 2);
    Ok(())
}

#[test]
fn a_pool_without_ipv6_has_none() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "2", "--pool-cidr6", "off"])?;
    daemon.wait_until_ready(2)?;
    let reply: AttachReply = daemon.attach("web", "t")?;
    assert_eq!(reply.attachment.addresses.len(), 1, "{reply:?}");
    let addresses = daemon.place(&reply).tool("ip -6 addr").run()?;
    assert_eq!(addresses, "");
    Ok(())
}
