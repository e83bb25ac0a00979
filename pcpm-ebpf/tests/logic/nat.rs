//! Flows: keys, tracking, timeouts, and the choice of ports.

use std::collections::HashSet;
use std::time::Duration;

use crate::frames::{Ipv4, icmp, ports, tcp};
use pcpm_ebpf::abi::{AttachmentWord, Config, Flow, FlowKey, SealedFlow, flow_kind};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::nat::{
    Direction::{self, Forward, Reply},
    Endpoint, PORT_TRIES, PortSequence, idle_timeout_ns, is_live, is_reverse_of, may_give_way,
    may_go_on, needs_refresh, new_flow, next_state,
    state::{ANSWERED, CLOSED, ESTABLISHED, OPENER_FINISHED, OPENING, PEER_FINISHED, RESET},
    unseal,
};
use pcpm_ebpf::packet::{
    protocol,
    tcp_flag::{ACK, FIN, RST, SYN},
};
use proptest::prelude::*;

const UPLINK: [u8; 4] = [198, 51, 100, 9];
const UNSHOWN: Endpoint = Endpoint {
    address: Address::ANY,
    port: 0,
};
const WORD: AttachmentWord = AttachmentWord::attached(4, 1);

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("minutes")
}

/// A packet of each kind from a slot's port (or with an identifier), and its answer.
fn conversation(kind: u8, port: u16, peer: [u8; 4], peer_port: u16) -> (Ipv4, Ipv4) {
    let (protocol, there, back) = match kind {
        0 => (
            protocol::TCP,
            tcp(port, peer_port, SYN),
            tcp(peer_port, port, SYN | ACK),
        ),
        1 => (
            protocol::UDP,
            ports(port, peer_port).to_vec(),
            ports(peer_port, port).to_vec(),
        ),
        _ => (
            protocol::ICMP,
            icmp(8, port).to_vec(),
            icmp(0, port).to_vec(),
        ),
    };
    let forward = Ipv4 {
        protocol,
        destination: peer,
        payload: there,
        ..Ipv4::default()
    };
    let reply = Ipv4 {
        source: peer,
        destination: forward.source,
        payload: back,
        ..forward.clone()
    };
    (forward, reply)
}

/// What the world sees of a slot.
fn seen_as(port: u16) -> Endpoint {
    Endpoint {
        address: Address::v4(u32::from_be_bytes(UPLINK)),
        port,
    }
}

fn inside(port: u16) -> Endpoint {
    Endpoint {
        address: Address::ANY,
        port,
    }
}

fn leaving(kind: u8, packet: &Ipv4) -> FlowKey {
    FlowKey::leaving(kind, &packet.frame(), &packet.transport())
}

fn arriving(kind: u8, packet: &Ipv4) -> FlowKey {
    FlowKey::arriving(kind, &packet.frame(), &packet.transport())
}

/// One of a few addresses of both families, some of which share a half.
fn address() -> impl Strategy<Value = Address> {
    prop::sample::select(vec![
        Address::v4(1),
        Address::v4(2),
        Address([1, 2, 3, 4]),
        Address([1, 2, 3, 5]),
        Address([2, 2, 3, 4]),
    ])
}

/// An entry of few possible ones.
fn entry() -> impl Strategy<Value = (FlowKey, SealedFlow)> {
    let key = (address(), address(), 0..2_u16, 0..2_u16, any::<bool>());
    let value = (0..4_u32, 1..4_u32, address(), 0..4_u16, 0..2_u8);
    (key, value).prop_map(|(key, (slot, epoch, address, port, flags))| {
        let (local, remote, local_port, remote_port, tcp) = key;
        let key = FlowKey {
            local,
            remote,
            local_port,
            remote_port,
            protocol: if tcp { protocol::TCP } else { protocol::UDP },
            kind: flow_kind::INGRESS,
            padding: 0,
        };
        let flow = Flow {
            flags,
            ..new_flow(slot, epoch, &Endpoint { address, port }, 0)
        };
        let seal = flow.seal(&key);
        (key, SealedFlow { flow, seal })
    })
}

/// What a reader makes of an entry where it expects that of `key`.
fn unsealed(key: &FlowKey, entry: &SealedFlow) -> Option<Flow> {
    let flow = &entry.flow;
    let [a, b, c, d] = flow.translated_address.0.map(u64::from);
    let mut words = vec![
        flow.last_seen_ns,
        u64::from(flow.slot) | u64::from(flow.epoch) << 32,
        a | b << 32,
        c | d << 32,
        u64::from(flow.translated_port)
            | u64::from(flow.state) << 16
            | u64::from(flow.flags) << 24
            | u64::from(flow.policy) << 32,
    ];
    words.extend(entry.seal);
    let mut read = Flow::default();
    unseal(key, |index| words[index], &mut read).then_some(read)
}

proptest! {
    #[test]
    fn an_answer_finds_back_to_where_the_question_came_from(
        kind in 0_u8..3,
        port: u16,
        peer: [u8; 4],
        peer_port: u16,
        translated: u16,
    ) {
        let (question, _) = conversation(kind, port, peer, peer_port);
        let egress = leaving(flow_kind::EGRESS, &question);
        let ingress = egress.translated(&seen_as(translated));
        let owner = new_flow(7, 4, &inside(egress.local_port), 0);

        // What the world sees, and what it answers.
        let (_, answer) = conversation(kind, translated, peer, peer_port);
        let answer = Ipv4 { destination: UPLINK, ..answer };

        prop_assert_eq!(arriving(flow_kind::INGRESS, &answer), ingress);
        prop_assert_eq!(owner.translated_port, port);
        prop_assert!(is_reverse_of(&owner, &egress, 7, 4));
    }

    #[test]
    fn both_entries_of_a_connection_from_outside_lead_to_each_other(
        local: [u32; 4], remote: [u32; 4], inside: [u32; 4], ports: [u16; 3],
    ) {
        let [local_port, remote_port, inside_port] = ports;
        let ingress = FlowKey {
            local: Address(local), remote: Address(remote), local_port, remote_port,
            protocol: protocol::UDP, kind: flow_kind::INGRESS, padding: 0,
        };
        let inside = Endpoint { address: Address(inside), port: inside_port };
        let outside = Endpoint { address: ingress.local, port: ingress.local_port };
        let egress = ingress.restored(&inside);
        prop_assert_eq!((egress.local, egress.local_port), (inside.address, inside.port));
        prop_assert_eq!(egress.kind, flow_kind::EGRESS);
        prop_assert_eq!(egress.translated(&outside), ingress);
        let owner = new_flow(7, 4, &inside, 0).inbound();
        prop_assert!(is_reverse_of(&owner, &egress, 7, 4));
    }

    #[test]
    fn who_opened_a_connection_is_part_of_its_entry(
        local: [u32; 4], port: u16, slot: u32, epoch: u32,
    ) {
        let key = FlowKey { local: Address(local), local_port: port, ..FlowKey::default() };
        let ours = new_flow(slot, epoch, &Endpoint::default(), 0);
        let theirs = ours.inbound();
        prop_assert_ne!(ours.seal(&key), theirs.seal(&key));
        prop_assert_eq!((ours.from_slot(), ours.to_slot()), (Forward, Reply));
        prop_assert_eq!((theirs.from_slot(), theirs.to_slot()), (Reply, Forward));
    }

    #[test]
    fn an_answer_to_the_host_has_the_key_of_its_question(
        kind in 0_u8..3,
        port: u16,
        peer: [u8; 4],
        peer_port: u16,
    ) {
        let (question, answer) = conversation(kind, port, peer, peer_port);
        prop_assert_eq!(arriving(flow_kind::HOST, &question), leaving(flow_kind::HOST, &answer));
    }

    /// All mixtures of words of two entries, as a reader may find them while the kernel uses the place
    /// of one for the other.
    #[test]
    fn what_is_read_of_a_recycled_entry_is_its_own_or_nothing(
        [(old_key, old), (new_key, new)] in prop::array::uniform2(entry()),
        is_new in prop::array::uniform9(any::<bool>()),
    ) {
        let [owner, first_half, second_half, port_and_flags, seal @ ..] =
            is_new.map(|is_new| if is_new { new } else { old });
        let [a, b, ..] = first_half.flow.translated_address.0;
        let [.., c, d] = second_half.flow.translated_address.0;
        let flow = Flow {
            slot: owner.flow.slot,
            epoch: owner.flow.epoch,
            translated_address: Address([a, b, c, d]),
            translated_port: port_and_flags.flow.translated_port,
            flags: port_and_flags.flow.flags,
            ..old.flow
        };
        let read = SealedFlow { flow, seal: [0, 1, 2, 3, 4].map(|word| seal[word].seal[word]) };
        let its_own = flow == old.flow || new_key == old_key;
        prop_assert!(its_own || unsealed(&old_key, &read).is_none(), "{:?}", read);
        prop_assert_eq!(unsealed(&old_key, &old), Some(old.flow));
    }

    #[test]
    fn ports_stay_in_the_range_and_do_not_repeat(
        first: u16, last: u16, random: u32, in_use in 0..70_000_u32,
    ) {
        let (first, last) = (first.min(last), first.max(last));
        let config = Config { nat_port_first: first, nat_port_last: last, ..Config::default() };
        let mut sequence = PortSequence::new(&config, random, in_use);
        let ports: Vec<_> = (0..PORT_TRIES).map(|_| sequence.next_port()).collect();
        prop_assert!(ports.iter().all(|port| (first..=last).contains(port)));
        let distinct = ports.iter().collect::<HashSet<_>>().len();
        let all = usize::from(last - first) + 1;
        let leaves_some = all >= 128 && in_use as usize > all / 8;
        let available = if leaves_some { all - all / 4 } else { all };
        prop_assert_eq!(distinct, available.min(ports.len()));
    }

    #[test]
    fn a_connection_is_established_only_by_packets_of_both_sides(
        packets in prop::collection::vec((any::<bool>(), any::<u8>()), 0..20),
    ) {
        let mut state = OPENING;
        let mut answered = false;
        for (forward, flags) in packets {
            let direction = if forward { Forward } else { Reply };
            answered |= !forward;
            state = next_state(state, protocol::TCP, direction, flags);
            prop_assert!(state <= RESET);
            prop_assert!(answered || state != ESTABLISHED);
            prop_assert!(flags & (FIN | RST) == 0 || state >= OPENER_FINISHED);
            prop_assert_eq!(flags & RST != 0, state == RESET);
        }
    }

    #[test]
    fn no_flow_outlives_its_attachment(epoch: u32, now: u64, seen: u64, ip_protocol: u8) {
        prop_assume!(epoch != WORD.epoch());
        let flow = new_flow(7, epoch, &UNSHOWN, seen);
        prop_assert!(!is_live(&flow, ip_protocol, WORD, now));
        let detached = AttachmentWord::detached(epoch);
        prop_assert!(!is_live(&flow, ip_protocol, detached, now));
    }
}

#[test]
fn a_request_is_never_taken_for_a_reply() {
    let (request, reply) = conversation(2, 9, [192, 0, 2, 1], 0);
    assert_ne!(
        leaving(flow_kind::HOST, &request),
        leaving(flow_kind::HOST, &reply)
    );
}

#[test]
fn a_port_belongs_to_one_connection_only() {
    let (question, _) = conversation(0, 1000, [192, 0, 2, 1], 443);
    let egress = leaving(flow_kind::EGRESS, &question);
    let owner = new_flow(7, 4, &inside(egress.local_port), 0);
    let strangers = [
        (
            FlowKey {
                local_port: 1001,
                ..egress
            },
            7,
            4,
        ),
        (egress, 8, 4),
        (egress, 7, 5),
    ];
    for (key, slot, epoch) in strangers {
        assert!(
            !is_reverse_of(&owner, &key, slot, epoch),
            "{key:?} {slot} {epoch}"
        );
    }
}

#[test]
fn the_fragments_of_a_datagram_have_one_key() {
    let fragment = |flags_and_offset, source, destination| Ipv4 {
        source,
        destination,
        flags_and_offset,
        ..Ipv4::default()
    };
    let (slot, peer) = ([10, 213, 0, 7], [192, 0, 2, 1]);
    let first = fragment(0x2000, slot, peer).frame();
    let last = fragment(0x0010, slot, peer).frame();
    let key = FlowKey::leaving_fragment(&first);
    assert_eq!(key, FlowKey::leaving_fragment(&last));
    let [first, last] = [0x2000, 0x0010].map(|flags| fragment(flags, peer, slot).frame());
    let answer = FlowKey::arriving_fragment(&first);
    assert_eq!(answer, FlowKey::arriving_fragment(&last));
    assert_eq!((answer.local, answer.remote), (key.local, key.remote));
    assert_ne!(
        answer, key,
        "the answer has the same identification by chance"
    );
    let mut other = last;
    other.identification += 1;
    assert_ne!(answer, FlowKey::arriving_fragment(&other));
}

#[test]
fn a_datagram_in_fragments_is_waited_for_only_shortly() {
    let second = nanoseconds(Duration::from_secs(1));
    let flow = new_flow(7, WORD.epoch(), &UNSHOWN, second);
    assert!(may_go_on(&flow, WORD, 2 * second));
    assert!(!may_go_on(&flow, WORD, 10 * second));
    let next = AttachmentWord::attached(WORD.epoch() + 1, 1);
    let nobody = AttachmentWord::detached(WORD.epoch());
    assert!(!may_go_on(&flow, next, second) && !may_go_on(&flow, nobody, second));
}

#[test]
fn a_slot_with_few_connections_tries_what_others_left_to_it() {
    let config = Config {
        nat_port_first: 1000,
        nat_port_last: 1999,
        ..Config::default()
    };
    for random in (0..1000_u32).map(|random| random.wrapping_mul(0x9e37_79b9)) {
        let late = |in_use| {
            let mut sequence = PortSequence::new(&config, random, in_use);
            sequence.next_port();
            sequence.turn_to_reserve();
            let ports: HashSet<_> = (0..PORT_TRIES / 2).map(|_| sequence.next_port()).collect();
            ports
        };
        let ports = late(125);
        assert_eq!(ports.len(), 16);
        assert!(ports.iter().all(|port| (1750..2000).contains(port)));
        assert!(late(126).iter().all(|port| (1000..1750).contains(port)));
    }
}

#[test]
fn a_slot_with_many_connections_leaves_a_quarter_of_the_ports_to_others() {
    let config = Config {
        nat_port_first: 1000,
        nat_port_last: 1999,
        ..Config::default()
    };
    let most = |in_use| {
        let ports = (0..10_000).flat_map(|random: u32| {
            let random = random.wrapping_mul(0x9e37_79b9);
            let mut sequence = PortSequence::new(&config, random, in_use);
            (0..PORT_TRIES).map(move |_| sequence.next_port())
        });
        ports.max()
    };
    assert_eq!(most(125), Some(1999));
    assert_eq!(most(126), Some(1749));
}

#[test]
fn a_reversed_range_is_its_first_port() {
    let config = Config {
        nat_port_first: 5000,
        nat_port_last: 4000,
        ..Config::default()
    };
    let mut sequence = PortSequence::new(&config, 0xdead_beef, 0);
    assert!((0..PORT_TRIES).all(|_| sequence.next_port() == 5000));
}

#[test]
fn tcp_connections_open_work_and_close() {
    let life: &[(Direction, u8, u8)] = &[
        (Forward, SYN, OPENING),
        (Forward, SYN, OPENING),
        (Reply, SYN | ACK, ANSWERED),
        (Reply, SYN | ACK, ANSWERED),
        (Forward, ACK, ESTABLISHED),
        (Reply, ACK, ESTABLISHED),
        (Reply, FIN | ACK, PEER_FINISHED),
        (Forward, ACK, PEER_FINISHED),
        (Reply, FIN | ACK, PEER_FINISHED),
        (Forward, FIN | ACK, CLOSED),
        (Reply, ACK, CLOSED),
        (Forward, SYN, OPENING),
        (Reply, RST | ACK, RESET),
        (Forward, ACK, OPENER_FINISHED),
        (Reply, FIN | ACK, CLOSED),
    ];
    let mut state = OPENING;
    for (step, &(direction, flags, expected)) in life.iter().enumerate() {
        state = next_state(state, protocol::TCP, direction, flags);
        assert_eq!(state, expected, "step {step}");
    }
}

#[test]
fn only_closed_silent_connections_of_the_same_attachment_give_way() {
    let long_after = nanoseconds(Duration::from_secs(5));
    let closed = Flow {
        state: CLOSED,
        ..new_flow(7, 9, &UNSHOWN, 0)
    };
    assert!(may_give_way(&closed, protocol::TCP, 7, 9, long_after));
    let reset = Flow {
        state: RESET,
        ..closed
    };
    assert!(may_give_way(&reset, protocol::TCP, 7, 9, long_after));
    let half = Flow {
        state: PEER_FINISHED,
        ..closed
    };
    assert!(!may_give_way(&half, protocol::TCP, 7, 9, long_after));
    assert!(!may_give_way(&closed, protocol::TCP, 8, 9, long_after));
    assert!(!may_give_way(&closed, protocol::TCP, 7, 10, long_after));
    assert!(!may_give_way(&closed, protocol::UDP, 7, 9, long_after));
    assert!(!may_give_way(
        &closed.inbound(),
        protocol::TCP,
        7,
        9,
        long_after
    ));
    let soon_after = nanoseconds(Duration::from_secs(1));
    assert!(!may_give_way(&closed, protocol::TCP, 7, 9, soon_after));
}

#[test]
fn udp_and_icmp_are_unanswered_or_answered() {
    for ip_protocol in [protocol::UDP, protocol::ICMP] {
        assert_eq!(next_state(OPENING, ip_protocol, Forward, 0), OPENING);
        assert_eq!(next_state(OPENING, ip_protocol, Reply, 0), ANSWERED);
        assert_eq!(next_state(ANSWERED, ip_protocol, Forward, 0), ANSWERED);
    }
}

#[test]
fn idle_flows_live_as_long_as_the_rfcs_ask() {
    let minutes = Duration::from_mins;
    let cases = [
        ("RFC 5382 REQ-5", protocol::TCP, OPENING, minutes(4)),
        ("RFC 5382 REQ-5", protocol::TCP, ANSWERED, minutes(4)),
        ("RFC 5382 REQ-5", protocol::TCP, PEER_FINISHED, minutes(4)),
        ("RFC 5382 REQ-5", protocol::TCP, CLOSED, minutes(4)),
        ("RFC 5382 REQ-5", protocol::TCP, ESTABLISHED, minutes(124)),
        ("RFC 4787 REQ-5", protocol::UDP, ANSWERED, minutes(5)),
        ("RFC 5508 REQ-2", protocol::ICMP, OPENING, minutes(1)),
    ];
    for (rfc, ip_protocol, state, least) in cases {
        let timeout = idle_timeout_ns(ip_protocol, state);
        assert!(
            timeout >= nanoseconds(least),
            "{rfc}: {ip_protocol} in state {state}"
        );
    }
}

#[test]
fn a_flow_ends_when_it_was_idle_for_too_long() {
    let seen = nanoseconds(Duration::from_hours(1));
    let mut flow = new_flow(7, WORD.epoch(), &UNSHOWN, seen);
    for (state, tcp_lives) in [(OPENING, false), (ESTABLISHED, true)] {
        flow.state = state;
        let later = flow.last_seen_ns + nanoseconds(Duration::from_mins(10));
        assert_eq!(is_live(&flow, protocol::TCP, WORD, later), tcp_lives);
        assert!(is_live(&flow, protocol::TCP, WORD, flow.last_seen_ns));
    }
}

#[test]
fn a_time_written_by_another_cpu_may_lie_ahead() {
    let flow = new_flow(7, WORD.epoch(), &UNSHOWN, 5000);
    assert!(is_live(&flow, protocol::ICMP, WORD, 4000));
    assert!(!needs_refresh(5000, 4000));
}

#[test]
fn times_are_refreshed_no_more_often_than_once_a_second() {
    let half = nanoseconds(Duration::from_millis(500));
    assert!(!needs_refresh(1000, 1000 + half));
    assert!(needs_refresh(1000, 1000 + 3 * half));
}
