//! What the kernel knows of slots and tells nobody else: who holds them, and whether their sysctls
//! were written to.
#![expect(unsafe_code, reason = "says which ABI types are plain memory")]

use std::io;

use aya::{
    Ebpf, EbpfLoader, Pod, RawTracePointRunOptions, TestRun as _,
    maps::{Array, HashMap, Map, MapData},
    programs::{CgroupAttachMode, CgroupSysctl, RawTracePoint},
};
use pcpm_ebpf::{
    WITNESS_OBJECT,
    witness::{KernelLayout, References, names},
};

use super::{BpfError, control_group, kernel_types, steering::missing};
use crate::net::{NetError, Witness};

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Layout(KernelLayout);

// SAFETY: `repr(C)`, `Copy`, without padding, and every bit pattern is valid.
unsafe impl Pod for Layout {}

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
    layout
        .set(0, Layout(kernel_types::layout()?), 0)
        .map_err(|e| BpfError::new("write where the kernel has its fields", &e))?;
    load_references(&mut programs)?;
    attach_sysctl_watch(&mut programs)?;
    Ok(Box::new(KernelWitness {
        writes: take_map(&mut programs, names::SYSCTL_WRITES)?,
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

fn load_references(programs: &mut Ebpf) -> Result<(), BpfError> {
    let what = || format!("load program {}", names::REFERENCES);
    let program = programs
        .program_mut(names::REFERENCES)
        .ok_or_else(|| missing("program", names::REFERENCES))?;
    let program: &mut RawTracePoint = program.try_into().map_err(|e| BpfError::new(what(), &e))?;
    program.load().map_err(|e| BpfError::new(what(), &e))
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
    program.load().map_err(|e| BpfError::new(what(), &e))?;
    program
        .attach(control_group::open(&root)?, CgroupAttachMode::Single)
        .map_err(|e| BpfError::new(what(), &e))?;
    Ok(())
}

struct KernelWitness {
    programs: Ebpf,
    writes: HashMap<MapData, u64, u64>,
}

impl Witness for KernelWitness {
    fn references(&self) -> Result<References, NetError> {
        let what = "count who holds the namespace";
        let program = self.programs.program(names::REFERENCES);
        let program: &RawTracePoint = program
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| NetError::new(what, "the program is not loaded"))?;
        let run = program.test_run(RawTracePointRunOptions::default());
        let run = run.map_err(|e| NetError::new(what, e.to_string()))?;
        References::from_bits(run.return_value)
            .ok_or_else(|| NetError::new(what, "the kernel's memory could not be read"))
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
