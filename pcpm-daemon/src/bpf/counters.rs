//! The slots' counters: how they lie in their map, and all of them read at once.

use std::os::fd::AsFd as _;

use aya::maps::MapData;
use pcpm_ebpf::abi::{SlotCounters, names};

use super::{
    BpfError,
    batches::{self, Place},
    possible_cpus,
    steering::open_array,
};

/// Values read by one call.
const BATCH: usize = 1024;

/// Words of a [`SlotCounters`].
const WORDS: usize = size_of::<SlotCounters>() / 8;

/// [`SlotCounters`] as aya reads them, as an array: it knows those to be plain memory.
pub(super) type CounterWords = [u64; WORDS];

/// The map of all slots' counters.
pub(super) struct CounterTable {
    map: MapData,
    slots: usize,
}

impl CounterTable {
    pub(super) fn open(pins: &super::PinDir) -> Result<Self, BpfError> {
        let (map, slots) = open_array(pins, names::SLOT_COUNTERS)?;
        Ok(Self {
            map,
            slots: slots as usize,
        })
    }

    /// The counters of all slots, summed over the CPUs.
    pub(super) fn read(&self) -> Result<Vec<SlotCounters>, BpfError> {
        let cpus = possible_cpus() as usize;
        let mut keys = [0_u32; BATCH];
        let mut values = vec![CounterWords::default(); BATCH * cpus];
        let mut all = Vec::with_capacity(self.slots);
        let mut place = Some(Place::default());
        while let Some(from) = place {
            let map = self.map.fd().as_fd();
            let (read, next) = batches::read_batch(map, from, &mut keys, &mut values, cpus)
                .map_err(|e| BpfError::new("read the counters of all slots", &e))?;
            all.extend(
                values
                    .chunks(cpus)
                    .take(read)
                    .map(|cpu| counters(cpu.iter())),
            );
            place = next;
        }
        Ok(all)
    }
}

/// The sum of a slot's counters over the CPUs.
pub(super) fn counters<'a>(per_cpu: impl Iterator<Item = &'a CounterWords>) -> SlotCounters {
    let mut sum = CounterWords::default();
    for cpu in per_cpu {
        for (total, value) in sum.iter_mut().zip(cpu) {
            *total += value;
        }
    }
    let [
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    ] = sum;
    SlotCounters {
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    }
}
