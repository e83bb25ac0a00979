//! Rules made into nodes of the policy table.
//!
//! The kernel finds the node with the longest prefix that an address has, and nothing else. So every
//! node holds the rules of all prefixes around its own as well, the most specific first: by length of
//! the prefix, then by port and protocol, port, protocol, nothing.
//!
//! Some ranges are not part of what is around them ([`Ranges`]).

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv6Net};
use pcpm_ebpf::{
    abi::{GATEWAY_V4, PolicyKey, PolicyNode, PolicyRule, RULES_PER_NODE, verdict},
    address::Address,
    packet::protocol,
    policy::V4_BITS,
};

use super::{
    PolicyId,
    rules::{Pattern, Protocol, Rule, RuleError, RuleSet, Subject, Verdict},
};

const ICMP_V6: u8 = 58;
/// The slots' gateway for IPv6.
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const V4_LINK_LOCAL: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 0, 0), 16);
const V6_LINK_LOCAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Addresses of either family, with IPv4 mapped into IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Prefix(Ipv6Net);

/// Ranges for which rules about larger ranges say less than for the rest of those.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// To be opened by a rule about them or a part of them: `allow 0.0.0.0/0` says nothing about
    /// link-local addresses or other tenants' slots. `deny 0.0.0.0/0` does.
    guarded: Vec<Prefix>,
    /// Nothing from outside says anything about them.
    separate: Vec<Prefix>,
}

impl Ranges {
    /// Those of a world whose slots have addresses in `pool`.
    pub(crate) fn new(pool: impl IntoIterator<Item = IpNet>) -> Self {
        let link_local = [
            Prefix::v4(V4_LINK_LOCAL.0, V4_LINK_LOCAL.1),
            Prefix::v6(V6_LINK_LOCAL.0, V6_LINK_LOCAL.1),
        ];
        let guarded = pool.into_iter().map(Prefix::of).chain(link_local).collect();
        let all_v4 = Prefix::v4(Ipv4Addr::UNSPECIFIED, 0);
        let names = Prefix::single(Address::of_name(0));
        let all_names = Prefix(Ipv6Net::new_assert(names.0.addr(), 96));
        let mut separate = vec![all_v4, all_names];
        separate.extend(gateways());
        Self { guarded, separate }
    }

    fn all(&self) -> impl Iterator<Item = Prefix> {
        self.guarded.iter().chain(&self.separate).copied()
    }

    /// What a rule about `around` says inside of `inner`, which is a part of it.
    fn verdict(&self, said: Verdict, around: Prefix, inner: Prefix) -> Option<u8> {
        let between = |range: &Prefix| around.is_around(*range) && range.contains(inner);
        if self.separate.iter().any(between) {
            return None;
        }
        Some(match said {
            Verdict::Deny => verdict::DENY,
            Verdict::Allow if self.guarded.iter().any(between) => verdict::NONE,
            Verdict::Allow => verdict::ALLOW,
        })
    }
}

/// Where the rules about the host's services stand.
fn gateways() -> [Prefix; 2] {
    [
        Prefix::v4(Ipv4Addr::from_bits(GATEWAY_V4), 32),
        Prefix::v6(GATEWAY_V6, 128),
    ]
}

impl Prefix {
    fn of(range: IpNet) -> Self {
        match range {
            IpNet::V4(range) => Self::v4(range.addr(), range.prefix_len()),
            IpNet::V6(range) => Self::v6(range.addr(), range.prefix_len()),
        }
    }

    fn v4(address: Ipv4Addr, length: u8) -> Self {
        const { assert!(V4_BITS == 96) };
        Self::v6(address.to_ipv6_mapped(), 96 + length)
    }

    fn v6(address: Ipv6Addr, length: u8) -> Self {
        Self(Ipv6Net::new_assert(address, length).trunc())
    }

    fn single(address: Address) -> Self {
        Self::v6(address.octets().into(), 128)
    }

    fn length(self) -> u8 {
        self.0.prefix_len()
    }

    fn is_v4(self) -> bool {
        self.0.addr().to_ipv4_mapped().is_some() && u32::from(self.length()) >= V4_BITS
    }

    fn contains(self, inner: Self) -> bool {
        self.0.contains(&inner.0)
    }

    fn is_around(self, inner: Self) -> bool {
        self != inner && self.contains(inner)
    }

    fn key(self, policy: PolicyId) -> PolicyKey {
        let address = Address::v6(self.0.addr().octets());
        PolicyKey::range(policy, address, self.length().into())
    }
}

/// As the command line has it.
impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match IpAddr::from(Address::v6(self.0.addr().octets())) {
            IpAddr::V4(address) if self.is_v4() => {
                write!(f, "{address}/{}", u32::from(self.length()) - V4_BITS)
            }
            _ => self.0.fmt(f),
        }
    }
}

/// The nodes for addresses.
pub(super) fn address_nodes(
    rules: &RuleSet,
    policy: PolicyId,
    ranges: &Ranges,
) -> Result<Vec<(PolicyKey, PolicyNode)>, RuleError> {
    let placed: Vec<(Prefix, &Rule)> = rules.iter().flat_map(places).collect();
    let mut prefixes: Vec<Prefix> = placed.iter().map(|(prefix, _)| *prefix).collect();
    prefixes.extend(ranges.all().filter(|range| {
        let around = |(prefix, _): &(Prefix, &Rule)| prefix.is_around(*range);
        placed.iter().any(around)
    }));
    prefixes.sort();
    prefixes.dedup();
    let node = |prefix: Prefix| Ok((prefix.key(policy), node(prefix, &placed, ranges)?));
    prefixes.into_iter().map(node).collect()
}

/// The prefixes that a rule is about.
fn places(rule: &Rule) -> impl Iterator<Item = (Prefix, &Rule)> {
    let prefixes = match rule.subject {
        Subject::Range(range) => vec![Prefix::of(range)],
        Subject::Host => gateways().to_vec(),
        Subject::Name(_) => Vec::new(),
    };
    prefixes.into_iter().map(move |prefix| (prefix, rule))
}

/// The node of `prefix`.
fn node(
    prefix: Prefix,
    placed: &[(Prefix, &Rule)],
    ranges: &Ranges,
) -> Result<PolicyNode, RuleError> {
    let mut around: Vec<_> = placed
        .iter()
        .filter(|(around, _)| around.contains(prefix))
        .collect();
    around.sort_by_key(|(around, rule)| Reverse((around.length(), specificity(rule))));
    let rules = around.into_iter().filter_map(|(around, rule)| {
        let verdict = ranges.verdict(rule.verdict, *around, prefix)?;
        Some(abi_rule(rule, prefix.is_v4(), verdict))
    });
    filled(rules).ok_or_else(|| RuleError::TooMany(prefix.to_string()))
}

/// Rules about ports come before those about protocols, since a port says more.
fn specificity(rule: &Rule) -> u8 {
    match (rule.port, rule.protocol) {
        (Some(_), Some(_)) => 3,
        (Some(_), None) => 2,
        (None, Some(_)) => 1,
        (None, None) => 0,
    }
}

fn abi_rule(rule: &Rule, is_v4: bool, verdict: u8) -> PolicyRule {
    PolicyRule {
        port_first: rule.port.unwrap_or(0),
        port_last: rule.port.unwrap_or(u16::MAX),
        protocol: match rule.protocol {
            None => 0,
            Some(Protocol::Tcp) => protocol::TCP,
            Some(Protocol::Udp) => protocol::UDP,
            Some(Protocol::Icmp) if is_v4 => protocol::ICMP,
            Some(Protocol::Icmp) => ICMP_V6,
        },
        verdict,
        padding: 0,
    }
}

/// A node with these rules, without those that are never reached; `None` if they are too many.
fn filled(rules: impl IntoIterator<Item = PolicyRule>) -> Option<PolicyNode> {
    let mut kept: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        if !kept.iter().any(|earlier| covers(*earlier, rule)) {
            kept.push(rule);
        }
    }
    let mut node = PolicyNode {
        count: u32::try_from(kept.len()).ok()?,
        ..PolicyNode::default()
    };
    node.rules.get_mut(..kept.len())?.copy_from_slice(&kept);
    const { assert!(RULES_PER_NODE > 0) };
    Some(node)
}

/// Whether all that `inner` matches matches `outer`.
fn covers(outer: PolicyRule, inner: PolicyRule) -> bool {
    [0, inner.protocol].contains(&outer.protocol)
        && outer.port_first <= inner.port_first
        && inner.port_last <= outer.port_last
}

/// The names of a rule set, and what is allowed for the addresses of each: what its own rules and
/// those of all patterns around it say.
pub(super) fn name_nodes(rules: &RuleSet) -> Result<Vec<(Pattern, PolicyNode)>, RuleError> {
    let mut patterns: Vec<&Pattern> = rules.iter().filter_map(pattern).collect();
    patterns.dedup();
    let node = |pattern: &Pattern| Ok((pattern.clone(), name_node(pattern, rules)?));
    patterns.into_iter().map(node).collect()
}

fn name_node(name: &Pattern, rules: &RuleSet) -> Result<PolicyNode, RuleError> {
    let mut around: Vec<&Rule> = rules
        .iter()
        .filter(|rule| pattern(rule).is_some_and(|around| around.covers(name)))
        .collect();
    around.sort_by_key(|rule| specificity(rule));
    let rules = around.into_iter().flat_map(|rule| {
        let families: &[bool] = match rule.protocol {
            Some(Protocol::Icmp) => &[true, false],
            _ => &[true],
        };
        families
            .iter()
            .map(|is_v4| abi_rule(rule, *is_v4, verdict::ALLOW))
    });
    filled(rules).ok_or_else(|| RuleError::TooMany(name.to_string()))
}

fn pattern(rule: &Rule) -> Option<&Pattern> {
    match &rule.subject {
        Subject::Name(pattern) => Some(pattern),
        _ => None,
    }
}
