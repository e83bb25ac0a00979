//! What flows take of their table: counted when they are opened, and refused where it is too much.
//!
//! What may be taken is decided in `pcpm_ebpf::quota`.
#![expect(
    unsafe_code,
    reason = "counts are shared with other CPUs and the daemon"
)]

use core::arch::asm;

use pcpm_ebpf::{
    abi::{FlowTable, SlotFlows},
    drop_reason::DropReason,
    quota::{
        ADDRESSES_PER_AGE, DATAGRAMS_PER_SLOT, Exceeded, datagram_age, learning_age, tallied, with,
        without,
    },
};

use crate::{
    flows::{compare_exchange, now_ns},
    maps,
};

/// Other CPUs that may come first. Who finds a tally changed more often gives up.
const TRIES: u32 = 8;
/// The same for answers to one slot about names, which are few.
const LEARNING_TRIES: u32 = 3;

/// Counts `entries` that are about to be made for `slot` in `epoch`.
///
/// # Errors
/// The slot may not have them; they are not counted.
#[inline(always)]
pub(crate) fn take(slot: u32, epoch: u32, entries: u32) -> Result<(), DropReason> {
    let (flows, table) = places(slot)?;
    // SAFETY: fields of array elements, see `places`.
    let (tally, made, refused, all_made) = unsafe {
        (
            &raw mut (*flows).in_use,
            &raw mut (*flows).made,
            &raw mut (*flows).refused,
            &raw mut (*table).made,
        )
    };
    let now = now_ns();
    for _ in 0..TRIES {
        // SAFETY: an aligned word of an array's element.
        let seen = unsafe { tally.read_volatile() };
        if let Err(exceeded) = read(table).check(tallied(seen, epoch), entries, now) {
            add(refused, 1);
            return Err(reason(exceeded));
        }
        // SAFETY: as above.
        if unsafe { compare_exchange(tally, seen, with(seen, epoch, entries)) } {
            add(made, entries);
            add(all_made, entries);
            return Ok(());
        }
    }
    Err(DropReason::FlowTable)
}

/// `entries` that were counted for `slot` in `epoch` are gone, or were not made.
#[inline(always)]
pub(crate) fn give_back(slot: u32, epoch: u32, entries: u32) {
    let Ok((flows, table)) = places(slot) else {
        return;
    };
    // SAFETY: fields of array elements, see `places`.
    let (tally, gone) = unsafe { (&raw mut (*flows).in_use, &raw mut (*table).gone) };
    add(gone, entries);
    for _ in 0..TRIES {
        // SAFETY: an aligned word of an array's element.
        let seen = unsafe { tally.read_volatile() };
        // SAFETY: as above.
        if unsafe { compare_exchange(tally, seen, without(seen, epoch, entries)) } {
            return;
        }
    }
    // Counted on until the daemon has looked through the table.
}

/// Entries that `slot` has in `epoch`.
#[inline(always)]
pub(crate) fn in_use(slot: u32, epoch: u32) -> u32 {
    let Ok((flows, _)) = places(slot) else {
        return 0;
    };
    // SAFETY: an aligned word of an array's element.
    tallied(
        unsafe { (&raw const (*flows).in_use).read_volatile() },
        epoch,
    )
}

/// Counts a datagram of `slot` that was begun.
///
/// # Errors
/// There are too many that were not finished.
#[inline(always)]
pub(crate) fn begin_datagram(slot: u32, now: u64) -> Result<(), DropReason> {
    let (flows, _) = places(slot)?;
    // SAFETY: a field of an array's element.
    let tally = unsafe { &raw mut (*flows).datagrams };
    if count_one(tally, datagram_age(now), DATAGRAMS_PER_SLOT, TRIES) {
        Ok(())
    } else {
        Err(DropReason::DatagramLimit)
    }
}

/// Counts an address that `slot` is about to learn for a name in `epoch`, and says whether it may.
#[inline(always)]
pub(crate) fn may_learn(slot: u32, epoch: u32, now: u64) -> bool {
    let Ok((flows, _)) = places(slot) else {
        return false;
    };
    // SAFETY: a field of an array's element.
    let tally = unsafe { &raw mut (*flows).learned };
    count_one(
        tally,
        learning_age(epoch, now),
        ADDRESSES_PER_AGE,
        LEARNING_TRIES,
    )
}

/// Counts one more of `age`, unless there are `most` already, in at most so many `tries`; says whether it did.
#[inline(always)]
fn count_one(tally: *mut u64, age: u32, most: u32, tries: u32) -> bool {
    for _ in 0..tries {
        // SAFETY: an aligned word of an array's element, as the callers know.
        let seen = unsafe { tally.read_volatile() };
        if tallied(seen, age) >= most {
            return false;
        }
        // SAFETY: as above.
        if unsafe { compare_exchange(tally, seen, with(seen, age, 1)) } {
            return true;
        }
    }
    false
}

/// A datagram of `slot` was finished. One more may be begun.
#[inline(always)]
pub(crate) fn end_datagram(slot: u32, now: u64) {
    let Ok((flows, _)) = places(slot) else {
        return;
    };
    // SAFETY: a field of an array's element.
    let tally = unsafe { &raw mut (*flows).datagrams };
    // SAFETY: an aligned word of an array's element.
    let seen = unsafe { tally.read_volatile() };
    // If another CPU comes first, one fewer may be begun for a moment.
    // SAFETY: as above.
    unsafe { compare_exchange(tally, seen, without(seen, datagram_age(now), 1)) };
}

/// What the flows of `slot` take, and what all take: elements of arrays, which live as long as these.
#[inline(always)]
fn places(slot: u32) -> Result<(*mut SlotFlows, *mut FlowTable), DropReason> {
    let flows = maps::slot_flows(slot).ok_or(DropReason::NotASlot)?;
    let table = maps::flow_table().ok_or(DropReason::NotConfigured)?;
    Ok((flows, table))
}

/// The table's counts. What is gone is read first: no more is gone than was made.
#[inline(always)]
fn read(table: *const FlowTable) -> FlowTable {
    // SAFETY: fields of an array's element; other CPUs write whole words.
    unsafe {
        let gone = (&raw const (*table).gone).read_volatile();
        FlowTable {
            made: (&raw const (*table).made).read_volatile(),
            gone,
            kept_at_ns: (&raw const (*table).kept_at_ns).read_volatile(),
            usable: (&raw const (*table).usable).read_volatile(),
            per_slot: (&raw const (*table).per_slot).read_volatile(),
        }
    }
}

#[inline(always)]
fn reason(exceeded: Exceeded) -> DropReason {
    match exceeded {
        Exceeded::Slot => DropReason::FlowLimit,
        Exceeded::Table => DropReason::FlowTableFull,
    }
}

/// Adds to a count. As with [`compare_exchange`], Rust offers no such operation for this target.
#[inline(always)]
fn add(count: *mut u64, more: u32) {
    let more = u64::from(more);
    // SAFETY: callers pass an aligned word of an array's element; the instruction touches nothing else.
    unsafe {
        asm!(
            "lock *(u64 *)({count} + 0) += {more}",
            count = in(reg) count,
            more = in(reg) more,
        );
    }
}
