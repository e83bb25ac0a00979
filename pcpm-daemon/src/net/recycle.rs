//! Making a used slot as good as new, or finding out that it is not.
//!
//! What a tenant leaves without meaning to (connections that end, notes about peers) is cleaned away.
//! Then everything is checked: who holds the namespace, by the kernel's own count; whether a sysctl was
//! ever written to; what sockets and datagrams there are; and whether it looks like its golden copy
//! (which a slot that goes back to the same tenant need not).
//! What is not as it was is told, and the slot is to be destroyed. Nothing here needs `rtnl_mutex` for
//! a change; the tables of links and qdiscs are read under it.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pcpm_ebpf::witness::References;

use super::error::{During as _, NetError};
use super::golden::{Camera, Families, Tables, Usage, end_orphans};
use super::host::Home;
use super::namespace::{self, Away};
use super::{
    FreshSlot, Golden, Recycled, Scrutiny, SlotRecycler, TamperWatch, Unclean, UsedSlot, Witness,
    cookie, slot_name,
};
use crate::locks::operation::{self, Operation};

/// What holds a namespace that nobody uses: the entry that its files and mounts share, and the thread
/// that looks.
const OWN_REFERENCES: u32 = 2;

/// How often a slot is looked at that somebody still holds. The kernel lets go of sockets and processes
/// a moment after they are gone (an RCU grace period), and tells nobody.
const LOOKS: u32 = 6;

/// The pause before the second look; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(4);

/// The real hands on slots that are to be used again.
pub(super) struct Recycler {
    home: Arc<Home>,
    witness: Box<dyn Witness>,
    watch: Arc<TamperWatch>,
}

impl Recycler {
    pub(super) fn new(home: Arc<Home>, witness: Box<dyn Witness>, watch: Arc<TamperWatch>) -> Self {
        Self {
            home,
            witness,
            watch,
        }
    }

    fn try_portray(&mut self, slot: &FreshSlot) -> Result<Golden, NetError> {
        operation::begin(Operation::Portray);
        let _away = Away::from(&self.home.netns);
        namespace::enter(&slot.netns)?;
        let cookie = cookie::current()?;
        self.watch.begin(slot.index)?;
        self.witness.watch_sysctls(cookie)?;
        let camera = Camera {
            families: &Families::list()?,
            tables: &Tables::open()?,
            witness: self.witness.as_ref(),
        };
        let picture = camera.take_new(slot.netns.as_fd())?;
        let passive = self.witness.references()?.passive;
        Ok(Golden {
            cookie,
            picture: Arc::new(picture),
            passive,
        })
    }
}

impl SlotRecycler for Recycler {
    fn portray(&mut self, slot: &FreshSlot) -> Result<Golden, NetError> {
        self.try_portray(slot)
            .map_err(|error| error.of(&slot_name(slot.index)))
    }

    fn recycle(&mut self, slots: Vec<UsedSlot>) -> Vec<Recycled> {
        let (families, tables) = match Families::list().and_then(|f| Ok((f, Tables::open()?))) {
            Ok(both) => both,
            Err(error) => return all_unclean(slots, &Unclean::unknown(&error)),
        };
        let mut batch = Batch {
            witness: self.witness.as_ref(),
            watch: &self.watch,
            families,
            tables,
            mounts: None,
            home: &self.home,
        };
        batch.judge_all(slots)
    }
}

fn all_unclean(slots: Vec<UsedSlot>, why: &Unclean) -> Vec<Recycled> {
    let all = slots.into_iter().map(|slot| Recycled {
        slot,
        outcome: Err(why.clone()),
    });
    all.collect()
}

impl Unclean {
    /// What was found before the slot was looked at.
    pub(crate) fn found(what: &'static str, why: String) -> Self {
        Self::new(what, why)
    }

    fn new(what: &'static str, why: String) -> Self {
        Self {
            what,
            why,
            may_pass: false,
        }
    }

    /// What could not be found out counts as unclean.
    fn unknown(error: &NetError) -> Self {
        Self::new("not checked", error.to_string())
    }

    /// It may be over in a moment.
    fn held(what: &'static str, why: String) -> Self {
        Self {
            may_pass: true,
            ..Self::new(what, why)
        }
    }
}

/// Slots that are judged together.
struct Batch<'a> {
    witness: &'a dyn Witness,
    watch: &'a TamperWatch,
    families: Families,
    tables: Tables,
    /// All mounts of namespaces, read when the first slot asks for them.
    mounts: Option<Vec<Mount>>,
    home: &'a Home,
}

impl Batch<'_> {
    /// Judges slots, those that somebody still holds several times, and brings the thread home.
    fn judge_all(&mut self, slots: Vec<UsedSlot>) -> Vec<Recycled> {
        let _away = Away::from(&self.home.netns);
        let mut recycled = Vec::with_capacity(slots.len());
        let mut held = slots;
        for look in 0..LOOKS {
            if look > 0 && !held.is_empty() {
                thread::sleep(PAUSE * (1 << (look - 1)));
            }
            for slot in std::mem::take(&mut held) {
                match self.judge(&slot) {
                    Err(unclean) if unclean.may_pass && look + 1 < LOOKS => held.push(slot),
                    outcome => recycled.push(Recycled { slot, outcome }),
                }
            }
        }
        recycled
    }

    /// Nobody can come in any more once nobody holds it: what is looked at later stays as it is.
    fn judge(&mut self, slot: &UsedSlot) -> Result<(), Unclean> {
        let named = |error: NetError| Unclean::unknown(&error.of(&slot_name(slot.index)));
        operation::begin(Operation::Judge);
        namespace::enter(&slot.netns).map_err(named)?;
        if let Some(how) = self.watch.mark(slot.index).map_err(named)? {
            return Err(Unclean::new("tampered", how));
        }
        self.check_sysctls(&slot.golden)?;
        let left = self
            .check_holders(slot)
            .and_then(|()| check_sockets(&self.tables));
        if let Err(left) = left {
            end_orphans().map_err(named)?;
            return Err(left);
        }
        if slot.scrutiny == Scrutiny::Everything {
            self.check_picture(slot)?;
        }
        self.home.mounts.hide(slot.index).map_err(named)
    }

    fn check_picture(&self, slot: &UsedSlot) -> Result<(), Unclean> {
        let named = |error: NetError| Unclean::unknown(&error.of(&slot_name(slot.index)));
        if let Some(unknown) = self.families.unknown() {
            let why = format!("nobody knows the state of generic netlink family {unknown}");
            return Err(Unclean::new("unknown family", why));
        }
        let camera = Camera {
            families: &self.families,
            tables: &self.tables,
            witness: self.witness,
        };
        let picture = camera
            .take_again(slot.netns.as_fd(), &slot.golden.picture)
            .map_err(named)?;
        match slot.golden.picture.difference(&picture) {
            Some(section) => Err(Unclean::new(section, format!("{section}: not as made"))),
            None => Ok(()),
        }
    }

    fn check_sysctls(&self, golden: &Golden) -> Result<(), Unclean> {
        match self.witness.sysctl_writes(golden.cookie) {
            Some(0) => Ok(()),
            Some(writes) => Err(Unclean::new(
                "sysctls",
                format!("sysctls were written to {writes} times"),
            )),
            None => {
                let why = "nobody watched the sysctls all the time".to_owned();
                Err(Unclean::new("sysctls", why))
            }
        }
    }

    fn check_holders(&mut self, slot: &UsedSlot) -> Result<(), Unclean> {
        let found = self
            .witness
            .references()
            .map_err(|e| Unclean::unknown(&e))?;
        let References {
            namespace,
            files,
            passive,
        } = found;
        if namespace != OWN_REFERENCES {
            let others = i64::from(namespace) - i64::from(OWN_REFERENCES);
            let why = format!("{others} processes, sockets or open files of it are left");
            return Err(Unclean::held("holders", why));
        }
        if passive != slot.golden.passive {
            let why = "a file system or a socket of the kernel shows it".to_owned();
            return Err(Unclean::held("holders", why));
        }
        let (own, in_host) = self.home.mounts.own_mounts(slot.index);
        // Beside our own file.
        let expected = 1 + own + u32::from(self.home.mounts.is_shown(slot.index));
        if files == expected {
            return Ok(());
        }
        let copies = self.copies(&in_host).map_err(|e| Unclean::unknown(&e))?;
        if files == 1 + own + copies {
            return Ok(());
        }
        let others = i64::from(files) - i64::from(own + copies) - 1;
        let why = format!("{others} files or unseen mounts of its namespace are open");
        Err(Unclean::held("handles", why))
    }

    /// How often the slot's mount in the host is there, with its copies in other mount namespaces: nobody
    /// but root reaches those, and they come and go with services.
    fn copies(&mut self, path: &Path) -> Result<u32, NetError> {
        let mounts = match &mut self.mounts {
            Some(mounts) => mounts,
            none => none.insert(namespace_mounts()?),
        };
        Ok(copies(mounts, path))
    }
}

fn check_sockets(tables: &Tables) -> Result<(), Unclean> {
    let usage = Usage::read(tables).map_err(|e| Unclean::unknown(&e))?;
    if usage == Usage::default() {
        return Ok(());
    }
    let Usage {
        sockets,
        time_wait,
        fragments,
    } = usage;
    let why = format!("{sockets} sockets, {time_wait} in TIME-WAIT, {fragments} datagrams");
    Err(Unclean::held("sockets", why))
}

/// A mount of a network namespace.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Where it is, as its mount namespace has it.
    at: PathBuf,
    /// The group of mounts that it is a copy in.
    group: Option<u32>,
}

/// All of them, in all mount namespaces that a process is in.
fn namespace_mounts() -> Result<Vec<Mount>, NetError> {
    let mut seen = HashSet::new();
    let mut mounts = Vec::new();
    for process in processes()? {
        // One that ended meanwhile has none.
        let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        // A mount has its number in one namespace only. To ask for the namespace itself takes a privilege
        // over the process (CAP_SYS_PTRACE).
        let first = text.split(' ').next().unwrap_or_default();
        if seen.insert(first.to_owned()) {
            mounts.extend(text.lines().filter_map(Mount::parse));
        }
    }
    Ok(mounts)
}

impl Mount {
    /// Reads a line of mountinfo, if it is about a network namespace (`proc_pid_mountinfo(5)`).
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').skip(3);
        fields.next()?.strip_prefix("net:[")?;
        let at = fields.next()?.into();
        let group = fields.skip(1).take_while(|field| *field != "-");
        let group = group.filter_map(|field| {
            let number = field.strip_prefix("shared:");
            number
                .or_else(|| field.strip_prefix("master:"))?
                .parse()
                .ok()
        });
        Some(Self {
            at,
            group: group.last(),
        })
    }
}

/// The mount at `path` and its copies, which are at the same place below another root.
fn copies(mounts: &[Mount], path: &Path) -> u32 {
    let ours = mounts.iter().find(|mount| mount.at == path);
    let group = ours.and_then(|ours| ours.group);
    let name: PathBuf = path.iter().skip(1).collect();
    let is_copy = |mount: &&Mount| {
        let is_in_group = mount.group.is_some() && mount.group == group;
        mount.at == path || is_in_group && mount.at.ends_with(&name)
    };
    u32::try_from(mounts.iter().filter(is_copy).count()).unwrap_or(u32::MAX)
}

fn processes() -> Result<Vec<PathBuf>, NetError> {
    let entries = fs::read_dir("/proc").during(|| "list processes".to_owned())?;
    let is_process = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit)
    };
    let processes = entries.flatten().filter(is_process);
    Ok(processes.map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        61 25 0:4 net:[4026532233] /run/pcpm/netns/s0001 rw shared:3 - nsfs nsfs rw\n\
        62 25 0:4 mnt:[4026532234] /run/other rw - nsfs nsfs rw\n\
        71 35 0:4 net:[4026532233] /run/pcpm/netns/s0001 rw master:3 - nsfs nsfs rw\n\
        81 45 0:4 net:[4026532233] /host/run/pcpm/netns/s0001 rw shared:9 master:3 - nsfs nsfs rw\n\
        63 25 0:4 net:[4026532233] /run/netns/cni-1 rw shared:3 - nsfs nsfs rw\n\
        21 1 0:20 / / rw - ext4 /dev/vda rw\n";

    #[test]
    fn copies_of_a_slots_own_mount_are_told_from_mounts_of_others() {
        let mounts: Vec<_> = MOUNTS.lines().filter_map(Mount::parse).collect();
        assert_eq!(mounts.len(), 4);
        assert_eq!(copies(&mounts, Path::new("/run/pcpm/netns/s0001")), 3);
        assert_eq!(copies(&mounts, Path::new("/run/pcpm/netns/s0002")), 0);
    }
}
