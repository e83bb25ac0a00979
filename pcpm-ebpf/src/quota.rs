//! How many entries of the flow table a slot may have, and how they are counted.
//!
//! The table is shared, and a full one forgets what was used least recently, whosever it is. So it is
//! never let to become full. A slot may have as many entries as the configuration says, and no more
//! than are left free for others: one greedy slot gets half of the table, nine get a tenth each, and
//! there is always something left for the next (Choudhury and Hahne, "Dynamic queue length thresholds
//! for shared-memory packet switches", 1998, with a factor of 1).
//!
//! # Tallies
//!
//! A tally counts something that belongs to an age: an attachment's epoch, or a stretch of time. Age
//! (upper half) and number (lower half) are one word, exchanged atomically; a tally of another age counts
//! as 0. So a detach frees what a slot had at once, and nothing has to be reset.
//!
//! An entry that the kernel evicts after all is counted on. Whoever looks through the whole table knows
//! how many there are at most, and corrects the tally ([`excess`]).

use crate::abi::FlowTable;

/// Entries that a connection to or from the world takes.
pub const ENTRIES_PER_CONNECTION: u32 = 2;

/// The daemon looks after the table every second. If it has not for this long, it is gone.
const KEPT_FOR_NS: u64 = 60_000_000_000;

/// The length of one age of datagrams under way: what a part of a datagram waits for at most.
const DATAGRAM_AGE_NS: u64 = crate::nat::FRAGMENTS_NS;

/// Datagrams that one slot may have begun and not finished in one age. It has at most twice as many in
/// the table at a time: those of the last age are all that can be left.
pub const DATAGRAMS_PER_SLOT: u32 = 512;

/// The length of one age of addresses learned for names: about as long as such an address is good for.
const LEARNING_AGE_NS: u64 = 64_000_000_000;

/// Addresses that one attachment may learn for names in one age, a thirty-second of the table that all share:
/// who resolves names without end loses its own, not those of others.
pub const ADDRESSES_PER_AGE: u32 = 1024;

/// Why a slot gets no more entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// It has as many as one may have.
    Slot,
    /// It has as many as are left for others.
    Table,
}

/// What the tally `word` says.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes a word apart")]
pub const fn age_and_number(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The number that the tally `word` counts for `age`.
#[inline(always)]
pub const fn tallied(word: u64, age: u32) -> u32 {
    match age_and_number(word) {
        (its, number) if its == age => number,
        _ => 0,
    }
}

/// The tally with `more` of `age`.
#[inline(always)]
pub const fn with(word: u64, age: u32, more: u32) -> u64 {
    (age as u64) << 32 | tallied(word, age).saturating_add(more) as u64
}

/// The tally without `fewer` of `age`. One of another age is as it was.
#[inline(always)]
pub const fn without(word: u64, age: u32, fewer: u32) -> u64 {
    match age_and_number(word) {
        (its, number) if its == age => (age as u64) << 32 | number.saturating_sub(fewer) as u64,
        _ => word,
    }
}

/// The age of datagrams that begin or end at `now_ns`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "ages come again after centuries"
)]
pub const fn datagram_age(now_ns: u64) -> u32 {
    (now_ns / DATAGRAM_AGE_NS) as u32
}

/// The age of addresses that the attachment of `epoch` learns at `now_ns`. The next attachment of the slot begins
/// anew.
#[inline(always)]
pub const fn learning_age(epoch: u32, now_ns: u64) -> u32 {
    epoch.rotate_left(16) ^ (now_ns / LEARNING_AGE_NS) as u32
}

impl FlowTable {
    /// Entries in use, of all slots and all epochs.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most as many as the table has"
    )]
    pub const fn in_use(&self) -> u32 {
        self.made.saturating_sub(self.gone) as u32
    }

    /// Whether somebody collects what is dead.
    #[inline(always)]
    pub const fn is_kept(&self, now_ns: u64) -> bool {
        self.usable != 0 && now_ns.saturating_sub(self.kept_at_ns) < KEPT_FOR_NS
    }

    /// Entries that any slot may have now.
    #[inline(always)]
    pub const fn allowance(&self) -> u32 {
        let free = self.usable.saturating_sub(self.in_use());
        if free < self.per_slot {
            free
        } else {
            self.per_slot
        }
    }

    /// Whether a slot that has `in_use` entries may have `more`.
    ///
    /// # Errors
    /// What it would exceed.
    #[inline(always)]
    pub const fn check(&self, in_use: u32, more: u32, now_ns: u64) -> Result<(), Exceeded> {
        let wanted = in_use.saturating_add(more);
        if wanted <= self.allowance() || !self.is_kept(now_ns) {
            Ok(())
        } else if wanted > self.per_slot {
            Err(Exceeded::Slot)
        } else {
            Err(Exceeded::Table)
        }
    }

    /// Whether a slot that has `in_use` entries has to part with what it hardly needs.
    #[inline(always)]
    pub const fn is_pressed(&self, in_use: u32) -> bool {
        in_use > self.allowance() / 2
    }
}

/// How many a count of `in_use` has too many, after a look through the whole table that found `seen`,
/// during which `made` more were counted. Those may have been seen, and others may have gone since: this
/// is what is wrong for sure.
#[expect(clippy::cast_possible_truncation, reason = "at most as many as in use")]
pub const fn excess(in_use: u32, seen: u32, made: u64) -> u32 {
    let most = (seen as u64).saturating_add(made);
    (in_use as u64).saturating_sub(most) as u32
}
