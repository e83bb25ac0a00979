//! The host's own programs ask for published ports.

use std::net::{TcpStream, UdpSocket};
use std::time::Instant;

use anyhow::Result;
use pcpm_tests::{HOST_ADDRESS, HttpServer, PATIENCE, World};

use crate::publish::{attach, curl, echo, no_curl, publish, refused, udp};

#[test]
fn a_port_answers_on_every_address_of_the_host() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["8080:80"])?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    for host in [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        HOST_ADDRESS,
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:192.0.2.2]",
        "[::]",
    ] {
        let seen = curl(world.host(), &format!("http://{host}:8080/"))?;
        assert!(seen.starts_with("169.254.1.1:"), "{host}: {seen}");
    }
    Ok(())
}

#[test]
fn a_port_answers_on_an_address_as_long_as_the_host_has_it() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["8080:80"])?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    let url = "http://192.0.2.99:8080/";
    for link in ["eth0", "lo"] {
        let change = |verb: &str| {
            world
                .tool(&format!("ip addr {verb} 192.0.2.99/24 dev {link}"))
                .run()
        };
        let deadline = Instant::now() + PATIENCE;
        change("add")?;
        while curl(world.host(), url).is_err() {
            assert!(Instant::now() < deadline, "on {link}");
        }
        change("del")?;
        while curl(world.host(), url).is_ok() {
            assert!(Instant::now() < deadline, "off {link}");
        }
    }
    Ok(())
}

#[test]
fn sockets_are_told_what_they_asked_for() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["8080:80", "udp:53:5353"])?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    let server = udp(&slot.place, "0.0.0.0:5353")?;
    for asked in ["127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", "[::1]:8080"] {
        let stream = world.host().within(|| Ok(TcpStream::connect(asked)?))?;
        assert_eq!(stream.peer_addr()?, asked.parse()?);
    }
    for (own, asked) in [
        ("0.0.0.0:0", "127.0.0.1:53"),
        ("[::]:0", "[::ffff:127.0.0.1]:53"),
    ] {
        for connected in [false, true] {
            let client: UdpSocket = udp(world.host(), own)?;
            if connected {
                client.connect(asked)?;
                client.send(b"question")?;
                assert_eq!(client.peer_addr()?, asked.parse()?);
            } else {
                client.send_to(b"question", asked)?;
            }
            echo(&server)?;
            let mut answer = [0; 16];
            let (length, from) = client.recv_from(&mut answer)?;
            let answer = (&answer[..length], from);
            assert_eq!(answer, (&b"question"[..], asked.parse()?));
        }
    }
    Ok(())
}

#[test]
fn a_connected_socket_does_not_get_past_the_end_of_the_port() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["udp:53:5353"])?;
    let server = udp(&slot.place, "0.0.0.0:5353")?;
    let client = udp(world.host(), "0.0.0.0:0")?;
    client.connect("127.0.0.1:53")?;
    client.send(b"one")?;
    echo(&server)?;
    publish(&daemon, "web", &[])?;
    client.send(b"two")?;
    assert!(echo(&server).is_err());
    assert_eq!(daemon.dropped("port-withdrawn")?, 1);
    Ok(())
}

#[test]
fn only_sockets_of_the_host_are_led_to_slots() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["8080:80"])?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    for elsewhere in [world.internet(), slot.place.clone()] {
        refused(&elsewhere, "http://127.0.0.1:8080/")?;
    }
    Ok(())
}

#[test]
fn a_port_published_on_one_address_answers_only_there() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["127.0.0.1:8080:80"])?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    curl(world.host(), "http://127.0.0.1:8080/")?;
    for other in ["127.0.0.2", HOST_ADDRESS, "[::1]"] {
        refused(world.host(), &format!("http://{other}:8080/"))?;
    }
    no_curl(&world.internet(), "http://192.0.2.2:8080/")?;
    Ok(())
}

/// What has such a source does not leave the host.
#[test]
fn sockets_bound_to_loopback_are_refused() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t", &["8080:80"])?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    let bound = world.tool("curl -sS -m3 --interface 127.0.0.1 http://127.0.0.1:8080/");
    assert_eq!(bound.fails()?.0, 7);
    curl(world.host(), "http://127.0.0.1:8080/")?;
    Ok(())
}
