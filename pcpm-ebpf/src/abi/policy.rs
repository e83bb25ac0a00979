//! Rules about whom a slot may reach: a longest-prefix trie, whose nodes hold all rules that count
//! for their addresses, the most specific first.

use crate::address::Address;

/// Rules that one node can hold.
pub const RULES_PER_NODE: usize = 16;

/// Key of the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PolicyKey {
    /// Bits that count of what follows: 32 for the policy, then those of the address; an IPv4 prefix
    /// is 96 bits longer than it is written.
    pub prefix_length: u32,
    /// [`super::Settings::policy`], in network byte order.
    pub policy: u32,
    /// First address of the range.
    pub address: Address,
}

/// What a rule says.
pub mod verdict {
    /// Nothing: the pool's default counts.
    pub const NONE: u8 = 0;
    /// May pass.
    pub const ALLOW: u8 = 1;
    /// Is dropped.
    pub const DENY: u8 = 2;
    /// Is dropped, unless the address was learned for a name that is allowed.
    pub const CLOSE: u8 = 3;
}

/// One rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyRule {
    /// First port of the peer.
    pub port_first: u16,
    /// Last port of the peer, inclusive.
    pub port_last: u16,
    /// IP protocol number, 0 for any.
    pub protocol: u8,
    /// One of [`verdict`].
    pub verdict: u8,
    /// Zero.
    pub padding: u16,
}

/// The rules for the addresses of one prefix, those of the shorter prefixes around it included. The
/// first that matches decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyNode {
    /// How many of `rules` are used.
    pub count: u32,
    /// Zero.
    pub padding: u32,
    /// The rules.
    pub rules: [PolicyRule; RULES_PER_NODE],
}

const _: () = {
    assert!(size_of::<PolicyKey>() == 24);
    assert!(size_of::<PolicyRule>() == 8);
    assert!(size_of::<PolicyNode>() == 136);
};
