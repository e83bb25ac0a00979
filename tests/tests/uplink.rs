//! The host has ways out, one or several, and they may change while the daemon runs; slots follow.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use pcpm_tests::{
    Daemon, HOST_ADDRESS, HOST_ADDRESS6, HttpServer, INTERNET_ADDRESS, INTERNET_ADDRESS6, PATIENCE,
    Place, World,
};
use serde_json::json;

/// The host's address on its second uplink.
const SECOND_ADDRESS: &str = "203.0.113.2";
const SECOND_ADDRESS6: &str = "2001:db8:3::2";
/// Another address in the internet.
const OTHER_SERVER: &str = "198.51.100.2";

const SECOND_LINK: &str = "link add eth1 mtu 1500 type veth peer name eth1 netns internet\n";
const SECOND_UPLINK: &str = "\
addr add 203.0.113.2/24 dev eth1
link set eth1 up
route add default via 203.0.113.1 dev eth1 metric 200
";
const SECOND_UPLINK6: &str = "\
addr add 2001:db8:3::2/64 dev eth1 nodad
link set eth1 up
route replace default via 2001:db8:3::1 dev eth1
";
const INTERNET_END: &str = "\
addr add 198.51.100.2/32 dev lo
addr add 203.0.113.1/24 dev eth1
addr add 2001:db8:3::1/64 dev eth1 nodad
link set eth1 up
";

fn on_host(world: &World, changes: &str) -> Result<()> {
    let batch = world.command("ip", ["-batch", "-"]).input(changes);
    batch.run().map(drop)
}

/// Another link to the internet, whose end at the host is set up by `host_end`.
fn add_second_link(world: &World, host_end: &str) -> Result<()> {
    on_host(world, SECOND_LINK)?;
    let internet = world.internet_command("ip", ["-batch", "-"]);
    internet.input(INTERNET_END).run()?;
    on_host(world, host_end)
}

/// Takes the default route through the first uplink away. The datapath asks for a route once a jiffy,
/// which is 10 ms at most.
fn lose_first_way_out(world: &World) -> Result<()> {
    world.tool("ip route del default via 192.0.2.1").run()?;
    thread::sleep(Duration::from_millis(20));
    Ok(())
}

/// Waits until the daemon uses these addresses to the world.
fn wait_for_uplinks(daemon: &Daemon, addresses: &[&str]) -> Result<()> {
    daemon.watch(&format!("the uplinks are {addresses:?}"), |_| {
        let uplinks = daemon.status().ok()?.uplinks;
        let now: Vec<_> = uplinks.iter().map(|uplink| &uplink.address).collect();
        (now == addresses).then_some(())
    })
}

fn reaches_the_world(slot: &Place) -> Result<()> {
    let ping = format!("ping -c1 -W5 {INTERNET_ADDRESS}");
    slot.tool(&ping).run().map(drop)
}

fn udp(place: &Place, address: &str) -> Result<UdpSocket> {
    let socket = place.within(|| Ok(UdpSocket::bind(address)?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The address that `server` sees `client` under, after an exchange with it.
fn seen_from(client: &UdpSocket, server: &UdpSocket) -> Result<String> {
    client.send_to(b"question", server.local_addr()?)?;
    let (_, from) = server.recv_from(&mut [0; 16]).context("no question")?;
    server.send_to(b"answer", from)?;
    client.recv(&mut [0; 16]).context("no answer")?;
    Ok(from.ip().to_string())
}

#[test]
fn another_address_of_the_uplink_is_used_at_once() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    reaches_the_world(&slot)?;
    world.tool("ip address del 192.0.2.2/24 dev eth0").run()?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS6])?;
    world.tool("ip address add 192.0.2.7/24 dev eth0").run()?;
    world.tool("ip route add default via 192.0.2.1").run()?;
    wait_for_uplinks(&daemon, &["192.0.2.7"])?;
    reaches_the_world(&slot)
}

#[test]
fn an_uplink_that_is_replaced_by_another_is_followed() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    world.tool("ip link set eth0 down").run()?;
    wait_for_uplinks(&daemon, &[])?;
    world.tool("ip link set eth0 name wan0").run()?;
    world.tool("ip link set wan0 up").run()?;
    world.tool("ip route add default via 192.0.2.1").run()?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS])?;
    reaches_the_world(&slot)
}

#[test]
fn an_interface_that_vanished_and_came_back_is_an_uplink_again() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    reaches_the_world(&slot)?;
    let index = world.tool("cat /sys/class/net/eth0/ifindex").run()?;
    // In one go, with the same name, number and addresses: nothing but the program is another.
    on_host(
        &world,
        &format!(
            "link del eth0
             link add eth0 index {} mtu 1500 type veth peer name eth0 netns internet
             addr add 192.0.2.2/24 dev eth0
             addr add 2001:db8:1::2/64 dev eth0 nodad
             link set eth0 up
             route add default via 192.0.2.1 dev eth0
             route add default via 2001:db8:1::1 dev eth0\n",
            index.trim()
        ),
    )?;
    let internet = "addr add 192.0.2.1/24 dev eth0\nlink set eth0 up\n";
    let batch = world.internet_command("ip", ["-batch", "-"]);
    batch.input(internet).run()?;
    let ping = format!("ping -c1 -W1 {INTERNET_ADDRESS}");
    daemon.watch("the slot reaches the world again", |_| {
        slot.tool(&ping).run().ok()
    })?;
    Ok(())
}

#[test]
fn packets_leave_through_the_uplink_that_the_routing_table_says() -> Result<()> {
    let world = World::new()?;
    add_second_link(&world, SECOND_UPLINK)?;
    world
        .tool("ip route add 198.51.100.2 via 203.0.113.1 dev eth1")
        .run()?;
    let daemon = world.pool_of(2)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS, SECOND_ADDRESS])?;
    let first = daemon.status()?.uplink.context("no first uplink")?;
    assert_eq!(first.interface, "eth0");
    let slot = daemon.place(&daemon.attach("web", "t")?);
    let client = udp(&slot, "0.0.0.0:0")?;
    let server = udp(&world.internet(), &format!("{INTERNET_ADDRESS}:7"))?;
    let other = udp(&world.internet(), &format!("{OTHER_SERVER}:7"))?;
    assert_eq!(seen_from(&client, &server)?, HOST_ADDRESS);
    assert_eq!(seen_from(&client, &other)?, SECOND_ADDRESS);
    Ok(())
}

#[test]
fn a_rule_of_the_host_sends_one_slot_through_another_uplink() -> Result<()> {
    let world = World::new()?;
    add_second_link(
        &world,
        "addr add 203.0.113.2/24 dev eth1\nlink set eth1 up\n",
    )?;
    let daemon = world.pool_of(2)?;
    let attached = daemon.attach("web", "t")?;
    let address = &attached.attachment.addresses[0];
    on_host(
        &world,
        &format!(
            "route add default via 203.0.113.1 dev eth1 table 100\n\
             rule add from {address} lookup 100\n"
        ),
    )?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS, SECOND_ADDRESS])?;
    let server = udp(&world.internet(), &format!("{INTERNET_ADDRESS}:7"))?;
    let client = udp(&daemon.place(&attached), "0.0.0.0:0")?;
    assert_eq!(seen_from(&client, &server)?, SECOND_ADDRESS);
    let other = daemon.place(&daemon.attach("other", "t")?);
    assert_eq!(
        seen_from(&udp(&other, "0.0.0.0:0")?, &server)?,
        HOST_ADDRESS
    );
    Ok(())
}

#[test]
fn a_socket_whose_route_moves_goes_on_from_the_other_uplinks_address() -> Result<()> {
    let world = World::new()?;
    add_second_link(&world, SECOND_UPLINK)?;
    let daemon = world.pool_of(2)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS, SECOND_ADDRESS])?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    let client = udp(&slot, "0.0.0.0:0")?;
    let server = udp(&world.internet(), &format!("{INTERNET_ADDRESS}:7"))?;
    assert_eq!(seen_from(&client, &server)?, HOST_ADDRESS);
    lose_first_way_out(&world)?;
    assert_eq!(seen_from(&client, &server)?, SECOND_ADDRESS);
    Ok(())
}

#[test]
fn a_tcp_connection_whose_route_moves_ends_at_once() -> Result<()> {
    let world = World::new()?;
    add_second_link(&world, SECOND_UPLINK)?;
    let daemon = world.pool_of(2)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS, SECOND_ADDRESS])?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    let internet = world.internet();
    let server = internet.within(|| Ok(TcpListener::bind((INTERNET_ADDRESS, 7))?))?;
    let mut client = slot.within(|| Ok(TcpStream::connect((INTERNET_ADDRESS, 7))?))?;
    let (_accepted, from) = server.accept()?;
    assert_eq!(from.ip().to_string(), HOST_ADDRESS);
    lose_first_way_out(&world)?;
    client.write_all(b"still there?")?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let ended = client.read(&mut [0; 16]).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    Ok(())
}

#[test]
fn an_uplink_with_ipv6_only_is_one() -> Result<()> {
    let world = World::new()?;
    add_second_link(&world, SECOND_UPLINK6)?;
    let daemon = world.pool_of(2)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS, SECOND_ADDRESS6])?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    let server = udp(&world.internet(), &format!("[{INTERNET_ADDRESS6}]:7"))?;
    let client = udp(&slot, "[::]:0")?;
    assert_eq!(seen_from(&client, &server)?, SECOND_ADDRESS6);
    reaches_the_world(&slot)
}

#[test]
fn named_uplinks_may_come_later() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "2", "--uplink", "eth0,eth1"])?;
    daemon.wait_until_ready(2)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS])?;
    add_second_link(&world, SECOND_UPLINK)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS, SECOND_ADDRESS])?;
    world.tool("ip link del eth1").run()?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS])?;
    let pins = world.tool("ls /sys/fs/bpf/pcpm").run()?;
    let links = pins.lines().filter(|pin| pin.starts_with("from_uplink"));
    assert_eq!(links.count(), 1, "{pins}");
    Ok(())
}

#[test]
fn a_new_daemon_takes_over_every_uplink_of_a_killed_one() -> Result<()> {
    let world = World::new()?;
    add_second_link(&world, SECOND_UPLINK)?;
    let mut killed = world.pool_of(2)?;
    wait_for_uplinks(&killed, &[HOST_ADDRESS, SECOND_ADDRESS])?;
    killed.signal(nix::sys::signal::Signal::SIGKILL)?;
    killed.wait(PATIENCE)?;
    world.tool("ip route del default via 203.0.113.1").run()?;
    world.tool("ip route del default via 2001:db8:1::1").run()?;
    let daemon = world.pool_of(2)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS])?;
    let pins = world.tool("ls /sys/fs/bpf/pcpm").run()?;
    let links = pins.lines().filter(|pin| pin.starts_with("from_uplink"));
    assert_eq!(links.count(), 1, "{pins}");
    let slot = daemon.place(&daemon.attach("web2", "t")?);
    reaches_the_world(&slot)
}

#[test]
fn published_ports_answer_on_every_uplink_through_which_they_are_asked() -> Result<()> {
    let world = World::new()?;
    add_second_link(&world, SECOND_UPLINK)?;
    // The internet takes from a link only what it would send there.
    on_host(
        &world,
        "route add default via 203.0.113.1 dev eth1 table 100\n\
         rule add from 203.0.113.2 lookup 100\n",
    )?;
    for link in ["all", "eth0", "eth1"] {
        let strict = format!("net.ipv4.conf.{link}.rp_filter=1");
        world.internet_command("sysctl", ["-qw", &strict]).run()?;
    }
    let daemon = world.pool_of(2)?;
    wait_for_uplinks(&daemon, &[HOST_ADDRESS, SECOND_ADDRESS])?;
    let parameters = json!({"owner": "web", "publish": ["8080:80", "udp:53:53"]});
    let slot = daemon.place(&daemon.attach_with(&parameters)?);
    let _server = HttpServer::start(&slot, "0.0.0.0:80")?;
    for host in [HOST_ADDRESS, SECOND_ADDRESS] {
        // The route back to this client leads out of the first uplink, but for answers from the second's
        // address.
        let url = format!("http://{host}:8080/");
        let curl = ["-sS", "-m5", "--interface", INTERNET_ADDRESS, &url];
        let seen = world.internet_command("curl", curl).run()?;
        assert!(seen.starts_with(INTERNET_ADDRESS), "{seen}");
    }
    Ok(())
}

/// A slot with the MTU of the first uplink, and the second, a narrower one, in its place.
fn behind_a_narrow_uplink(world: &World) -> Result<(Daemon, Place)> {
    let daemon = world.pool_of(2)?;
    let slot = daemon.place(&daemon.attach("web", "t")?);
    add_second_link(
        world,
        &format!(
            "{SECOND_UPLINK}{SECOND_UPLINK6}\
             link set eth1 mtu {NARROW}\n\
             route del default via 192.0.2.1\n"
        ),
    )?;
    let narrow = format!("ip link set eth1 mtu {NARROW}");
    world.internet().tool(&narrow).run()?;
    wait_for_uplinks(&daemon, &[SECOND_ADDRESS])?;
    Ok((daemon, slot))
}

const NARROW: usize = 1300;

#[test]
fn a_packet_too_large_for_a_new_uplink_is_answered() -> Result<()> {
    let world = World::new()?;
    let (_daemon, slot) = behind_a_narrow_uplink(&world)?;
    let cases = [
        (
            INTERNET_ADDRESS,
            format!("Frag needed and DF set (mtu = {NARROW})"),
        ),
        (INTERNET_ADDRESS6, format!("Packet too big: mtu={NARROW}")),
    ];
    for (server, told) in cases {
        let ping = format!("ping -n -c2 -i0.2 -W2 -M do -s1400 {server}");
        let output = slot.tool(&ping).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&told), "{text}");
        let report = slot.tool(&format!("tracepath -n -m3 {server}")).run()?;
        assert!(report.contains(&format!("pmtu {NARROW}")), "{report}");
    }
    Ok(())
}

#[test]
fn who_sends_fragments_too_large_for_a_new_uplink_is_told() -> Result<()> {
    let world = World::new()?;
    let (_daemon, slot) = behind_a_narrow_uplink(&world)?;
    for server in [INTERNET_ADDRESS, INTERNET_ADDRESS6] {
        let ping = format!("ping -n -c3 -i0.2 -W2 -s4000 {server}");
        let output = slot.tool(&ping).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("4008 bytes from"), "{text}");
    }
    Ok(())
}

#[test]
fn a_transfer_over_a_narrow_uplink_arrives_whole() -> Result<()> {
    let world = World::new()?;
    let (_daemon, slot) = behind_a_narrow_uplink(&world)?;
    for server in [
        format!("{INTERNET_ADDRESS}:7"),
        format!("[{INTERNET_ADDRESS6}]:7"),
    ] {
        let internet = world.internet();
        let listener = internet.within(|| Ok(TcpListener::bind(&server)?))?;
        let mut client = slot.within(|| Ok(TcpStream::connect(&server)?))?;
        client.set_write_timeout(Some(PATIENCE))?;
        let (mut accepted, _) = listener.accept()?;
        let sender = thread::spawn(move || client.write_all(&vec![7; LENGTH]));
        let mut received = Vec::new();
        accepted.set_read_timeout(Some(PATIENCE))?;
        accepted.read_to_end(&mut received)?;
        sender.join().expect("no panic")?;
        assert_eq!(received.len(), LENGTH);
    }
    Ok(())
}

const LENGTH: usize = 3_000_000;
