//! Flows: keys, tracking, timeouts, and the choice of ports.

use std::collections::HashSet;
use std::time::Duration;

use crate::frames::{Ipv4, icmp, ports, tcp};
use pcpm_ebpf::abi::{AttachmentWord, Config, Flow, FlowKey, flow_kind};
use pcpm_ebpf::nat::{
    Direction::{self, Forward, Reply},
    PORT_TRIES, PortSequence, idle_timeout_ns, is_live, is_reverse_of, is_sealed, may_go_on,
    needs_refresh, new_flow, next_state,
    state::{ANSWERED, CLOSING, ESTABLISHED, OPENING},
};
use pcpm_ebpf::packet::{
    protocol,
    tcp_flag::{ACK, FIN, RST, SYN},
};
use proptest::prelude::*;

const UPLINK: u32 = u32::from_be_bytes([198, 51, 100, 9]);
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

fn leaving(kind: u8, packet: &Ipv4) -> FlowKey {
    FlowKey::leaving(kind, &packet.frame(), &packet.transport())
}

fn arriving(kind: u8, packet: &Ipv4) -> FlowKey {
    FlowKey::arriving(kind, &packet.frame(), &packet.transport())
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
        let ingress = egress.translated(UPLINK, translated);
        let owner = new_flow(&ingress, 7, 4, egress.local_port, 0);

        // What the world sees, and what it answers.
        let (_, answer) = conversation(kind, translated, peer, peer_port);
        let answer = Ipv4 { destination: UPLINK.to_be_bytes(), ..answer };

        prop_assert_eq!(arriving(flow_kind::INGRESS, &answer), ingress);
        prop_assert_eq!(owner.translated_port, port);
        prop_assert!(is_reverse_of(&owner, &egress, 7, 4));
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
    fn what_is_read_of_a_recycled_entry_names_its_own_owner_or_nobody(
        keys in prop::array::uniform2((prop::array::uniform2(0..2_u32), prop::array::uniform2(0..2_u16), any::<bool>())),
        owners in prop::array::uniform2((0..4_u32, 1..4_u32, any::<u16>())),
        words in prop::array::uniform4(any::<bool>()),
    ) {
        let [(old_key, old), (new_key, new)] = [0, 1].map(|which| {
            let ([local_address, remote_address], [local_port, remote_port], tcp) = keys[which];
            let protocol = if tcp { protocol::TCP } else { protocol::UDP };
            let kind = flow_kind::INGRESS;
            let key = FlowKey {
                local_address, remote_address, local_port, remote_port, protocol, kind, padding: 0,
            };
            let (slot, epoch, port) = owners[which];
            (key, new_flow(&key, slot, epoch, port, 0))
        });
        let [owner, port, first, second] = words.map(|is_new| if is_new { new } else { old });
        let read = Flow {
            slot: owner.slot,
            epoch: owner.epoch,
            translated_port: port.translated_port,
            seal: [first.seal[0], second.seal[1]],
            ..old
        };
        let same_owner = (read.slot, read.epoch) == (old.slot, old.epoch);
        let theirs = same_owner || new_key == old_key;
        prop_assert!(theirs || !is_sealed(&read, &old_key), "{:?}", read);
        prop_assert!(is_sealed(&old, &old_key));
    }

    #[test]
    fn ports_stay_in_the_range_and_do_not_repeat(first: u16, last: u16, random: u32) {
        let (first, last) = (first.min(last), first.max(last));
        let config = Config { nat_port_first: first, nat_port_last: last, ..Config::default() };
        let mut sequence = PortSequence::new(&config, random);
        let ports: Vec<_> = (0..PORT_TRIES).map(|_| sequence.next_port()).collect();
        prop_assert!(ports.iter().all(|port| (first..=last).contains(port)));
        let distinct = ports.iter().collect::<HashSet<_>>().len();
        let available = usize::from(last - first) + 1;
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
            prop_assert!(state <= CLOSING);
            prop_assert!(answered || state != ESTABLISHED);
            prop_assert!(flags & (FIN | RST) == 0 || state == CLOSING);
        }
    }

    #[test]
    fn no_flow_outlives_its_attachment(epoch: u32, now: u64, seen: u64, ip_protocol: u8) {
        prop_assume!(epoch != WORD.epoch());
        let flow = new_flow(&FlowKey::default(), 7, epoch, 0, seen);
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
    let ingress = egress.translated(UPLINK, 20_000);
    let owner = new_flow(&ingress, 7, 4, egress.local_port, 0);
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
    let answer = fragment(0x0010, peer, slot).frame();
    assert_eq!(key, FlowKey::arriving_fragment(&answer));
    let mut other = last;
    other.identification += 1;
    assert_ne!(key, FlowKey::leaving_fragment(&other));
}

#[test]
fn a_datagram_in_fragments_is_waited_for_only_shortly() {
    let second = nanoseconds(Duration::from_secs(1));
    let flow = new_flow(&FlowKey::default(), 7, WORD.epoch(), 0, second);
    assert!(may_go_on(&flow, WORD, 2 * second));
    assert!(!may_go_on(&flow, WORD, 10 * second));
    let next = AttachmentWord::attached(WORD.epoch() + 1, 1);
    let nobody = AttachmentWord::detached(WORD.epoch());
    assert!(!may_go_on(&flow, next, second) && !may_go_on(&flow, nobody, second));
}

#[test]
fn a_reversed_range_is_its_first_port() {
    let config = Config {
        nat_port_first: 5000,
        nat_port_last: 4000,
        ..Config::default()
    };
    let mut sequence = PortSequence::new(&config, 0xdead_beef);
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
        (Reply, FIN | ACK, CLOSING),
        (Forward, ACK, CLOSING),
        (Forward, SYN, OPENING),
        (Reply, RST | ACK, CLOSING),
    ];
    let mut state = OPENING;
    for (step, &(direction, flags, expected)) in life.iter().enumerate() {
        state = next_state(state, protocol::TCP, direction, flags);
        assert_eq!(state, expected, "step {step}");
    }
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
        ("RFC 5382 REQ-5", protocol::TCP, CLOSING, minutes(4)),
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
    let mut flow = new_flow(&FlowKey::default(), 7, WORD.epoch(), 0, seen);
    for (state, tcp_lives) in [(OPENING, false), (ESTABLISHED, true)] {
        flow.state = state;
        let later = flow.last_seen_ns + nanoseconds(Duration::from_mins(10));
        assert_eq!(is_live(&flow, protocol::TCP, WORD, later), tcp_lives);
        assert!(is_live(&flow, protocol::TCP, WORD, flow.last_seen_ns));
    }
}

#[test]
fn a_time_written_by_another_cpu_may_lie_ahead() {
    let flow = new_flow(&FlowKey::default(), 7, WORD.epoch(), 0, 5000);
    assert!(is_live(&flow, protocol::ICMP, WORD, 4000));
    assert!(!needs_refresh(5000, 4000));
}

#[test]
fn times_are_refreshed_no_more_often_than_once_a_second() {
    let half = nanoseconds(Duration::from_millis(500));
    assert!(!needs_refresh(1000, 1000 + half));
    assert!(needs_refresh(1000, 1000 + 3 * half));
}
