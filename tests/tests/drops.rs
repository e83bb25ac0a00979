//! What an operator sees of dropped packets.

use std::net::UdpSocket;

use anyhow::{Context, Result};
use pcpm_api::types::{AttachReply, DroppedPackets, DropsReply};
use pcpm_tests::{Daemon, Place, World};
use serde_json::{Value, json};

/// Where nobody gets to.
const METADATA: &str = "169.254.169.254:80";

/// Sends `packets` datagrams to `destination` from a new socket, whose port is returned.
fn send(from: &Place, destination: &str, packets: u32) -> Result<u16> {
    from.within(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..packets {
            socket.send_to(b"hello", destination)?;
        }
        Ok(socket.local_addr()?.port())
    })
}

/// Follows the drops until `seen` returns something; `sending` is done when the daemon listens.
fn follow<T>(
    daemon: &Daemon,
    parameters: &Value,
    sending: impl FnOnce() -> Result<()>,
    mut seen: impl FnMut(&DroppedPackets) -> Option<T>,
) -> Result<T> {
    let mut wire = daemon.connect()?;
    wire.stream("Drops", parameters)?;
    let _remembered: DropsReply = wire.next_reply()?;
    sending()?;
    loop {
        let frame: DropsReply = wire.next_reply()?;
        if let Some(found) = frame.records.iter().find_map(&mut seen) {
            return Ok(found);
        }
    }
}

fn address(reply: &AttachReply) -> &str {
    &reply.attachment.addresses[0]
}

#[test]
fn a_dropped_packet_is_told_with_its_reason_holder_and_addresses() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (one, other) = (daemon.attach("one", "a")?, daemon.attach("other", "b")?);
    let destination = format!("{}:9", address(&other));
    let mut port = 0;
    let told = follow(
        &daemon,
        &json!({"owner": "one"}),
        || {
            port = send(&daemon.place(&one), &destination, 1)?;
            Ok(())
        },
        |record| (record.reason == "other-tenant").then(|| record.clone()),
    )?;
    assert_eq!(told.slot.as_ref(), Some(&one.attachment.slot));
    assert_eq!(told.owner.as_deref(), Some("one"));
    assert_eq!(told.tenant.as_deref(), Some("a"));
    assert_eq!((told.hop.as_str(), told.packets), ("from-slot", 1));
    assert_eq!(told.protocol.as_deref(), Some("udp"));
    assert_eq!(told.source.as_deref(), Some(address(&one)));
    assert_eq!(told.destination.as_deref(), Some(address(&other)));
    assert_eq!(told.source_port, Some(port));
    assert_eq!(told.destination_port, Some(9));
    Ok(())
}

#[test]
fn the_flood_of_one_slot_costs_few_records_and_hides_no_other_drop() -> Result<()> {
    const FLOOD: u32 = 50_000;
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let (loud, quiet) = (daemon.attach("loud", "t")?, daemon.attach("quiet", "t")?);
    follow(
        &daemon,
        &json!({"reason": "metadata"}),
        || {
            send(&daemon.place(&loud), METADATA, FLOOD)?;
            send(&daemon.place(&quiet), METADATA, 1)?;
            Ok(())
        },
        |record| (record.owner.as_deref() == Some("quiet")).then_some(()),
    )?;
    assert!(daemon.dropped("metadata")? > u64::from(FLOOD));
    let recent: DropsReply = daemon
        .connect()?
        .call("Drops", &json!({"owner": "loud", "reason": "metadata"}))?;
    let told: u64 = recent.records.iter().map(|record| record.packets).sum();
    assert!(!recent.records.is_empty() && recent.records.len() < 500);
    assert!(told <= u64::from(FLOOD), "{told} told of {FLOOD}");
    assert_eq!(recent.records_lost, 0);
    Ok(())
}

#[test]
fn the_command_line_shows_totals_and_groups_and_follows() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let slot = daemon.attach("web", "shop")?;
    follow(
        &daemon,
        &json!({}),
        || send(&daemon.place(&slot), METADATA, 1).map(drop),
        |record| (record.reason == "metadata").then_some(()),
    )?;
    let text = world.pcpm(["drops", "--owner", "web", "--reason", "metadata"])?;
    let text = text.run()?;
    let fields = ["metadata", "web", "from-slot", METADATA];
    for field in fields {
        assert!(text.contains(field), "{field} is not in {text}");
    }
    let nobody = world
        .pcpm(["--json", "drops", "--owner", "nobody"])?
        .json()?;
    assert_eq!(nobody["records"], json!([]));
    let totals = nobody["totals"].as_array().context("totals")?;
    assert!(
        totals
            .iter()
            .any(|total| total["reason"] == "metadata" && total["packets"] == 1)
    );
    let explained = world.pcpm(["drops", "--explain", "metadata"])?.run()?;
    assert!(explained.contains("**Cause.**"), "{explained}");
    let (code, error) = world.pcpm(["drops", "--reason", "bad-luck"])?.fails()?;
    assert_eq!(code, 1);
    assert!(error.contains("no reason is called 'bad-luck'"), "{error}");
    Ok(())
}
