//! Where slots' network namespaces are mounted, and how everybody else finds them.
//!
//! A mount in the host is paid for by everybody who starts a container: it is copied into the container's mount
//! namespace with all others, taken down there again, and is a line that runtimes read several times. So slots are
//! mounted in a mount namespace of the daemon's own, which no process is in and which has nothing else ([`Own`]).
//! The host has one mount for all of them, that of this namespace itself: they outlive the daemon. It is not copied
//! into others (`copy_tree` of Linux `fs/namespace.c`). A slot that somebody holds is *shown*: mounted in the host,
//! too, so that its name is good while no daemon runs.
//!
//! ```text
//! STATE_DIR/netns/s0007      the slot's name: a link to ../live/s0007 or, once it is shown, to ../attached/s0007
//! STATE_DIR/live             a link to the own mounts' directory, through a descriptor of the daemon's
//! STATE_DIR/attached/s0007   where the slot is mounted while it is shown
//! STATE_DIR/mounts/slots     where the own mount namespace is
//! ```
//!
//! A name that leads through `/proc` is of no use to those who have another one: a daemon in a container has all
//! slots mounted in the host, at their names ([`HostMounts::All`]).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, chdir, mkdir, pivot_root};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::error::{During, NetError};
use super::sweep::number_of;
use super::{namespace, slot_name, slot_path};

/// The thread's mount namespace.
const THREAD: &str = "/proc/thread-self/ns/mnt";

/// The number of the first namespace of processes (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const MACHINES_PROCESSES: u64 = 0xEFFF_FFFC;

/// What is in the own mount namespace.
const SLOTS: &str = "netns";

/// Which slots are mounted in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostMounts {
    /// Those that somebody holds.
    Attached,
    /// All.
    All,
}

/// See the module's documentation.
pub(super) struct Mounts {
    state_dir: PathBuf,
    host: HostMountNamespace,
    which: OnceLock<HostMounts>,
    own: OnceLock<Own>,
    /// Held while something about a slot is changed: one may be shown while it is destroyed.
    changing: Mutex<()>,
}

/// The daemon's own mount namespace. Its root is a file system in memory.
struct Own {
    namespace: OwnedFd,
    root: OwnedFd,
    /// The mount namespace that the daemon's threads are in otherwise.
    home: OwnedFd,
}

/// What there is of a slot.
pub(super) struct Looked {
    pub(super) netns: Option<OwnedFd>,
    /// What is not as it should be.
    pub(super) doubt: Option<&'static str>,
}

/// The host's mount namespace.
#[derive(Debug)]
pub(crate) struct HostMountNamespace {
    file: OwnedFd,
    /// Whether all of the machine has the same mounts and processes as the host.
    is_machines: bool,
}

impl HostMountNamespace {
    /// That of the calling thread. To be taken before the daemon has mounts of its own, and gives up privileges.
    pub(crate) fn of_thread() -> Result<Self, NetError> {
        let processes = fs::metadata("/proc/self/ns/pid");
        let has_machines_processes =
            processes.is_ok_and(|namespace| namespace.ino() == MACHINES_PROCESSES);
        // To ask for the namespace of another process takes a privilege over it (CAP_SYS_PTRACE).
        let first = first_mount("1");
        let has_machines_mounts = first.is_some() && first == first_mount("thread-self");
        Ok(Self {
            file: of_thread()?,
            is_machines: has_machines_processes && has_machines_mounts,
        })
    }
}

/// The number of the first mount that a process sees: it is that of no other in another mount namespace.
fn first_mount(process: &str) -> Option<String> {
    let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
    mounts.split(' ').next().map(str::to_owned)
}

fn of_thread() -> Result<OwnedFd, NetError> {
    File::open(THREAD)
        .map(OwnedFd::from)
        .during(|| "open the thread's mount namespace".to_owned())
}

impl Mounts {
    /// Nothing is made; what an earlier life made is found.
    pub(super) fn open(state_dir: &Path, host: HostMountNamespace) -> Result<Self, NetError> {
        let mounts = Self {
            state_dir: state_dir.to_owned(),
            host,
            which: OnceLock::new(),
            own: OnceLock::new(),
            changing: Mutex::default(),
        };
        if let Some(namespace) = mounts.pinned()? {
            let opened = inside(&namespace, || File::open("/"))?;
            let root = opened.during(|| "open the root of the slots' mounts".to_owned())?;
            let own = Own {
                namespace,
                root: root.into(),
                home: of_thread()?,
            };
            mounts.own.get_or_init(|| own);
        }
        Ok(mounts)
    }

    /// Makes what slots are mounted in.
    pub(super) fn prepare(&self, which: Option<HostMounts>) -> Result<(), NetError> {
        let asked_for = which.map_or_else(|| self.fewest(), Ok)?;
        let prepared = match asked_for {
            HostMounts::Attached => self.prepare_own(),
            HostMounts::All => Ok(()),
        };
        let which = match prepared {
            Err(error) if which.is_none() => {
                tracing::warn!("all slots are mounted in the host: {error}");
                HostMounts::All
            }
            prepared => prepared.map(|()| asked_for)?,
        };
        if which == HostMounts::All {
            namespace::share_directory(&self.names())?;
        }
        self.which.get_or_init(|| which);
        Ok(())
    }

    fn prepare_own(&self) -> Result<(), NetError> {
        make_directory(&self.names())?;
        namespace::share_directory(&self.shown())?;
        match self.own.get() {
            Some(_) => self.keep_pinned().map(drop)?,
            None => self.begin_own()?,
        }
        self.lead_to_own()
    }

    /// Mounts a new slot, of which there must be nothing.
    pub(super) fn mount(&self, netns: &OwnedFd, index: u32) -> Result<(), NetError> {
        match self.in_use() {
            None => namespace::mount_file(netns, &self.name(index)),
            Some(own) => {
                own.mount(netns, index)?;
                let _changing = self.changing();
                let named = self.lead(index, "live");
                named.map_err(|error| error.and(namespace::unmount(&own.slot(index)).err()))
            }
        }
    }

    /// Mounts a slot that somebody holds wherever it is not, and sets its name right.
    pub(super) fn restore(&self, netns: &OwnedFd, index: u32) -> Result<(), NetError> {
        let _changing = self.changing();
        let Some(own) = self.in_use() else {
            return self.restore_in_host(netns, index);
        };
        let path = own.slot(index);
        if !namespace::is_mounted(netns, &path) {
            namespace::unmount(&path)?;
            own.mount(netns, index)?;
        }
        self.mount_shown(netns, index)
    }

    /// Has the name of a slot be good without a daemon, too. Fine if the slot is gone.
    pub(super) fn show(&self, index: u32) -> Result<(), NetError> {
        let _changing = self.changing();
        match self.in_use() {
            None => Ok(()),
            Some(own) => match namespace::open_mounted(&own.slot(index))? {
                None => Ok(()),
                Some(netns) => self.mount_shown(&netns, index),
            },
        }
    }

    /// Takes back what [`show`](Self::show) did.
    pub(super) fn hide(&self, index: u32) -> Result<(), NetError> {
        let _changing = self.changing();
        if self.in_use().is_none() || !self.is_shown(index) {
            return Ok(());
        }
        self.lead(index, "live")?;
        namespace::unmount(&self.shown_slot(index))
    }

    /// Unmounts a slot everywhere. Returns whether there was anything of it; fine if there was not.
    pub(super) fn remove(&self, index: u32) -> Result<bool, NetError> {
        let _changing = self.changing();
        let own = self.own.get().map(|own| own.slot(index));
        // Nobody finds it any more; then it goes.
        let name = self.name(index);
        let places = [half_made(&name), name, self.shown_slot(index)];
        let mut was_there = false;
        let mut errors = Vec::new();
        for place in places.into_iter().chain(own) {
            if place.symlink_metadata().is_ok() {
                was_there = true;
                errors.extend(namespace::unmount(&place).err());
            }
        }
        NetError::collect(errors).map(|()| was_there)
    }

    /// The slots that there is something of.
    pub(super) fn indexes(&self) -> BTreeSet<u32> {
        let own = self.own.get().map(Own::slots);
        let places = [self.names(), self.shown()].into_iter().chain(own);
        let files = places.flat_map(|place| namespace::files_below(&place));
        files.filter_map(|path| number_of(&path, "s")).collect()
    }

    /// Looks at a slot and changes nothing.
    pub(super) fn look(&self, index: u32) -> Result<Looked, NetError> {
        let own = self.own.get().map(|own| own.slot(index));
        let shown = Some(self.shown_slot(index));
        let named = Some(self.name(index)).filter(|name| !name.is_symlink());
        // Where it should be is the first.
        let places = match self.in_use() {
            Some(_) => [own, shown, named],
            None => [named, shown, own],
        };
        for (position, place) in places.into_iter().enumerate() {
            if let Some(place) = place
                && let Some(netns) = namespace::open_mounted(&place)?
            {
                let doubt = match position {
                    0 => self.doubt(index, &netns),
                    _ => Some("its namespace is not where it should be mounted"),
                };
                let netns = Some(netns);
                return Ok(Looked { netns, doubt });
            }
        }
        Ok(Looked {
            netns: None,
            doubt: Some("its namespace is not mounted"),
        })
    }

    /// How often the slot is mounted where the daemon does it, and where that may have been copied to others.
    pub(super) fn own_mounts(&self, index: u32) -> (u32, PathBuf) {
        match self.in_use() {
            None => (0, self.name(index)),
            Some(_) => (1, self.shown_slot(index)),
        }
    }

    /// Whether the slot is mounted in the host.
    pub(super) fn is_shown(&self, index: u32) -> bool {
        self.in_use().is_none() || self.shown_slot(index).exists()
    }

    /// Has the own mount namespace be mounted in the host, if there is one. Returns whether it was not.
    pub(super) fn keep_pinned(&self) -> Result<bool, NetError> {
        let Some(own) = self.own.get() else {
            return Ok(false);
        };
        let there = self.pinned()?;
        if there.is_some_and(|there| namespace::is_same(&there, &own.namespace)) {
            return Ok(false);
        }
        self.keep(own).map(|()| true)
    }

    /// Has names not lead through a process that is about to be no more: another may get its number.
    pub(super) fn leave(&self) -> Result<(), NetError> {
        let live = self.live();
        let unlinked = [half_made(&live), live].map(|link| namespace::unlink(&link).err());
        NetError::collect(unlinked.into_iter().flatten())
    }

    /// Removes everything that is not a slot's.
    pub(super) fn end(&self) -> Result<(), NetError> {
        let directories = [self.names(), self.shown()];
        let removed = directories.map(|directory| namespace::unshare_directory(&directory).err());
        let live = self.leave().err();
        let pin = self.unpin().err();
        NetError::collect(removed.into_iter().flatten().chain(live).chain(pin))
    }

    /// The fewest mounts in the host with which everybody finds a slot that may look for it.
    fn fewest(&self) -> Result<HostMounts, NetError> {
        let directory = &self.state_dir;
        let spreads = namespace::is_shared(directory);
        let spreads = spreads.during(|| format!("look at {}", directory.display()))?;
        // Where mounts spread to others than the machine, these may have other processes in their /proc.
        let may_differ = spreads && !self.host.is_machines;
        Ok(if may_differ {
            HostMounts::All
        } else {
            HostMounts::Attached
        })
    }

    /// What slots are mounted in, unless that is the host.
    fn in_use(&self) -> Option<&Own> {
        let own = self.own.get();
        own.filter(|_| self.which.get() == Some(&HostMounts::Attached))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> PathBuf {
        self.state_dir.join("netns")
    }

    fn name(&self, index: u32) -> PathBuf {
        slot_path(&self.state_dir, index)
    }

    fn live(&self) -> PathBuf {
        self.state_dir.join("live")
    }

    fn shown(&self) -> PathBuf {
        self.state_dir.join("attached")
    }

    fn shown_slot(&self, index: u32) -> PathBuf {
        self.shown().join(slot_name(index))
    }

    fn pin_directory(&self) -> PathBuf {
        self.state_dir.join("mounts")
    }

    /// What is not right about a slot that is mounted where it should be.
    fn doubt(&self, index: u32, netns: &OwnedFd) -> Option<&'static str> {
        self.in_use()?;
        let target = fs::read_link(self.name(index)).ok();
        let leads_to = |directory| target.as_deref() == Some(&leading(index, directory));
        match self.is_shown(index) {
            true if !namespace::is_mounted(netns, &self.shown_slot(index)) => {
                Some("its namespace is not mounted in the host")
            }
            true if leads_to("attached") => None,
            false if leads_to("live") => None,
            _ => Some("its name leads elsewhere"),
        }
    }

    fn restore_in_host(&self, netns: &OwnedFd, index: u32) -> Result<(), NetError> {
        let name = self.name(index);
        if name.is_symlink() {
            namespace::unlink(&name)?;
        }
        namespace::ensure_mounted(netns, &name)?;
        // What an earlier life had.
        namespace::unmount(&self.shown_slot(index))?;
        let own = self.own.get().map(|own| own.slot(index));
        own.map_or(Ok(()), |own| namespace::unmount(&own))
    }

    fn mount_shown(&self, netns: &OwnedFd, index: u32) -> Result<(), NetError> {
        namespace::ensure_mounted(netns, &self.shown_slot(index))?;
        self.lead(index, "attached")
    }

    /// Has the name of a slot lead to its file in a directory beside that of the names.
    fn lead(&self, index: u32, directory: &str) -> Result<(), NetError> {
        make_link(&leading(index, directory), &self.name(index))
    }

    /// Has the daemon's directory be found by others.
    fn lead_to_own(&self) -> Result<(), NetError> {
        let Some(own) = self.own.get() else {
            return Ok(());
        };
        // The number that others know this process by.
        let pid = fs::read_link("/proc/self").during(|| "read /proc/self".to_owned())?;
        let descriptor = own.root.as_raw_fd();
        let target = format!("/proc/{}/fd/{descriptor}/{SLOTS}", pid.display());
        make_link(target.as_ref(), &self.live())
    }

    /// The own mount namespace of an earlier life, or of this one.
    fn pinned(&self) -> Result<Option<OwnedFd>, NetError> {
        let path = self.pin_directory().join("slots");
        if !path.exists() {
            return Ok(None);
        }
        inside(&self.host.file, || namespace::open_mounted(&path))?
    }

    fn keep(&self, own: &Own) -> Result<(), NetError> {
        self.unpin()?;
        make_directory(&self.pin_directory())?;
        inside(&self.host.file, || self.pin(own))?
    }

    /// From the host.
    fn pin(&self, own: &Own) -> Result<(), NetError> {
        let directory = self.pin_directory();
        let what = || format!("mount a mount namespace below {}", directory.display());
        let none = None::<&str>;
        // A mount namespace can be mounted only where that spreads to nobody.
        mount(Some(&directory), &directory, none, MsFlags::MS_BIND, none).during(what)?;
        mount(none, &directory, none, MsFlags::MS_PRIVATE, none).during(what)?;
        namespace::mount_file(&own.namespace, &directory.join("slots"))
    }

    fn unpin(&self) -> Result<(), NetError> {
        let directory = self.pin_directory();
        inside(&self.host.file, || {
            let slots = namespace::unmount(&directory.join("slots"));
            let rest = namespace::unshare_directory(&directory);
            NetError::collect(slots.err().into_iter().chain(rest.err()))
        })?
    }

    /// Makes the own mount namespace, and mounts it in the host. To rule out circles the kernel mounts only namespaces
    /// with greater numbers than that which they are mounted in. Since Linux 6.18 each processor counts for itself
    /// (`kernel/nstree.c`): the one that the host's was made on gives greater ones.
    fn begin_own(&self) -> Result<(), NetError> {
        let mut refused = match self.try_own(None) {
            Err(error) if error.errno == Some(Errno::EINVAL) => error,
            done => return done,
        };
        let processors = sched_getaffinity(Pid::from_raw(0));
        let processors = processors.during(|| "list processors".to_owned())?;
        for number in (0..CpuSet::count()).filter(|n| processors.is_set(*n) == Ok(true)) {
            refused = match self.try_own(Some(number)) {
                Err(error) if error.errno == Some(Errno::EINVAL) => error,
                done => return done,
            };
        }
        Err(refused)
    }

    fn try_own(&self, processor: Option<usize>) -> Result<(), NetError> {
        let own = self.make_own(processor)?;
        self.keep(&own)?;
        self.own.get_or_init(|| own);
        Ok(())
    }

    /// Makes a mount namespace with nothing in it but a directory for slots.
    fn make_own(&self, processor: Option<usize>) -> Result<Own, NetError> {
        let place = self.pin_directory();
        make_directory(&place)?;
        let home = of_thread()?;
        let made = namespace::in_thread(|| -> nix::Result<Own> {
            if let Some(processor) = processor {
                let mut only = CpuSet::new();
                only.set(processor)?;
                sched_setaffinity(Pid::from_raw(0), &only)?;
            }
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
            let namespace = open(THREAD, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            let none = None::<&str>;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            let options = Some("mode=0755");
            mount(Some("pcpm"), &place, Some("tmpfs"), flags, options)?;
            chdir(&place)?;
            pivot_root(".", ".")?;
            umount2(".", MntFlags::MNT_DETACH)?;
            chdir("/")?;
            mkdir(SLOTS, Mode::from_bits_truncate(0o755))?;
            let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root = open("/", directory, Mode::empty())?;
            Ok(Own {
                namespace,
                root,
                home,
            })
        });
        made.during(|| "make a mount namespace for slots".to_owned())
    }
}

impl Own {
    /// The directory that slots are mounted in, from wherever the daemon is.
    fn slots(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SLOTS}", self.root.as_raw_fd()).into()
    }

    fn slot(&self, index: u32) -> PathBuf {
        self.slots().join(slot_name(index))
    }

    fn mount(&self, netns: &OwnedFd, index: u32) -> Result<(), NetError> {
        let path = self.slot(index);
        namespace::make_mount_point(&path)?;
        let mounted = self.mount_at(netns, index);
        mounted.map_err(|error| error.and(namespace::unlink(&path).err()))
    }

    fn mount_at(&self, netns: &OwnedFd, index: u32) -> Result<(), NetError> {
        #[cfg(test)]
        super::faults::step("mount a namespace")?;
        let what = || format!("mount the namespace of {}", slot_name(index));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(netns, "", flags).map_err(io::Error::from);
        let tree = tree.during(what)?;
        let path = Path::new(SLOTS).join(slot_name(index));
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        let _visit = Visit::to(self).during(|| "visit the slots' mounts".to_owned())?;
        let mounted = move_mount(&tree, "", &self.root, &path, flags);
        mounted.map_err(io::Error::from).during(what)
    }
}

/// A visit of a thread that makes slots to where they are mounted, ended when dropped: it has no use for relative
/// paths. To wait for a thread of its own takes longer than all the rest where the processors are busy.
struct Visit<'a>(&'a OwnedFd);

impl<'a> Visit<'a> {
    fn to(own: &'a Own) -> nix::Result<Self> {
        // Threads that share a root directory cannot be in different mount namespaces.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&own.namespace, CloneFlags::CLONE_NEWNS)?;
        Ok(Self(&own.home))
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Err(errno) = setns(self.0, CloneFlags::CLONE_NEWNS) {
            tracing::error!("a worker thread cannot leave the slots' mounts: {errno}");
        }
    }
}

/// Runs `work` in a mount namespace: in a thread of its own, unless the calling one is there.
fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
    if namespace::is_same(&of_thread()?, namespace) {
        return Ok(work());
    }
    namespace::in_thread(|| {
        let entered =
            unshare(CloneFlags::CLONE_FS).and_then(|()| setns(namespace, CloneFlags::CLONE_NEWNS));
        entered.during(|| "enter a mount namespace".to_owned())?;
        Ok(work())
    })
}

/// Where the name of a slot leads, from where it is.
fn leading(index: u32, directory: &str) -> PathBuf {
    Path::new("..").join(directory).join(slot_name(index))
}

fn make_directory(path: &Path) -> Result<(), NetError> {
    fs::create_dir_all(path).during(|| format!("create {}", path.display()))
}

/// What a link is called before it takes the place of one that is there. A life that was killed may leave it.
fn half_made(link: &Path) -> PathBuf {
    link.with_extension("new")
}

/// Makes a link, or has one that is there lead to `target`: whoever opens it at any moment finds what it was or
/// what it is.
fn make_link(target: &Path, link: &Path) -> Result<(), NetError> {
    let what = || format!("create {}", link.display());
    match symlink(target, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.during(what),
    }
    match fs::read_link(link) {
        Ok(there) if there == target => return Ok(()),
        Ok(_) => {}
        // A mount of an earlier life, which had no links.
        Err(_) => while namespace::detach(link)? {},
    }
    let new = half_made(link);
    namespace::unlink(&new)?;
    symlink(target, &new).during(what)?;
    let renamed = fs::rename(&new, link).during(what);
    renamed.map_err(|error| error.and(namespace::unlink(&new).err()))
}
