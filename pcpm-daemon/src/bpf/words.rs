//! The attachment words as shared memory: the one place where the daemon tells the datapath who
//! holds a slot.
#![expect(unsafe_code, reason = "maps a BPF array into memory")]

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use pcpm_ebpf::abi::AttachmentWord;

/// The memory of a mmapable `BPF_MAP_TYPE_ARRAY` of u64 (kernel/bpf/arraymap.c: the elements lie
/// side by side, eight bytes each).
#[derive(Debug)]
pub(super) struct AttachmentWords {
    memory: NonNull<AtomicU64>,
    len: usize,
}

impl AttachmentWords {
    /// Maps the array behind `map`, which has `len` elements.
    pub(super) fn map(map: impl AsFd, len: u32) -> io::Result<Self> {
        let len = len as usize;
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

    /// Stores a slot's word. Other CPUs' programs see the old word or the new one.
    pub(super) fn store(&self, slot: u32, word: AttachmentWord) {
        self.words()[slot as usize].store(word.0, Ordering::Release);
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `len` aligned u64s and lives as long as `self`; programs and the
        // daemon access them as atomic words only.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl Drop for AttachmentWords {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<AtomicU64>();
        // SAFETY: the mapping was made by `map` with this size and nobody borrows it any more.
        let unmapped = unsafe { munmap(self.memory.cast(), bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}
