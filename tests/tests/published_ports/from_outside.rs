//! Clients in the internet ask for published ports.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use pcpm_tests::{HOST_ADDRESS, HttpServer, INTERNET_ADDRESS, PATIENCE, Place, World, serve_iperf};

use crate::publish::{attach, curl, echo, no_curl, publish, refused, udp};

#[test]
fn the_server_sees_the_client_and_the_client_the_host() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["8080:80", "udp:53:5353"])?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    let seen = curl(&world.internet(), "http://192.0.2.2:8080/")?;
    assert!(seen.starts_with("192.0.2.1:"), "{seen}");
    let server = udp(&slot.place, "0.0.0.0:5353")?;
    let client = udp(&world.internet(), &format!("{INTERNET_ADDRESS}:4444"))?;
    client.connect((HOST_ADDRESS, 53))?;
    client.send(b"question")?;
    assert_eq!(echo(&server)?, format!("{INTERNET_ADDRESS}:4444"));
    // A connected socket takes answers from its peer only.
    assert_eq!(client.recv(&mut [0; 16])?, 8);
    Ok(())
}

#[test]
fn two_addresses_of_the_host_are_two_places() -> Result<()> {
    let world = World::new()?;
    world.tool("ip addr add 192.0.2.3/24 dev eth0").run()?;
    let daemon = world.pool_of(4)?;
    let publish = ["192.0.2.2:80:81", "192.0.2.3:80:82", "9090:82"];
    let slot = attach(&daemon, "web", "t", &publish)?;
    let _first = HttpServer::start(&slot.place, "0.0.0.0:81")?;
    curl(&world.internet(), "http://192.0.2.2:80/")?;
    no_curl(&world.internet(), "http://192.0.2.3:80/")?;
    let _second = HttpServer::start(&slot.place, "0.0.0.0:82")?;
    curl(&world.internet(), "http://192.0.2.3:80/")?;
    for host in ["192.0.2.2", "192.0.2.3"] {
        curl(&world.internet(), &format!("http://{host}:9090/"))?;
    }
    Ok(())
}

#[test]
fn a_large_datagram_comes_and_goes_in_fragments() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["udp:53:5353"])?;
    let server = udp(&slot.place, "0.0.0.0:5353")?;
    let client = udp(&world.internet(), "0.0.0.0:0")?;
    client.connect((HOST_ADDRESS, 53))?;
    let question: Vec<u8> = (0..4000_u32).flat_map(u32::to_be_bytes).collect();
    client.send(&question)?;
    echo(&server)?;
    let mut answer = vec![0; 20_000];
    let length = client.recv(&mut answer)?;
    assert!(answer[..length] == question);
    Ok(())
}

#[test]
fn nobody_listening_is_told_at_once() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let _slot = attach(&daemon, "web", "t", &["8080:80", "udp:53:5353"])?;
    refused(&world.internet(), "http://192.0.2.2:8080/")?;
    let client = udp(&world.internet(), "0.0.0.0:0")?;
    client.connect((HOST_ADDRESS, 53))?;
    client.send(b"question")?;
    let refused = client.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    Ok(())
}

/// A connection of the internet to `port` of the host, and its other end at `listener`.
fn connection(world: &World, listener: &TcpListener, port: u16) -> Result<[TcpStream; 2]> {
    let client = world
        .internet()
        .within(|| Ok(TcpStream::connect((HOST_ADDRESS, port))?))?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    Ok([client, server])
}

/// Whether nothing comes within a second.
fn hears_nothing(mut end: &TcpStream) -> Result<bool> {
    end.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(end.read_exact(&mut [0]).is_err())
}

fn listen(place: &Place) -> Result<TcpListener> {
    place.within(|| Ok(TcpListener::bind("0.0.0.0:80")?))
}

#[test]
fn a_port_that_moves_takes_its_connections_from_the_first_packet() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    let first = attach(&daemon, "first", "t", &["8080:80"])?;
    let [mut client, mut server] = connection(&world, &listen(&first.place)?, 8080)?;
    client.write_all(b"one")?;
    server.read_exact(&mut [0; 3])?;
    daemon.detach("first")?;
    let second = attach(&daemon, "second", "u", &["8080:80"])?;
    let listener = listen(&second.place)?;
    client.write_all(b"two")?;
    assert!(hears_nothing(&server)?);
    // The host does not know the connection, and says so.
    assert!(hears_nothing(&client)?);
    let [mut client, mut server] = connection(&world, &listener, 8080)?;
    client.write_all(b"new")?;
    server.read_exact(&mut [0; 3])?;
    Ok(())
}

#[test]
fn a_withdrawn_port_cuts_its_connections_and_no_others() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["8080:80", "9090:80"])?;
    let listener = listen(&slot.place)?;
    let [mut cut, mut cut_server] = connection(&world, &listener, 8080)?;
    let [mut kept, mut kept_server] = connection(&world, &listener, 9090)?;
    publish(&daemon, "web", &["9090:80"])?;
    cut.write_all(b"hello")?;
    assert!(hears_nothing(&cut_server)?);
    kept.write_all(b"hello")?;
    kept_server.read_exact(&mut [0; 5])?;
    refused(&world.internet(), "http://192.0.2.2:8080/")?;
    // What the slot has to say about it does not get out under another port.
    cut_server.write_all(b"hello")?;
    let deadline = Instant::now() + PATIENCE;
    while daemon.dropped("port-withdrawn")? == 0 {
        assert!(Instant::now() < deadline);
    }
    Ok(())
}

#[test]
fn ports_of_the_translation_are_not_taken_from_those_published() -> Result<()> {
    let world = World::new()?;
    let config = "[nat]\nports = \"2000-2001\"\n";
    std::fs::write(world.path("/run/pcpm.toml"), config)?;
    let daemon = world.spawn_daemon(&["--capacity", "2", "--config", "/run/pcpm.toml"])?;
    daemon.wait_until_ready(2)?;
    let slot = attach(&daemon, "web", "t", &["2000:80"])?;
    let _server = HttpServer::start(&world.internet(), "0.0.0.0:80")?;
    let seen = curl(&slot.place, &format!("http://{INTERNET_ADDRESS}/"))?;
    assert_eq!(seen, format!("{HOST_ADDRESS}:2001"));
    Ok(())
}

#[test]
fn busy_connections_run_in_both_directions() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["5201:5201"])?;
    for direction in [&[][..], &["-R"]] {
        let mut server = serve_iperf(&slot.place)?;
        let arguments = ["-J", "-t", "3", "-c", HOST_ADDRESS];
        let client = world.internet();
        let report = client
            .command("iperf3", arguments.iter().chain(direction))
            .json()?;
        let received = report["end"]["sum_received"]["bytes"].as_u64();
        assert!(received.unwrap_or_default() >= 150_000_000, "{report}");
        assert!(server.wait(PATIENCE)?.success());
    }
    Ok(())
}
