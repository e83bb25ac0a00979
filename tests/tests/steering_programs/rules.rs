//! What an attachment's rules and limits do to packets; that they are compiled rightly is tested with
//! the daemon.

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, PolicyRule, RateLimit, Settings, settings_flag, verdict};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::in_both;
use crate::lab::{Fate, Hook, Lab};
use crate::packet::{Content, Packet};
use crate::world::{ACK, EPOCH, MARKED, SYN, UDP, answer_to, lab, tcp, translate};

const POLICY: u32 = 77;
const OTHER_POLICY: u32 = 78;
const HTTPS: Content = tcp(SYN);
const PING: Content = Content::Echo { identifier: 1 };
const ANY_PORT: (u16, u16) = (0, u16::MAX);

/// A rule about `ports` of a protocol, 0 for all.
fn rule(says: u8, protocol: u8, ports: (u16, u16)) -> PolicyRule {
    PolicyRule {
        port_first: ports.0,
        port_last: ports.1,
        protocol,
        verdict: says,
        padding: 0,
    }
}

fn one(address: std::net::IpAddr) -> (Address, u32) {
    (address.into(), 128)
}

/// Slot `slot` is subject to `policy`.
fn bind(lab: &mut Lab, slot: u32, policy: u32) -> Result<()> {
    let settings = Settings {
        epoch: EPOCH,
        policy,
        ..Settings::default()
    };
    lab.set_settings(slot, settings)
}

/// The attachment of slot `slot` has these flags alone.
fn set_flags(lab: &mut Lab, slot: u32, flags: u32) -> Result<()> {
    let settings = Settings {
        epoch: EPOCH,
        flags,
        ..Settings::default()
    };
    lab.set_settings(slot, settings)
}

fn passes(lab: &mut Lab, hook: Hook, packet: &Packet) -> Result<()> {
    let fate = lab.send(hook, packet)?;
    assert!(
        matches!(fate, Fate::Redirected { .. }),
        "{packet:?}: {fate:?}"
    );
    Ok(())
}

fn dropped(lab: &mut Lab, hook: Hook, packet: &Packet, reason: DropReason) -> Result<()> {
    let fate = lab.send(hook, packet)?;
    assert_eq!(fate, Fate::Dropped(reason), "{packet:?}");
    Ok(())
}

#[test]
fn the_most_specific_rule_decides() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        bind(&mut lab, 1, POLICY)?;
        let deny = rule(verdict::DENY, 0, ANY_PORT);
        let allow_https = rule(verdict::ALLOW, 6, (443, 443));
        lab.add_rules(POLICY, (Address::ANY, 0), &[deny])?;
        lab.add_rules(POLICY, one(net.peer), &[allow_https, deny])?;
        let sent = |to, content| Packet::of_slot(1, to, content);
        passes(&mut lab, Hook::FromSlot(1), &sent(net.peer, HTTPS))?;
        for packet in [
            sent(net.peer, UDP),
            sent(net.peer, PING),
            sent(net.stranger, HTTPS),
        ] {
            dropped(
                &mut lab,
                Hook::FromSlot(1),
                &packet,
                DropReason::PolicyDenied,
            )?;
        }
        // Another attachment of the slot is subject to no rules.
        lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
        passes(&mut lab, Hook::FromSlot(1), &sent(net.stranger, UDP))
    })
}

#[test]
fn a_closed_world_opens_where_a_rule_says_so() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        lab.configure(|config| config.world_is_closed = 1)?;
        let packet = Packet::of_slot(1, net.peer, HTTPS);
        dropped(
            &mut lab,
            Hook::FromSlot(1),
            &packet,
            DropReason::WorldClosed,
        )?;
        bind(&mut lab, 1, POLICY)?;
        lab.add_rules(POLICY, one(net.peer), &[rule(verdict::ALLOW, 0, ANY_PORT)])?;
        passes(&mut lab, Hook::FromSlot(1), &packet)?;
        let elsewhere = Packet::of_slot(1, net.stranger, HTTPS);
        dropped(
            &mut lab,
            Hook::FromSlot(1),
            &elsewhere,
            DropReason::WorldClosed,
        )
    })
}

#[test]
fn the_world_is_open_or_closed_to_an_attachment_as_its_settings_say() -> Result<()> {
    in_both(|net| {
        for (flag, pool_is_closed) in [
            (settings_flag::WORLD_OPEN, true),
            (settings_flag::WORLD_CLOSED, false),
        ] {
            let mut lab = lab()?;
            lab.configure(|config| config.world_is_closed = pool_is_closed.into())?;
            let packet = Packet::of_slot(1, net.peer, HTTPS);
            let reason = DropReason::WorldClosed;
            let send = |lab: &mut Lab, is_closed| {
                if is_closed {
                    dropped(lab, Hook::FromSlot(1), &packet, reason)
                } else {
                    passes(lab, Hook::FromSlot(1), &packet)
                }
            };
            send(&mut lab, pool_is_closed)?;
            set_flags(&mut lab, 1, flag)?;
            send(&mut lab, !pool_is_closed)?;
            // Another attachment of the slot is as all others.
            lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
            send(&mut lab, pool_is_closed)?;
        }
        Ok(())
    })
}

#[test]
fn a_world_that_closes_cuts_a_connection_both_ways() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.peer, HTTPS);
        let port = translate(&mut lab, net, 1, &packet)?;
        set_flags(&mut lab, 1, settings_flag::WORLD_CLOSED)?;
        let answer = answer_to(net, HTTPS, port);
        dropped(&mut lab, Hook::FromUplink, &answer, DropReason::WorldClosed)
    })
}

#[test]
fn a_new_rule_cuts_a_connection_both_ways() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.peer, HTTPS);
        let port = translate(&mut lab, net, 1, &packet)?;
        bind(&mut lab, 1, POLICY)?;
        lab.add_rules(POLICY, one(net.peer), &[rule(verdict::DENY, 0, ANY_PORT)])?;
        let more = Packet::of_slot(1, net.peer, tcp(ACK));
        dropped(&mut lab, Hook::FromSlot(1), &more, DropReason::PolicyDenied)?;
        let answer = answer_to(net, HTTPS, port);
        dropped(
            &mut lab,
            Hook::FromUplink,
            &answer,
            DropReason::PolicyDenied,
        )
    })
}

#[test]
fn a_service_of_the_host_opens_where_a_rule_says_so() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let question = Packet::of_slot(1, net.gateway, UDP);
        dropped(&mut lab, MARKED, &question, DropReason::HostClosed)?;
        bind(&mut lab, 1, POLICY)?;
        lab.add_rules(
            POLICY,
            one(net.gateway),
            &[rule(verdict::ALLOW, 17, (53, 53))],
        )?;
        assert_eq!(lab.send(MARKED, &question)?, Fate::Passed);
        let elsewhere = Packet::of_slot(1, net.gateway, Content::Udp { from: 1, to: 54 });
        dropped(&mut lab, MARKED, &elsewhere, DropReason::HostClosed)
    })
}

#[test]
fn metadata_opens_where_a_rule_says_so() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        bind(&mut lab, 1, POLICY)?;
        let packet = Packet::of_slot(1, net.metadata, HTTPS);
        lab.add_rules(POLICY, (Address::ANY, 0), &[rule(verdict::DENY, 6, (1, 1))])?;
        dropped(&mut lab, Hook::FromSlot(1), &packet, DropReason::Metadata)?;
        lab.add_rules(
            POLICY,
            one(net.metadata),
            &[rule(verdict::ALLOW, 0, ANY_PORT)],
        )?;
        passes(&mut lab, Hook::FromSlot(1), &packet)
    })
}

#[test]
fn tenants_reach_each_other_where_both_allow_it() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.slot(2), HTTPS);
        dropped(
            &mut lab,
            Hook::FromSlot(1),
            &packet,
            DropReason::OtherTenant,
        )?;
        bind(&mut lab, 1, POLICY)?;
        let allow_https = rule(verdict::ALLOW, 6, (443, 443));
        lab.add_rules(POLICY, one(net.slot(2)), &[allow_https])?;
        dropped(
            &mut lab,
            Hook::FromSlot(1),
            &packet,
            DropReason::OtherTenant,
        )?;
        bind(&mut lab, 2, OTHER_POLICY)?;
        let allow = rule(verdict::ALLOW, 0, ANY_PORT);
        lab.add_rules(OTHER_POLICY, one(net.slot(1)), &[allow])?;
        passes(&mut lab, Hook::FromSlot(1), &packet)?;
        // The answer passes; what the other one would open to this one's ports does not.
        let answer = |flags| Content::Tcp {
            from: 443,
            to: 40_000,
            flags,
        };
        let back = |flags| Packet::of_slot(2, net.slot(1), answer(flags));
        passes(&mut lab, Hook::FromSlot(2), &back(SYN | ACK))?;
        let reason = DropReason::OtherTenant;
        dropped(&mut lab, Hook::FromSlot(2), &back(SYN), reason)
    })
}

/// How many of `packets` one after the other pass, and what becomes of the first that does not.
fn passing(lab: &mut Lab, hook: Hook, packet: &Packet, packets: usize) -> Result<(usize, Fate)> {
    for sent in 0..packets {
        let fate = lab.send(hook, packet)?;
        if !matches!(fate, Fate::Redirected { .. }) {
            return Ok((sent, fate));
        }
    }
    Ok((packets, Fate::Passed))
}

/// Slow enough that nothing is added while a test runs.
const SLOW: RateLimit = RateLimit {
    bits_per_second: 0,
    packets_per_second: 1,
};

#[test]
fn a_slot_sends_a_burst_and_no_more() -> Result<()> {
    in_both(|net| {
        for destination in [net.peer, net.slot(2), net.slot(600)] {
            let mut lab = same_tenant()?;
            limit(&mut lab, 1, SLOW, RateLimit::default())?;
            let packet = Packet::of_slot(1, destination, UDP);
            let (passed, fate) = passing(&mut lab, Hook::FromSlot(1), &packet, 100)?;
            assert!((10..=11).contains(&passed), "{passed} to {destination}");
            assert_eq!(fate, Fate::Dropped(DropReason::RateUp));
            // Nobody else pays for it.
            let packet = Packet::of_slot(2, net.peer, UDP);
            passes(&mut lab, Hook::FromSlot(2), &packet)?;
        }
        Ok(())
    })
}

#[test]
fn a_slot_receives_a_burst_and_no_more() -> Result<()> {
    in_both(|net| {
        let from_host = Packet::arriving(pcpm_ebpf::abi::GATEWAY_MAC, net.peer, net.slot(1), UDP);
        let from_slot = Packet::of_slot(2, net.slot(1), UDP);
        for (hook, packet) in [
            (Hook::FromHost { mark: EPOCH }, from_host),
            (Hook::FromSlot(2), from_slot),
        ] {
            let mut lab = same_tenant()?;
            limit(&mut lab, 1, RateLimit::default(), SLOW)?;
            let (passed, fate) = passing(&mut lab, hook, &packet, 100)?;
            assert!((10..=11).contains(&passed), "{passed} at {hook:?}");
            assert_eq!(fate, Fate::Dropped(DropReason::RateDown));
        }
        Ok(())
    })
}

#[test]
fn segments_and_bytes_are_limited_and_an_attachment_begins_with_a_full_bucket() -> Result<()> {
    in_both(|net| {
        let mut lab = same_tenant()?;
        limit(&mut lab, 1, SLOW, RateLimit::default())?;
        let packet = Packet::of_slot(1, net.peer, UDP);
        // One packet may overdraw the bucket by itself, and then nothing passes.
        lab.send_segments(Hook::FromSlot(1), &packet, 40)?;
        dropped(&mut lab, Hook::FromSlot(1), &packet, DropReason::RateUp)?;
        let few_bits = RateLimit {
            bits_per_second: 8000,
            packets_per_second: 0,
        };
        limit(&mut lab, 1, few_bits, RateLimit::default())?;
        // Ten Ethernet frames' worth.
        let frames = 10 * 1514 / packet.bytes().len();
        let (passed, _) = passing(&mut lab, Hook::FromSlot(1), &packet, 1000)?;
        assert!(
            (frames..frames + 20).contains(&passed),
            "{passed} of {frames}"
        );
        Ok(())
    })
}

/// Slots 1 and 2 and one of another hub belong together.
fn same_tenant() -> Result<Lab> {
    let mut lab = lab()?;
    for slot in [1, 2, 600] {
        lab.publish(slot, AttachmentWord::attached(EPOCH, 1))?;
    }
    Ok(lab)
}

fn limit(lab: &mut Lab, slot: u32, up: RateLimit, down: RateLimit) -> Result<()> {
    let settings = Settings {
        epoch: EPOCH,
        flags: settings_flag::LIMIT_UP | settings_flag::LIMIT_DOWN,
        up,
        down,
        ..Settings::default()
    };
    lab.set_settings(slot, settings)
}
