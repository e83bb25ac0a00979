//! What a process sees inside: the same in every slot, so that one that was stopped in one slot goes on in
//! another.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use pcpm_ebpf::abi::CLONE_MAC;
use pcpm_tests::{INTERNET_ADDRESS, Place, World};
use serde_json::json;

use crate::pool::{INNER, INNER6, attach, ping, pool};

/// All that a process, or a guest, can find out about its network.
const QUESTIONS: [&str; 5] = [
    "ip -details address show eth0",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip neighbour show",
    "hostname -I",
];

/// The answers, but for counters and for what names the other end of the link.
fn seen(place: &Place) -> Result<Vec<String>> {
    let answer = |question: &&str| {
        let text = place.tool(question).run()?;
        let words = text.split_whitespace();
        let words = words.filter(|word| !word.starts_with("eth0@"));
        Ok(words.collect::<Vec<_>>().join(" "))
    };
    QUESTIONS.iter().map(answer).collect()
}

#[test]
fn every_slot_looks_the_same_from_inside() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 3)?;
    let one = attach(&daemon, "one", "t", &[])?;
    let other = attach(&daemon, "other", "u", &[])?;
    for slot in [&one, &other] {
        // The kernel says so in its own time.
        let up = "until ip link show eth0 | grep -q 'state UP'; do sleep 0.01; done";
        slot.place
            .command("timeout", ["60", "sh", "-c", up])
            .run()?;
    }
    let found = seen(&one.place)?;
    assert_eq!(seen(&other.place)?, found);
    for expected in [INNER, INNER6, "02:50:43:ff:ff:fe", "169.254.1.1", "fe80::1"] {
        assert!(
            found.join("\n").contains(expected),
            "{expected} in {found:?}"
        );
    }
    Ok(())
}

#[test]
fn an_attachment_tells_both_its_addresses_and_the_inner_ones() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let one = attach(&daemon, "one", "t", &[])?;
    let other = attach(&daemon, "other", "t", &[])?;
    assert_ne!(one.address, other.address);
    assert_ne!(one.address6, other.address6);
    let mac = CLONE_MAC.map(|byte| format!("{byte:02x}")).join(":");
    for slot in [&one, &other] {
        assert!(slot.address.starts_with("10.213.0."), "{}", slot.address);
        assert_eq!(slot.attachment.inner_addresses, [INNER, INNER6]);
        assert_eq!(slot.attachment.mac, mac);
    }
    let shown = world.pcpm(["--json", "show", "one"])?.json()?;
    assert_eq!(shown["inner_addresses"], json!([INNER, INNER6]));
    assert_eq!(shown["addresses"], json!([one.address, one.address6]));
    let shown = world.pcpm(["show", "one"])?.run()?;
    assert!(shown.contains(&format!("{INNER}, {INNER6}")), "{shown}");
    Ok(())
}

#[test]
fn a_command_knows_what_others_know_it_by_and_what_it_has_itself() -> Result<()> {
    let world = World::new()?;
    let _daemon = pool(&world, 2)?;
    let script = "echo $PCPM_ADDRESS $PCPM_INNER_ADDRESS; hostname -I";
    let said = world.pcpm(["run", "--", "sh", "-c", script])?.run()?;
    let words: Vec<_> = said.split_whitespace().collect();
    assert!(words[0].starts_with("10.213.0."), "{said}");
    assert_eq!(&words[1..], [INNER, INNER, INNER6], "{said}");
    Ok(())
}

/// What a restored process does: its listener is bound to the address that it had, and it goes on to know its
/// peers by theirs.
#[test]
fn what_is_bound_to_the_inner_address_is_reached_by_the_identity() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 3)?;
    let one = attach(&daemon, "one", "t", &[])?;
    let other = attach(&daemon, "other", "t", &[])?;
    for (inner, [from, to]) in [
        (INNER, [&one.address, &other.address]),
        (INNER6, [&one.address6, &other.address6]),
    ] {
        let listener = other.place.within(|| Ok(TcpListener::bind((inner, 80))?))?;
        let mut client = one
            .place
            .within(|| Ok(TcpStream::connect((to.as_str(), 80))?))?;
        let (mut server, peer) = listener.accept()?;
        assert_eq!(peer.ip().to_string(), *from);
        assert_eq!(client.local_addr()?.ip().to_string(), inner);
        assert_eq!(server.local_addr()?.ip().to_string(), inner);
        server.write_all(b"welcome")?;
        client.read_exact(&mut [0; 7])?;
    }
    Ok(())
}

#[test]
fn the_inner_address_means_the_slot_itself() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 2)?;
    let one = attach(&daemon, "one", "t", &[])?;
    let other = attach(&daemon, "other", "t", &[])?;
    for inner in [INNER, INNER6] {
        ping(&one.place, inner, 56)?;
    }
    let traffic = daemon.get("one")?.traffic;
    assert_eq!((traffic.sent_packets, traffic.received_packets), (0, 0));
    // By its identity it reaches itself through the hub.
    for identity in [&one.address, &one.address6] {
        ping(&one.place, identity, 56)?;
    }
    assert_eq!(daemon.get("one")?.traffic.received_packets, 8);
    // Without the address its stack sends there.
    let exchange = format!("address add 10.9.9.3/32 dev eth0\naddress del {INNER}/32 dev eth0\n");
    other.place.tool("ip -batch -").input(exchange).run()?;
    let ping_inner = format!("ping -n -c1 -W1 {INNER}");
    other.place.tool(&ping_inner).fails()?;
    assert_eq!(daemon.get("one")?.traffic.received_packets, 8);
    assert!(daemon.dropped("spoofed-address")? > 0);
    Ok(())
}

#[test]
fn a_detach_cuts_what_is_under_way() -> Result<()> {
    let world = World::new()?;
    let daemon = pool(&world, 3)?;
    let one = attach(&daemon, "one", "t", &[])?;
    let other = attach(&daemon, "other", "t", &[])?;
    let near = other.place.within(|| Ok(TcpListener::bind("0.0.0.0:9")?))?;
    let outside = world
        .internet()
        .within(|| Ok(TcpListener::bind((INTERNET_ADDRESS, 9))?))?;
    let connect = |address: &str| one.place.within(|| Ok(TcpStream::connect((address, 9))?));
    let mut connections = Vec::new();
    for (listener, address) in [(near, other.address.as_str()), (outside, INTERNET_ADDRESS)] {
        let mut client = connect(address)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"here")?;
        server.read_exact(&mut [0; 4])?;
        connections.push((client, server));
    }
    daemon.detach("one")?;
    for (mut client, mut server) in connections {
        client.write_all(b"gone")?;
        server.set_read_timeout(Some(Duration::from_secs(1)))?;
        let error = server.read(&mut [0; 4]).err().context("still connected")?;
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
    Ok(())
}
