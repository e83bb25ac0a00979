//! Namespaces that slots may have beside the network one, for containers that share them as they share the
//! network: a Kubernetes pod's. Each is mounted at `STATE_DIR/KIND/SLOT`, and lives as long as it is, or somebody
//! is in it. Nobody looks into them, so a slot that has any is not used again.

use std::fs::File;
use std::iter;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use pcpm_api::types::SharedNamespace;
use serde::{Deserialize, Serialize};

use super::error::{During, NetError};
use super::{SlotSpec, namespace, slot_name};

/// Which of them slots have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<SharedNamespace>", into = "Vec<SharedNamespace>")]
pub(crate) struct Share {
    ipc: bool,
    uts: bool,
}

impl Share {
    /// Whether there is none.
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Whether a namespace of this kind is among them.
    pub(crate) fn has(self, kind: SharedNamespace) -> bool {
        match kind {
            SharedNamespace::Ipc => self.ipc,
            SharedNamespace::Uts => self.uts,
        }
    }

    /// Them, in an order of their own.
    pub(crate) fn kinds(self) -> impl Iterator<Item = SharedNamespace> {
        let all = SharedNamespace::ALL.iter().copied();
        all.filter(move |kind| self.has(*kind))
    }

    /// What is wrong with a slot that should have these, where `there` are mounted.
    pub(crate) fn doubt(self, there: Self) -> Option<String> {
        let mut missing = self.kinds().filter(|kind| !there.has(*kind));
        missing.next().map(not_mounted)
    }
}

impl FromIterator<SharedNamespace> for Share {
    fn from_iter<T: IntoIterator<Item = SharedNamespace>>(kinds: T) -> Self {
        let mut share = Self::default();
        for kind in kinds {
            match kind {
                SharedNamespace::Ipc => share.ipc = true,
                SharedNamespace::Uts => share.uts = true,
            }
        }
        share
    }
}

impl From<Vec<SharedNamespace>> for Share {
    fn from(kinds: Vec<SharedNamespace>) -> Self {
        kinds.into_iter().collect()
    }
}

impl From<Share> for Vec<SharedNamespace> {
    fn from(share: Share) -> Self {
        share.kinds().collect()
    }
}

fn not_mounted(kind: SharedNamespace) -> String {
    format!("its {kind} namespace is not mounted")
}

/// Where slots' namespaces of a kind are mounted.
pub(super) fn directory(state_dir: &Path, kind: SharedNamespace) -> PathBuf {
    state_dir.join(kind.as_str())
}

/// Where that of one slot is.
pub(crate) fn share_path(state_dir: &Path, kind: SharedNamespace, index: u32) -> PathBuf {
    directory(state_dir, kind).join(slot_name(index))
}

/// Makes and mounts those that the slot is to have.
pub(super) fn make(state_dir: &Path, spec: &SlotSpec) -> Result<(), NetError> {
    for kind in spec.share.kinds() {
        let made = make_one(kind, &share_path(state_dir, kind, spec.index));
        made.map_err(|error| error.and(unmount(state_dir, spec.index).err()))?;
    }
    Ok(())
}

fn make_one(kind: SharedNamespace, path: &Path) -> Result<(), NetError> {
    let _away = Away::from(kind)?;
    #[cfg(test)]
    super::faults::step("create a namespace to share")?;
    unshare(flag(kind)).during(|| format!("create a namespace of the kind {kind}"))?;
    namespace::mount_own(own(kind), path)
}

/// Unmounts and removes all that slot `index` has of mounts but its network namespace's; fine if there is nothing.
pub(super) fn unmount(state_dir: &Path, index: u32) -> Result<(), NetError> {
    let kinds = SharedNamespace::ALL.iter();
    let errors = kinds.filter_map(|kind| {
        let path = share_path(state_dir, *kind, index);
        namespace::unmount(&path).err()
    });
    NetError::collect(errors)
}

/// Whether those are mounted that the slot is to have. They cannot be put back: nobody holds them open.
pub(super) fn check(state_dir: &Path, spec: &SlotSpec) -> Result<(), NetError> {
    let paths = spec.share.kinds();
    let paths = paths.map(|kind| (kind, share_path(state_dir, kind, spec.index)));
    let there = paths.filter(|(_, path)| is_mounted(path));
    match spec.share.doubt(there.map(|(kind, _)| kind).collect()) {
        None => Ok(()),
        Some(doubt) => Err(NetError::new("mount it again", doubt)),
    }
}

/// Whether a namespace is mounted at `path`.
pub(super) fn is_mounted(path: &Path) -> bool {
    namespace::open_mounted(path).is_ok_and(|namespace| namespace.is_some())
}

/// Brings the thread home when dropped: a thread that stays in a slot's namespace keeps it alive.
struct Away {
    kind: SharedNamespace,
    home: OwnedFd,
}

impl Away {
    fn from(kind: SharedNamespace) -> Result<Self, NetError> {
        let home = File::open(own(kind))
            .during(|| format!("open the thread's namespace of the kind {kind}"))?;
        let home = home.into();
        Ok(Self { kind, home })
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.home, flag(self.kind)) {
            let kind = self.kind;
            tracing::error!("a worker thread cannot leave a slot's {kind} namespace: {errno}");
        }
    }
}

fn own(kind: SharedNamespace) -> &'static str {
    match kind {
        SharedNamespace::Ipc => "/proc/thread-self/ns/ipc",
        SharedNamespace::Uts => "/proc/thread-self/ns/uts",
    }
}

fn flag(kind: SharedNamespace) -> CloneFlags {
    match kind {
        SharedNamespace::Ipc => CloneFlags::CLONE_NEWIPC,
        SharedNamespace::Uts => CloneFlags::CLONE_NEWUTS,
    }
}

/// The directories that [`make`] mounts in.
pub(super) fn directories(state_dir: &Path, share: Share) -> impl Iterator<Item = PathBuf> {
    share.kinds().map(move |kind| directory(state_dir, kind))
}

/// All there may be.
pub(super) fn everything() -> Share {
    SharedNamespace::ALL.iter().copied().collect()
}

/// What is mounted, or was, by kind.
pub(super) fn remains(state_dir: &Path) -> impl Iterator<Item = (SharedNamespace, PathBuf)> {
    SharedNamespace::ALL.iter().flat_map(move |kind| {
        let files = namespace::files_below(&directory(state_dir, *kind));
        files
            .into_iter()
            .zip(iter::repeat(*kind))
            .map(|(path, kind)| (kind, path))
    })
}
