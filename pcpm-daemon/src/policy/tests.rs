//! Rules, compiled and looked up as the kernel does, against what they say.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use pcpm_api::rules::{Peer, Protocol, Rule, parse_all};
use pcpm_ebpf::{
    abi::{Name, NameKey, name_kind},
    policy::Ruling,
};
use proptest::prelude::*;

use super::*;
use crate::bpf::fake::FakeDatapath;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

fn ranges() -> Ranges {
    Ranges::new(["10.213.0.0/16", "fd00:213::/64"].map(|range| range.parse().unwrap()))
}

/// Rules such as `allow 10.0.0.0/8:53/udp`.
fn rules(texts: &[impl AsRef<str>]) -> Rules {
    let of = |verdict: &str| {
        let rules = texts
            .iter()
            .filter_map(|text| text.as_ref().strip_prefix(verdict));
        let rules: Vec<String> = rules.map(|rule| rule.trim().to_owned()).collect();
        parse_all(verdict, &rules).unwrap()
    };
    Rules::new(of("allow"), of("deny")).unwrap()
}

/// As the kernel's trie does it: the longest prefix that is there.
fn look_up(table: &FakeDatapath, policy: PolicyId, to: Address, protocol: u8, port: u16) -> Ruling {
    let bits = u128::from_be_bytes(to.octets());
    let nodes = table.policies.borrow();
    let node = (0..=128).rev().find_map(|length| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let prefix = Address::v6((bits & mask).to_be_bytes());
        nodes.get(&PolicyKey::range(policy, prefix, length))
    });
    node.map_or(Ruling::None, |node| node.ruling(protocol, port))
}

/// As the kernel programs do it: the whole name, then the names around it.
fn number_of(table: &FakeDatapath, policy: PolicyId, name: &str) -> Option<u32> {
    let key = |kind, name: &str| NameKey {
        policy,
        kind,
        name: Name::parse(name).unwrap(),
    };
    let around = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
    let below = around.map(|name| key(name_kind::BELOW, name));
    let names = table.names.borrow();
    std::iter::once(key(name_kind::EXACT, name))
        .chain(below)
        .find_map(|key| names.get(&key).copied())
}

fn names_ruling(table: &FakeDatapath, policy: PolicyId, name: &str, port: u16) -> Ruling {
    number_of(table, policy, name).map_or(Ruling::None, |number| {
        look_up(table, policy, Address::of_name(number), TCP, port)
    })
}

fn table_of(texts: &[&str]) -> (FakeDatapath, PolicyId) {
    let mut table = FakeDatapath::default();
    let id = Policies::new(ranges())
        .acquire(&rules(texts), &mut table)
        .expect("room");
    (table, id)
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

#[test]
fn the_most_specific_rule_decides_whatever_the_order() {
    let (table, id) = table_of(&[
        "deny 0.0.0.0/0",
        "allow 192.0.2.0/24/tcp",
        "deny 192.0.2.0/24:25/tcp",
        "allow 192.0.2.7/32:25",
        "allow [2001:db8::/32]:443/tcp",
        "allow 192.0.2.0/24/icmp",
    ]);
    let cases = [
        ("198.51.100.1", TCP, 80, Ruling::Close),
        ("192.0.2.1", TCP, 80, Ruling::Allow),
        ("192.0.2.1", UDP, 80, Ruling::Close),
        ("192.0.2.1", TCP, 25, Ruling::Deny),
        ("192.0.2.1", ICMP, 0, Ruling::Allow),
        ("192.0.2.7", TCP, 25, Ruling::Allow),
        ("192.0.2.7", UDP, 25, Ruling::Allow),
        ("192.0.2.7", TCP, 80, Ruling::Allow),
        ("2001:db8::9", TCP, 443, Ruling::Allow),
        ("2001:db8::9", TCP, 80, Ruling::None),
        ("2001:db9::9", TCP, 443, Ruling::None),
    ];
    for (to, protocol, port, ruling) in cases {
        let found = look_up(&table, id, address(to), protocol, port);
        assert_eq!(found, ruling, "{to} {protocol} {port}");
    }
}

#[test]
fn what_is_closed_to_all_is_opened_only_by_a_rule_about_it() {
    let (table, id) = table_of(&[
        "allow 0.0.0.0/0",
        "allow ::/0",
        "allow 169.254.169.254/32:80/tcp",
    ]);
    let cases = [
        ("198.51.100.1", Ruling::Allow),
        ("2001:db8::1", Ruling::Allow),
        ("169.254.169.254", Ruling::Allow),
        ("169.254.169.253", Ruling::None),
        ("fe80::7", Ruling::None),
        ("10.213.0.9", Ruling::None),
        ("fd00:213::9", Ruling::None),
        ("10.214.0.9", Ruling::Allow),
        ("169.254.1.1", Ruling::None),
        ("fe80::1", Ruling::None),
    ];
    for (to, ruling) in cases {
        assert_eq!(look_up(&table, id, address(to), TCP, 80), ruling, "{to}");
    }
    let (table, id) = table_of(&["deny 0.0.0.0/0", "allow 10.213.0.9/32"]);
    assert_eq!(
        look_up(&table, id, address("10.213.0.8"), TCP, 80),
        Ruling::Close
    );
    assert_eq!(
        look_up(&table, id, address("10.213.0.9"), TCP, 80),
        Ruling::Allow
    );
}

#[test]
fn a_rule_for_one_family_says_nothing_about_the_other() {
    let (table, id) = table_of(&["deny ::/0"]);
    assert_eq!(
        look_up(&table, id, address("198.51.100.1"), TCP, 80),
        Ruling::None
    );
    assert_eq!(
        look_up(&table, id, address("2001:db8::1"), TCP, 80),
        Ruling::Close
    );
}

#[test]
fn services_of_the_host_are_opened_for_both_families_and_by_nothing_else() {
    let (table, id) = table_of(&[
        "allow host:53/udp",
        "deny 0.0.0.0/0",
        "allow 169.254.0.0/16",
    ]);
    for gateway in ["169.254.1.1", "fe80::1"] {
        let ruling = |protocol, port| look_up(&table, id, address(gateway), protocol, port);
        assert_eq!(ruling(UDP, 53), Ruling::Allow);
        assert_eq!(ruling(TCP, 53), Ruling::None);
        assert_eq!(ruling(UDP, 54), Ruling::None);
    }
}

#[test]
fn a_protocol_without_number_of_its_own_is_that_of_the_family() {
    let (table, id) = table_of(&["deny 192.0.2.0/24/icmp", "deny [2001:db8::/32]/icmp"]);
    assert_eq!(
        look_up(&table, id, address("192.0.2.1"), ICMP, 0),
        Ruling::Deny
    );
    assert_eq!(
        look_up(&table, id, address("2001:db8::1"), ICMP_V6, 0),
        Ruling::Deny
    );
}

#[test]
fn a_name_has_the_rules_of_all_patterns_around_it() {
    let (table, id) = table_of(&[
        "allow *.example.com:443/tcp",
        "allow api.example.com:8443/tcp",
        "allow *.example.com:80",
        "allow deep.example.net",
    ]);
    let cases = [
        ("www.example.com", 443, Ruling::Allow),
        ("a.b.example.com", 80, Ruling::Allow),
        ("www.example.com", 8443, Ruling::None),
        ("api.example.com", 8443, Ruling::Allow),
        ("api.example.com", 443, Ruling::Allow),
        ("x.api.example.com", 8443, Ruling::None),
        ("example.com", 443, Ruling::None),
        ("badexample.com", 443, Ruling::None),
        ("deep.example.net", 1, Ruling::Allow),
        ("x.deep.example.net", 1, Ruling::None),
    ];
    for (name, port, ruling) in cases {
        assert_eq!(
            names_ruling(&table, id, name, port),
            ruling,
            "{name} {port}"
        );
    }
}

#[test]
fn no_address_has_the_rules_of_a_name() {
    let (table, id) = table_of(&["allow ::/0", "allow *.example.com"]);
    let unknown = Address::of_name(77);
    assert_eq!(look_up(&table, id, unknown, TCP, 80), Ruling::None);
}

#[test]
fn names_that_the_kernel_cannot_match_are_refused() {
    let deep = format!("allow {}.example", ["d"; 16].join("."));
    let refused = Policies::new(ranges()).acquire(&rules(&[deep]), &mut FakeDatapath::default());
    let error = refused.expect_err("too many labels").to_string();
    assert!(
        error.ends_with("at most 127 characters and 16 labels"),
        "{error}"
    );
}

#[test]
fn more_rules_than_a_node_holds_are_refused_with_the_range() {
    let compiled = |ports: std::ops::Range<u16>| {
        let some = ports.map(|port| format!("allow 192.0.2.0/25:{port}"));
        let all: Vec<_> = some.chain(["deny 192.0.2.0/24/udp".to_owned()]).collect();
        Policies::new(ranges()).acquire(&rules(&all), &mut FakeDatapath::default())
    };
    assert!(compiled(1..16).is_ok());
    let error = compiled(1..17).expect_err("too many").to_string();
    assert_eq!(
        error,
        "192.0.2.0/25: more than 16 rules count for the same addresses"
    );
}

#[test]
fn attachments_with_the_same_rules_share_one_set() {
    let (mut policies, mut table) = (Policies::new(ranges()), FakeDatapath::default());
    let mut acquire = |texts: &[&str]| policies.acquire(&rules(texts), &mut table).expect("room");
    let first = acquire(&["allow 192.0.2.0/24", "deny 0.0.0.0/0"]);
    assert_eq!(acquire(&["deny 0.0.0.0/0", "allow 192.0.2.0/24"]), first);
    assert_ne!(acquire(&["deny 0.0.0.0/0"]), first);
    assert_eq!(acquire(&[]), 0);
}

#[test]
fn a_full_table_gets_rid_of_what_rests_and_no_number_comes_again() {
    let mut table = FakeDatapath::default();
    *table.room_for_nodes.borrow_mut() = Some(10);
    let mut policies = Policies::new(ranges());
    let mut numbers = HashSet::new();
    for port in 1..=50 {
        let rules = rules(&[
            format!("allow 192.0.2.0/24:{port}"),
            "allow a.example".into(),
        ]);
        let id = policies.acquire(&rules, &mut table).expect("room");
        assert!(numbers.insert(id));
        policies.release(&rules, &mut table).expect("is there");
    }
    let rules = |port| rules(&[format!("allow 192.0.2.0/24:{port}")]);
    for port in 100..110 {
        policies.acquire(&rules(port), &mut table).expect("room");
    }
    let error = policies
        .acquire(&rules(110), &mut table)
        .expect_err("no room");
    assert!(error.to_string().starts_with("write a policy: "), "{error}");
    assert!(table.names.borrow().is_empty() && policies.names.len() == 0);
}

fn any_range() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/8",
        "10.213.0.0/16",
        "10.213.0.0/24",
        "10.213.0.4/32",
        "169.254.0.0/16",
        "169.254.1.0/24",
        "169.254.1.1/32",
        "169.254.169.254/32",
        "192.0.2.0/24",
        "192.0.2.0/25",
        "192.0.2.1/32",
        "128.0.0.0/1",
        "fe80::/10",
        "fe80::1/128",
        "fd00::/8",
        "fd00:213::/64",
        "fd00:213::4/128",
        "2001:db8::/32",
        "2000::/3",
    ])
}

fn any_rule() -> impl Strategy<Value = String> {
    let ports = prop::sample::select(vec!["", ":1", ":2", ":3", ":1-2", ":2-3"]);
    let protocol = prop::sample::select(vec!["", "/tcp", "/udp"]);
    let network = (any_range(), ports, protocol.clone());
    let network =
        network.prop_map(|(range, ports, protocol)| format!("[{range}]{ports}{protocol}"));
    let service =
        (1_u16..4, protocol).prop_map(|(port, protocol)| format!("host:{port}{protocol}"));
    let verdict = prop::sample::select(vec!["allow", "deny"]);
    (verdict, prop_oneof![9 => network, 1 => service]).prop_map(|(verdict, rule)| {
        // Brackets are for IPv6.
        let rule = if rule.matches(':').count() < 2 {
            rule.replace(['[', ']'], "")
        } else {
            rule
        };
        format!("{verdict} {rule}")
    })
}

/// How much a rule says about an address and a port; more comes first.
type Rank = (u8, bool, bool, std::cmp::Reverse<usize>, bool);

/// What `rules` say, found by looking at each of them and nothing else.
fn reference(rules: &Rules, to: IpAddr, protocol: u8, port: u16) -> Ruling {
    let allowed = rules.allow().iter().map(|rule| (rule, false));
    let all = allowed.chain(rules.deny().iter().map(|rule| (rule, true)));
    let matching = all.filter_map(|(rule, denies)| {
        let (length, opens) = about(rule, to)?;
        let number = rule.protocol.map(|protocol| match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
        });
        let says_port = rule
            .ports
            .is_none_or(|ports| ports.iter().any(|own| own == port));
        if !says_port || number.is_some_and(|own| own != protocol) {
            return None;
        }
        let (has_ports, has_protocol) = (rule.ports.is_some(), number.is_some());
        let ruling = match denies {
            true if length == 0 && !has_ports && !has_protocol => Ruling::Close,
            true => Ruling::Deny,
            false if opens => Ruling::Allow,
            false => Ruling::None,
        };
        let ports = std::cmp::Reverse(rule.ports.map_or(0, |ports| ports.iter().count()));
        let rank: Rank = (length, has_ports, has_protocol, ports, denies);
        Some((rank, ruling))
    });
    let decides = matching.max_by_key(|(rank, _)| *rank);
    decides.map_or(Ruling::None, |(_, ruling)| ruling)
}

/// The length of the rule's prefix, and whether it opens what is closed to all; `None` if it says
/// nothing about `to`.
fn about(rule: &Rule, to: IpAddr) -> Option<(u8, bool)> {
    let range = |text: &str| text.parse::<IpNet>().unwrap();
    let is_host = ["169.254.1.1", "fe80::1"]
        .map(|text| text.parse::<IpAddr>().unwrap())
        .contains(&to);
    let guarded = [
        "10.213.0.0/16",
        "fd00:213::/64",
        "169.254.0.0/16",
        "fe80::/10",
    ]
    .map(range);
    match rule.peer {
        Peer::Host if is_host => Some((u8::MAX, true)),
        Peer::Network(range) if range.contains(&to) => {
            let is_single = range.prefix_len() == range.max_prefix_len();
            let guard = guarded.iter().find(|guard| guard.contains(&to));
            let opens = guard.is_none_or(|guard| guard.contains(&range));
            let length = if is_single {
                u8::MAX
            } else {
                range.prefix_len()
            };
            (is_single || !is_host).then_some((length, opens))
        }
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_kernel_finds_what_the_rules_say(
        texts in prop::collection::vec(any_rule(), 1..14),
        around in prop::collection::vec(any_range(), 1..20),
        port in 0_u16..5,
    ) {
        let of = |verdict: &str| {
            let texts = texts.iter().filter_map(|text| text.strip_prefix(verdict));
            let texts: Vec<String> = texts.map(|text| text.trim().to_owned()).collect();
            parse_all(verdict, &texts).unwrap()
        };
        // Random rules contradict each other now and then.
        let Ok(rules) = Rules::new(of("allow"), of("deny")) else {
            return Ok(());
        };
        let mut table = FakeDatapath::default();
        let Ok(id) = Policies::new(ranges()).acquire(&rules, &mut table) else {
            return Ok(());
        };
        for range in around {
            let range: IpNet = range.parse().unwrap();
            for to in [range.network(), range.broadcast()] {
                let to = to.to_canonical();
                for protocol in [TCP, UDP, ICMP] {
                    let port = if protocol == ICMP { 0 } else { port };
                    let found = look_up(&table, id, to.into(), protocol, port);
                    let expected = reference(&rules, to, protocol, port);
                    prop_assert_eq!(found, expected, "{} {} {}", to, protocol, port);
                }
            }
        }
    }

    #[test]
    fn what_attachments_need_is_in_the_table(
        steps in prop::collection::vec((any::<bool>(), 1_u16..6), 1..60),
    ) {
        let (mut policies, mut table) = (Policies::new(ranges()), FakeDatapath::default());
        let mut held: Vec<(PolicyId, u16)> = Vec::new();
        let mut seen = HashMap::new();
        let rules = |port: u16| rules(&[format!("allow b.example:{port}")]);
        for (attach, port) in steps {
            if attach || held.is_empty() {
                let id = policies.acquire(&rules(port), &mut table).expect("room");
                prop_assert!(seen.insert(id, port).is_none_or(|known| known == port));
                held.push((id, port));
            } else {
                let (_, port) = held.swap_remove(usize::from(port) % held.len());
                policies.release(&rules(port), &mut table).expect("there");
            }
            for (id, port) in &held {
                prop_assert_eq!(names_ruling(&table, *id, "b.example", *port), Ruling::Allow);
            }
        }
    }
}
