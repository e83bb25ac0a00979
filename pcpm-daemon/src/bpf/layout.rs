//! What becomes of the maps that an earlier life left pinned: compared with what the object wants, kept,
//! grown, made anew, or the start refused.

use aya::maps::{MapData, MapError};
use pcpm_ebpf::abi::names;

use super::BpfError;

// From include/uapi/linux/bpf.h.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_HASH: u32 = 5;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LRU_PERCPU_HASH: u32 = 10;

/// Maps whose content the daemon writes anew at each start, or that is worth nothing after seconds.
const DISPOSABLE: [&str; 9] = [
    names::HUBS,
    names::FRAGMENTS,
    names::DROPS,
    names::DROP_EVENTS,
    names::DROP_WINDOWS,
    names::BUCKETS,
    names::HOST_ADDRESSES,
    names::UPLINKS,
    names::CONFIG,
];

/// How a map is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) flags: u32,
    pub(super) entries: u32,
}

/// What becomes of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// There is none yet.
    Make,
    /// The one that is there, with all that is in it.
    Keep,
    /// A larger one takes over what is in it.
    Grow,
    /// A new one takes its place, empty.
    Renew,
}

impl Layout {
    /// That of a map in the kernel.
    pub(super) fn of(map: &MapData) -> Result<Self, MapError> {
        let info = map.info()?;
        Ok(Self {
            kind: info.map_type()? as u32,
            key: info.key_size(),
            value: info.value_size(),
            flags: info.map_flags(),
            entries: info.max_entries(),
        })
    }

    /// That of a map in an object, with as many entries as asked for.
    pub(super) fn wanted(map: &aya_obj::Map, entries: Option<u32>) -> Self {
        Self {
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
            flags: map.map_flags(),
            entries: entries.unwrap_or(map.max_entries()),
        }
    }

    /// Whether elements have one value for each CPU.
    pub(super) fn is_per_cpu(self) -> bool {
        [PERCPU_ARRAY, PERCPU_HASH, LRU_PERCPU_HASH].contains(&self.kind)
    }

    /// Whether entries appear by themselves while packets pass.
    pub(super) fn is_filled_by_traffic(self) -> bool {
        self.kind == LRU_HASH
    }

    fn has_same_elements(self, other: Self) -> bool {
        Self {
            entries: other.entries,
            ..self
        } == other
    }

    fn can_be_copied(self) -> bool {
        [HASH, ARRAY, PERCPU_ARRAY, LRU_HASH].contains(&self.kind)
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            key,
            value,
            flags,
            entries,
        } = self;
        write!(
            f,
            "{entries} entries of {key} + {value} bytes (type {kind}, flags {flags:#x})"
        )
    }
}

/// What becomes of the map `name`. A larger one than wanted does as well.
pub(super) fn fate(name: &str, found: Option<Layout>, wanted: Layout) -> Result<Fate, BpfError> {
    let Some(found) = found else {
        return Ok(Fate::Make);
    };
    let same = found.has_same_elements(wanted);
    if same && found.entries >= wanted.entries {
        return Ok(Fate::Keep);
    }
    if same && found.can_be_copied() {
        return Ok(Fate::Grow);
    }
    if DISPOSABLE.contains(&name) {
        return Ok(Fate::Renew);
    }
    Err(BpfError {
        what: format!("go on with the map {name} of an earlier life"),
        cause: format!("it has {found}, this pcpmd needs {wanted}; {ADVICE}"),
    })
}

/// What to do about maps that cannot be used.
pub(super) const ADVICE: &str = "run the version that made it, or remove all networks and attachments of that \
     life with `pcpmd --cleanup` (and the options or the configuration file it ran with)";

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: Layout = Layout {
        kind: LRU_HASH,
        key: 40,
        value: 80,
        flags: 0,
        entries: 1024,
    };

    fn with(change: impl FnOnce(&mut Layout)) -> Layout {
        let mut layout = FLOWS;
        change(&mut layout);
        layout
    }

    #[test]
    fn a_map_that_is_large_enough_is_kept_a_smaller_one_grows() {
        let cases = [
            (None, Fate::Make),
            (Some(FLOWS), Fate::Keep),
            (Some(with(|l| l.entries = 4096)), Fate::Keep),
            (Some(with(|l| l.entries = 512)), Fate::Grow),
        ];
        for (found, expected) in cases {
            assert_eq!(
                fate(names::FLOWS, found, FLOWS).unwrap(),
                expected,
                "{found:?}"
            );
        }
    }

    #[test]
    fn elements_of_another_layout_are_refused_with_what_to_do() {
        let changes: [fn(&mut Layout); 4] = [
            |l| l.kind = HASH,
            |l| l.key = 16,
            |l| l.value = 8,
            |l| l.flags = 1,
        ];
        for change in changes {
            let refused = fate(names::FLOWS, Some(with(change)), FLOWS);
            let told = refused.unwrap_err().to_string();
            for part in ["map FLOWS", "1024 entries of 40 + 80 bytes", "--cleanup"] {
                assert!(told.contains(part), "{told}");
            }
        }
    }

    #[test]
    fn what_the_daemon_writes_at_each_start_is_made_anew() {
        let found = Some(with(|l| l.value = 8));
        assert_eq!(fate(names::UPLINKS, found, FLOWS).unwrap(), Fate::Renew);
    }
}
