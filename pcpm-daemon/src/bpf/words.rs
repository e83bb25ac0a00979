//! Arrays of the datapath as shared memory: the attachment words, the one place where the daemon
//! says who holds a slot, and the slots' settings.
#![expect(unsafe_code, reason = "maps BPF arrays into memory")]

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use pcpm_ebpf::abi::{AttachmentWord, Settings};

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

/// Two neighbouring fields as the word that they are in memory.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The memory of a mmapable `BPF_MAP_TYPE_ARRAY` whose elements are whole u64s (kernel/bpf/arraymap.c:
/// they lie side by side).
#[derive(Debug)]
pub(super) struct SharedWords {
    memory: NonNull<AtomicU64>,
    len: usize,
}

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

    #[test]
    fn settings_lie_in_memory_as_the_programs_read_them() {
        let file = File::options()
            .read(true)
            .write(true)
            .open(tempfile::NamedTempFile::new().unwrap().into_temp_path())
            .unwrap();
        file.set_len(4096).unwrap();
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
