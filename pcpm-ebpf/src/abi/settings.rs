//! What an attachment may do, as far as it is not the same for all: one entry a slot, mapped into
//! the daemon's memory.

/// Bits of [`Settings::flags`].
pub mod settings_flag {
    /// Addresses in DNS answers to the slot are learned for the names its policy allows.
    pub const LEARN_NAMES: u32 = 1;
    /// [`super::Settings::up`] limits something.
    pub const LIMIT_UP: u32 = 2;
    /// [`super::Settings::down`] limits something.
    pub const LIMIT_DOWN: u32 = 4;
    /// The world is open where no rule says, whatever the pool's default.
    pub const WORLD_OPEN: u32 = 8;
    /// The world is closed where no rule says, whatever the pool's default.
    pub const WORLD_CLOSED: u32 = 16;
}

/// Settings of the attachment `epoch` of a slot. They are written before the attachment word and may
/// be changed while it lives, field by field. Those of another epoch do not count: packets see the
/// defaults of an attachment without options then, or are dropped as stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Settings {
    /// The attachment they belong to.
    pub epoch: u32,
    /// Which rules of the policy table count, 0 for none: the pool's default.
    pub policy: u32,
    /// Of [`settings_flag`].
    pub flags: u32,
    /// Zero.
    pub padding: u32,
    /// What the slot may send.
    pub up: RateLimit,
    /// What may be sent to the slot.
    pub down: RateLimit,
}

/// How much may pass; 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RateLimit {
    /// Bits a second, counted with link header.
    pub bits_per_second: u64,
    /// Packets a second, segments of a GSO packet one by one.
    pub packets_per_second: u64,
}

/// The buckets of a slot's rate limits, written by the programs alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Buckets {
    /// What the slot sends.
    pub up: Bucket,
    /// What is sent to it.
    pub down: Bucket,
}

/// The buckets of one direction, a cache line. They count for one attachment and one limit: for
/// others they are full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Bucket {
    /// When there is room for a whole burst of bits again, see [`crate::rate`].
    pub bits_full_at: u64,
    /// When there is room for a whole burst of packets again.
    pub packets_full_at: u64,
    /// The limit.
    pub limit: RateLimit,
    /// The attachment.
    pub epoch: u32,
    /// Zero.
    pub padding: [u32; 7],
}

const _: () = {
    assert!(size_of::<Settings>() == 64);
    assert!(size_of::<Bucket>() == 64);
};
