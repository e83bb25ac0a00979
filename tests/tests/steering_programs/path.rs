//! The path between a slot and the world, with a router on it, explored by real tools: traceroute,
//! path MTU discovery, ports that nobody serves.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_tests::{HOST_ADDRESS, INTERNET_ADDRESS, PATIENCE, Place};

use crate::network::{FAR, NEAR, NEXT, Network};
use crate::packet::Packet;
use crate::traffic::transfer;

const GATEWAY: &str = "169.254.1.1";
const ROUTER: &str = "192.0.2.1";
/// Behind the router's narrow link.
const SERVER: &str = "203.0.113.2";
const NARROW: usize = 1200;

/// The internet's machine becomes a router: behind it, on a link with a small MTU, a server.
fn with_router(network: &Network) -> Result<Place> {
    let internet = network.world.internet();
    network.world.tool("ip netns add server").run()?;
    let server = network.world.slot("/run/netns/server");
    internet.tool("sysctl -qw net.ipv4.ip_forward=1").run()?;
    // One error a second and destination is the default, with a small reserve.
    internet
        .tool("sysctl -qw net.ipv4.icmp_ratelimit=0")
        .run()?;
    let links = format!(
        "link add narrow mtu {NARROW} type veth peer name eth0 mtu {NARROW} netns server\n\
         addr add 203.0.113.1/24 dev narrow\nlink set narrow up\n"
    );
    // The namespace is named on the host.
    let named = internet.command("ip", ["-batch", "-"]).input(links);
    named.run()?;
    let settings = format!(
        "link set lo up\nlink set eth0 up\naddr add {SERVER}/24 dev eth0\n\
         route add default via 203.0.113.1\n"
    );
    server
        .command("ip", ["-batch", "-"])
        .input(settings)
        .run()?;
    Ok(server)
}

#[test]
fn traceroute_shows_every_hop() -> Result<()> {
    let network = Network::new()?;
    let _server = with_router(&network)?;
    for slot in [NEAR, FAR] {
        for method in ["-U", "-I", "-T"] {
            let trace = format!("traceroute -n -q1 -w10 -m5 {method} {SERVER}");
            let hops = network.slot(slot).tool(&trace).hops()?;
            assert_eq!(hops, [GATEWAY, ROUTER, SERVER], "{method}");
        }
    }
    Ok(())
}

#[test]
fn a_packet_whose_time_is_over_is_answered_and_not_forwarded() -> Result<()> {
    let network = Network::new()?;
    for forwards in [0, 1] {
        let setting = format!("sysctl -qw net.ipv4.ip_forward={forwards}");
        network.world.tool(&setting).run()?;
        // Setting it sets it for every link.
        network
            .world
            .tool("sysctl -qw net.ipv4.conf.pcpm0.forwarding=1")
            .run()?;
        let internet = network.world.internet();
        let before = received(&internet)?;
        let ping = format!("ping -n -c1 -W2 -t1 {INTERNET_ADDRESS}");
        let output = network.slot(NEAR).tool(&ping).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let expected = format!("From {GATEWAY} icmp_seq=1 Time to live exceeded");
        assert!(text.contains(&expected), "{text}");
        assert_eq!(received(&internet)?, before, "forwarded all the same");
    }
    let index = usize::try_from(DropReason::TtlExpired as u32)?;
    assert_eq!(network.programs.drops()?[index], 2);
    Ok(())
}

/// What arrived at a place's IP.
fn received(place: &Place) -> Result<String> {
    place.tool("nstat -asz IpInReceives").run()
}

#[test]
fn the_path_mtu_is_found() -> Result<()> {
    let network = Network::new()?;
    let server = with_router(&network)?;
    let near = network.slot(NEAR);
    // The first is too big, which the router says; the second is not sent any more.
    let ping = format!("ping -n -c2 -i0.2 -W2 -M do -s1400 {SERVER}");
    let output = near.tool(&ping).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let told = format!("From {ROUTER} icmp_seq=1 Frag needed and DF set (mtu = {NARROW})");
    assert!(text.contains(&told), "{text}");
    let report = near.tool(&format!("tracepath -n -m5 {SERVER}")).run()?;
    assert!(report.contains(&format!("pmtu {NARROW}")), "{report}");
    assert!(report.contains(&format!("{SERVER} ")), "{report}");
    let far = network.slot(FAR);
    for back in [false, true] {
        transfer(&far, &server, SERVER, back)?;
    }
    Ok(())
}

/// Connects `from` to a port that nobody serves; the error comes back as that of the socket.
fn is_refused(from: &Place, address: &str) -> Result<bool> {
    let socket = from.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    socket.connect((address, 9))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"anybody there?")?;
    let received = socket.recv(&mut [0; 16]);
    Ok(received.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
}

#[test]
fn a_port_that_nobody_serves_refuses() -> Result<()> {
    let network = Network::new()?;
    let [near, host] = [&network.slot(NEAR), network.world.host()];
    let address = |slot| Packet::address_of(slot).to_string();
    assert!(is_refused(near, INTERNET_ADDRESS)?, "in the world");
    assert!(is_refused(near, &address(NEXT))?, "in the same hub");
    assert!(is_refused(near, &address(FAR))?, "in another hub");
    assert!(is_refused(host, &address(FAR))?, "seen from the host");
    Ok(())
}

#[test]
fn the_world_hears_that_a_slot_is_not_interested_any_more() -> Result<()> {
    let network = Network::new()?;
    let internet = network.world.internet();
    let server = internet.within(|| Ok(UdpSocket::bind((INTERNET_ADDRESS, 53))?))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let near = network.slot(NEAR);
    let client = near.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    client.send_to(b"question", (INTERNET_ADDRESS, 53))?;
    let (_, from) = server.recv_from(&mut [0; 16])?;
    assert_eq!(from.ip().to_string(), HOST_ADDRESS);
    drop(client);
    server.connect(from)?;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    // A child that another test is about to start may have a copy of the client's socket until then.
    let deadline = Instant::now() + PATIENCE;
    loop {
        server.send(b"too late")?;
        let error = server.recv(&mut [0; 16]).err().context("an error")?;
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing but {error}");
    }
}
