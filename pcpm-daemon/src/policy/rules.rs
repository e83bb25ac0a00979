//! What a rule is, and which rules go together.

use std::fmt;

use ipnet::IpNet;
use pcpm_ebpf::abi::{Name, NameKey, name_kind};

use super::PolicyId;

/// The rules of an attachment, in an order of their own: equal sets of rules are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RuleSet(Vec<Rule>);

/// One rule: what it says about packets to whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rule {
    pub(crate) subject: Subject,
    /// The receiver's port.
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) verdict: Verdict,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    /// Addresses.
    Range(IpNet),
    /// The host's own services.
    Host,
    /// Addresses that are learned for a name.
    Name(Pattern),
}

/// A domain name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pattern {
    /// In lower case, without a dot at the end.
    domain: String,
    below: bool,
}

/// A protocol that rules can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verdict {
    Allow,
    Deny,
}

/// Why rules are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("{0} is both allowed and denied")]
    Contradiction(String),
    #[error(
        "deny {0}: a name can only be allowed, since it may have other addresses than were seen"
    )]
    DeniedName(String),
    #[error("{0}: more than {limit} rules count for the same addresses", limit = pcpm_ebpf::abi::RULES_PER_NODE)]
    TooMany(String),
    #[error(
        "{0:?} is no domain name of at most {bytes} characters and {labels} labels",
        bytes = pcpm_ebpf::abi::NAME_BYTES - 1,
        labels = pcpm_ebpf::abi::NAME_LABELS
    )]
    Name(String),
}

impl RuleSet {
    /// Puts rules together. Those that say the same count once.
    pub(crate) fn new(mut rules: Vec<Rule>) -> Result<Self, RuleError> {
        for rule in &mut rules {
            if let Subject::Range(range) = &mut rule.subject {
                *range = range.trunc();
            }
        }
        rules.sort();
        rules.dedup();
        for pair in rules.windows(2) {
            if pair[0].is_about_the_same_as(&pair[1]) {
                return Err(RuleError::Contradiction(pair[0].packets()));
            }
        }
        let denies_name = |rule: &&Rule| {
            matches!(rule.subject, Subject::Name(_)) && rule.verdict == Verdict::Deny
        };
        match rules.iter().find(denies_name) {
            Some(rule) => Err(RuleError::DeniedName(rule.packets())),
            None => Ok(Self(rules)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.iter()
    }

    /// Whether addresses have to be learned for it.
    pub(crate) fn has_names(&self) -> bool {
        self.iter()
            .any(|rule| matches!(rule.subject, Subject::Name(_)))
    }
}

impl Rule {
    fn is_about_the_same_as(&self, other: &Self) -> bool {
        (&self.subject, self.port, self.protocol) == (&other.subject, other.port, other.protocol)
    }

    /// The rule without its verdict, as the command line has it.
    pub(crate) fn packets(&self) -> String {
        let mut text = self.subject.to_string();
        if let Some(port) = self.port {
            if matches!(self.subject, Subject::Range(IpNet::V6(_))) {
                text = format!("[{text}]");
            }
            text = format!("{text}:{port}");
        }
        match self.protocol {
            Some(protocol) => format!("{text}/{protocol}"),
            None => text,
        }
    }
}

impl Pattern {
    /// `example.com`, or `*.example.com` for all names below it.
    pub(crate) fn parse(text: &str) -> Result<Self, RuleError> {
        let refused = || RuleError::Name(text.to_owned());
        let (domain, below) = match text.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text, false),
        };
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !domain.chars().all(letters) || Name::parse(domain).is_none() {
            return Err(refused());
        }
        Ok(Self {
            domain: domain.to_ascii_lowercase(),
            below,
        })
    }

    /// Where a policy has the name.
    pub(super) fn key(&self, policy: PolicyId) -> NameKey {
        NameKey {
            policy,
            kind: if self.below {
                name_kind::BELOW
            } else {
                name_kind::EXACT
            },
            name: Name::parse(&self.domain).expect("checked by `parse`"),
        }
    }

    /// Whether every name that `other` matches matches this.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_below = other
            .domain
            .strip_suffix(&self.domain)
            .is_some_and(|rest| rest.ends_with('.'));
        self == other || self.below && (is_below || other.below && self.domain == other.domain)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Host => f.write_str("host"),
            Self::Name(pattern) => pattern.fmt(f),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stars = if self.below { "*." } else { "" };
        write!(f, "{stars}{}", self.domain)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}
