//! What a slot reaches and what reaches it, judged by ping, curl, nc and traceroute.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use pcpm_api::types::AttachReply;
use pcpm_tests::{
    Daemon, HOST_ADDRESS, HttpServer, INTERNET_ADDRESS, PATIENCE, Place, World, serve_iperf,
};

const GATEWAY: &str = "169.254.1.1";

/// An attached slot.
struct Slot {
    place: Place,
    address: String,
}

fn attach(daemon: &Daemon, owner: &str, tenant: &str) -> Result<Slot> {
    let reply: AttachReply = daemon.attach(owner, tenant)?;
    Ok(Slot {
        place: daemon.place(&reply),
        address: reply.attachment.addresses[0].clone(),
    })
}

fn ping(from: &Place, to: &str) -> Result<String> {
    from.command("ping", ["-n", "-c2", "-i0.2", "-W5", to])
        .run()
}

fn no_ping(from: &Place, to: &str) -> Result<()> {
    from.command("ping", ["-n", "-c1", "-W1", to])
        .fails()
        .map(drop)
}

fn curl(from: &Place, address: &str) -> Result<String> {
    from.command("curl", ["-sS", "-m10", &format!("http://{address}/")])
        .run()
}

fn no_curl(from: &Place, address: &str) -> Result<()> {
    from.command("curl", ["-sS", "-m1", &format!("http://{address}/")])
        .fails()
        .map(drop)
}

#[test]
fn slots_of_one_tenant_reach_each_other() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    let (one, other) = (attach(&daemon, "one", "t")?, attach(&daemon, "other", "t")?);
    ping(&one.place, &other.address)?;
    let _server = HttpServer::start(&other.place, "0.0.0.0:80")?;
    let seen_as = curl(&one.place, &other.address)?;
    assert!(
        seen_as.starts_with(&format!("{}:", one.address)),
        "{seen_as}"
    );
    Ok(())
}

#[test]
fn slots_of_one_tenant_reach_each_other_across_hubs() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "520"])?;
    daemon.wait_until_ready(520)?;
    let all = (0..520)
        .map(|i| attach(&daemon, &format!("o{i}"), "t"))
        .collect::<Result<Vec<_>>>()?;
    let slot_of = |address: &str| all.iter().find(|slot| slot.address == address);
    let near = slot_of("10.213.0.3").context("a slot of the first hub")?;
    let far = slot_of("10.213.2.5").context("a slot of the second hub")?;
    ping(&near.place, &far.address)?;
    ping(&far.place, &near.address)?;
    let _server = HttpServer::start(&far.place, "0.0.0.0:80")?;
    let seen_as = curl(&near.place, &far.address)?;
    assert!(
        seen_as.starts_with(&format!("{}:", near.address)),
        "{seen_as}"
    );
    ping(&far.place, GATEWAY)?;
    ping(&far.place, INTERNET_ADDRESS)?;
    ping(world.host(), &far.address)?;
    Ok(())
}

#[test]
fn slots_of_other_tenants_never_reach_each_other() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    let (one, other) = (attach(&daemon, "one", "a")?, attach(&daemon, "other", "b")?);
    let _server = HttpServer::start(&other.place, "0.0.0.0:80")?;
    no_ping(&one.place, &other.address)?;
    no_curl(&one.place, &other.address)?;
    assert!(daemon.dropped("other-tenant")? >= 2);
    Ok(())
}

#[test]
fn a_large_transfer_arrives_whole() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let listener = world
        .internet()
        .within(|| Ok(TcpListener::bind("0.0.0.0:9")?))?;
    let sent: Vec<u8> = (0..16_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let sending = slot
        .place
        .command("nc", ["-N", INTERNET_ADDRESS, "9"])
        .input(sent.clone());
    let received = std::thread::spawn(move || -> Result<Vec<u8>> {
        let mut received = Vec::new();
        listener.accept()?.0.read_to_end(&mut received)?;
        Ok(received)
    });
    sending.run()?;
    let received = received.join().unwrap()?;
    assert!(
        received == sent,
        "{} of {} bytes, or others",
        received.len(),
        sent.len()
    );
    Ok(())
}

#[test]
fn busy_connections_run_in_both_directions() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (one, other) = (attach(&daemon, "one", "t")?, attach(&daemon, "other", "t")?);
    for direction in [&[][..], &["-R"]] {
        let mut server = serve_iperf(&other.place)?;
        let arguments = ["-J", "-t", "1", "-c", &other.address];
        let report = one
            .place
            .command("iperf3", arguments.iter().chain(direction))
            .json()?;
        let received = report["end"]["sum_received"]["bytes"]
            .as_u64()
            .unwrap_or_default();
        assert!(received >= 50_000_000, "{report}");
        assert!(server.wait(PATIENCE)?.success());
    }
    Ok(())
}

#[test]
fn the_gateway_answers_ping_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    ping(&slot.place, GATEWAY)?;
    let _service = HttpServer::start(world.host(), "0.0.0.0:80")?;
    no_curl(&slot.place, GATEWAY)?;
    Ok(())
}

#[test]
fn services_of_the_host_are_closed_to_slots() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _service = HttpServer::start(world.host(), "0.0.0.0:80")?;
    let udp = world.host().within(|| Ok(UdpSocket::bind("0.0.0.0:53")?))?;
    udp.set_read_timeout(Some(Duration::from_millis(500)))?;
    no_curl(&slot.place, HOST_ADDRESS)?;
    no_ping(&slot.place, HOST_ADDRESS)?;
    slot.place
        .command("nc", ["-u", "-w1", HOST_ADDRESS, "53"])
        .input("hello")
        .output()?;
    assert!(udp.recv(&mut [0; 16]).is_err());
    assert!(daemon.dropped("host-closed")? >= 3);
    Ok(())
}

#[test]
fn the_host_reaches_slots_and_is_answered() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    ping(world.host(), &slot.address)?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    let seen_as = curl(world.host(), &slot.address)?;
    assert!(seen_as.starts_with(GATEWAY), "{seen_as}");
    let echo = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:7")?))?;
    let asking = world.host().within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    exchange(&asking, &format!("{}:7", slot.address), &echo)?;
    Ok(())
}

/// `client` sends to `server` at `address`, which answers whom it sees. Returns the seen address.
fn exchange(client: &UdpSocket, address: &str, server: &UdpSocket) -> Result<std::net::SocketAddr> {
    for socket in [client, server] {
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    }
    let mut buffer = [0; 64];
    client.send_to(b"question", address)?;
    let (length, seen) = server.recv_from(&mut buffer).context("the question")?;
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", seen)?;
    let (length, _) = client.recv_from(&mut buffer).context("the answer")?;
    assert_eq!(&buffer[..length], b"answer");
    Ok(seen)
}

#[test]
fn the_world_is_reached_from_the_hosts_address() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    ping(&slot.place, INTERNET_ADDRESS)?;
    let _server = HttpServer::start(&world.internet(), "0.0.0.0:80")?;
    let seen_as = curl(&slot.place, INTERNET_ADDRESS)?;
    assert!(
        seen_as.starts_with(&format!("{HOST_ADDRESS}:")),
        "{seen_as}"
    );
    let server = world
        .internet()
        .within(|| Ok(UdpSocket::bind((INTERNET_ADDRESS, 53))?))?;
    let client = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let seen = exchange(&client, &format!("{INTERNET_ADDRESS}:53"), &server)?;
    assert_eq!(seen.ip().to_string(), HOST_ADDRESS);
    Ok(())
}

#[test]
fn translated_ports_stay_out_of_the_hosts_own_range() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&world.internet(), "0.0.0.0:80")?;
    let range = world
        .tool("cat /proc/sys/net/ipv4/ip_local_port_range")
        .run()?;
    let ends: Vec<u32> = range
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    for _ in 0..5 {
        let seen_as = curl(&slot.place, INTERNET_ADDRESS)?;
        let port: u32 = seen_as.rsplit(':').next().context("a port")?.parse()?;
        assert!(!(ends[0]..=ends[1]).contains(&port), "{port} in {range}");
    }
    Ok(())
}

#[test]
fn two_slots_with_the_same_source_port_reach_the_same_server() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (one, other) = (attach(&daemon, "one", "a")?, attach(&daemon, "other", "b")?);
    let server = world
        .internet()
        .within(|| Ok(UdpSocket::bind((INTERNET_ADDRESS, 53))?))?;
    let bind = || Ok(UdpSocket::bind("0.0.0.0:5353")?);
    let clients = [one.place.within(bind)?, other.place.within(bind)?];
    let address = format!("{INTERNET_ADDRESS}:53");
    let first = exchange(&clients[0], &address, &server)?;
    let second = exchange(&clients[1], &address, &server)?;
    assert_ne!(first, second);
    server.send_to(b"late", first)?;
    let mut buffer = [0; 16];
    assert_eq!(clients[0].recv(&mut buffer)?, 4);
    Ok(())
}

#[test]
fn the_host_is_a_hop_on_the_way_out() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let arguments = ["-n", "-q1", "-w10", "-m4", "-I", INTERNET_ADDRESS];
    let hops = slot.place.command("traceroute", arguments).run()?;
    assert!(
        hops.lines()
            .last()
            .is_some_and(|line| line.contains(INTERNET_ADDRESS)),
        "{hops}"
    );
    Ok(())
}

#[test]
fn only_replies_come_back_from_the_world() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let server = world
        .internet()
        .within(|| Ok(UdpSocket::bind((INTERNET_ADDRESS, 53))?))?;
    let client = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let seen = exchange(&client, &format!("{INTERNET_ADDRESS}:53"), &server)?;
    // Another port and another address of the internet speak to the same translated port.
    for stranger in [(INTERNET_ADDRESS, 54), ("192.0.2.1", 53)] {
        let stranger = world.internet().within(|| Ok(UdpSocket::bind(stranger)?))?;
        stranger.send_to(b"intruder", seen)?;
    }
    client.set_read_timeout(Some(Duration::from_millis(500)))?;
    assert!(client.recv(&mut [0; 16]).is_err());
    Ok(())
}

#[test]
fn nothing_outside_reaches_a_slot_even_when_the_host_forwards() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    world.tool("sysctl -qw net.ipv4.ip_forward=1").run()?;
    world
        .internet()
        .tool("ip route add 10.213.0.0/16 via 192.0.2.2")
        .run()?;
    no_ping(&world.internet(), &slot.address)?;
    no_curl(&world.internet(), &slot.address)?;
    let received = daemon.get("web")?.traffic.received_packets;
    assert_eq!(received, 0);
    Ok(())
}

#[test]
fn the_metadata_address_is_blocked() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    world
        .tool("ip address add 169.254.169.254/32 dev lo")
        .run()?;
    let _metadata = HttpServer::start(world.host(), "169.254.169.254:80")?;
    no_curl(&slot.place, "169.254.169.254")?;
    assert!(daemon.dropped("metadata")? >= 1);
    Ok(())
}

#[test]
fn a_spoofed_address_is_dropped_and_counted() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(3)?;
    let (one, victim) = (
        attach(&daemon, "one", "t")?,
        attach(&daemon, "victim", "t")?,
    );
    let (third, _server) = {
        let third = attach(&daemon, "third", "t")?;
        let server = HttpServer::start(&third.place, "0.0.0.0:80")?;
        (third, server)
    };
    one.place
        .command("ip", ["address", "add", &victim.address, "dev", "eth0"])
        .run()?;
    one.place
        .command(
            "ping",
            ["-c1", "-W1", "-I", &victim.address, &third.address],
        )
        .fails()?;
    assert!(daemon.dropped("spoofed-address")? >= 1);
    assert_eq!(daemon.get("third")?.traffic.received_packets, 0);
    Ok(())
}

#[test]
fn a_spoofed_hardware_address_is_dropped_and_counted() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (one, other) = (attach(&daemon, "one", "t")?, attach(&daemon, "other", "t")?);
    // The kernel forgets its neighbours when a link's address changes.
    let neighbour = one.place.tool("ip neighbour show").run()?;
    let gateway_mac = neighbour
        .split_whitespace()
        .nth(4)
        .context("the gateway's address")?;
    let change = format!(
        "link set eth0 address 02:50:43:00:00:63\n\
         neighbour replace {GATEWAY} lladdr {gateway_mac} dev eth0\n"
    );
    one.place.tool("ip -batch -").input(change).run()?;
    no_ping(&one.place, &other.address)?;
    assert!(daemon.dropped("spoofed-mac")? >= 1);
    Ok(())
}

#[test]
fn a_slot_that_nobody_holds_passes_nothing() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "one", "t")?;
    let other = u8::from(slot.address.ends_with(".0"));
    let ready = format!("/run/pcpm/netns/s000{other}");
    let unheld = world.slot(ready);
    no_ping(&unheld, &slot.address)?;
    no_ping(&unheld, GATEWAY)?;
    no_ping(&unheld, INTERNET_ADDRESS)?;
    assert!(daemon.dropped("detached")? >= 3);
    Ok(())
}

#[test]
fn detach_cuts_a_running_connection_to_the_world() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let listener = world
        .internet()
        .within(|| Ok(TcpListener::bind("0.0.0.0:80")?))?;
    let mut client = slot
        .place
        .within(|| Ok(std::net::TcpStream::connect((INTERNET_ADDRESS, 80))?))?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"before")?;
    let mut buffer = [0; 16];
    assert_eq!(server.read(&mut buffer)?, 6);
    daemon.detach("web")?;
    client.write_all(b"after")?;
    server.set_read_timeout(Some(Duration::from_secs(1)))?;
    let read = server.read(&mut buffer);
    assert!(read.is_err(), "{read:?}: {buffer:?}");
    Ok(())
}

#[test]
fn the_next_holder_of_an_address_gets_nothing_of_the_last_one() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let slot = attach(&daemon, "old", "t")?;
    let server = world
        .internet()
        .within(|| Ok(UdpSocket::bind((INTERNET_ADDRESS, 53))?))?;
    let client = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
    let seen = exchange(&client, &format!("{INTERNET_ADDRESS}:53"), &server)?;
    drop(client);
    daemon.detach("old")?;
    daemon.wait_until_ready(1)?;
    let next = attach(&daemon, "new", "t")?;
    assert_eq!(next.address, slot.address);
    let listener = next.place.within(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
    listener.set_read_timeout(Some(Duration::from_millis(500)))?;
    server.send_to(b"for the old one", seen)?;
    assert!(listener.recv(&mut [0; 32]).is_err());
    Ok(())
}

#[test]
fn traffic_is_counted_for_each_slot_and_direction() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (one, other) = (attach(&daemon, "one", "t")?, attach(&daemon, "other", "t")?);
    one.place
        .command("ping", ["-c3", "-i0.1", "-s1000", "-W5", &other.address])
        .run()?;
    let (sender, receiver) = (daemon.get("one")?.traffic, daemon.get("other")?.traffic);
    assert_eq!((sender.sent_packets, sender.received_packets), (3, 3));
    assert_eq!((receiver.sent_packets, receiver.received_packets), (3, 3));
    // 1000 bytes of payload, 8 of ICMP, 20 of IP, 14 of Ethernet.
    assert_eq!(sender.sent_bytes, 3 * 1042);
    assert_eq!(receiver.received_bytes, 3 * 1042);
    Ok(())
}

#[test]
fn counters_begin_at_zero_for_every_holder() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let slot = attach(&daemon, "old", "t")?;
    ping(&slot.place, GATEWAY)?;
    assert!(daemon.get("old")?.traffic.sent_packets >= 2);
    daemon.detach("old")?;
    daemon.wait_until_ready(1)?;
    attach(&daemon, "new", "t")?;
    assert_eq!(daemon.get("new")?.traffic.sent_packets, 0);
    Ok(())
}

#[test]
fn no_firewall_rule_is_made() -> Result<()> {
    let world = World::new()?;
    let before = world.tool("nft list ruleset").run()?;
    let daemon = world.pool_of(4)?;
    let slot = attach(&daemon, "web", "t")?;
    ping(&slot.place, INTERNET_ADDRESS)?;
    assert_eq!(world.tool("nft list ruleset").run()?, before);
    Ok(())
}
