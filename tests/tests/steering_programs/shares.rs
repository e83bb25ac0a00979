//! What flows take of their table: how it is counted, what is too much, and what is collected.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use pcpm_ebpf::abi::{AttachmentWord, DeadFlow, Flow, FlowTable, PortKey, PortTarget, flow_kind};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::quota::{DATAGRAMS_PER_SLOT, tallied};

use crate::families::{Net, V4, in_both};
use crate::lab::{Fate, Hook, Lab, UPLINK_MAC};
use crate::packet::{Content, Packet};
use crate::world::{EPOCH, MARKED, SYN, lab, lab_with_ports, tcp, translate};

const FIRST: u16 = 0x2000;
const LAST: u16 = 0x0020;
const AN_HOUR_NS: u64 = 3_600_000_000_000;

fn now_ns() -> Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos())?)
}

/// Lets the table have `usable` entries and a slot `per_slot` of them.
fn limit(lab: &mut Lab, usable: u32, per_slot: u32) -> Result<()> {
    let table = FlowTable {
        usable,
        per_slot,
        kept_at_ns: now_ns()?,
        ..lab.flow_table()?
    };
    lab.set_flow_table(table)
}

fn udp(from: u16) -> Content {
    Content::Udp { from, to: 53 }
}

/// Opens a connection of `slot` from this port, or says why not.
fn open(lab: &mut Lab, net: &Net, slot: u32, from: u16) -> Result<Option<DropReason>> {
    let packet = Packet::of_slot(slot, net.peer, udp(from));
    Ok(match lab.send(MARKED, &packet)? {
        Fate::Dropped(reason) => Some(reason),
        _ => None,
    })
}

/// Entries that are counted for slot 1 and slot 2, and for all.
fn counted(lab: &Lab) -> Result<(u32, u32, u32)> {
    let of = |slot| anyhow::Ok(tallied(lab.slot_flows(slot)?.in_use, EPOCH));
    Ok((of(1)?, of(2)?, lab.flow_table()?.in_use()))
}

/// All entries, as if the daemon had found them dead.
fn as_dead(lab: &Lab) -> Result<Vec<DeadFlow>> {
    let entries = lab.entries()?.into_iter();
    Ok(entries
        .map(|(key, entry)| DeadFlow {
            key,
            seal: entry.seal[0],
            last_seen_ns: entry.flow.last_seen_ns,
        })
        .collect())
}

/// Has all entries been used last an hour ago.
fn age(lab: &mut Lab) -> Result<()> {
    lab.change_flows(|_, flow| {
        Some(Flow {
            last_seen_ns: flow.last_seen_ns.saturating_sub(AN_HOUR_NS),
            ..flow
        })
    })
}

/// Slot 1 is published, on port 8080 of all addresses.
fn publish(lab: &mut Lab, net: &Net) -> Result<()> {
    lab.add_host_address(net.uplink.into())?;
    let target = PortTarget {
        slot: 1,
        epoch: EPOCH,
        port: 80,
        padding: [0; 6],
    };
    lab.publish_port(PortKey::on(Address::ANY, 8080, 6), target)
}

fn knock(lab: &mut Lab, net: &Net, from: u16) -> Result<Fate> {
    let content = Content::Tcp {
        from,
        to: 8080,
        flags: SYN,
    };
    let packet = Packet::arriving(UPLINK_MAC, net.peer, net.uplink, content);
    lab.send(Hook::FromUplink, &packet)
}

#[test]
fn a_connection_to_the_world_counts_twice_whichever_side_opened_it() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        publish(&mut lab, net)?;
        translate(&mut lab, net, 2, &Packet::of_slot(2, net.peer, tcp(SYN)))?;
        assert_eq!(counted(&lab)?, (0, 2, 2));
        assert!(matches!(
            knock(&mut lab, net, 50_000)?,
            Fate::Redirected { .. }
        ));
        assert_eq!(counted(&lab)?, (2, 2, 4));
        translate(&mut lab, net, 2, &Packet::of_slot(2, net.peer, tcp(SYN)))?;
        assert_eq!(counted(&lab)?, (2, 2, 4), "the same again");
        Ok(())
    })
}

#[test]
fn a_connection_that_the_host_opened_counts_once() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::arriving(
            pcpm_ebpf::abi::GATEWAY_MAC,
            net.gateway,
            net.slot(1),
            tcp(SYN),
        );
        for _ in 0..2 {
            lab.send(Hook::FromHost { mark: 0 }, &packet)?;
            assert_eq!(counted(&lab)?, (1, 0, 1));
        }
        Ok(())
    })
}

#[test]
fn a_slot_at_its_limit_keeps_what_it_has_and_others_notice_nothing() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        limit(&mut lab, 1000, 4)?;
        assert_eq!(open(&mut lab, net, 1, 1000)?, None);
        assert_eq!(open(&mut lab, net, 1, 1001)?, None);
        assert_eq!(open(&mut lab, net, 1, 1002)?, Some(DropReason::FlowLimit));
        assert_eq!(open(&mut lab, net, 1, 1000)?, None, "it goes on");
        assert_eq!(open(&mut lab, net, 2, 1002)?, None);
        assert_eq!(counted(&lab)?, (4, 2, 6));
        assert_eq!(lab.slot_flows(1)?.refused, 1);
        Ok(())
    })
}

#[test]
fn clients_of_a_published_port_get_no_further_than_the_slots_limit() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        publish(&mut lab, net)?;
        limit(&mut lab, 1000, 2)?;
        assert!(matches!(
            knock(&mut lab, net, 50_000)?,
            Fate::Redirected { .. }
        ));
        let refused = Fate::Dropped(DropReason::FlowLimit);
        assert_eq!(knock(&mut lab, net, 50_001)?, refused);
        assert_eq!(counted(&lab)?, (2, 0, 2));
        Ok(())
    })
}

#[test]
fn no_slot_gets_more_than_are_left_for_others() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        limit(&mut lab, 13, 12)?;
        for from in 1000..1003 {
            assert_eq!(open(&mut lab, net, 1, from)?, None);
        }
        assert_eq!(
            open(&mut lab, net, 1, 1003)?,
            Some(DropReason::FlowTableFull)
        );
        assert_eq!(open(&mut lab, net, 2, 1000)?, None);
        assert_eq!(counted(&lab)?, (6, 2, 8));
        Ok(())
    })
}

#[test]
fn nothing_is_refused_when_nobody_collects() -> Result<()> {
    let mut lab = lab()?;
    limit(&mut lab, 1000, 2)?;
    let table = lab.flow_table()?;
    lab.set_flow_table(FlowTable {
        kept_at_ns: table.kept_at_ns.saturating_sub(61_000_000_000),
        ..table
    })?;
    for from in 1000..1010 {
        assert_eq!(open(&mut lab, &V4, 1, from)?, None);
    }
    Ok(())
}

#[test]
fn a_connection_that_got_no_port_is_not_counted() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_000)?;
        assert_eq!(open(&mut lab, net, 1, 1000)?, None);
        assert_eq!(open(&mut lab, net, 2, 1000)?, Some(DropReason::NoFreePort));
        assert_eq!(counted(&lab)?, (2, 0, 2));
        Ok(())
    })
}

#[test]
fn a_detach_frees_what_was_counted_and_a_port_that_is_taken_over_counts_once() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_000)?;
        assert_eq!(open(&mut lab, net, 1, 1000)?, None);
        lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
        assert_eq!(tallied(lab.slot_flows(1)?.in_use, EPOCH + 1), 0);
        assert_eq!(open(&mut lab, net, 2, 1000)?, None);
        // The last holder's EGRESS entry is left.
        assert_eq!(counted(&lab)?, (1, 2, 3));
        Ok(())
    })
}

#[test]
fn a_slot_with_many_connections_leaves_a_quarter_of_the_ports_to_others() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_399)?;
    let mut refused = 0;
    for from in 1000..2000 {
        refused += u32::from(open(&mut lab, &V4, 1, from)?.is_some());
    }
    assert!(refused > 0);
    let owners = lab.flows(flow_kind::INGRESS)?;
    // The first ones may have any port.
    assert!(owners.len() <= 300 + 26, "{} of 400", owners.len());
    for from in 1000..1020 {
        assert_eq!(open(&mut lab, &V4, 2, from)?, None);
    }
    Ok(())
}

#[test]
fn both_entries_of_a_dead_connection_are_collected() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for from in 1000..1010 {
            assert_eq!(open(&mut lab, net, 1, from)?, None);
        }
        age(&mut lab)?;
        let dead = as_dead(&lab)?;
        assert_eq!(lab.collect(&dead)?.count_ones(), 20);
        assert_eq!(lab.entries()?.len(), 0);
        assert_eq!(counted(&lab)?, (0, 0, 0));
        Ok(())
    })
}

#[test]
fn what_was_used_since_or_is_another_entry_now_stays() -> Result<()> {
    let mut lab = lab()?;
    assert_eq!(open(&mut lab, &V4, 1, 1000)?, None);
    age(&mut lab)?;
    let dead = as_dead(&lab)?;
    let used = dead.iter().map(|dead| DeadFlow {
        last_seen_ns: dead.last_seen_ns + 1,
        ..*dead
    });
    assert_eq!(lab.collect(&used.collect::<Vec<_>>())?, 0);
    let other = dead.iter().map(|dead| DeadFlow {
        seal: !dead.seal,
        ..*dead
    });
    assert_eq!(lab.collect(&other.collect::<Vec<_>>())?, 0);
    assert_eq!(counted(&lab)?, (2, 0, 2));
    assert_eq!(lab.collect(&dead)?, 0b11);
    assert_eq!(lab.collect(&dead)?, 0, "they are gone");
    assert_eq!(counted(&lab)?, (0, 0, 0));
    Ok(())
}

#[test]
fn an_egress_entry_lives_as_long_as_its_connection() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        assert_eq!(open(&mut lab, net, 1, 1000)?, None);
        let egress = |lab: &Lab| {
            let mut dead = as_dead(lab)?;
            dead.retain(|dead| dead.key.kind == flow_kind::EGRESS);
            anyhow::Ok(dead)
        };
        let dead = egress(&lab)?;
        assert_eq!(lab.collect(&dead)?, 0, "its connection lives");
        age(&mut lab)?;
        let dead = egress(&lab)?;
        assert_eq!(lab.collect(&dead)?, 1, "its connection is idle");
        assert_eq!(open(&mut lab, net, 1, 1001)?, None);
        lab.change_flows(|key, flow| (key.kind == flow_kind::EGRESS).then_some(flow))?;
        let dead = egress(&lab)?;
        assert_eq!(lab.collect(&dead)?, 1, "its connection was evicted");
        Ok(())
    })
}

#[test]
fn what_the_last_holder_had_is_collected() -> Result<()> {
    let mut lab = lab()?;
    assert_eq!(open(&mut lab, &V4, 1, 1000)?, None);
    lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
    let dead = as_dead(&lab)?;
    assert_eq!(lab.collect(&dead)?, 0b11);
    assert_eq!(lab.flow_table()?.in_use(), 0);
    Ok(())
}

/// A fragment of a datagram of `slot` to the peer of this number.
fn fragment(lab: &mut Lab, slot: u32, peer: u16, place: u16) -> Result<Fate> {
    let [high, low] = peer.to_be_bytes();
    let content = if place == FIRST {
        udp(1000)
    } else {
        Content::Other { protocol: 17 }
    };
    let packet = Packet {
        fragment: place,
        ..Packet::of_slot(slot, Ipv4Addr::new(198, 51, high, low), content)
    };
    lab.send(MARKED, &packet)
}

#[test]
fn datagrams_that_are_not_finished_are_bounded_and_others_are_not() -> Result<()> {
    let mut lab = lab()?;
    let most = u16::try_from(DATAGRAMS_PER_SLOT)?;
    let limit = Fate::Dropped(DropReason::DatagramLimit);
    // Finished ones do not count, however many they are.
    for peer in 0..most + 100 {
        assert_ne!(fragment(&mut lab, 2, peer, FIRST)?, limit);
        assert_ne!(fragment(&mut lab, 2, peer, LAST)?, limit);
    }
    let mut refused = 0;
    // All that fit into one age, and as many again, should time go on meanwhile.
    for peer in 0..3 * most {
        refused += u32::from(fragment(&mut lab, 1, peer, FIRST)? == limit);
    }
    assert!(refused >= DATAGRAMS_PER_SLOT, "{refused}");
    assert_ne!(fragment(&mut lab, 2, 0, FIRST)?, limit);
    Ok(())
}
