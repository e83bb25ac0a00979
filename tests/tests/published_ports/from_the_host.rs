//! The host's own programs ask for published ports.

use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pcpm_tests::{HOST_ADDRESS, HttpServer, PATIENCE, Place, World};

use crate::publish::{TCP, UDP, attach, publish, withdraw_all};

fn curl(from: &Place, url: &str) -> Result<String> {
    from.command("curl", ["-sS", "-m3", url]).run()
}

#[test]
fn it_answers_on_every_address_of_the_host() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    publish(&world, &slot, TCP, None, 8080, 80)?;
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
        let seen = curl(world.host(), &format!("http://{host}:8080/"));
        let seen = seen.with_context(|| host)?;
        assert!(seen.starts_with("169.254.1.1:"), "{host}: {seen}");
    }
    Ok(())
}

#[test]
fn sockets_are_told_what_they_asked_for() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    publish(&world, &slot, TCP, None, 8080, 80)?;
    publish(&world, &slot, UDP, None, 53, 5353)?;
    let server = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    world.host().within(|| {
        for asked in ["127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", "[::1]:8080"] {
            let stream = TcpStream::connect(asked)?;
            assert_eq!(stream.peer_addr()?, asked.parse()?);
        }
        for (own, asked) in [
            ("0.0.0.0:0", "127.0.0.1:53"),
            ("[::]:0", "[::ffff:127.0.0.1]:53"),
        ] {
            for connected in [false, true] {
                let client = UdpSocket::bind(own)?;
                client.set_read_timeout(Some(Duration::from_secs(5)))?;
                if connected {
                    client.connect(asked)?;
                    client.send(b"question")?;
                    assert_eq!(client.peer_addr()?, asked.parse()?);
                } else {
                    client.send_to(b"question", asked)?;
                }
                let mut place = [0; 16];
                let (length, from) = server.recv_from(&mut place)?;
                server.send_to(&place[..length], from)?;
                let (length, from) = client.recv_from(&mut place)?;
                assert_eq!((&place[..length], from), (&b"question"[..], asked.parse()?));
            }
        }
        Ok(())
    })
}

#[test]
fn a_connection_does_not_outlive_the_port() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    publish(&world, &slot, UDP, None, 53, 5353)?;
    let server = slot.place.within(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
    server.set_read_timeout(Some(Duration::from_secs(1)))?;
    let client = world.host().within(|| {
        let client = UdpSocket::bind("0.0.0.0:0")?;
        client.connect("127.0.0.1:53")?;
        Ok(client)
    })?;
    client.send(b"one")?;
    server.recv_from(&mut [0; 16])?;
    withdraw_all(&world)?;
    client.send(b"two")?;
    assert!(server.recv_from(&mut [0; 16]).is_err());
    assert_eq!(daemon.dropped("port-withdrawn")?, 1);
    Ok(())
}

#[test]
fn only_sockets_of_the_host_are_led_to_slots() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    publish(&world, &slot, TCP, None, 8080, 80)?;
    for elsewhere in [world.internet(), slot.place.clone()] {
        let (_, error) = elsewhere
            .tool("curl -sS -m5 http://127.0.0.1:8080/")
            .fails()?;
        assert!(
            error.contains("refused") || error.contains("connect"),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn a_port_published_on_one_address_answers_only_there() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    publish(&world, &slot, TCP, Some("127.0.0.1"), 8080, 80)?;
    curl(world.host(), "http://127.0.0.1:8080/")?;
    for other in ["127.0.0.2", HOST_ADDRESS, "[::1]"] {
        let refused = world.tool(&format!("curl -sS -m5 http://{other}:8080/"));
        let (code, _) = refused.fails()?;
        assert_eq!(code, 7, "{other}");
    }
    Ok(())
}

/// What has such a source does not leave the host.
#[test]
fn sockets_bound_to_loopback_are_refused() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    publish(&world, &slot, TCP, None, 8080, 80)?;
    let bound = world.tool("curl -sS -m5 --interface 127.0.0.1 http://127.0.0.1:8080/");
    assert_eq!(bound.fails()?.0, 7);
    curl(world.host(), "http://127.0.0.1:8080/")?;
    Ok(())
}

#[test]
fn it_answers_on_an_address_as_long_as_the_host_has_it() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let slot = attach(&daemon, "web", "t")?;
    let _server = HttpServer::start(&slot.place, "0.0.0.0:80")?;
    publish(&world, &slot, TCP, None, 8080, 80)?;
    for link in ["eth0", "lo"] {
        world
            .tool(&format!("ip addr add 192.0.2.99/24 dev {link}"))
            .run()?;
        let deadline = Instant::now() + PATIENCE;
        while curl(world.host(), "http://192.0.2.99:8080/").is_err() {
            assert!(Instant::now() < deadline, "on {link}");
        }
        world
            .tool(&format!("ip addr del 192.0.2.99/24 dev {link}"))
            .run()?;
        while curl(world.host(), "http://192.0.2.99:8080/").is_ok() {
            assert!(Instant::now() < deadline, "off {link}");
        }
    }
    Ok(())
}
