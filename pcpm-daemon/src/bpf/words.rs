//! Arrays of the datapath as shared memory: the attachment words, the one place where the daemon
//! says who holds a slot, the slots' settings, and the counts of flows.
#![expect(unsafe_code, reason = "maps BPF arrays into memory")]

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use pcpm_ebpf::{
    abi::{AttachmentWord, FlowTable, Settings, SlotFlows},
    quota,
};

/// The attachment words, by slot.
#[derive(Debug)]
pub(super) struct AttachmentWords(SharedWords);

impl AttachmentWords {
    /// Maps the array behind `map`, which has an element for each of `slots`.
    pub(super) fn map(map: impl AsFd, slots: u32) -> io::Result<Self> {
        SharedWords::map(map, slots as usize).map(Self)
    }

    /// The slots that somebody holds, those beyond the capacity of this life too.
    pub(super) fn attached(&self) -> Vec<u32> {
        let words = (0..).zip(self.0.words());
        words
            .map(|(slot, _)| slot)
            .filter(|slot| self.load(*slot).is_attached())
            .collect()
    }

    /// A slot's word as it is.
    pub(super) fn load(&self, slot: u32) -> AttachmentWord {
        AttachmentWord(self.0.words()[slot as usize].load(Ordering::Acquire))
    }

    /// Stores a slot's word. Other CPUs' programs see the old word or the new one.
    pub(super) fn store(&self, slot: u32, word: AttachmentWord) {
        self.0.words()[slot as usize].store(word.0, Ordering::Release);
    }

    /// A slot's word, if there is such a slot.
    pub(super) fn find(&self, slot: u32) -> Option<AttachmentWord> {
        let word = self.0.words().get(slot as usize)?;
        Some(AttachmentWord(word.load(Ordering::Acquire)))
    }
}

/// The settings, by slot.
#[derive(Debug)]
pub(super) struct SettingsTable(SharedWords);

/// Words of one slot's settings.
const SETTINGS_WORDS: usize = size_of::<Settings>() / size_of::<u64>();

impl SettingsTable {
    /// Maps the array behind `map`, which has an element for each of `slots`.
    pub(super) fn map(map: impl AsFd, slots: u32) -> io::Result<Self> {
        SharedWords::map(map, slots as usize * SETTINGS_WORDS).map(Self)
    }

    /// Stores a slot's settings. Each limit changes by itself; epoch and policy are one word, stored
    /// last, so that settings do not count before all of them are there.
    pub(super) fn store(&self, slot: u32, settings: &Settings) {
        let first = slot as usize * SETTINGS_WORDS;
        let words = &self.0.words()[first..first + SETTINGS_WORDS];
        let rest = [
            pair(settings.flags, settings.padding),
            settings.up.bits_per_second,
            settings.up.packets_per_second,
            settings.down.bits_per_second,
            settings.down.packets_per_second,
        ];
        for (word, value) in words[1..].iter().zip(rest) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(pair(settings.epoch, settings.policy), Ordering::Release);
    }
}

/// The counts of flows, which programs change as well.
#[derive(Debug)]
pub(crate) struct FlowCounts {
    slots: SharedWords,
    table: SharedWords,
}

/// Words of one slot's counts, and of the table's.
const SLOT_WORDS: usize = size_of::<SlotFlows>() / size_of::<u64>();
const TABLE_WORDS: usize = size_of::<FlowTable>() / size_of::<u64>();

impl FlowCounts {
    /// Maps the arrays behind `slot_flows`, which has an element for each of `slots`, and `flow_table`.
    pub(super) fn map(
        slot_flows: impl AsFd,
        flow_table: impl AsFd,
        slots: u32,
    ) -> io::Result<Self> {
        Ok(Self {
            slots: SharedWords::map(slot_flows, slots as usize * SLOT_WORDS)?,
            table: SharedWords::map(flow_table, TABLE_WORDS)?,
        })
    }

    /// Slots that have counts.
    #[expect(clippy::cast_possible_truncation, reason = "as many as were mapped")]
    pub(crate) fn slots(&self) -> u32 {
        (self.slots.words().len() / SLOT_WORDS) as u32
    }

    /// What a slot's flows take. What they take now is read first: what was made since is counted as
    /// such.
    pub(crate) fn slot(&self, slot: u32) -> SlotFlows {
        let first = slot as usize * SLOT_WORDS;
        let words = &self.slots.words()[first..first + SLOT_WORDS];
        let [
            in_use,
            made,
            refused,
            datagrams,
            learned,
            made_before,
            refused_before,
        ] = [0, 1, 2, 3, 4, 5, 6].map(|word: usize| words[word].load(Ordering::Acquire));
        SlotFlows {
            in_use,
            made,
            refused,
            datagrams,
            learned,
            made_before,
            refused_before,
        }
    }

    /// A slot is ready for somebody else: totals count from here.
    pub(super) fn begin(&self, slot: u32) {
        let now = self.slot(slot);
        let first = slot as usize * SLOT_WORDS;
        self.slots.words()[first + 5].store(now.made, Ordering::Release);
        self.slots.words()[first + 6].store(now.refused, Ordering::Release);
    }

    /// What all flows take. What is gone is read first: no more is gone than was made.
    pub(crate) fn table(&self) -> FlowTable {
        let words = self.table.words();
        let gone = words[1].load(Ordering::Acquire);
        let [made, _, kept_at_ns, limits] =
            [0, 1, 2, 3].map(|word| words[word].load(Ordering::Acquire));
        let (usable, per_slot) = halves(limits);
        FlowTable {
            made,
            gone,
            kept_at_ns,
            usable,
            per_slot,
        }
    }

    /// Says how many entries may be in use, and how many of them one slot's may be.
    pub(super) fn set_limits(&self, usable: u32, per_slot: u32) {
        self.table.words()[3].store(pair(usable, per_slot), Ordering::Release);
    }

    /// Says that somebody looks after the table.
    pub(super) fn kept(&self, now_ns: u64) {
        self.table.words()[2].store(now_ns, Ordering::Release);
    }

    /// `entries` of the slot's tally for `epoch` do not exist.
    pub(super) fn forget_of_slot(&self, slot: u32, epoch: u32, entries: u32) {
        let tally = &self.slots.words()[slot as usize * SLOT_WORDS];
        let less = |word| Some(quota::without(word, epoch, entries));
        let _always = tally.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// `entries` of the table's count do not exist.
    pub(super) fn forget(&self, entries: u32) {
        self.table.words()[1].fetch_add(entries.into(), Ordering::AcqRel);
    }
}

/// Two neighbouring fields as the word that they are in memory.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The two fields that [`pair`] put together.
fn halves(word: u64) -> (u32, u32) {
    let bytes = word.to_ne_bytes();
    let half = |at| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    (half(0), half(4))
}

/// The memory of a mmapable `BPF_MAP_TYPE_ARRAY` whose elements are whole u64s (kernel/bpf/arraymap.c:
/// they lie side by side).
#[derive(Debug)]
pub(super) struct SharedWords {
    memory: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, and is used by atomic accesses only.
unsafe impl Send for SharedWords {}

impl SharedWords {
    /// Maps the `len` words of the array behind `map`.
    pub(super) fn map(map: impl AsFd, len: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(len * size_of::<AtomicU64>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses where; nothing else is at that place, and the mapping is owned
        // by the value returned.
        let memory = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self {
            memory: memory.cast(),
            len,
        })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `len` aligned u64s and lives as long as `self`; programs and the
        // daemon access them as atomic words, or parts of them.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<AtomicU64>();
        // SAFETY: the mapping was made by `map` with this size and nobody borrows it any more.
        let unmapped = unsafe { munmap(self.memory.cast(), bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, mem::offset_of, os::unix::fs::FileExt as _};

    use pcpm_ebpf::abi::RateLimit;

    use super::*;

    /// A file as long as a page, in place of a map.
    fn memory() -> File {
        let file = File::options()
            .read(true)
            .write(true)
            .open(tempfile::NamedTempFile::new().unwrap().into_temp_path())
            .unwrap();
        file.set_len(4096).unwrap();
        file
    }

    #[test]
    fn counts_of_flows_lie_in_memory_as_the_programs_write_them() {
        let (slots, table) = (memory(), memory());
        let counts = FlowCounts::map(&slots, &table, 2).unwrap();
        let put = |file: &File, at: usize, value: u64| {
            file.write_all_at(&value.to_ne_bytes(), at as u64).unwrap();
        };
        let of_slot = size_of::<SlotFlows>();
        put(
            &slots,
            of_slot + offset_of!(SlotFlows, in_use),
            quota::with(0, 7, 10),
        );
        put(&slots, of_slot + offset_of!(SlotFlows, made), 11);
        put(&slots, of_slot + offset_of!(SlotFlows, refused), 12);
        put(&slots, of_slot + offset_of!(SlotFlows, datagrams), 13);
        put(&table, offset_of!(FlowTable, made), 20);
        put(&table, offset_of!(FlowTable, gone), 5);
        counts.set_limits(1000, 100);
        counts.kept(99);
        counts.forget(3);
        counts.forget_of_slot(1, 7, 4);
        counts.forget_of_slot(1, 6, 1);
        let slot = counts.slot(1);
        assert_eq!(slot.in_use, quota::with(0, 7, 6));
        assert_eq!([slot.made, slot.refused, slot.datagrams], [11, 12, 13]);
        counts.begin(1);
        let slot = counts.slot(1);
        assert_eq!([slot.made_before, slot.refused_before], [11, 12]);
        let table = counts.table();
        assert_eq!([table.made, table.gone, table.kept_at_ns], [20, 8, 99]);
        assert_eq!([table.usable, table.per_slot], [1000, 100]);
    }

    #[test]
    fn settings_lie_in_memory_as_the_programs_read_them() {
        let file = memory();
        let limit = |bits_per_second, packets_per_second| RateLimit {
            bits_per_second,
            packets_per_second,
        };
        let settings = Settings {
            epoch: 7,
            policy: 8,
            flags: 9,
            padding: 0,
            up: limit(10, 11),
            down: limit(12, 13),
        };
        SettingsTable::map(&file, 2).unwrap().store(1, &settings);
        let mut memory = [0; size_of::<Settings>()];
        file.read_exact_at(&mut memory, 64).unwrap();
        let half = |at: usize| u32::from_ne_bytes(memory[at..at + 4].try_into().unwrap());
        let word = |at: usize| u64::from_ne_bytes(memory[at..at + 8].try_into().unwrap());
        assert_eq!(half(offset_of!(Settings, epoch)), 7);
        assert_eq!(half(offset_of!(Settings, policy)), 8);
        assert_eq!(half(offset_of!(Settings, flags)), 9);
        let (up, down) = (offset_of!(Settings, up), offset_of!(Settings, down));
        assert_eq!([word(up), word(up + 8)], [10, 11]);
        assert_eq!([word(down), word(down + 8)], [12, 13]);
    }
}
