//! The loaded programs, pinned as a set named after the object they came from: a daemon that finds the
//! set of its own object loads nothing.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::MapInfo,
    programs::{
        CgroupSockAddr, Program, ProgramError, ProgramInfo, SchedClassifier,
        cgroup_sock_addr::CgroupSockAddrAttachType,
    },
};
use pcpm_ebpf::abi::names;

use super::{
    BpfError,
    pins::{NEXT_PROGRAMS, is_pinned},
    steering::missing,
};

/// The programs that are attached to interfaces, or run by the daemon.
const PACKET_PROGRAMS: [&str; 6] = [
    names::FROM_SLOT,
    names::FROM_HOST,
    names::FROM_HUB,
    names::TO_HUB,
    names::FROM_UPLINK,
    names::COLLECT,
];

/// A set of pinned programs.
#[derive(Clone, Debug)]
pub(super) struct ProgramSet {
    dir: PathBuf,
}

impl ProgramSet {
    /// The set at `dir` if it is complete and works on the maps with these ids.
    pub(super) fn find(dir: PathBuf, maps: &HashSet<u32>) -> Option<Self> {
        let set = Self { dir };
        let usable = |name| set.info(name).is_ok_and(|info| works_on(&info, maps));
        all_names().all(usable).then_some(set)
    }

    /// Pins loaded programs as the set at `dir`, which takes the place of one that is there.
    pub(super) fn pin(ebpf: &mut Ebpf, dir: PathBuf) -> Result<Self, BpfError> {
        let next = dir.with_file_name(NEXT_PROGRAMS);
        remove(&next)?;
        fs::create_dir(&next).map_err(|e| failed("create", &next, &e))?;
        for (name, program) in ebpf.programs_mut() {
            let path = next.join(name);
            let pinned = match program {
                Program::SchedClassifier(program) => program.pin(&path),
                Program::CgroupSockAddr(program) => program.pin(&path),
                _ => return Err(missing("a known type for program", name)),
            };
            pinned.map_err(|e| BpfError::new(format!("pin program {}", path.display()), &e))?;
        }
        remove(&dir)?;
        fs::rename(&next, &dir).map_err(|e| failed("rename", &next, &e))?;
        Ok(Self { dir })
    }

    /// A program for the hook of an interface.
    pub(super) fn packet_program(&self, name: &str) -> Result<SchedClassifier, BpfError> {
        SchedClassifier::from_pin(self.dir.join(name)).map_err(|e| self.failed_to_open(name, &e))
    }

    /// A program for sockets.
    pub(super) fn socket_program(&self, name: &str) -> Result<CgroupSockAddr, BpfError> {
        let kind = attach_type(name).ok_or_else(|| missing("program", name))?;
        CgroupSockAddr::from_pin(self.dir.join(name), kind)
            .map_err(|e| self.failed_to_open(name, &e))
    }

    /// A program's file descriptor.
    pub(super) fn fd(&self, name: &str) -> Result<OwnedFd, BpfError> {
        let info = self.info(name).map_err(|e| self.failed_to_open(name, &e))?;
        let fd = info.fd().map_err(|e| self.failed_to_open(name, &e))?;
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|e| self.failed_to_open(name, &e))
    }

    /// The number by which the kernel knows a program.
    pub(super) fn id(&self, name: &str) -> Result<u32, BpfError> {
        let info = self.info(name).map_err(|e| self.failed_to_open(name, &e))?;
        Ok(info.id())
    }

    fn info(&self, name: &str) -> Result<ProgramInfo, ProgramError> {
        ProgramInfo::from_pin(self.dir.join(name))
    }

    fn failed_to_open(&self, name: &str, error: &dyn std::error::Error) -> BpfError {
        let path = self.dir.join(name);
        BpfError::new(format!("open program {}", path.display()), error)
    }
}

/// Removes a set, whatever is left of it; fine if it is gone.
pub(super) fn remove(dir: &Path) -> Result<(), BpfError> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("list", dir, &e)),
        Ok(pins) => {
            for pin in pins.flatten() {
                let path = pin.path();
                fs::remove_file(&path).map_err(|e| failed("unpin", &path, &e))?;
            }
        }
    }
    fs::remove_dir(dir).map_err(|e| failed("remove", dir, &e))
}

fn all_names() -> impl Iterator<Item = &'static str> {
    PACKET_PROGRAMS.into_iter().chain(names::SOCKET_PROGRAMS)
}

/// Whether no map of the program has the name of a pinned one without being it.
fn works_on(program: &ProgramInfo, maps: &HashSet<u32>) -> bool {
    let is_right = |id| {
        maps.contains(&id)
            || MapInfo::from_id(id)
                .is_ok_and(|map| map.name_as_str().is_some_and(|name| !is_pinned(name)))
    };
    let Ok(Some(ids)) = program.map_ids() else {
        return false;
    };
    ids.into_iter().all(is_right)
}

fn attach_type(name: &str) -> Option<CgroupSockAddrAttachType> {
    use CgroupSockAddrAttachType as Type;
    let types = [
        Type::Connect4,
        Type::Connect6,
        Type::UDPSendMsg4,
        Type::UDPSendMsg6,
        Type::UDPRecvMsg4,
        Type::UDPRecvMsg6,
        Type::GetPeerName4,
        Type::GetPeerName6,
    ];
    let mut known = names::SOCKET_PROGRAMS.into_iter().zip(types);
    known.find_map(|(known, kind)| (known == name).then_some(kind))
}

fn failed(operation: &str, path: &Path, error: &io::Error) -> BpfError {
    BpfError::new(format!("{operation} {}", path.display()), error)
}
