//! Names that a policy allows, and the addresses that were learned for them from DNS answers.

use crate::address::Address;

/// Longest name, as it stands in a DNS message but without the root: a length byte before every label.
pub const NAME_BYTES: usize = 128;
/// Labels of the longest name.
pub const NAME_LABELS: u32 = 16;
/// Names that an address can be known under at a time.
pub const NAMES_PER_ADDRESS: usize = 4;

/// A domain name as it stands in a DNS message, in lower case, without the root and filled up with
/// zeroes. Names are compared as a whole: nobody can find one that is taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Name(pub [u64; NAME_BYTES / 8]);

/// What a [`NameKey`] stands for.
pub mod name_kind {
    /// The name itself.
    pub const EXACT: u32 = 1;
    /// All names below it.
    pub const BELOW: u32 = 2;
}

/// A name that a policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NameKey {
    /// [`super::Settings::policy`].
    pub policy: u32,
    /// One of [`name_kind`].
    pub kind: u32,
    /// The name.
    pub name: Name,
}

/// An address that an attachment learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LearnedKey {
    /// The slot.
    pub slot: u32,
    /// The attachment.
    pub epoch: u32,
    /// The address.
    pub address: Address,
}

/// The names that an address was learned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Learned {
    /// In no order; unused ones are all zero.
    pub names: [LearnedName; NAMES_PER_ADDRESS],
}

/// A name that an address was learned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LearnedName {
    /// Number of the name, the same in all policies, never 0; its rules stand in the policy table at
    /// [`Address::of_name`].
    pub name: u32,
    /// Zero.
    pub padding: u32,
    /// `bpf_ktime_get_ns` until which new connections are allowed.
    pub expires_ns: u64,
}

const _: () = {
    assert!(size_of::<Name>() == NAME_BYTES);
    assert!(size_of::<NameKey>() == 136);
    assert!(size_of::<LearnedKey>() == 24);
    assert!(size_of::<Learned>() == 64);
};
