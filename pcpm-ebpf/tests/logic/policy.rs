//! What the rules of a node say.

use pcpm_ebpf::abi::{PolicyNode, PolicyRule, RULES_PER_NODE, verdict};
use pcpm_ebpf::packet::protocol::{ICMP, TCP, UDP};
use pcpm_ebpf::policy::Ruling;
use proptest::prelude::*;

fn node(rules: &[PolicyRule]) -> PolicyNode {
    let mut node = PolicyNode {
        count: u32::try_from(rules.len()).expect("few"),
        ..PolicyNode::default()
    };
    node.rules[..rules.len()].copy_from_slice(rules);
    node
}

fn rule(protocol: u8, ports: (u16, u16), verdict: u8) -> PolicyRule {
    PolicyRule {
        port_first: ports.0,
        port_last: ports.1,
        protocol,
        verdict,
        padding: 0,
    }
}

const ANY_PORT: (u16, u16) = (0, u16::MAX);

#[test]
fn the_first_rule_that_matches_decides() {
    let node = node(&[
        rule(TCP, (443, 443), verdict::ALLOW),
        rule(0, (53, 60), verdict::ALLOW),
        rule(UDP, ANY_PORT, verdict::DENY),
        rule(0, ANY_PORT, verdict::NONE),
        rule(0, ANY_PORT, verdict::DENY),
    ]);
    let cases = [
        (TCP, 443, Ruling::Allow),
        (UDP, 443, Ruling::Deny),
        (UDP, 53, Ruling::Allow),
        (TCP, 60, Ruling::Allow),
        (UDP, 61, Ruling::Deny),
        (TCP, 80, Ruling::None),
        (ICMP, 0, Ruling::None),
    ];
    for (protocol, port, ruling) in cases {
        assert_eq!(node.ruling(protocol, port), ruling, "{protocol} {port}");
    }
}

#[test]
fn a_rule_with_a_port_says_nothing_about_what_has_none() {
    let node = node(&[rule(0, (1, u16::MAX), verdict::ALLOW)]);
    assert_eq!(node.ruling(ICMP, 0), Ruling::None);
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let protocol = prop_oneof![Just(0), Just(TCP), Just(UDP)];
    (protocol, 0_u16..6, 0_u16..6, 0_u8..3)
        .prop_map(|(protocol, first, last, verdict)| rule(protocol, (first, last), verdict))
}

proptest! {
    #[test]
    fn rules_behind_the_count_do_not_exist(
        rules in prop::collection::vec(any_rule(), RULES_PER_NODE),
        count in 0..=RULES_PER_NODE,
        protocol in prop_oneof![Just(TCP), Just(UDP), Just(ICMP)],
        port in 0_u16..8,
    ) {
        let mut longer = node(&rules);
        longer.count = u32::try_from(count).expect("few");
        let found = rules[..count].iter().find(|rule| {
            [0, protocol].contains(&rule.protocol)
                && (rule.port_first..=rule.port_last).contains(&port)
        });
        let expected = match found.map(|rule| rule.verdict) {
            Some(verdict::ALLOW) => Ruling::Allow,
            Some(verdict::DENY) => Ruling::Deny,
            _ => Ruling::None,
        };
        prop_assert_eq!(longer.ruling(protocol, port), expected);
    }
}
