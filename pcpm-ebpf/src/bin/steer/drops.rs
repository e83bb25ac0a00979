//! The one place where a dropped packet is counted, and sampled for whoever asks what was dropped.
//!
//! What is sampled is decided in `pcpm_ebpf::drop_sample`. Nothing that fails here changes what
//! becomes of the packet.
#![expect(unsafe_code, reason = "map values and ring entries are raw memory")]

use pcpm_ebpf::{
    abi::{DropKey, DropRecord, DropWindow, Hop, NO_SLOT, known},
    drop_reason::DropReason,
};

use crate::{
    flows::now_ns,
    global,
    maps::{self, DROP_EVENTS, DROP_WINDOWS},
    skb::Skb,
};

/// Why a packet is dropped, and the slot that it is from or for.
#[derive(Clone, Copy)]
pub(crate) struct Dropped {
    reason: DropReason,
    slot: u32,
}

impl Dropped {
    /// A packet from or for `slot`.
    #[inline(always)]
    pub(crate) fn of(slot: u32, reason: DropReason) -> Self {
        Self { reason, slot }
    }
}

/// A packet of which no slot is known.
impl From<DropReason> for Dropped {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::of(NO_SLOT, reason)
    }
}

/// Counts a packet that is dropped at `hop`.
#[inline(always)]
pub(crate) fn count(skb: &Skb, hop: Hop, dropped: Dropped) {
    global::count_drop(*skb, hop as u32, dropped.slot, dropped.reason as u32);
}

/// Counts and samples a packet that is dropped for the `reason` with this number.
#[inline(always)]
pub(crate) fn count_and_sample(skb: Skb, hop: u32, slot: u32, reason: u32) {
    maps::count_reason(reason);
    maps::count_dropped(slot);
    let key = DropKey {
        slot,
        epoch: maps::attachment(slot).map_or(0, |word| word.epoch()),
        reason,
    };
    let now = now_ns();
    if let Some(window) = window(&key)
        && window.count(now)
    {
        tell(&skb, hop, &key, window, now);
    }
}

/// This CPU's window of `key`, made if there is none.
#[inline(always)]
fn window(key: &DropKey) -> Option<&'static mut DropWindow> {
    let place = match DROP_WINDOWS.get_ptr_mut(key) {
        Some(place) => place,
        None => {
            DROP_WINDOWS.insert(key, DropWindow::default(), 0).ok()?;
            DROP_WINDOWS.get_ptr_mut(key)?
        }
    };
    // SAFETY: the value is this CPU's own and valid until the program ends; programs that drop packets
    // do not interrupt each other. If another key takes the place meanwhile, a count goes astray.
    Some(unsafe { &mut *place })
}

#[inline(always)]
fn tell(skb: &Skb, hop: u32, key: &DropKey, window: &mut DropWindow, now: u64) {
    let Some(mut entry) = DROP_EVENTS.reserve_untyped::<DropRecord>(0) else {
        window.missed();
        return;
    };
    let record = entry.write(DropRecord {
        time_ns: now,
        slot: key.slot,
        epoch: key.epoch,
        reason: key.reason,
        packets: window.untold,
        missed: window.missed,
        hop: hop as u8,
        ..DropRecord::default()
    });
    describe(skb, record);
    entry.submit(0);
    window.told();
}

/// Says what can be read of the packet, as it is now.
#[inline(always)]
fn describe(skb: &Skb, record: &mut DropRecord) {
    let Ok(frame) = skb.frame() else {
        return;
    };
    record.source = frame.source;
    record.destination = frame.destination;
    record.protocol = frame.protocol;
    record.known = known::ADDRESSES;
    if let Ok(transport) = skb.transport(frame) {
        record.source_port = transport.source_port;
        record.destination_port = transport.destination_port;
        record.known |= known::PORTS;
    }
}
