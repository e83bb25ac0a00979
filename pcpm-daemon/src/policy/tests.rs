//! Rules, compiled and looked up as the kernel does, against what they say.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use pcpm_ebpf::{
    abi::{Name, NameKey, PolicyKey, PolicyNode, name_kind},
    address::Address,
    policy::Ruling,
};
use proptest::prelude::*;

use super::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

fn ranges() -> Ranges {
    Ranges::new(["10.213.0.0/16", "fd00:213::/64"].map(|range| range.parse().unwrap()))
}

fn subject(text: &str) -> Subject {
    if text == "host" {
        return Subject::Host;
    }
    let range = text.parse().map(Subject::Range);
    range.unwrap_or_else(|_| Subject::Name(Pattern::parse(text).unwrap()))
}

/// A rule such as `allow 10.0.0.0/8 53 udp`; `-` for any port.
fn rule(text: &str) -> Rule {
    let mut words = text.split(' ');
    let verdict = match words.next() {
        Some("allow") => Verdict::Allow,
        _ => Verdict::Deny,
    };
    Rule {
        subject: subject(words.next().expect("a subject")),
        port: words.next().and_then(|port| port.parse().ok()),
        protocol: words.next().map(|protocol| match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Icmp,
        }),
        verdict,
    }
}

fn rule_set(rules: &[&str]) -> Result<RuleSet, RuleError> {
    RuleSet::new(rules.iter().map(|text| rule(text)).collect())
}

/// The table as the kernel keeps it, in memory.
#[derive(Default)]
struct Table {
    nodes: HashMap<PolicyKey, PolicyNode>,
    names: HashMap<NameKey, u32>,
    room: Option<usize>,
}

impl PolicyTable for Table {
    fn add_policy(&mut self, policy: &Compiled) -> Result<(), BpfError> {
        let used = self.nodes.len() + policy.nodes.len();
        if self.room.is_some_and(|room| used > room) {
            return Err(BpfError::new(
                "add a policy",
                &std::io::Error::other("full"),
            ));
        }
        self.nodes.extend(policy.nodes.iter().copied());
        self.names.extend(policy.names.iter().copied());
        Ok(())
    }

    fn remove_policy(&mut self, policy: &Compiled) -> Result<(), BpfError> {
        for (key, _) in &policy.nodes {
            assert!(self.nodes.remove(key).is_some(), "{key:?}");
        }
        for (key, _) in &policy.names {
            assert!(self.names.remove(key).is_some(), "{key:?}");
        }
        Ok(())
    }
}

impl Table {
    /// As the kernel's trie does it: the longest prefix that is there.
    fn ruling(&self, policy: PolicyId, to: Address, protocol: u8, port: u16) -> Ruling {
        let bits = u128::from_be_bytes(to.octets());
        let node = (0..=128).rev().find_map(|length| {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            let prefix = Address::v6((bits & mask).to_be_bytes());
            self.nodes.get(&PolicyKey::range(policy, prefix, length))
        });
        node.map_or(Ruling::None, |node| node.ruling(protocol, port))
    }

    /// As the kernel programs do it: the whole name, then the names around it.
    fn number_of(&self, policy: PolicyId, name: &str) -> Option<u32> {
        let key = |kind, name: &str| NameKey {
            policy,
            kind,
            name: Name::parse(name).unwrap(),
        };
        let around = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let below = around.map(|name| key(name_kind::BELOW, name));
        std::iter::once(key(name_kind::EXACT, name))
            .chain(below)
            .find_map(|key| self.names.get(&key).copied())
    }

    fn names_ruling(&self, policy: PolicyId, name: &str, port: u16) -> Ruling {
        self.number_of(policy, name).map_or(Ruling::None, |number| {
            self.ruling(policy, Address::of_name(number), TCP, port)
        })
    }
}

fn table_of(rules: &[&str]) -> (Table, PolicyId) {
    let mut table = Table::default();
    let rules = rule_set(rules).expect("rules");
    let id = Policies::new(ranges())
        .acquire(rules, &mut table)
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
        "allow 192.0.2.0/24 - tcp",
        "deny 192.0.2.0/24 25 tcp",
        "allow 192.0.2.7/32 25",
        "allow 2001:db8::/32 443 tcp",
        "allow 192.0.2.0/24 - icmp",
    ]);
    let cases = [
        ("198.51.100.1", TCP, 80, Ruling::Deny),
        ("192.0.2.1", TCP, 80, Ruling::Allow),
        ("192.0.2.1", UDP, 80, Ruling::Deny),
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
        let found = table.ruling(id, address(to), protocol, port);
        assert_eq!(found, ruling, "{to} {protocol} {port}");
    }
}

#[test]
fn what_is_closed_to_all_is_opened_only_by_a_rule_about_it() {
    let (table, id) = table_of(&[
        "allow 0.0.0.0/0",
        "allow ::/0",
        "allow 169.254.169.254/32 80 tcp",
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
        assert_eq!(table.ruling(id, address(to), TCP, 80), ruling, "{to}");
    }
    let (table, id) = table_of(&["deny 0.0.0.0/0", "allow 10.213.0.9/32"]);
    assert_eq!(
        table.ruling(id, address("10.213.0.8"), TCP, 80),
        Ruling::Deny
    );
    assert_eq!(
        table.ruling(id, address("10.213.0.9"), TCP, 80),
        Ruling::Allow
    );
}

#[test]
fn a_rule_for_one_family_says_nothing_about_the_other() {
    let (table, id) = table_of(&["deny ::/0"]);
    assert_eq!(
        table.ruling(id, address("198.51.100.1"), TCP, 80),
        Ruling::None
    );
    assert_eq!(
        table.ruling(id, address("2001:db8::1"), TCP, 80),
        Ruling::Deny
    );
}

#[test]
fn services_of_the_host_are_opened_for_both_families_and_by_nothing_else() {
    let (table, id) = table_of(&[
        "allow host 53 udp",
        "deny 0.0.0.0/0",
        "allow 169.254.0.0/16",
    ]);
    for gateway in ["169.254.1.1", "fe80::1"] {
        let ruling = |protocol, port| table.ruling(id, address(gateway), protocol, port);
        assert_eq!(ruling(UDP, 53), Ruling::Allow);
        assert_eq!(ruling(TCP, 53), Ruling::None);
        assert_eq!(ruling(UDP, 54), Ruling::None);
    }
}

#[test]
fn a_protocol_without_number_of_its_own_is_that_of_the_family() {
    let (table, id) = table_of(&["deny 192.0.2.0/24 - icmp", "deny 2001:db8::/32 - icmp"]);
    assert_eq!(
        table.ruling(id, address("192.0.2.1"), ICMP, 0),
        Ruling::Deny
    );
    assert_eq!(
        table.ruling(id, address("2001:db8::1"), ICMP_V6, 0),
        Ruling::Deny
    );
}

#[test]
fn a_name_has_the_rules_of_all_patterns_around_it() {
    let (table, id) = table_of(&[
        "allow *.example.com 443 tcp",
        "allow api.example.com 8443 tcp",
        "allow *.example.com 80",
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
        assert_eq!(table.names_ruling(id, name, port), ruling, "{name} {port}");
    }
}

#[test]
fn no_address_has_the_rules_of_a_name() {
    let (table, id) = table_of(&["allow ::/0", "allow *.example.com"]);
    let unknown = Address::of_name(77);
    assert_eq!(table.ruling(id, unknown, TCP, 80), Ruling::None);
}

#[test]
fn rules_that_contradict_each_other_are_named() {
    let cases: [(&[&str], &str); 5] = [
        (
            &["allow 10.0.0.0/8 80 tcp", "deny 10.1.2.3/8 80 tcp"],
            "10.0.0.0/8:80/tcp is both allowed and denied",
        ),
        (
            &["deny 2001:db8::/32 80", "allow 2001:db8::/32 80"],
            "[2001:db8::/32]:80 is both allowed and denied",
        ),
        (
            &["deny host", "allow host"],
            "host is both allowed and denied",
        ),
        (
            &["deny *.Example.com"],
            "deny *.example.com: a name can only be allowed, since it may have other addresses than \
             were seen",
        ),
        (
            &["allow *.example.com 80", "deny *.example.com 80"],
            "*.example.com:80 is both allowed and denied",
        ),
    ];
    for (rules, expected) in cases {
        assert_eq!(rule_set(rules).expect_err(expected).to_string(), expected);
    }
    assert!(rule_set(&["allow a.example"]).is_ok_and(|rules| rules.has_names()));
    let agree = [
        "allow 10.0.0.0/8 80 tcp",
        "deny 10.0.0.0/8 80",
        "deny 10.0.0.0/8",
    ];
    assert!(rule_set(&agree).is_ok_and(|rules| !rules.has_names()));
}

#[test]
fn patterns_are_checked() {
    for good in ["a", "*.com", "_sip._tcp.example.com", "EXAMPLE.com."] {
        assert!(Pattern::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "*", "*.", "a..b", "a.*.b", "**.a", "a b", "münchen.de"] {
        assert!(Pattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn more_rules_than_a_node_holds_are_refused_with_the_range() {
    let rules = |ports: std::ops::Range<u16>| -> Vec<Rule> {
        let some = ports.map(|port| rule(&format!("allow 192.0.2.0/25 {port}")));
        some.chain([rule("deny 192.0.2.0/24 - udp")]).collect()
    };
    let compiled = |ports| {
        let rules = RuleSet::new(rules(ports)).expect("rules");
        Policies::new(ranges()).acquire(rules, &mut Table::default())
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
    let (mut policies, mut table) = (Policies::new(ranges()), Table::default());
    let mut acquire = |rules: &[&str]| {
        let rules = rule_set(rules).expect("rules");
        policies.acquire(rules, &mut table).expect("room")
    };
    let first = acquire(&["allow 192.0.2.0/24", "deny 0.0.0.0/0", "deny 0.0.0.0/0"]);
    assert_eq!(acquire(&["deny 0.0.0.0/0", "allow 192.0.2.9/24"]), first);
    assert_ne!(acquire(&["deny 0.0.0.0/0"]), first);
    assert_eq!(acquire(&[]), 0);
}

#[test]
fn a_full_table_gets_rid_of_what_rests_and_no_number_comes_again() {
    let mut table = Table {
        room: Some(10),
        ..Table::default()
    };
    let mut policies = Policies::new(ranges());
    let mut numbers = HashSet::new();
    for port in 1..=50 {
        let rules = rule_set(&[&format!("allow 192.0.2.0/24 {port}"), "allow a.example"]);
        let id = policies
            .acquire(rules.expect("rules"), &mut table)
            .expect("room");
        assert!(numbers.insert(id));
        policies.release(id, &mut table).expect("is there");
    }
    let rules = |port| rule_set(&[&format!("allow 192.0.2.0/24 {port}")]).expect("rules");
    for port in 100..110 {
        policies.acquire(rules(port), &mut table).expect("room");
    }
    let error = policies
        .acquire(rules(110), &mut table)
        .expect_err("no room");
    assert_eq!(error.to_string(), "add a policy: full");
    assert!(table.names.is_empty());
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
        "::ffff:0:0/95",
    ])
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let subject = prop_oneof![
        9 => any_range().prop_map(|range| Subject::Range(range.parse().unwrap())),
        1 => Just(Subject::Host),
    ];
    let port = prop::option::of(1_u16..4);
    let protocol = prop::option::of(prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]);
    let verdict = prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)];
    (subject, port, protocol, verdict).prop_map(|(subject, port, protocol, verdict)| Rule {
        subject,
        port,
        protocol,
        verdict,
    })
}

/// What `rules` say, found by looking at each of them and nothing else.
fn reference(rules: &RuleSet, to: IpAddr, protocol: u8, port: u16) -> Ruling {
    let range = |text: &str| text.parse::<IpNet>().unwrap();
    let is_host = ["169.254.1.1", "fe80::1"].map(|text| text.parse::<IpAddr>().unwrap());
    let guarded = [
        "10.213.0.0/16",
        "fd00:213::/64",
        "169.254.0.0/16",
        "fe80::/10",
    ]
    .map(range);
    let mut best: Option<(u8, bool, bool, Ruling)> = None;
    for rule in rules.iter() {
        let (around, opens) = match rule.subject {
            Subject::Host if is_host.contains(&to) => (u8::MAX, true),
            Subject::Range(range) if range.contains(&to) => {
                let is_single = range.prefix_len() == range.max_prefix_len();
                if is_host.contains(&to) && !is_single {
                    continue;
                }
                let guard = guarded.iter().find(|guard| guard.contains(&to));
                let opens = guard.is_none_or(|guard| guard.contains(&range));
                let length = if is_single {
                    u8::MAX
                } else {
                    range.prefix_len()
                };
                (length, opens)
            }
            _ => continue,
        };
        let number = rule.protocol.map(|protocol| match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
        });
        if rule.port.is_some_and(|own| own != port) || number.is_some_and(|own| own != protocol) {
            continue;
        }
        let ruling = match rule.verdict {
            Verdict::Deny => Ruling::Deny,
            Verdict::Allow if opens => Ruling::Allow,
            Verdict::Allow => Ruling::None,
        };
        let candidate = (around, rule.port.is_some(), number.is_some(), ruling);
        let rank = |(around, port, protocol, _): (u8, bool, bool, Ruling)| (around, port, protocol);
        if best.is_none_or(|best| rank(candidate) > rank(best)) {
            best = Some(candidate);
        }
    }
    best.map_or(Ruling::None, |(.., ruling)| ruling)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_kernel_finds_what_the_rules_say(
        rules in prop::collection::vec(any_rule(), 1..14),
        around in prop::collection::vec(any_range(), 1..20),
        port in 0_u16..5,
    ) {
        let Ok(rules) = RuleSet::new(rules) else {
            // Random rules contradict each other now and then.
            return Ok(());
        };
        let mut table = Table::default();
        let Ok(id) = Policies::new(ranges()).acquire(rules.clone(), &mut table) else {
            return Ok(());
        };
        for range in around {
            let range: IpNet = range.parse().unwrap();
            for to in [range.network(), range.broadcast()] {
                let to = to.to_canonical();
                for protocol in [TCP, UDP, ICMP] {
                    let port = if protocol == ICMP { 0 } else { port };
                    let found = table.ruling(id, to.into(), protocol, port);
                    let expected = reference(&rules, to, protocol, port);
                    prop_assert_eq!(found, expected, "{} {} {}", to, protocol, port);
                }
            }
        }
    }

    #[test]
    fn what_is_in_the_table_is_what_attachments_and_rest_need(
        steps in prop::collection::vec((any::<bool>(), 1_u16..6), 1..60),
    ) {
        let (mut policies, mut table) = (Policies::new(ranges()), Table::default());
        let mut held: Vec<PolicyId> = Vec::new();
        let written = RefCell::new(HashMap::new());
        for (attach, port) in steps {
            if attach || held.is_empty() {
                let rules = rule_set(&[&format!("allow b.example {port}")]).expect("rules");
                let id = policies.acquire(rules.clone(), &mut table).expect("room");
                let known = written.borrow_mut().insert(id, rules.clone());
                prop_assert!(known.is_none_or(|known| known == rules), "a number came again");
                held.push(id);
            } else {
                policies.release(held.swap_remove(usize::from(port) % held.len()), &mut table).expect("there");
            }
            for id in &held {
                let rules = &written.borrow()[id];
                let port = rules.iter().next().and_then(|rule| rule.port).expect("a port");
                prop_assert_eq!(table.names_ruling(*id, "b.example", port), Ruling::Allow);
            }
        }
    }
}
