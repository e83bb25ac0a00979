//! Connections from outside, through published ports.
//!
//! They have the same two entries as those of slots to the world: INGRESS owns the way to the slot,
//! EGRESS the way back, with the address and port that the client speaks to.

use pcpm_ebpf::{
    abi::{AttachmentWord, Flow, FlowKey, PortKey, PortTarget},
    drop_reason::DropReason,
    nat::{self, Endpoint},
    packet::{Family, Frame, Transport},
    published,
    quota::ENTRIES_PER_CONNECTION,
};

use crate::{
    flows::{Entry, Receiver, now_ns},
    global,
    maps::{self, Pair},
};

/// The published port that a packet may open a connection through.
#[inline(always)]
pub(crate) fn door(frame: &Frame, transport: &Transport) -> Option<PortTarget> {
    if !published::has_ports(frame.protocol)
        || !nat::opens_connection(frame.protocol, transport.tcp_flags)
    {
        return None;
    }
    let port = transport.destination_port;
    maps::published(&mut PortKey::on(frame.destination, port, frame.protocol))
}

/// Whether the port that the connection of the INGRESS key `key` came through still leads there.
#[inline(always)]
pub(crate) fn is_open(key: &FlowKey, flow: &Flow) -> bool {
    maps::published(&mut port_of(key)).is_some_and(|target| {
        (target.slot, target.epoch, target.port) == (flow.slot, flow.epoch, flow.translated_port)
    })
}

/// The host's port that is the local side of an INGRESS key.
#[inline(always)]
pub(crate) fn port_of(key: &FlowKey) -> PortKey {
    PortKey::on(key.local, key.local_port, key.protocol)
}

/// Whether a packet, whose INGRESS key is that of [`maps::pair`], opens a connection through a published port;
/// `receiver` is whom it is for then.
#[inline(always)]
pub(crate) fn enter(
    frame: &Frame,
    transport: &Transport,
    receiver: &mut Receiver,
) -> Result<bool, DropReason> {
    match door(frame, transport) {
        Some(target) => open(&target, receiver).map(|()| true),
        None => Ok(false),
    }
}

/// Opens a connection through the published port that leads to `target`, and says whom it is for. Its INGRESS
/// key is that of [`maps::pair`].
#[inline(always)]
pub(crate) fn open(target: &PortTarget, receiver: &mut Receiver) -> Result<(), DropReason> {
    let config = maps::config()?;
    let Pair {
        ingress,
        egress,
        shown,
    } = maps::pair()?;
    *egress = ingress.restored(&Endpoint {
        address: config.slot_address(target.slot, Family::of(&ingress.local)),
        port: target.port,
    });
    if global::is_taken(egress, ingress, target) {
        return Err(DropReason::AmbiguousClient);
    }
    *shown = Endpoint {
        port: target.port,
        ..Endpoint::default()
    };
    global::take_entries(target.slot, target.epoch, ENTRIES_PER_CONNECTION)?;
    if let Err(reason) = global::write_inbound(ingress, shown, target) {
        global::give_back_entries(target.slot, target.epoch, 1);
        return Err(reason);
    }
    *shown = Endpoint {
        address: ingress.local,
        port: ingress.local_port,
    };
    global::write_inbound(egress, shown, target)?;
    *receiver = Receiver {
        slot: target.slot,
        epoch: target.epoch,
        port: target.port,
    };
    Ok(())
}

/// Writes one of the two entries, which was counted before. It is not counted any more if that fails.
#[inline(always)]
pub(crate) fn write(
    key: &FlowKey,
    translated: &Endpoint,
    target: &PortTarget,
) -> Result<(), DropReason> {
    let entry = &mut maps::draft()?.entry;
    entry.flow = nat::new_flow(target.slot, target.epoch, translated, now_ns()).inbound();
    global::write_flow(key, entry)
}

/// Whether the slot's side of a connection that would be opened belongs to another one: the slot could
/// not tell them apart, nor could we tell its answers. One that is closing gives way, as it does to a
/// client that uses its port again for the same way.
#[inline(always)]
pub(crate) fn is_taken(egress: &FlowKey, ingress: &FlowKey, target: &PortTarget) -> bool {
    let Some(entry) = Entry::find(egress) else {
        return false;
    };
    let shown = entry.flow.shown();
    let owner = egress.translated(&shown);
    if shown.address == ingress.local && shown.port == ingress.local_port {
        return false;
    }
    let Some(entry) = Entry::find(&owner) else {
        return false;
    };
    let word = AttachmentWord::attached(target.epoch, 1);
    !nat::is_closing(entry.flow.state)
        && nat::is_reverse_of(entry.flow, egress, target.slot, target.epoch)
        && entry.stands(&owner, word, now_ns())
}
