//! Attachments that end with a client's connection, or with a process.

use std::collections::{BTreeSet, HashMap};

use super::{ClientId, Engine};
use crate::{
    pool::{Event, SlotIndex},
    process,
};

/// Which slot lives with which connection.
#[derive(Debug, Default)]
pub(super) struct Leases {
    client_of: HashMap<SlotIndex, ClientId>,
    slots: BTreeSet<(ClientId, SlotIndex)>,
}

impl Leases {
    /// The slot lives with this client's connection from now on; a client that lost its connection
    /// and asks again on a new one keeps the slot.
    pub(super) fn grant(&mut self, slot: SlotIndex, client: ClientId) {
        self.end(slot);
        self.client_of.insert(slot, client);
        self.slots.insert((client, slot));
    }

    /// The attachment ended.
    pub(super) fn end(&mut self, slot: SlotIndex) {
        if let Some(client) = self.client_of.remove(&slot) {
            self.slots.remove(&(client, slot));
        }
    }

    /// What lives with the client's connection.
    pub(super) fn of(&self, client: ClientId) -> Vec<SlotIndex> {
        let slots = self
            .slots
            .range((client, SlotIndex::MIN)..=(client, SlotIndex::MAX));
        slots.map(|&(_, slot)| slot).collect()
    }
}

impl Engine {
    /// Tells when [`processes_ended`](Self::processes_ended) has something to do.
    pub(crate) fn process_ends(&self) -> std::io::Result<process::Ends> {
        self.process_leases.ends()
    }

    /// Ends what was leased to processes that have ended.
    pub(crate) fn processes_ended(&mut self) {
        loop {
            let ended = self.process_leases.ended();
            if ended.is_empty() {
                return;
            }
            for slot in ended {
                self.feed(Event::Detach(slot), None);
                self.process_leases.end(slot);
            }
        }
    }

    /// A client's connection ended, and with it the attachments leased to it.
    pub(crate) fn client_left(&mut self, client: ClientId) {
        self.clients -= 1;
        for slot in self.leases.of(client) {
            self.feed(Event::Detach(slot), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_moves_to_the_connection_that_asked_last() {
        let mut leases = Leases::default();
        leases.grant(4, 1);
        leases.grant(5, 1);
        leases.grant(4, 2);
        assert_eq!((leases.of(1), leases.of(2)), (vec![5], vec![4]));
    }

    #[test]
    fn an_attachment_that_ended_is_forgotten() {
        let mut leases = Leases::default();
        leases.grant(4, 1);
        leases.end(4);
        assert!(leases.of(1).is_empty() && leases.client_of.is_empty());
    }
}
