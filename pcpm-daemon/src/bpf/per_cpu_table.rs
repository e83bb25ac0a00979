//! A hash table with a value for each processor, which is read and emptied in a few calls: one by one, each entry
//! takes three.

use std::os::fd::AsFd as _;

use aya::{
    Ebpf,
    maps::{Map, MapData},
};

use super::{
    BpfError,
    batches::{self, Place},
    possible_cpus,
    steering::missing,
};

/// What is read at once, where that is not too few entries: a call has to have room for a bucket of the table.
const BATCH_BYTES: usize = 64 * 1024;
const LEAST: usize = 32;
const MOST: usize = 512;

/// `K` and `V` are the map's types: plain memory, `V` of whole words of eight bytes.
pub(super) struct PerCpuTable<K, V> {
    name: &'static str,
    map: MapData,
    cpus: usize,
    keys: Vec<K>,
    values: Vec<V>,
    over: Vec<K>,
}

impl<K: Copy + Default, V: Copy> PerCpuTable<K, V> {
    /// The table of that name; `none` is any value.
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str, none: V) -> Result<Self, BpfError> {
        const { assert!(size_of::<V>().is_multiple_of(8), "as the kernel counts") };
        let Some(Map::PerCpuHashMap(map)) = ebpf.take_map(name) else {
            return Err(missing("hash table per CPU", name));
        };
        let cpus = possible_cpus() as usize;
        let room = (BATCH_BYTES / (size_of::<V>() * cpus)).clamp(LEAST, MOST);
        Ok(Self {
            name,
            map,
            cpus,
            keys: vec![K::default(); room],
            values: vec![none; room * cpus],
            over: Vec::new(),
        })
    }

    /// Shows every entry to `is_over`, with its values, and removes those of which it says so.
    pub(super) fn sweep(
        &mut self,
        mut is_over: impl FnMut(&K, &[V]) -> bool,
    ) -> Result<(), BpfError> {
        let failed =
            |what, e: &dyn std::error::Error| BpfError::new(format!("{what} {}", self.name), e);
        let map = self.map.fd().as_fd();
        let mut place = Some(Place::default());
        while let Some(from) = place {
            let (keys, values) = (&mut self.keys, &mut self.values);
            let (read, next) = batches::read_batch(map, from, keys, values, self.cpus)
                .map_err(|e| failed("read", &e))?;
            let entries = keys.iter().zip(values.chunks(self.cpus)).take(read);
            let over = entries.filter(|(key, values)| is_over(key, values));
            self.over.extend(over.map(|(key, _)| *key));
            place = next;
        }
        batches::remove_batch(map, &self.over).map_err(|e| failed("empty", &e))?;
        self.over.clear();
        Ok(())
    }
}
