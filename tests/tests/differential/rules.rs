//! Where the product differs from netfilter on purpose, and why. Any other difference is a fault.

use crate::packet::{Sum, Version};
use crate::sight::{HOST, Seen, Sight};
use crate::traffic::{Damage, End, Parts, Step, What};

const GATEWAY6: &str = "fe80::1";
/// What [`tcp_states`] gives as its reason.
pub(crate) const OUT_OF_STATE: &str = "TCP states are the ends' business";

/// Netfilter's host is a hop in both directions. Here an answer from the world is delivered without
/// another look at its TTL: nothing beyond could forward it again.
pub(crate) fn forget_hop_to_slot(step: &Step, theirs: &mut Seen) {
    if step.from == End::World {
        for sight in &mut theirs.at_slot {
            sight.ttl += 1;
        }
    }
}

/// What the host itself tells a slot comes from the slots' gateway, of both versions of IP. Without the
/// product IPv6 prefers an address of a wider scope where there is one.
pub(crate) fn forget_gateway(step: &Step, ours: &mut Seen) {
    if step.version == Version::V6 && step.from == End::Slot {
        for sight in &mut ours.at_slot {
            if sight.source == GATEWAY6 {
                HOST.clone_into(&mut sight.source);
            }
        }
    }
}

/// The reason for a difference in what `step` led to; `None` when there is none.
pub(crate) fn intended(step: &Step, ours: &Seen, theirs: &Seen) -> Option<&'static str> {
    let rules = [
        overtaking,
        bad_header,
        bad_checksum,
        last_hop,
        options,
        source_quench,
        redirect,
        path_mtu,
        quoted_fragment,
        other_icmp,
        tcp_states,
    ];
    rules.into_iter().find_map(|rule| rule(step, ours, theirs))
}

/// Netfilter puts datagrams together, at the cost of memory that the sender controls. Here no
/// fragment waits for another, and one that overtakes the first is lost.
fn overtaking(step: &Step, _: &Seen, _: &Seen) -> Option<&'static str> {
    let overtaken = matches!(step.parts, Parts::Reversed | Parts::Overtaken);
    overtaken.then_some("a fragment overtook the first")
}

/// Linux drops what has a wrong IP header checksum. Here it is changed by what the translation
/// changes, so it stays wrong, and the next one drops it.
fn bad_header(step: &Step, ours: &Seen, _: &Seen) -> Option<&'static str> {
    let stays_wrong = ours.all(|sight| !sight.header_is_right);
    (step.damage == Damage::Header && stays_wrong).then_some("a wrong header stays wrong")
}

/// Netfilter looks at transport checksums and forwards nothing wrong. Here it stays wrong in the same
/// way, and the receiver drops it.
fn bad_checksum(step: &Step, ours: &Seen, _: &Seen) -> Option<&'static str> {
    let stays_wrong = ours.all(|sight| sight.sum == Sum::Wrong);
    (step.damage == Damage::Transport && stays_wrong).then_some("a wrong checksum stays wrong")
}

/// See [`forget_hop_to_slot`].
fn last_hop(step: &Step, ours: &Seen, theirs: &Seen) -> Option<&'static str> {
    let delivered = !ours.at_slot.is_empty() && theirs.at_slot.is_empty();
    (step.from == End::World && step.ttl <= 1 && delivered).then_some("the last hop is no hop")
}

/// Linux writes its address into record routes and timestamps. Here options are what the ends make
/// of them.
fn options(step: &Step, ours: &Seen, theirs: &Seen) -> Option<&'static str> {
    let mut theirs = Seen {
        at_slot: theirs.at_slot.clone(),
        at_world: theirs.at_world.clone(),
    };
    for sight in theirs.at_slot.iter_mut().chain(&mut theirs.at_world) {
        sight.options.clone_from(&step.options);
    }
    (*ours == theirs).then_some("options are left alone")
}

/// RFC 6633: source quench is dead.
fn source_quench(step: &Step, ours: &Seen, _: &Seen) -> Option<&'static str> {
    let quench = matches!(step.what, What::Error { kind: 4, .. });
    (step.version == Version::V4 && quench && ours.is_empty())
        .then_some("source quench is not carried")
}

/// Netfilter does not look at what IPv6 nodes tell each other on a link, so its host forwards a redirect
/// of the slot as it is, with the slot's own address. Here it is dropped.
fn redirect(step: &Step, ours: &Seen, _: &Seen) -> Option<&'static str> {
    let redirect = matches!(step.what, What::Error { kind: 137, .. });
    (redirect && ours.is_empty()).then_some("redirects are not carried")
}

/// Linux applies the path MTUs that its IPv6 host has learned to what it forwards, so whoever sends the
/// host errors about pings makes the packets of others smaller. Here slots learn from errors about
/// their own packets.
fn path_mtu(step: &Step, ours: &Seen, theirs: &Seen) -> Option<&'static str> {
    const PACKET_TOO_BIG: u8 = 2;
    let by_host = |sight: &Sight| sight.source == HOST && sight.body[0] == PACKET_TOO_BIG;
    let refused = step.from == End::Slot && theirs.at_slot.iter().any(by_host);
    let goes_on = ours.at_slot.is_empty() && !ours.at_world.is_empty();
    (step.version == Version::V6 && refused && goes_on).then_some("the host's path MTU is its own")
}

/// Netfilter has put a datagram together by the time it finds that it has no hop left, and quotes the
/// whole.
fn quoted_fragment(step: &Step, ours: &Seen, theirs: &Seen) -> Option<&'static str> {
    let is_error = |sight: &Sight| sight.quote.is_some();
    let both = ours.any(is_error) && theirs.any(is_error);
    (step.parts != Parts::Whole && both).then_some("an error quotes a fragment")
}

/// Translated are TCP, UDP, ICMP echo and ICMP errors; not the other questions of ICMP.
fn other_icmp(step: &Step, ours: &Seen, _: &Seen) -> Option<&'static str> {
    let other = matches!(step.what, What::OtherIcmp { .. });
    (other && ours.is_empty()).then_some("other ICMP is not carried")
}

/// Netfilter knows in which order flags may come, and forwards nothing else. Here a connection's two
/// ends are told apart from everybody else; what they say to each other they judge themselves.
fn tcp_states(step: &Step, ours: &Seen, theirs: &Seen) -> Option<&'static str> {
    let is_tcp = matches!(step.what, What::Tcp { .. });
    let there = |seen: &Seen| match step.from {
        End::Slot => seen.at_world.len(),
        End::World => seen.at_slot.len(),
    };
    (is_tcp && there(ours) == 1 && there(theirs) == 0).then_some(OUT_OF_STATE)
}
