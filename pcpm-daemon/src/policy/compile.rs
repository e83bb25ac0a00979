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
use pcpm_api::{
    ports::PortRange,
    rules::{DomainName, Peer, Protocol, Rule, Rules},
};
use pcpm_ebpf::{
    abi::{
        GATEWAY_V4, GATEWAY_V6, NAME_BYTES, NAME_LABELS, Name, NameKey, PolicyKey, PolicyNode,
        PolicyRule, RULES_PER_NODE, name_kind, verdict,
    },
    address::Address,
    packet::protocol,
    policy::V4_BITS,
};

use super::PolicyId;

const ICMP_V6: u8 = 58;
const V4_LINK_LOCAL: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 0, 0), 16);
const V6_LINK_LOCAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
/// Not link-local, but where Amazon serves what others serve there.
const V6_METADATA: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32);

/// Why rules are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("{0}: more than {RULES_PER_NODE} rules count for the same addresses")]
    TooMany(String),
    #[error(
        "{0}: a name that can be matched has at most {bytes} characters and {NAME_LABELS} labels",
        bytes = NAME_BYTES - 1
    )]
    LongName(String),
}

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
            Prefix::v6(V6_METADATA.0, V6_METADATA.1),
        ];
        let guarded = pool.into_iter().map(Prefix::of).chain(link_local).collect();
        let all_v4 = Prefix::v4(Ipv4Addr::UNSPECIFIED, 0);
        let names = Prefix::single(Address::of_name(0));
        let all_names = Prefix(Ipv6Net::new_assert(names.0.addr(), 96));
        let mut separate = vec![all_v4, all_names];
        separate.extend(gateways());
        Self { guarded, separate }
    }

    /// Whether the table takes the rules.
    pub(crate) fn check(&self, rules: &Rules) -> Result<(), RuleError> {
        address_nodes(rules, 0, self)?;
        name_nodes(rules, 0).map(drop)
    }

    fn all(&self) -> impl Iterator<Item = Prefix> {
        self.guarded.iter().chain(&self.separate).copied()
    }

    /// What a rule about `around` says inside of `inner`, which is a part of it.
    fn verdict(&self, said: &Said<'_>, around: Prefix, inner: Prefix) -> Option<u8> {
        let between = |range: &Prefix| around.is_around(*range) && range.contains(inner);
        if self.separate.iter().any(between) {
            return None;
        }
        Some(match said.verdict {
            Verdict::Deny if closes_the_world(said.rule) => verdict::CLOSE,
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
        Prefix::v6(GATEWAY_V6.into(), 128),
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

/// A rule, and which of the two it is.
#[derive(Clone, Copy)]
struct Said<'a> {
    rule: &'a Rule,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
}

fn all(rules: &Rules) -> impl Iterator<Item = Said<'_>> {
    let said = |verdict| move |rule| Said { rule, verdict };
    let denied = rules.deny().iter().map(said(Verdict::Deny));
    denied.chain(rules.allow().iter().map(said(Verdict::Allow)))
}

/// The nodes for addresses.
pub(super) fn address_nodes(
    rules: &Rules,
    policy: PolicyId,
    ranges: &Ranges,
) -> Result<Vec<(PolicyKey, PolicyNode)>, RuleError> {
    let placed: Vec<(Prefix, Said<'_>)> = all(rules).flat_map(places).collect();
    let mut prefixes: Vec<Prefix> = placed.iter().map(|(prefix, _)| *prefix).collect();
    prefixes.extend(ranges.all().filter(|range| {
        let around = |(prefix, _): &(Prefix, Said<'_>)| prefix.is_around(*range);
        placed.iter().any(around)
    }));
    prefixes.sort();
    prefixes.dedup();
    let node = |prefix: Prefix| Ok((prefix.key(policy), node(prefix, &placed, ranges)?));
    prefixes.into_iter().map(node).collect()
}

/// The prefixes that a rule is about.
fn places(said: Said<'_>) -> impl Iterator<Item = (Prefix, Said<'_>)> {
    let prefixes = match said.rule.peer {
        Peer::Network(range) => vec![Prefix::of(range)],
        Peer::Host => gateways().to_vec(),
        Peer::Name(_) => Vec::new(),
    };
    prefixes.into_iter().map(move |prefix| (prefix, said))
}

/// The node of `prefix`.
fn node(
    prefix: Prefix,
    placed: &[(Prefix, Said<'_>)],
    ranges: &Ranges,
) -> Result<PolicyNode, RuleError> {
    let mut around: Vec<_> = placed
        .iter()
        .filter(|(around, _)| around.contains(prefix))
        .collect();
    around.sort_by_key(|(around, said)| Reverse((around.length(), specificity(said.rule))));
    let rules = around.into_iter().filter_map(|(around, said)| {
        let verdict = ranges.verdict(said, *around, prefix)?;
        Some(abi_rule(said.rule, prefix.is_v4(), verdict))
    });
    filled(rules).ok_or_else(|| RuleError::TooMany(prefix.to_string()))
}

/// Whether names make exceptions of the rule: denying everything is how an attachment closes the world
/// for itself. A name says more about its addresses than that, and less than any other rule.
fn closes_the_world(rule: &Rule) -> bool {
    matches!(rule.peer, Peer::Network(range) if range.prefix_len() == 0)
        && specificity(rule) == Specificity::default()
}

/// How much a rule says besides addresses, most last.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    /// A port says more than a protocol.
    has_ports: bool,
    has_protocol: bool,
    fewer_ports: Reverse<usize>,
}

fn specificity(rule: &Rule) -> Specificity {
    Specificity {
        has_ports: rule.ports.is_some(),
        has_protocol: rule.protocol.is_some(),
        fewer_ports: Reverse(rule.ports.map_or(0, PortRange::len)),
    }
}

fn abi_rule(rule: &Rule, is_v4: bool, verdict: u8) -> PolicyRule {
    PolicyRule {
        port_first: rule.ports.map_or(0, |ports| ports.first),
        port_last: rule.ports.map_or(u16::MAX, |ports| ports.last),
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
    Some(node)
}

/// Whether all that `inner` matches matches `outer`.
fn covers(outer: PolicyRule, inner: PolicyRule) -> bool {
    [0, inner.protocol].contains(&outer.protocol)
        && outer.port_first <= inner.port_first
        && inner.port_last <= outer.port_last
}

/// A name that addresses are learned for, and what is allowed for those.
pub(super) struct NamedNode {
    pub(super) name: DomainName,
    pub(super) key: NameKey,
    pub(super) node: PolicyNode,
}

/// The names of a rule set. What is allowed for each is what its own rules and those of all names
/// around it say.
pub(super) fn name_nodes(rules: &Rules, policy: PolicyId) -> Result<Vec<NamedNode>, RuleError> {
    let mut names: Vec<&DomainName> = rules.allow().iter().filter_map(name_of).collect();
    names.dedup();
    let node = |name: &DomainName| {
        Ok(NamedNode {
            name: name.clone(),
            key: name_key(name, policy)?,
            node: name_node(name, rules)?,
        })
    };
    names.into_iter().map(node).collect()
}

fn name_key(name: &DomainName, policy: PolicyId) -> Result<NameKey, RuleError> {
    let kind = if name.below {
        name_kind::BELOW
    } else {
        name_kind::EXACT
    };
    match Name::parse(&name.name) {
        Some(name) => Ok(NameKey { policy, kind, name }),
        None => Err(RuleError::LongName(name.to_string())),
    }
}

fn name_node(name: &DomainName, rules: &Rules) -> Result<PolicyNode, RuleError> {
    let around = rules.allow().iter().filter(|rule| {
        let around = name_of(rule);
        around.is_some_and(|around| around == name || around.below && is_below(name, around))
    });
    let rules = around.flat_map(|rule| {
        // An address of either family may be learned.
        [true, false].map(|is_v4| abi_rule(rule, is_v4, verdict::ALLOW))
    });
    filled(rules).ok_or_else(|| RuleError::TooMany(name.to_string()))
}

/// Whether all that `name` stands for is below the name of `around`.
fn is_below(name: &DomainName, around: &DomainName) -> bool {
    around.matches(&name.name) || name.below && name.name == around.name
}

fn name_of(rule: &Rule) -> Option<&DomainName> {
    match &rule.peer {
        Peer::Name(name) => Some(name),
        _ => None,
    }
}
