//! Brings maps and programs into the kernel, or finds that they are there: after [`load`] all of them are
//! pinned, and the programs work on the pinned maps. Nothing is attached here.

use std::{
    collections::{HashMap, HashSet},
    os::fd::AsFd as _,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapInfo},
    programs::Program,
    util::nr_cpus,
};
use pcpm_ebpf::abi::names;

use super::{
    BpfError, Object, PinDir, Sizes,
    layout::{Fate, Layout, fate},
    pins::{MAPS, next},
    programs::ProgramSet,
    steering::missing,
    sys,
    verified::load_verified,
};

/// Slots that there is room for at least: an array that is large enough is kept when the capacity grows.
const ROOM_FOR_SLOTS: u32 = 4096;

/// What is pinned now.
pub(super) struct Loaded {
    pub(super) programs: ProgramSet,
    /// Tables that larger ones took the place of, while packets may still meet programs that use them.
    pub(super) outgrown: Vec<Outgrown>,
    /// Whether programs had to be loaded.
    pub(super) is_new: bool,
}

/// A map whose place a larger one took.
pub(super) struct Outgrown {
    name: &'static str,
    from: MapData,
    to: MapData,
    layout: Layout,
}

/// Makes sure that the maps and programs of `object` are in the kernel. Nothing is changed if a map of an
/// earlier life cannot be used.
pub(super) fn load(object: &Object, sizes: Sizes, pins: &PinDir) -> Result<Loaded, BpfError> {
    let fates = fates(object, sizes, pins)?;
    let dir = pins.program_set(object.hash());
    if fates.values().all(|fate| *fate == Fate::Keep)
        && let Some(programs) = ProgramSet::find(dir.clone(), &ids_of_maps(pins))
    {
        return Ok(Loaded {
            programs,
            outgrown: Vec::new(),
            is_new: false,
        });
    }
    for name in MAPS {
        pins.unpin(&next(name))?;
    }
    let mut ebpf = load_object(object, sizes, pins, &fates)?;
    let outgrown = take_over(pins, &fates)?;
    for (name, _) in fates.iter().filter(|(_, fate)| is_replaced(**fate)) {
        pins.rename(&next(name), name)?;
    }
    Ok(Loaded {
        programs: ProgramSet::pin(&mut ebpf, dir)?,
        outgrown,
        is_new: true,
    })
}

impl Outgrown {
    /// Copies what packets added to the old table since it was copied, now that no program uses it.
    pub(super) fn finish(self) -> Result<(), BpfError> {
        const ONLY_NEW: u64 = 1;
        if !self.layout.is_filled_by_traffic() {
            return Ok(());
        }
        copy(self.name, self.layout, &self.from, &self.to, ONLY_NEW)
    }
}

fn is_replaced(fate: Fate) -> bool {
    matches!(fate, Fate::Grow | Fate::Renew)
}

fn fates(
    object: &Object,
    sizes: Sizes,
    pins: &PinDir,
) -> Result<HashMap<&'static str, Fate>, BpfError> {
    let parsed = aya_obj::Object::parse(object.bytes())
        .map_err(|e| BpfError::new("read the steering object", &e))?;
    let fates = MAPS.into_iter().map(|name| {
        let wanted = parsed.maps.get(name).ok_or_else(|| missing("map", name))?;
        let wanted = Layout::wanted(wanted, entries(name, sizes));
        let found = pins.map(name)?.map(|map| Layout::of(&map)).transpose();
        let found = found.map_err(|e| BpfError::new(format!("look at map {name}"), &e))?;
        let fate = fate(name, found, wanted)?;
        if let (Some(found), true) = (found, is_replaced(fate)) {
            tracing::info!("map {name} has {found}, wanted are {wanted}: replaced");
        }
        Ok((name, fate))
    });
    fates.collect()
}

/// How many entries a map is to have, where the object does not say.
fn entries(name: &str, sizes: Sizes) -> Option<u32> {
    match name {
        names::ATTACHMENTS
        | names::SLOT_COUNTERS
        | names::SETTINGS
        | names::BUCKETS
        | names::SLOT_FLOWS => Some(sizes.slots.next_power_of_two().max(ROOM_FOR_SLOTS)),
        names::PORTS => Some(sizes.ports),
        names::HUBS => Some(sizes.hubs.next_power_of_two()),
        names::FLOWS => Some(sizes.flows),
        _ => None,
    }
}

fn ids_of_maps(pins: &PinDir) -> HashSet<u32> {
    let infos = MAPS
        .into_iter()
        .map(|name| MapInfo::from_pin(pins.path(name)));
    infos.flatten().map(|info| info.id()).collect()
}

/// Loads maps that are not there yet and all programs.
fn load_object(
    object: &Object,
    sizes: Sizes,
    pins: &PinDir,
    fates: &HashMap<&'static str, Fate>,
) -> Result<Ebpf, BpfError> {
    let mut loader = EbpfLoader::new();
    // The programs use no relocation against the kernel's types, whose table is megabytes.
    loader.btf(None);
    for (name, fate) in fates {
        let pin = if is_replaced(*fate) {
            pins.path(&next(name))
        } else {
            pins.path(name)
        };
        loader.map_pin_path(name, pin);
        if let Some(entries) = entries(name, sizes) {
            loader.map_max_entries(name, entries);
        }
    }
    let mut ebpf = loader
        .load(object.bytes())
        .map_err(|e| BpfError::new("load the steering object", &e))?;
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => load_verified(name, || program.load())?,
            Program::CgroupSockAddr(program) => load_verified(name, || program.load())?,
            _ => return Err(missing("a known type for program", name)),
        }
    }
    Ok(ebpf)
}

/// Copies what is in the maps that grow. Traffic goes on through the old ones meanwhile.
fn take_over(
    pins: &PinDir,
    fates: &HashMap<&'static str, Fate>,
) -> Result<Vec<Outgrown>, BpfError> {
    const ANY: u64 = 0;
    let growing = fates.iter().filter(|(_, fate)| **fate == Fate::Grow);
    let copied = growing.map(|(name, _)| {
        let open = |pin: &str| pins.map(pin)?.ok_or_else(|| missing("pinned map", pin));
        let (from, to) = (open(name)?, open(&next(name))?);
        let layout =
            Layout::of(&from).map_err(|e| BpfError::new(format!("look at map {name}"), &e))?;
        copy(name, layout, &from, &to, ANY)?;
        Ok(Outgrown {
            name,
            from,
            to,
            layout,
        })
    });
    copied.collect()
}

/// Copies all elements; with `flags` of `BPF_MAP_UPDATE_ELEM`. What is there already and shall not be
/// replaced stays, what does not fit any more gives way to what is newer.
fn copy(
    name: &str,
    layout: Layout,
    from: &MapData,
    to: &MapData,
    flags: u64,
) -> Result<(), BpfError> {
    let copy = || -> std::io::Result<()> {
        let (from, to) = (from.fd().as_fd(), to.fd().as_fd());
        let mut value = vec![0; value_bytes(layout)?];
        let mut key = vec![0; layout.key as usize];
        let mut next = vec![0; layout.key as usize];
        let mut more = sys::next_key(from, None, &mut next)?;
        // A key that is gone before it is used as the last one begins again: bounded for a full table.
        for _ in 0..u64::from(layout.entries) * 2 {
            if !more {
                break;
            }
            std::mem::swap(&mut key, &mut next);
            if sys::lookup(from, &key, &mut value)? {
                match sys::update(to, &key, &value, flags) {
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                    other => other?,
                }
            }
            more = sys::next_key(from, Some(&key), &mut next)?;
        }
        Ok(())
    };
    copy().map_err(|e| BpfError::new(format!("copy map {name}"), &e))
}

/// The kernel copies the values of all possible CPUs, each in whole words.
fn value_bytes(layout: Layout) -> std::io::Result<usize> {
    let value = layout.value as usize;
    if !layout.is_per_cpu() {
        return Ok(value);
    }
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    Ok(value.next_multiple_of(8) * cpus)
}

/// Removes the pins of programs that nothing runs any more.
pub(super) fn forget_others(pins: &PinDir, object: &Object) -> Result<(), BpfError> {
    let ours = pins.program_set(object.hash());
    for dir in pins.program_sets() {
        if dir != ours {
            super::programs::remove(&dir)?;
        }
    }
    Ok(())
}

impl PinDir {
    /// The pinned map `name`, if there is one.
    fn map(&self, name: &str) -> Result<Option<MapData>, BpfError> {
        if !self.has(name) {
            return Ok(None);
        }
        let path = self.path(name);
        MapData::from_pin(&path)
            .map(Some)
            .map_err(|e| BpfError::new(format!("open map {}", path.display()), &e))
    }
}
