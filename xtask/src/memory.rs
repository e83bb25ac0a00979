//! What memory is used: the kernel's by `/proc/meminfo`, processes' by their share of what they map.

use std::fs;
use std::ops::Sub;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Bytes. Differences may be below zero: others use memory, too.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) slab: i64,
    pub(crate) percpu: i64,
    pub(crate) page_tables: i64,
    /// Kernel stacks and maps of BPF programs, mostly.
    pub(crate) vmalloc: i64,
    pub(crate) user: i64,
}

impl Memory {
    /// Of the kernel now, and of the processes `pids`.
    ///
    /// # Errors
    /// When procfs does not tell, or a process is gone.
    pub(crate) fn read(pids: impl IntoIterator<Item = u32>) -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let of = |name: &str| bytes(&text, name).with_context(|| format!("no {name}"));
        let users = pids.into_iter().map(proportional);
        Ok(Self {
            slab: of("Slab")?,
            percpu: of("Percpu")?,
            page_tables: of("PageTables")?,
            vmalloc: of("VmallocUsed")?,
            user: users.sum::<Result<i64>>()?,
        })
    }
}

impl Sub for Memory {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            slab: self.slab - before.slab,
            percpu: self.percpu - before.percpu,
            page_tables: self.page_tables - before.page_tables,
            vmalloc: self.vmalloc - before.vmalloc,
            user: self.user - before.user,
        }
    }
}

/// What a process maps, pages that others map, too, by share.
fn proportional(pid: u32) -> Result<i64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    bytes(&text, "Pss").with_context(|| format!("no Pss in {path}"))
}

/// What stands behind `name` in one of the lines, in kB there.
fn bytes(text: &str, name: &str) -> Option<i64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    let kib: i64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let text = "SlabX:  1 kB\nSlab:        2 kB\n";
        assert_eq!(bytes(text, "Slab"), Some(2048));
        assert_eq!(bytes(text, "Percpu"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let used = Memory::read([std::process::id()]).unwrap();
        assert!(used.user > 0 && used.slab > 0, "{used:?}");
    }
}
