//! What the kernel knows of slots and tells nobody else, or not for little: who holds them, whether their
//! sysctls were written to, and what their links are like.
#![expect(unsafe_code, reason = "says which ABI types are plain memory")]

use std::io;

use aya::{
    Ebpf, EbpfLoader, Pod, RawTracePointRunOptions, TestRun as _,
    maps::{Array, HashMap, Map, MapData},
    programs::{CgroupAttachMode, CgroupSysctl, RawTracePoint},
};
use pcpm_ebpf::{
    WITNESS_OBJECT,
    witness::{KernelLayout, LinkState, References, names},
};

use super::{BpfError, control_group, kernel_types, steering::missing, verified::load_verified};
use crate::net::{LinkStates, NetError, Witness};

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Layout(KernelLayout);

// SAFETY: `repr(C)`, `Copy`, without padding, and every bit pattern is valid.
unsafe impl Pod for Layout {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct State(LinkState);

// SAFETY: `repr(C)`, `Copy`, without padding, and every bit pattern is valid.
unsafe impl Pod for State {}

/// Loads the witness programs for a pool of `slots`. The one that sees sysctls is attached while the
/// result lives, and not pinned: what was written while no daemon ran is not known, and a slot that
/// was attached then is not used again.
pub(crate) fn witness(slots: u32) -> Result<Box<dyn Witness>, BpfError> {
    let mut programs = EbpfLoader::new()
        .btf(None)
        // Beside living slots those of some that are gone, and some room for a pool that grows. Whoever
        // has lost its entry is not used again.
        .map_max_entries(names::SYSCTL_WRITES, slots.max(4096).saturating_mul(2))
        .load(WITNESS_OBJECT)
        .map_err(|e| BpfError::new("load the witnesses of slots", &e))?;
    let mut layout: Array<MapData, Layout> = take_map(&mut programs, names::KERNEL_LAYOUT)?;
    let kernel = kernel_types::layout()?;
    layout
        .set(0, Layout(kernel), 0)
        .map_err(|e| BpfError::new("write where the kernel has its fields", &e))?;
    load(&mut programs, names::REFERENCES)?;
    load(&mut programs, names::SEEN_LINKS)?;
    attach_sysctl_watch(&mut programs)?;
    Ok(Box::new(KernelWitness {
        writes: take_map(&mut programs, names::SYSCTL_WRITES)?,
        links: take_map(&mut programs, names::LINK_STATES)?,
        knows_neighbours: kernel.link_neighbours != 0 && kernel.neighbour_entry != 0,
        programs,
    }))
}

fn take_map<T>(programs: &mut Ebpf, name: &str) -> Result<T, BpfError>
where
    T: TryFrom<Map>,
    T::Error: std::error::Error + 'static,
{
    let map = programs
        .take_map(name)
        .ok_or_else(|| missing("map", name))?;
    map.try_into()
        .map_err(|e: T::Error| BpfError::new(format!("use map {name}"), &e))
}

/// Loads a program that is attached to nothing.
fn load(programs: &mut Ebpf, name: &str) -> Result<(), BpfError> {
    let what = || format!("load program {name}");
    let program = programs
        .program_mut(name)
        .ok_or_else(|| missing("program", name))?;
    let program: &mut RawTracePoint = program.try_into().map_err(|e| BpfError::new(what(), &e))?;
    load_verified(name, || program.load())
}

fn attach_sysctl_watch(programs: &mut Ebpf) -> Result<(), BpfError> {
    let what = || {
        format!(
            "attach {} to the root control group",
            names::SYSCTL_ACCESSED
        )
    };
    let root = control_group::root()?
        .ok_or_else(|| BpfError::new(what(), &io::Error::other("no cgroup2 is mounted")))?;
    let program = programs
        .program_mut(names::SYSCTL_ACCESSED)
        .ok_or_else(|| missing("program", names::SYSCTL_ACCESSED))?;
    let program: &mut CgroupSysctl = program.try_into().map_err(|e| BpfError::new(what(), &e))?;
    load_verified(names::SYSCTL_ACCESSED, || program.load())?;
    program
        .attach(control_group::open(&root)?, CgroupAttachMode::Single)
        .map_err(|e| BpfError::new(what(), &e))?;
    Ok(())
}

struct KernelWitness {
    programs: Ebpf,
    writes: HashMap<MapData, u64, u64>,
    links: Array<MapData, State>,
    knows_neighbours: bool,
}

impl KernelWitness {
    /// Has a program run, and returns what it returns.
    fn run(&self, name: &str, what: &'static str) -> Result<u32, NetError> {
        let program = self.programs.program(name);
        let program: &RawTracePoint = program
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| NetError::new(what, "the program is not loaded"))?;
        let run = program.test_run(RawTracePointRunOptions::default());
        let run = run.map_err(|e| NetError::new(what, e.to_string()))?;
        Ok(run.return_value)
    }
}

impl Witness for KernelWitness {
    fn references(&self) -> Result<References, NetError> {
        let what = "count who holds the namespace";
        References::from_bits(self.run(names::REFERENCES, what)?)
            .ok_or_else(|| NetError::new(what, "the kernel's memory could not be read"))
    }

    fn links(&self) -> Result<LinkStates, NetError> {
        let what = "look at the links of a slot";
        let seen = self.run(names::SEEN_LINKS, what)?;
        if seen == 0 {
            return Err(NetError::new(what, "not all of them could be seen"));
        }
        let links = (0..seen).map(|number| Ok(self.links.get(&number, 0)?.0));
        let links = links.collect::<Result<_, aya::maps::MapError>>();
        Ok(LinkStates {
            links: links.map_err(|e| NetError::new(what, e.to_string()))?,
            knows_neighbours: self.knows_neighbours,
        })
    }

    fn watch_sysctls(&mut self, cookie: u64) -> Result<(), NetError> {
        self.writes
            .insert(cookie, 0, 0)
            .map_err(|e| NetError::new("watch a slot's sysctls", e.to_string()))
    }

    fn sysctl_writes(&self, cookie: u64) -> Option<u64> {
        self.writes.get(&cookie, 0).ok()
    }
}
