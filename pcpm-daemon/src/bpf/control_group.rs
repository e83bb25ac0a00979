//! The root control group, whose programs see what the host's own sockets ask for: where it is, and
//! the attaching. Groups are the machine's; the programs look for the host's sockets themselves.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, links::FdLink};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use pcpm_ebpf::abi::names;

use super::{BpfError, PinDir, links, programs::ProgramSet};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Where the root of the unified hierarchy (cgroup2) is mounted, alone or beside those of version 1.
pub(crate) fn root() -> Result<Option<PathBuf>, BpfError> {
    let mounts =
        fs::read_to_string(MOUNTS).map_err(|e| BpfError::new(format!("read {MOUNTS}"), &e))?;
    Ok(roots_in(&mounts).find(|root| is_cgroup2(root)))
}

/// Whether that is what is there: another mount may hide it.
fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Opens the root for [`attach`].
pub(crate) fn open(root: &Path) -> Result<File, BpfError> {
    File::open(root).map_err(|e| BpfError::new(format!("open {}", root.display()), &e))
}

/// The programs of the root control group, for whoever sees to it that they stay there.
pub(crate) struct SocketHooks {
    programs: ProgramSet,
    group: File,
    /// Where their links are pinned, by name.
    pins: Vec<(&'static str, PathBuf)>,
}

impl SocketHooks {
    pub(super) fn new(programs: ProgramSet, group: File, pins: &PinDir) -> Self {
        let pins = names::SOCKET_PROGRAMS.map(|name| (name, pins.path(name)));
        Self {
            programs,
            group,
            pins: pins.into(),
        }
    }

    /// Attaches what is not attached, and returns what that was.
    pub(crate) fn mend(&self) -> Result<Vec<String>, BpfError> {
        let mut missing = Vec::new();
        for (name, pin) in &self.pins {
            if attach(&self.programs, name, &self.group, pin)? {
                missing.push(format!("attach {name} to the root control group"));
            }
        }
        Ok(missing)
    }
}

/// Has the program `name` run for `group`, beside those of others. A link of an earlier life goes on with
/// it; a new one is pinned: removing the pin detaches it. Returns whether there was none.
fn attach(programs: &ProgramSet, name: &str, group: &File, pin: &Path) -> Result<bool, BpfError> {
    if links::adopt(pin, &programs.fd(name)?, programs.id(name)?)? {
        return Ok(false);
    }
    match fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(BpfError::new(format!("unpin {}", pin.display()), &e));
        }
        _ => {}
    }
    let what = || format!("attach {name} to the root control group");
    let mut program = programs.socket_program(name)?;
    // A link always allows others beside it; the kernel wants no flags to say so.
    let link = program
        .attach(group, CgroupAttachMode::Single)
        .and_then(|id| program.take_link(id))
        .map_err(|e| BpfError::new(what(), &e))?;
    let link = FdLink::try_from(link).map_err(|e| BpfError::new(what(), &e))?;
    link.pin(pin)
        .map_err(|e| BpfError::new(format!("pin {}", pin.display()), &e))?;
    Ok(true)
}

/// A mount may show a part of the hierarchy only; the root's says `/`
/// (`proc_pid_mountinfo(5)`).
fn roots_in(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, at) = (place.next()?, place.next()?);
        (root == "/" && source.starts_with("cgroup2 ")).then(|| PathBuf::from(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_unified_hierarchy_is_found_wherever_it_is_mounted() {
        let old = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                   32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        let part = "40 31 0:38 /user.slice /mnt/cgroup rw - cgroup2 cgroup2 rw\n";
        let hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        let first = |mounts: &str| roots_in(mounts).next();
        assert_eq!(first(old), None);
        assert_eq!(first(&format!("{old}{part}")), None);
        let found = first(&format!("{old}{part}{hybrid}"));
        assert_eq!(found, Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn what_hides_a_mount_is_no_control_group() {
        assert!(!is_cgroup2(Path::new("/proc")));
        assert!(!is_cgroup2(Path::new("/no/such/place")));
    }
}
