//! `egress = "host"`: what slots send to the world goes through the host's own stack, where its firewall sees
//! it and one rule translates it. Everything else is as when the programs send it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use pcpm_api::types::AttachReply;
use pcpm_tests::{
    Daemon, HOST_ADDRESS, HOST_ADDRESS6, HttpServer, INTERNET_ADDRESS, INTERNET_ADDRESS6, PATIENCE,
    Place, World,
};
use serde_json::json;

/// How long it takes to be sure that nothing comes.
const SILENCE: Duration = Duration::from_millis(500);

/// The internet, in both versions of IP.
const PEERS: [&str; 2] = [INTERNET_ADDRESS, INTERNET_ADDRESS6];

fn configure(world: &World, settings: &str) -> Result<()> {
    Ok(std::fs::write(world.path("/run/pcpmd.toml"), settings)?)
}

fn start(world: &World) -> Result<Daemon> {
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "4"])?;
    daemon.wait_until_ready(4)?;
    Ok(daemon)
}

/// A host that sends what slots send.
fn sending_host() -> Result<(World, Daemon)> {
    let world = World::new()?;
    configure(&world, "egress = \"host\"\n")?;
    let daemon = start(&world)?;
    Ok((world, daemon))
}

fn slot(daemon: &Daemon, owner: &str) -> Result<Place> {
    Ok(daemon.place(&daemon.attach(owner, "t")?))
}

fn curl(from: &Place, host: &str, port: u16) -> Result<String> {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let url = format!("http://{host}:{port}/");
    from.command("curl", ["-gsS", "-m5", &url]).run()
}

fn tables(world: &World) -> Result<String> {
    world.tool("nft list tables").run()
}

fn sysctl(world: &World, name: &str) -> Result<String> {
    let path = format!("/proc/sys/net/{name}");
    Ok(world.tool(&format!("cat {path}")).run()?.trim().to_owned())
}

fn udp(place: &Place, address: &str, port: u16) -> Result<UdpSocket> {
    let socket = place.within(|| Ok(UdpSocket::bind((address, port))?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A connection from a slot to the internet, and its other end.
fn connect(world: &World, slot: &Place, peer: &str, port: u16) -> Result<(TcpStream, TcpStream)> {
    let internet = world.internet();
    let listener = internet.within(|| Ok(TcpListener::bind((peer, port))?))?;
    let client = slot.within(|| Ok(TcpStream::connect((peer, port))?))?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    Ok((client, server))
}

/// Both ends hear each other.
fn exchange((client, server): (&mut TcpStream, &mut TcpStream)) -> Result<()> {
    client.write_all(b"question")?;
    server.read_exact(&mut [0; 8])?;
    server.write_all(b"answer")?;
    Ok(client.read_exact(&mut [0; 6])?)
}

/// A network behind the host, which forwards for it.
fn lan(world: &World) -> Result<Place> {
    let batch = "netns add lan
        link add lan0 type veth peer name eth0 netns lan
        addr add 192.168.7.1/24 dev lan0
        link set lan0 up\n";
    world.command("ip", ["-batch", "-"]).input(batch).run()?;
    let lan = world.host().at("/run/netns/lan");
    let inside = "addr add 192.168.7.2/24 dev eth0
        link set eth0 up
        route add default via 192.168.7.1\n";
    lan.command("ip", ["-batch", "-"]).input(inside).run()?;
    let forwards = "sysctl -qw net.ipv4.conf.lan0.forwarding=1";
    world.tool(forwards).run()?;
    // Until the kernel has said that the link carries, nothing passes.
    let ping = "ping -n -q -c 1 -i 0.2 -w 20 192.168.7.2";
    world.tool(ping).run()?;
    Ok(lan)
}

#[test]
fn slots_reach_the_world_under_the_hosts_address() -> Result<()> {
    let (world, daemon) = sending_host()?;
    let slot = slot(&daemon, "web")?;
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    for (peer, shown) in PEERS.into_iter().zip([HOST_ADDRESS, HOST_ADDRESS6]) {
        let seen_as = curl(&slot, peer, 80)?;
        assert!(seen_as.contains(shown), "{seen_as}");
        let server = udp(&world.internet(), peer, 7)?;
        let client = udp(&slot, if peer.contains(':') { "::" } else { "0.0.0.0" }, 0)?;
        client.send_to(b"question", (peer, 7))?;
        let (_, from) = server.recv_from(&mut [0; 8])?;
        assert_eq!(from.ip().to_string(), shown);
        server.send_to(b"answer", from)?;
        client.recv(&mut [0; 8])?;
        // The second of them in fragments, there and back.
        for options in ["-c2 -i0.2", "-c1 -s4000"] {
            let ping = format!("ping -n -W5 {options} {peer}");
            slot.tool(&ping).run()?;
        }
    }
    Ok(())
}

#[test]
fn errors_of_the_host_and_the_world_come_back() -> Result<()> {
    let (world, daemon) = sending_host()?;
    let slot = slot(&daemon, "web")?;
    for (peer, gateway) in PEERS.into_iter().zip(["169.254.1.1", "fe80::1"]) {
        let trace = format!("traceroute -n -q1 -w10 -m5 -U {peer}");
        let report = slot.tool(&trace).run()?;
        for hop in [format!("1  {gateway}"), format!("2  {peer}")] {
            assert!(report.contains(&hop), "no '{hop}' in {report}");
        }
    }
    // Nobody listens, and a router says so.
    let client = udp(&slot, "0.0.0.0", 0)?;
    client.connect((INTERNET_ADDRESS, 9))?;
    client.send(b"anybody?")?;
    let refused = client.recv(&mut [0; 8]).err().context("somebody answers")?;
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // What is too large for the uplink is answered by the host.
    world.tool("ip link set eth0 mtu 1400").run()?;
    for (peer, size) in [(INTERNET_ADDRESS, 1400), (INTERNET_ADDRESS6, 1380)] {
        let ping = format!("ping -n -M do -c3 -i0.2 -W2 -s{size} {peer}");
        let report = slot.tool(&ping).output()?;
        let words = String::from_utf8_lossy(&report.stdout).into_owned()
            + &String::from_utf8_lossy(&report.stderr);
        assert!(
            words.contains("mtu=1400") || words.contains("mtu: 1400"),
            "{words}"
        );
    }
    Ok(())
}

#[test]
fn the_hosts_own_firewall_sees_and_stops_what_a_slot_sends() -> Result<()> {
    let (world, daemon) = sending_host()?;
    let reply = daemon.attach("web", "t")?;
    let address = &reply.attachment.addresses[0];
    let slot = daemon.place(&reply);
    world
        .command("nft", ["-f", "-"])
        .input(format!(
            "table inet mine {{
           chain forward {{ type filter hook forward priority 0; policy accept;
             ip saddr {address} udp dport 7 counter comment \"out\"
             ip daddr {address} udp sport 7 counter comment \"back\"
             ip saddr {address} tcp dport 80 counter reject with tcp reset
             ip saddr {address} udp dport 8 counter reject
           }}
         }}\n"
        ))
        .run()?;
    let server = udp(&world.internet(), INTERNET_ADDRESS, 7)?;
    let client = udp(&slot, "0.0.0.0", 0)?;
    client.send_to(b"question", (INTERNET_ADDRESS, 7))?;
    let (_, from) = server.recv_from(&mut [0; 8])?;
    server.send_to(b"answer", from)?;
    client.recv(&mut [0; 8])?;
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    let refused = slot.within(|| Ok(TcpStream::connect((INTERNET_ADDRESS, 80)).err()))?;
    let refused = refused.context("it was let through")?;
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    client.connect((INTERNET_ADDRESS, 8))?;
    client.send(b"question")?;
    let refused = client.recv(&mut [0; 8]).err().context("answered")?;
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let rules = world.tool("nft list table inet mine").run()?;
    for counted in [
        "packets 1 bytes 36 comment \"out\"",
        "packets 1 bytes 34 comment \"back\"",
    ] {
        assert!(rules.contains(counted), "no '{counted}' in {rules}");
    }
    for seen in ["dport 80", "dport 8"] {
        let unseen = format!("{seen} counter packets 0");
        assert!(!rules.contains(&unseen), "{rules}");
    }
    Ok(())
}

#[test]
fn published_ports_keep_their_clients_addresses() -> Result<()> {
    let (world, daemon) = sending_host()?;
    let parameters = json!({"owner": "web", "publish": ["8080:80"]});
    let slot = daemon.place(&daemon.attach_with(&parameters)?);
    let _server = HttpServer::start(&slot, "[::]:80")?;
    let internet = world.internet();
    assert!(curl(&internet, HOST_ADDRESS, 8080)?.contains("192.0.2.1"));
    assert!(curl(&internet, HOST_ADDRESS6, 8080)?.contains("2001:db8:1::1"));
    curl(world.host(), "127.0.0.1", 8080)?;
    let other = daemon.place(&daemon.attach("other", "another")?);
    curl(&other, HOST_ADDRESS, 8080)?;
    let refused = daemon.attach_with(&json!({"owner": "dns", "publish": ["udp:20000:53"]}));
    let reason = format!("{:#}", refused.err().context("it was published")?);
    assert!(reason.contains("nat.ports"), "{reason}");
    Ok(())
}

#[test]
fn nobody_outside_opens_a_connection_to_a_slot() -> Result<()> {
    let (world, daemon) = sending_host()?;
    let reply = daemon.attach("web", "t")?;
    let slot = daemon.place(&reply);
    let _server = HttpServer::start(&slot, "[::]:80")?;
    let lan = lan(&world)?;
    let address = &reply.attachment.addresses[0];
    let internet = world.internet();
    let route = format!("ip route add {address} via {HOST_ADDRESS}");
    internet.tool(&route).run()?;
    let url = format!("http://{address}/");
    for outside in [&lan, &internet] {
        outside.command("curl", ["-sS", "-m1", &url]).fails()?;
    }
    assert!(daemon.dropped("pool-from-uplink")? >= 1);
    // The host itself does, and tenants stay apart.
    curl(world.host(), address, 80)?;
    let other = daemon.place(&daemon.attach("other", "another")?);
    other.command("curl", ["-sS", "-m1", &url]).fails()?;
    assert!(daemon.dropped("other-tenant")? >= 1);
    Ok(())
}

#[test]
fn the_host_is_a_router_for_slots_alone() -> Result<()> {
    let (world, daemon) = sending_host()?;
    let lan = lan(&world)?;
    let internet = world.internet();
    internet
        .tool("ip route add 192.168.7.0/24 via 192.0.2.2")
        .run()?;
    let ping = "ping -n -c1 -W1 192.168.7.2";
    assert_eq!(sysctl(&world, "ipv4/conf/eth0/forwarding")?, "1");
    internet.tool(ping).fails()?;
    // Its operator makes it one.
    world.tool("sysctl -qw net.ipv4.ip_forward=1").run()?;
    daemon.watch("the host forwards to others", |_| {
        internet.tool(ping).run().ok()
    })?;
    lan.tool("ping -n -c1 -W5 192.0.2.1").run().map(drop)
}

#[test]
fn a_detach_cuts_what_is_under_way_and_the_next_holder_hears_nothing() -> Result<()> {
    let world = World::new()?;
    configure(
        &world,
        "egress = \"host\"\n[refill]\nrecycle = \"verified\"\n",
    )?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "1"])?;
    daemon.wait_until_ready(1)?;
    let slot = slot(&daemon, "first")?;
    let (mut client, mut server) = connect(&world, &slot, INTERNET_ADDRESS, 9)?;
    exchange((&mut client, &mut server))?;
    let peer = udp(&world.internet(), INTERNET_ADDRESS, 7)?;
    let asking = udp(&slot, "0.0.0.0", 5353)?;
    asking.send_to(b"question", (INTERNET_ADDRESS, 7))?;
    let (_, shown) = peer.recv_from(&mut [0; 8])?;
    daemon.detach("first")?;
    server.write_all(b"anybody?")?;
    peer.send_to(b"late", shown)?;
    client.set_read_timeout(Some(SILENCE))?;
    let error = client.read(&mut [0; 8]).err().context("still connected")?;
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    asking.set_read_timeout(Some(SILENCE))?;
    let error = asking.recv(&mut [0; 8]).err().context("heard something")?;
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(daemon.dropped("destination-detached")? + daemon.dropped("forwarded-to-slot")? >= 2);
    drop((client, asking, slot));
    daemon.wait_until_ready(1)?;
    // The same port, to the same peer, from the same address: conntrack still knows the first holder's.
    let next = self::slot(&daemon, "second")?;
    let asking = udp(&next, "0.0.0.0", 5353)?;
    asking.send_to(b"question", (INTERNET_ADDRESS, 7))?;
    let (_, shown_now) = peer.recv_from(&mut [0; 8])?;
    // One in 16,384 gets the same port again.
    if shown != shown_now {
        peer.send_to(b"late", shown)?;
    }
    peer.send_to(b"answer", shown_now)?;
    let mut heard = [0; 8];
    let length = asking.recv(&mut heard)?;
    assert_eq!(&heard[..length], b"answer");
    asking.set_read_timeout(Some(SILENCE))?;
    assert!(asking.recv(&mut heard).is_err());
    Ok(())
}

#[test]
fn a_stop_leaves_no_table_and_no_sysctl() -> Result<()> {
    let world = World::new()?;
    let names = [
        "ipv4/conf/eth0/forwarding",
        "ipv6/conf/eth0/force_forwarding",
    ];
    configure(&world, "egress = \"host\"\n")?;
    let mut daemon = start(&world)?;
    assert!(tables(&world)?.contains("inet pcpm"));
    for name in names {
        assert_eq!(sysctl(&world, name)?, "1", "{name}");
    }
    daemon.stop(PATIENCE)?;
    assert_eq!(tables(&world)?, "");
    for name in names {
        assert_eq!(sysctl(&world, name)?, "0", "{name}");
    }
    // Killed, and cleaned up after.
    let mut daemon = start(&world)?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE)?;
    let cleanup = [
        pcpm_tests::binary("pcpmd")?.display().to_string(),
        "--cleanup".to_owned(),
    ];
    world.command(&cleanup[0], [cleanup[1].as_str()]).run()?;
    assert_eq!(tables(&world)?, "");
    for name in names {
        assert_eq!(sysctl(&world, name)?, "0", "{name}");
    }
    assert!(!world.path(Path::new("/run/pcpm/forwarding")).exists());
    Ok(())
}

#[test]
fn connections_outlive_the_daemon() -> Result<()> {
    let (world, mut daemon) = sending_host()?;
    let slot = slot(&daemon, "web")?;
    let mut connections = Vec::new();
    for (peer, port) in PEERS.into_iter().zip([9, 10]) {
        connections.push(connect(&world, &slot, peer, port)?);
    }
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE)?;
    for (client, server) in &mut connections {
        exchange((client, server))?;
    }
    let _next = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "4"])?;
    for (client, server) in &mut connections {
        exchange((client, server))?;
    }
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    curl(&slot, INTERNET_ADDRESS, 80).map(drop)
}

#[test]
fn a_table_that_somebody_flushes_is_written_again() -> Result<()> {
    let (world, daemon) = sending_host()?;
    let slot = slot(&daemon, "web")?;
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    let url = format!("http://{INTERNET_ADDRESS}/");
    let (mut is_flushed, mut is_told) = (false, false);
    daemon.watch(
        "the slot reaches the world again, and that is told",
        |frame| {
            if !is_flushed {
                world.tool("nft flush ruleset").run().ok()?;
                is_flushed = true;
            }
            is_told |= frame
                .events
                .iter()
                .any(|event| event.kind == "repaired" && event.message.contains("table inet pcpm"));
            let reached = slot.command("curl", ["-sS", "-m1", &url]).run();
            (is_told && reached.is_ok()).then_some(())
        },
    )
}

#[test]
fn attachments_live_on_when_the_way_out_changes() -> Result<()> {
    let (world, mut daemon) = sending_host()?;
    let slot = slot(&daemon, "web")?;
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    let peer = udp(&world.internet(), INTERNET_ADDRESS, 7)?;
    let client = udp(&slot, "0.0.0.0", 0)?;
    for settings in ["", "egress = \"host\"\n"] {
        daemon.signal(Signal::SIGKILL)?;
        daemon.wait(PATIENCE)?;
        configure(&world, settings)?;
        daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml", "--capacity", "4"])?;
        assert_eq!(tables(&world)?.contains("inet pcpm"), !settings.is_empty());
        client.send_to(b"question", (INTERNET_ADDRESS, 7))?;
        let (_, shown) = peer.recv_from(&mut [0; 8])?;
        assert_eq!(shown.ip().to_string(), HOST_ADDRESS);
        peer.send_to(b"answer", shown)?;
        client.recv(&mut [0; 8])?;
        curl(&slot, INTERNET_ADDRESS6, 80)?;
    }
    let _: AttachReply = daemon.attach("web", "t")?;
    Ok(())
}

#[test]
fn a_table_of_somebody_else_is_left_alone() -> Result<()> {
    let world = World::new()?;
    configure(&world, "egress = \"host\"\n")?;
    world.tool("nft add table inet pcpm").run()?;
    let refused = world.spawn_daemon(&["--config", "/run/pcpmd.toml"]);
    let reason = format!("{:#}", refused.err().context("it started")?);
    assert!(reason.contains("without our comment"), "{reason}");
    assert!(tables(&world)?.contains("inet pcpm"));
    Ok(())
}

#[test]
fn routed_ipv6_goes_through_the_hosts_stack_as_it_is() -> Result<()> {
    let world = World::new()?;
    let route = format!("ip -6 route add 2001:db8:7::/64 via {HOST_ADDRESS6}");
    world.internet().tool(&route).run()?;
    configure(
        &world,
        "egress = \"host\"\npool_cidr6 = \"2001:db8:7::/64\"\n[ipv6]\negress = \"routed\"\n",
    )?;
    let daemon = start(&world)?;
    let reply = daemon.attach("web", "t")?;
    let slot = daemon.place(&reply);
    let own = &reply.attachment.addresses[1];
    let _server = HttpServer::start(&world.internet(), "[::]:80")?;
    assert!(curl(&slot, INTERNET_ADDRESS6, 80)?.contains(own.as_str()));
    assert!(curl(&slot, INTERNET_ADDRESS, 80)?.contains(HOST_ADDRESS));
    let _inside = HttpServer::start(&slot, "[::]:80")?;
    let url = format!("http://[{own}]/");
    world
        .internet()
        .command("curl", ["-gsS", "-m1", &url])
        .fails()?;
    Ok(())
}
