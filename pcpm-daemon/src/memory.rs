//! Memory figures: the daemon's own, and what a slot costs in the kernel. They come from `/proc` and
//! are the whole machine's where the kernel keeps no others: what else happens during a fill is in them.

use std::{fs, io};

/// Kernel memory that one slot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelMemory {
    /// Growth of slab memory (reclaimable or not) a slot, in bytes.
    pub(crate) slab_bytes_per_slot: u64,
    /// Growth of percpu memory a slot, in bytes.
    pub(crate) percpu_bytes_per_slot: u64,
}

/// Measures the kernel's memory around a fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FillMeter {
    before: Sample,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    slab_bytes: u64,
    percpu_bytes: u64,
}

/// Resident memory of this process in bytes.
///
/// # Errors
/// When `/proc` is not there or says something else.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    read("/proc/self/smaps_rollup", |text| kilobytes(text, "Rss:"))
}

impl FillMeter {
    /// Takes the sample before the fill.
    ///
    /// # Errors
    /// When `/proc/meminfo` is not there or says something else.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self {
            before: Sample::now()?,
        })
    }

    /// Takes the sample after the fill; `None` when no slot was made.
    ///
    /// # Errors
    /// As for [`FillMeter::start`].
    pub(crate) fn finish(&self, slots_made: u32) -> io::Result<Option<KernelMemory>> {
        Ok(per_slot(self.before, Sample::now()?, slots_made))
    }
}

impl Sample {
    fn now() -> io::Result<Self> {
        read("/proc/meminfo", Self::parse)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        Some(Self {
            slab_bytes: kilobytes(meminfo, "Slab:")?,
            percpu_bytes: kilobytes(meminfo, "Percpu:")?,
        })
    }
}

fn per_slot(before: Sample, after: Sample, slots: u32) -> Option<KernelMemory> {
    let grown = |before: u64, after: u64| after.saturating_sub(before).checked_div(slots.into());
    Some(KernelMemory {
        slab_bytes_per_slot: grown(before.slab_bytes, after.slab_bytes)?,
        percpu_bytes_per_slot: grown(before.percpu_bytes, after.percpu_bytes)?,
    })
}

fn read<T>(path: &str, parse: impl FnOnce(&str) -> Option<T>) -> io::Result<T> {
    let text = fs::read_to_string(path)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("parse {path}")))
}

/// The value of the line `NAME   123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let value: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    value.checked_mul(1024)
}

/// Gives memory that is free but kept for later back to the kernel: what is needed once, at start, would count
/// as the daemon's for ever. Only glibc keeps so much that it is worth asking.
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "glibc's malloc_trim has no safe wrapper")
)]
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the allocator's own locks make this safe at any time, from any thread.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "\
MemTotal:        8123456 kB
Slab:             120000 kB
SReclaimable:      70000 kB
SUnreclaim:        50000 kB
KReclaimable:      70000 kB
Percpu:             8000 kB
HugePages_Total:       0
";

    fn sample(slab_bytes: u64, percpu_bytes: u64) -> Sample {
        Sample {
            slab_bytes,
            percpu_bytes,
        }
    }

    #[test]
    fn slab_and_percpu_memory_are_read_from_meminfo() {
        assert_eq!(Sample::parse(MEMINFO), Some(sample(122_880_000, 8_192_000)));
    }

    #[test]
    fn a_meminfo_without_the_lines_is_not_read_as_zero() {
        assert_eq!(Sample::parse("MemTotal: 1 kB\n"), None);
        assert_eq!(
            Sample::parse(&MEMINFO.replace(" 8000 kB", " many kB")),
            None
        );
    }

    #[test]
    fn growth_is_divided_by_the_slots_made() {
        let growth = per_slot(sample(1_000, 500), sample(9_000, 900), 4);
        let expected = KernelMemory {
            slab_bytes_per_slot: 2_000,
            percpu_bytes_per_slot: 100,
        };
        assert_eq!(growth, Some(expected));
    }

    #[test]
    fn memory_that_shrank_counts_as_no_growth() {
        let growth = per_slot(sample(1_000, 500), sample(900, 900), 4).unwrap();
        assert_eq!(
            (growth.slab_bytes_per_slot, growth.percpu_bytes_per_slot),
            (0, 100)
        );
    }

    #[test]
    fn nothing_is_said_of_a_fill_that_made_nothing() {
        assert_eq!(per_slot(sample(1, 1), sample(2, 2), 0), None);
    }

    #[test]
    fn the_resident_memory_of_this_process_is_found() {
        let held = std::hint::black_box(vec![1_u8; 8 << 20]);
        assert!(resident_bytes().unwrap() > held.len() as u64);
    }
}
