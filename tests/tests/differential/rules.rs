//! Where the product differs from netfilter on purpose, and why. Any other difference is a fault.

use crate::packet::Sum;
use crate::traffic::{Damage, End, Parts, Step, What};
use crate::twin::{Seen, Sight};

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

/// The reason for a difference in what `step` led to; `None` when there is none.
pub(crate) fn intended(step: &Step, ours: &Seen, theirs: &Seen) -> Option<&'static str> {
    let rules = [
        overtaking,
        bad_header,
        bad_checksum,
        last_hop,
        options,
        source_quench,
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
    (quench && ours.is_empty()).then_some("source quench is not carried")
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
