//! Slots ask for published ports at the host's address: the public door, open to all.

use anyhow::Result;
use pcpm_tests::{HOST_ADDRESS, HttpServer, World};

use crate::publish::{attach, curl, echo, no_curl, refused, udp};

#[test]
fn every_tenant_and_the_slot_itself_get_in() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    let web = attach(&daemon, "web", "t", &["8080:80"])?;
    let same = attach(&daemon, "same", "t", &[])?;
    let other = attach(&daemon, "other", "u", &[])?;
    let _server = HttpServer::start(&web.place, "0.0.0.0:80")?;
    for from in [&same, &other, &web] {
        let seen = curl(&from.place, "http://192.0.2.2:8080/")?;
        // REQ-9 of RFC 4787: the sender's address outside, not the one inside.
        assert!(seen.starts_with("192.0.2.2:"), "{}: {seen}", from.address);
    }
    no_curl(&other.place, &format!("http://{}/", web.address))?;
    no_curl(&other.place, "http://192.0.2.2:8081/")?;
    no_curl(&other.place, "http://169.254.1.1:8080/")?;
    Ok(())
}

#[test]
fn slots_of_other_hubs_get_in() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "520"])?;
    daemon.wait_until_ready(520)?;
    let near = attach(&daemon, "near", "t", &["8080:80"])?;
    let all = (1..520)
        .map(|i| attach(&daemon, &format!("o{i}"), "u", &[]))
        .collect::<Result<Vec<_>>>()?;
    let far = all
        .iter()
        .find(|slot| slot.address.starts_with("10.213.2."))
        .expect("a slot of the second hub");
    let _server = HttpServer::start(&near.place, "0.0.0.0:80")?;
    let seen = curl(&far.place, "http://192.0.2.2:8080/")?;
    assert!(seen.starts_with("192.0.2.2:"), "{seen}");
    Ok(())
}

#[test]
fn datagrams_come_and_go_whole_and_in_fragments() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    let dns = attach(&daemon, "dns", "t", &["udp:53:5353"])?;
    let client = attach(&daemon, "client", "u", &[])?;
    let server = udp(&dns.place, "0.0.0.0:5353")?;
    let client = udp(&client.place, "0.0.0.0:0")?;
    client.connect((HOST_ADDRESS, 53))?;
    for size in [8, 8000] {
        let question = vec![7; size];
        client.send(&question)?;
        let seen = echo(&server)?;
        assert!(seen.starts_with("192.0.2.2:"), "{seen}");
        let mut answer = vec![0; 10_000];
        let length = client.recv(&mut answer)?;
        assert!(answer[..length] == question);
    }
    Ok(())
}

#[test]
fn nobody_listening_is_told_at_once() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(4)?;
    let _web = attach(&daemon, "web", "t", &["8080:80", "udp:53:5353"])?;
    let client = attach(&daemon, "client", "u", &[])?;
    refused(&client.place, "http://192.0.2.2:8080/")?;
    let socket = udp(&client.place, "0.0.0.0:0")?;
    socket.connect((HOST_ADDRESS, 53))?;
    socket.send(b"question")?;
    let refused = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    Ok(())
}
