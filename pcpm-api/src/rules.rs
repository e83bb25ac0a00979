//! Rules about whom a slot may reach, as they are written: `PEER[:PORTS][/PROTOCOL]`. PEER is
//!
//! - an address or a network in CIDR notation; an IPv6 one in brackets where ports or a protocol
//!   follow: `10.0.0.0/8`, `[2001:db8::/32]:443/tcp`;
//! - `host`, the services of the host itself, with ports: `host:53/udp`;
//! - a domain name, or all names below one, which can be allowed only: `example.com`,
//!   `*.example.com:443`.
//!
//! PORTS is a port or a range of them, PROTOCOL is `tcp`, `udp` or `icmp` (ICMP and `ICMPv6`, without
//! ports). Ports without a protocol are those of both TCP and UDP.
//!
//! ```
//! use pcpm_api::rules::Rule;
//!
//! let rule: Rule = "192.0.2.0/24:80-90/tcp".parse()?;
//! assert_eq!(rule.to_string(), "192.0.2.0/24:80-90/tcp");
//! assert!("192.0.2.7/24".parse::<Rule>().is_err());
//! # Ok::<(), String>(())
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::error::PoolError;
use crate::limits;
use crate::ports::PortRange;

/// Most rules of one attachment, allowing and denying ones together.
pub const RULES: usize = 256;

/// Longest domain name (RFC 1035, section 2.3.4).
const NAME_BYTES: usize = 253;
/// Longest label of a domain name.
const LABEL_BYTES: usize = 63;

/// A protocol that a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP towards IPv4, `ICMPv6` towards IPv6.
    Icmp,
}

impl Protocol {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Tcp, Self::Udp, Self::Icmp];
        let known = all.into_iter().find(|protocol| protocol.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is not a protocol: tcp, udp and icmp are"))
    }
}

/// A domain name in lower case, or all names below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName {
    /// The name, without a dot at its end.
    pub name: String,
    /// Whether the names below it are meant, and not the name itself.
    pub below: bool,
}

impl DomainName {
    /// Whether a name, in lower case and without a dot at its end, is meant.
    pub fn matches(&self, name: &str) -> bool {
        if !self.below {
            return name == self.name;
        }
        let front = name.strip_suffix(&*self.name);
        front.is_some_and(|front| front.len() > 1 && front.ends_with('.'))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(f, "{below}{}", self.name)
    }
}

impl FromStr for DomainName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        check_name(&name, below)
            .map_err(|reason| format!("no network, not 'host', and no domain name: {reason}"))?;
        Ok(Self { name, below })
    }
}

fn check_name(name: &str, below: bool) -> Result<(), String> {
    if name.len() > NAME_BYTES {
        return Err(format!(
            "{} bytes long, at most {NAME_BYTES} are allowed",
            name.len()
        ));
    }
    name.split('.').try_for_each(check_label)?;
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it ends with a number".into());
    }
    if !below && last.len() == name.len() {
        return Err("it has no dot".into());
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if let Some(bad) = label.chars().find(|&c| !allowed(c)) {
        return Err(format!("character {bad:?} is not allowed"));
    }
    if label.is_empty() || label.len() > LABEL_BYTES {
        return Err(format!("a label has 1 to {LABEL_BYTES} characters"));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("a label neither begins nor ends with '-'".into());
    }
    Ok(())
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Addresses. A single one has the longest prefix; no bit is set behind the prefix.
    Network(IpNet),
    /// Services of the host.
    Host,
    /// Addresses that a domain name has.
    Name(DomainName),
}

impl Peer {
    fn is_v6(&self) -> bool {
        matches!(self, Self::Network(IpNet::V6(_)))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Self::Network(network) => network.fmt(f),
            Self::Host => f.write_str(HOST),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The word for the host.
const HOST: &str = "host";

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Whom it is about.
    pub peer: Peer,
    /// The peer's ports, `None` for all, and for protocols without ports.
    pub ports: Option<PortRange>,
    /// The protocol; `None` for all, or for those with ports where there are ports.
    pub protocol: Option<Protocol>,
}

impl Rule {
    fn is_about_a_name(&self) -> bool {
        matches!(self.peer, Peer::Name(_))
    }
}

/// The one way of writing it; parsing it gives the same value.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.ports.is_some() || self.protocol.is_some();
        if more && self.peer.is_v6() {
            write!(f, "[{}]", self.peer)?;
        } else {
            write!(f, "{}", self.peer)?;
        }
        if let Some(ports) = self.ports {
            write!(f, ":{ports}")?;
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{}", protocol.as_str()),
            None => Ok(()),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (peer, rest) = split_peer(text)?;
        let (ports, protocol) = ports_and_protocol(rest)?;
        let peer = parse_peer(peer)?;
        if ports.is_some() && protocol == Some(Protocol::Icmp) {
            return Err("ICMP has no ports: leave the port out".into());
        }
        if peer == Peer::Host && ports.is_none() {
            return Err("name the service: host:PORT or host:PORT/PROTOCOL".into());
        }
        Ok(Self {
            peer,
            ports,
            protocol,
        })
    }
}

/// The peer, and what follows: nothing, or from `:` or the `/` of a protocol on.
fn split_peer(text: &str) -> Result<(&str, &str), String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let (peer, rest) = bracketed
            .split_once(']')
            .ok_or("the bracket is not closed")?;
        if !peer.contains(':') {
            return Err(format!("brackets are for IPv6 addresses, not for {peer:?}"));
        }
        return Ok((peer, rest));
    }
    // Bare IPv6: nothing can follow it.
    if text.matches(':').count() > 1 {
        return Ok((text, ""));
    }
    let colon = text.find(':');
    let end = colon.or_else(|| protocol_at(text)).unwrap_or(text.len());
    Ok(text.split_at(end))
}

/// Where `/PROTOCOL` begins in what has no ports: a prefix length is a number.
fn protocol_at(text: &str) -> Option<usize> {
    let slash = text.rfind('/')?;
    let number = text[slash + 1..].starts_with(|c: char| c.is_ascii_digit());
    (!number).then_some(slash)
}

fn ports_and_protocol(text: &str) -> Result<(Option<PortRange>, Option<Protocol>), String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, Some(protocol.parse()?)),
        None => (text, None),
    };
    let ports = match ports.strip_prefix(':') {
        Some(ports) => Some(ports.parse()?),
        None if ports.is_empty() => None,
        None => return Err(format!("{ports:?} follows the address")),
    };
    Ok((ports, protocol))
}

fn parse_peer(text: &str) -> Result<Peer, String> {
    if text == HOST {
        return Ok(Peer::Host);
    }
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match network {
        Ok(network) => check_network(network).map(Peer::Network),
        Err(_) if text.contains([':', '/']) => Err(format!(
            "{text:?} is not an address or a network in CIDR notation, such as 192.0.2.0/24"
        )),
        Err(_) => text.parse().map(Peer::Name),
    }
}

fn check_network(network: IpNet) -> Result<IpNet, String> {
    if network != network.trunc() {
        return Err(format!(
            "{network} is an address in a network, the network is {}",
            network.trunc()
        ));
    }
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err(format!("write {network} as an IPv4 address or network"))
        }
        _ => Ok(network),
    }
}

/// The rules of an attachment, in an order of their own and each one once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

impl Rules {
    /// Puts rules together, each list as [`parse_all`] made it.
    ///
    /// # Errors
    /// [`PoolError::InvalidArgument`] naming `allow` or `deny`: more than [`RULES`], a denied name,
    /// and a rule that is both allowed and denied.
    pub fn new(allow: Vec<Rule>, deny: Vec<Rule>) -> Result<Self, PoolError> {
        if allow.len() + deny.len() > RULES {
            let field = if allow.is_empty() { "deny" } else { "allow" };
            return Err(too_many(field, allow.len() + deny.len()));
        }
        let rules = Self { allow, deny };
        rules.check()?;
        Ok(rules)
    }

    /// These rules and those of `template` together. Where both say something about the same peer, ports
    /// and protocol, these count.
    ///
    /// # Errors
    /// [`PoolError::InvalidArgument`] naming `allow` or `deny`: more than [`RULES`] together.
    pub fn over(&self, template: &Self) -> Result<Self, PoolError> {
        let joined = |own: &[Rule], given: &[Rule], against: &[Rule]| {
            let given = given.iter().filter(|rule| !against.contains(rule));
            let mut all: Vec<Rule> = own.iter().chain(given).cloned().collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        Self::new(
            joined(&self.allow, &template.allow, &self.deny),
            joined(&self.deny, &template.deny, &self.allow),
        )
    }

    /// What may pass, ascending.
    pub fn allow(&self) -> &[Rule] {
        &self.allow
    }

    /// What may not, ascending.
    pub fn deny(&self) -> &[Rule] {
        &self.deny
    }

    /// Whether there are rules about names.
    pub fn has_names(&self) -> bool {
        self.allow.iter().any(Rule::is_about_a_name)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    fn check(&self) -> Result<(), PoolError> {
        if let Some(rule) = self.deny.iter().find(|rule| rule.is_about_a_name()) {
            return Err(PoolError::invalid(
                "deny",
                format!("{rule}: names can be allowed, not denied"),
            ));
        }
        match self.deny.iter().find(|rule| self.allow.contains(rule)) {
            Some(rule) => Err(PoolError::invalid(
                "deny",
                format!("{rule} is allowed and denied"),
            )),
            None => Ok(()),
        }
    }
}

/// Reads the rules of parameter `field`, in an order of their own and each one once.
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `field`: what is no rule, and more than [`RULES`].
pub fn parse_all(field: &str, texts: &[String]) -> Result<Vec<Rule>, PoolError> {
    if texts.len() > RULES {
        return Err(too_many(field, texts.len()));
    }
    let parse = |text: &String| limits::parse_text(field, text);
    let mut rules: Vec<Rule> = texts.iter().map(parse).collect::<Result<_, _>>()?;
    rules.sort_unstable();
    rules.dedup();
    Ok(rules)
}

fn too_many(field: &str, rules: usize) -> PoolError {
    PoolError::invalid(field, format!("{rules} rules, at most {RULES} are allowed"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(allow: &[&str], deny: &[&str]) -> Result<Rules, String> {
        let owned = |texts: &[&str]| -> Vec<String> { texts.iter().map(|&t| t.into()).collect() };
        let rules = || {
            let allow = parse_all("allow", &owned(allow))?;
            Rules::new(allow, parse_all("deny", &owned(deny))?)
        };
        rules().map_err(|error: PoolError| error.to_string())
    }

    #[test]
    fn every_kind_of_rule_is_understood() {
        for (text, canonical) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("0.0.0.0/0:443", "0.0.0.0/0:443"),
            ("10.0.0.0/8:80/tcp", "10.0.0.0/8:80/tcp"),
            ("192.0.2.1:80-90/udp", "192.0.2.1:80-90/udp"),
            ("10.0.0.0/8/icmp", "10.0.0.0/8/icmp"),
            ("192.0.2.1/icmp", "192.0.2.1/icmp"),
            ("192.0.2.1/udp", "192.0.2.1/udp"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::/32]:443/tcp", "[2001:db8::/32]:443/tcp"),
            ("[::/0]/icmp", "[::/0]/icmp"),
            ("host:53/udp", "host:53/udp"),
            ("host:8000-8010", "host:8000-8010"),
            ("Example.COM", "example.com"),
            ("example.com.:443", "example.com:443"),
            ("*.example.com:443/tcp", "*.example.com:443/tcp"),
            ("*.internal", "*.internal"),
            (
                "_srv.xn--bcher-kva.example/icmp",
                "_srv.xn--bcher-kva.example/icmp",
            ),
        ] {
            let rule: Rule = text.parse().expect(text);
            assert_eq!(rule.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse(), Ok(rule), "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "must not be empty"),
            ("10.0.0.1/8", "the network is 10.0.0.0/8"),
            ("10.0.0.0/33", "not an address or a network"),
            ("10.0.0.300", "it ends with a number"),
            ("10.0.0.0/8:0", "\"0\" is not a port"),
            ("10.0.0.0/8:80/", "\"\" is not a protocol"),
            ("10.0.0.0/8:80/sctp", "\"sctp\" is not a protocol"),
            ("10.0.0.0/8:80/icmp", "ICMP has no ports"),
            ("10.0.0.0/8:90-80", "90-80 ends before it begins"),
            ("[2001:db8::1", "the bracket is not closed"),
            ("[2001:db8::1]443", "\"443\" follows the address"),
            ("[192.0.2.1]:80", "brackets are for IPv6"),
            ("2001:db8::/32/tcp", "not an address or a network"),
            ("::ffff:192.0.2.1", "write ::ffff:192.0.2.1/128 as an IPv4"),
            ("host", "name the service"),
            ("host/tcp", "name the service"),
            ("localhost", "it has no dot"),
            ("*", "character '*' is not allowed"),
            ("a*.example.com", "character '*' is not allowed"),
            ("*.*.example.com", "character '*' is not allowed"),
            ("exämple.com", "character 'ä' is not allowed"),
            ("a b.com", "character ' ' is not allowed"),
            ("a..com", "a label has 1 to 63 characters"),
            ("-a.com", "neither begins nor ends with '-'"),
        ] {
            let error = parse(&[text], &[]).unwrap_err();
            let named = error.starts_with("allow: ");
            assert!(named && error.contains(reason), "{text}: {error}");
        }
        let long = format!("{}.com", "a.".repeat(126));
        assert!(parse(&[], &[&long]).unwrap_err().starts_with("deny: "));
    }

    #[test]
    fn names_can_only_be_allowed() {
        parse(&["example.com"], &[]).unwrap();
        let error = parse(&[], &["*.example.com"]).unwrap_err();
        assert_eq!(
            error,
            "deny: *.example.com: names can be allowed, not denied"
        );
    }

    #[test]
    fn a_rule_cannot_be_allowed_and_denied() {
        let error = parse(&["10.0.0.0/8", "192.0.2.1/32:80"], &["192.0.2.1:80"]).unwrap_err();
        assert_eq!(error, "deny: 192.0.2.1:80 is allowed and denied");
    }

    #[test]
    fn the_order_and_repetition_of_rules_do_not_matter() {
        let one = parse(&["192.0.2.1", "10.0.0.0/8"], &["host:53/udp"]).unwrap();
        let other = parse(
            &["10.0.0.0/8", "192.0.2.1/32", "10.0.0.0/8"],
            &["host:53/udp"],
        );
        assert_eq!(Ok(one), other);
    }

    #[test]
    fn the_number_of_rules_is_bounded() {
        let many: Vec<_> = (0..RULES).map(|i| format!("10.0.{i}.0/24")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(parse(&many, &[]).unwrap().allow().len(), RULES);
        let error = parse(&many, &["192.0.2.1"]).unwrap_err();
        assert!(error.contains("257 rules, at most 256"), "{error}");
    }

    #[test]
    fn a_wildcard_means_what_is_below_a_name_and_not_the_name() {
        let below: DomainName = "*.example.com".parse().unwrap();
        for (name, matches) in [
            ("www.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            (".example.com", false),
            ("notexample.com", false),
        ] {
            assert_eq!(below.matches(name), matches, "{name}");
        }
        let exact: DomainName = "example.com".parse().unwrap();
        assert!(exact.matches("example.com") && !exact.matches("www.example.com"));
    }

    proptest! {
        #[test]
        fn rules_for_networks_read_back(
            address in any::<IpAddr>(),
            prefix in 0_u8..=128,
            ports in proptest::option::of((1_u16.., 1_u16..)),
            protocol in 0..4,
        ) {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let network = IpNet::new(address, prefix.min(most)).unwrap().trunc();
            prop_assume!(check_network(network).is_ok());
            let rule = Rule {
                peer: Peer::Network(network),
                ports: ports.map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }),
                protocol: match (protocol, ports) {
                    (0, _) => Some(Protocol::Tcp),
                    (1, _) => Some(Protocol::Udp),
                    (2, None) => Some(Protocol::Icmp),
                    _ => None,
                },
            };
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-f0-9host:./*\\[\\]tcpudi-]{0,40}") {
            if let Ok(rule) = text.parse::<Rule>() {
                let shown = rule.to_string();
                prop_assert_eq!(shown.parse::<Rule>(), Ok(rule));
            }
        }
    }
}
