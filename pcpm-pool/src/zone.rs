//! Which indexes, and so which addresses, slots may have: those of a class with addresses of its own, or
//! those that all other classes share.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
};

use super::SlotIndex;

/// The vacant indexes of a range.
#[derive(Debug)]
pub(super) struct Zone {
    indexes: Range<SlotIndex>,
    /// Those in turn, in the order in which they became free.
    vacant: VecDeque<SlotIndex>,
    /// Those out of turn: no more are in turn than there may be slots, so that slots stay close together.
    spare: BTreeSet<SlotIndex>,
    wanted: u32,
}

impl Zone {
    /// All of `indexes`, of which so many are to be in turn.
    pub(super) fn new(indexes: Range<SlotIndex>, wanted: u32) -> Self {
        Self {
            spare: indexes.clone().collect(),
            indexes,
            vacant: VecDeque::new(),
            wanted,
        }
    }

    pub(super) fn contains(&self, slot: SlotIndex) -> bool {
        self.indexes.contains(&slot)
    }

    pub(super) fn end(&self) -> SlotIndex {
        self.indexes.end
    }

    /// How many indexes there are, taken or not.
    pub(super) fn len(&self) -> u32 {
        self.indexes.end - self.indexes.start
    }

    /// Other than that it is all in use.
    pub(super) fn has_vacant(&self) -> bool {
        !self.vacant.is_empty() || !self.spare.is_empty()
    }

    /// As many are to be in turn from now on.
    pub(super) fn want(&mut self, wanted: u32) {
        self.wanted = wanted;
        while self.in_turn() > self.wanted
            && let Some(slot) = self.vacant.pop_back()
        {
            self.spare.insert(slot);
        }
    }

    /// Takes the index that was vacant longest.
    pub(super) fn take(&mut self) -> Option<SlotIndex> {
        if self.in_turn() < self.wanted {
            return self.spare.pop_first().or_else(|| self.vacant.pop_front());
        }
        self.vacant.pop_front().or_else(|| self.spare.pop_first())
    }

    /// The index is taken already.
    pub(super) fn occupy(&mut self, slot: SlotIndex) {
        if !self.spare.remove(&slot) {
            self.vacant.retain(|&vacant| vacant != slot);
        }
    }

    /// The index is vacant again.
    pub(super) fn give_back(&mut self, slot: SlotIndex) {
        if self.in_turn() > self.wanted {
            self.spare.insert(slot);
        } else {
            self.vacant.push_back(slot);
        }
    }

    fn in_turn(&self) -> u32 {
        self.len() - u32::try_from(self.spare.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(zone: &mut Zone, count: usize) -> Vec<SlotIndex> {
        (0..count).map_while(|_| zone.take()).collect()
    }

    #[test]
    fn an_index_rests_until_all_in_turn_were_taken() {
        let mut zone = Zone::new(4..100, 3);
        assert_eq!(take(&mut zone, 2), [4, 5]);
        zone.give_back(4);
        assert_eq!(take(&mut zone, 2), [6, 4]);
    }

    #[test]
    fn more_are_taken_when_all_in_turn_are_in_use() {
        let mut zone = Zone::new(0..3, 1);
        assert_eq!(take(&mut zone, 9), [0, 1, 2]);
        assert!(!zone.has_vacant());
        zone.give_back(2);
        zone.give_back(1);
        zone.give_back(0);
        assert_eq!(take(&mut zone, 1), [0]);
    }

    #[test]
    fn what_is_occupied_is_not_taken_again() {
        let mut zone = Zone::new(0..4, 3);
        zone.occupy(1);
        assert_eq!(take(&mut zone, 9), [0, 2, 3]);
    }

    #[test]
    fn fewer_in_turn_leave_the_vacant_ones_out() {
        let mut zone = Zone::new(0..4, 4);
        let all = take(&mut zone, 4);
        for slot in all {
            zone.give_back(slot);
        }
        zone.want(2);
        assert_eq!(take(&mut zone, 2), [0, 1]);
        zone.want(3);
        assert_eq!(take(&mut zone, 1), [2]);
    }
}
