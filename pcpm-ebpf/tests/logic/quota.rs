//! How many entries a slot may have, and how they are counted.

use std::time::Duration;

use pcpm_ebpf::abi::{AttachmentWord, Flow, FlowKey, FlowTable, flow_kind};
use pcpm_ebpf::nat::{
    is_live, is_worth_collecting,
    state::{ANSWERED, CLOSED, ESTABLISHED, OPENER_FINISHED, OPENING, PEER_FINISHED, RESET},
};
use pcpm_ebpf::packet::protocol;
use pcpm_ebpf::quota::{Exceeded, excess, tallied, with, without};
use proptest::prelude::*;

const NOW: u64 = 10_000_000_000_000;
const WORD: AttachmentWord = AttachmentWord::attached(4, 1);

fn table(in_use: u32, per_slot: u32) -> FlowTable {
    FlowTable {
        made: 7000 + u64::from(in_use),
        gone: 7000,
        kept_at_ns: NOW,
        usable: 1000,
        per_slot,
    }
}

fn seconds(seconds: u64) -> u64 {
    u64::try_from(Duration::from_secs(seconds).as_nanos()).expect("minutes")
}

/// An entry of `kind` that was last used `idle` seconds ago.
fn worth_collecting(kind: u8, ip_protocol: u8, state: u8, idle: u64, pressed: bool) -> bool {
    let key = FlowKey {
        kind,
        protocol: ip_protocol,
        ..FlowKey::default()
    };
    let flow = Flow {
        epoch: WORD.epoch(),
        state,
        last_seen_ns: NOW - seconds(idle),
        ..Flow::default()
    };
    is_worth_collecting(&key, &flow, WORD, pressed, NOW)
}

/// How many entries each of `slots` gets that ask for one after the other, without end.
fn greedy(slots: usize, per_slot: u32) -> Vec<u32> {
    let mut has = vec![0; slots];
    loop {
        let before = has.clone();
        for slot in 0..slots {
            let table = table(has.iter().sum(), per_slot);
            has[slot] += u32::from(table.check(has[slot], 1, NOW).is_ok());
        }
        if has == before {
            return has;
        }
    }
}

proptest! {
    #[test]
    fn a_tally_counts_what_came_and_went_in_its_age(
        changes in prop::collection::vec((1..4_u32, any::<bool>(), 0..3_u32), 0..40),
    ) {
        let (mut word, mut model) = (0, (0, 0));
        for (age, more, number) in changes {
            if more {
                word = with(word, age, number);
                model = (age, if model.0 == age { model.1 + number } else { number });
            } else {
                word = without(word, age, number);
                if model.0 == age {
                    model.1 = u32::saturating_sub(model.1, number);
                }
            }
            prop_assert_eq!(tallied(word, model.0), model.1);
            prop_assert_eq!(tallied(word, model.0 + 1), 0);
        }
    }

    #[test]
    fn there_is_always_room_for_a_slot_that_has_none(slots in 1..60_usize, per_slot in 16..1000_u32) {
        let has = greedy(slots, per_slot);
        let table = table(has.iter().sum(), per_slot);
        prop_assert!(table.in_use() < table.usable);
        prop_assert!(table.check(0, 1, NOW).is_ok(), "{has:?}");
    }

    #[test]
    fn the_greedy_get_the_same(slots in 1..60_usize, per_slot in 16..1000_u32) {
        let has = greedy(slots, per_slot);
        let (least, most) = (has.iter().min(), has.iter().max());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{has:?}");
    }

    #[test]
    fn a_correction_leaves_what_there_is(
        before in 0..100_u32, wrong in 0..100_u32, made in 0..100_u32, gone in 0..100_u32,
    ) {
        // Counted: `before` entries, and those that were evicted behind our back.
        let gone = gone.min(before + made);
        let in_use = before + wrong + made - gone;
        // What was there all the time was seen, of the others any number.
        for seen in before.saturating_sub(gone)..=before + made {
            let corrected = in_use - excess(in_use, seen, made.into());
            prop_assert!(corrected >= before + made - gone);
        }
    }

    #[test]
    fn what_is_dead_is_collected_whatever_it_was(
        kind in flow_kind::INGRESS..=flow_kind::HOST,
        ip_protocol in prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::ICMP]),
        state in OPENING..=RESET,
        epoch in 3..6_u32,
        idle in 0..9000_u64,
        pressed: bool,
    ) {
        let key = FlowKey { kind, protocol: ip_protocol, ..FlowKey::default() };
        let flow = Flow { epoch, state, last_seen_ns: NOW - seconds(idle) / 10, ..Flow::default() };
        let dead = !is_live(&flow, ip_protocol, WORD, NOW);
        let collected = is_worth_collecting(&key, &flow, WORD, pressed, NOW);
        prop_assert!(collected || !dead);
        prop_assert!(pressed || collected == dead);
    }
}

#[test]
fn one_greedy_slot_leaves_half_and_nine_leave_a_tenth() {
    assert_eq!(greedy(1, 1000), [500]);
    assert_eq!(greedy(9, 1000), [100; 9]);
    assert_eq!(greedy(2, 250), [250; 2]);
}

#[test]
fn a_refusal_says_whose_limit_it_was() {
    assert_eq!(table(600, 250).check(249, 1, NOW), Ok(()));
    assert_eq!(table(600, 250).check(249, 2, NOW), Err(Exceeded::Slot));
    assert_eq!(table(900, 250).check(101, 1, NOW), Err(Exceeded::Table));
    assert_eq!(table(900, 250).check(250, 1, NOW), Err(Exceeded::Slot));
}

#[test]
fn nothing_is_refused_while_nobody_collects() {
    let full = table(1000, 250);
    assert_eq!(full.check(900, 1, NOW + seconds(59)), Err(Exceeded::Slot));
    assert_eq!(full.check(900, 1, NOW + seconds(61)), Ok(()));
    assert_eq!(FlowTable::default().check(900, 1, seconds(1)), Ok(()));
}

#[test]
fn a_slot_is_pressed_from_half_of_what_it_may_have() {
    assert!(!table(200, 250).is_pressed(125));
    assert!(table(200, 250).is_pressed(126));
    assert!(table(900, 250).is_pressed(51));
}

#[test]
fn what_a_pressed_slot_hardly_needs_goes_early() {
    let early = |ip_protocol, state, idle| {
        assert!(!worth_collecting(
            flow_kind::INGRESS,
            ip_protocol,
            state,
            idle,
            false
        ));
        assert!(worth_collecting(
            flow_kind::INGRESS,
            ip_protocol,
            state,
            idle,
            true
        ));
        assert!(!worth_collecting(
            flow_kind::INGRESS,
            ip_protocol,
            state,
            idle - 1,
            true
        ));
    };
    early(protocol::TCP, CLOSED, 4);
    early(protocol::TCP, RESET, 4);
    early(protocol::TCP, OPENING, 11);
    early(protocol::TCP, ANSWERED, 11);
    early(protocol::UDP, OPENING, 11);
    early(protocol::UDP, ANSWERED, 31);
    early(protocol::ICMP, OPENING, 11);
}

#[test]
fn connections_that_are_open_stay_for_their_time() {
    for (state, lifetime) in [
        (ESTABLISHED, 7440),
        (OPENER_FINISHED, 240),
        (PEER_FINISHED, 240),
    ] {
        for pressed in [false, true] {
            let worth =
                |idle| worth_collecting(flow_kind::INGRESS, protocol::TCP, state, idle, pressed);
            assert!(!worth(lifetime));
            assert!(worth(lifetime + 1));
        }
    }
}

#[test]
fn an_egress_entry_is_looked_at_when_its_slot_fell_silent() {
    let worth =
        |idle, pressed| worth_collecting(flow_kind::EGRESS, protocol::TCP, OPENING, idle, pressed);
    assert!(!worth(30, false) && worth(31, false));
    assert!(!worth(3, true) && worth(4, true));
}
