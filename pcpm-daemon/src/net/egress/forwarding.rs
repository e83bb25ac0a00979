//! Forwarding on the uplinks: the stack forwards what comes in on an interface that forwards. What was
//! there before is noted in a file before it is changed, and put back in the end, by this life or another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::Uplink;
use super::super::error::{During as _, NetError};
use super::super::sysctl::Sysctls;

const NOTE: &str = "forwarding";
const ON: &str = "1";

/// Set where the host is a router for everybody.
const IPV4_ROUTER: &str = "ipv4/conf/all/forwarding";
const IPV6_ROUTER: &str = "ipv6/conf/all/forwarding";
/// Of each interface, since Linux 6.17. Before, IPv6 is forwarded for all interfaces or none, and doing so changes how
/// the host takes router advertisements: that is left to its operator.
const IPV6_OF_ONE: &str = "ipv6/conf/all/force_forwarding";

/// Uplinks by interface index that forward because of us alone, on a host that is no router otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) ipv4: BTreeSet<u32>,
    pub(super) ipv6: BTreeSet<u32>,
}

/// What was changed, and the file that says so.
#[derive(Debug)]
pub(super) struct Forwarding {
    note: PathBuf,
    /// Sysctls below `net/`, with what they were.
    before: BTreeMap<String, String>,
}

/// Whether IPv6 packets between slots and uplinks are forwarded, or can be.
pub(super) fn can_forward_ipv6(sysctls: &Sysctls) -> bool {
    sysctls.get(IPV6_OF_ONE).is_some() || sysctls.get(IPV6_ROUTER).as_deref() == Some(ON)
}

impl Forwarding {
    /// With what an earlier life changed. The file is there when this returns.
    pub(super) fn open(state_dir: &Path) -> Result<Self, NetError> {
        if let Some(existing) = Self::open_existing(state_dir)? {
            return Ok(existing);
        }
        let new = Self {
            note: state_dir.join(NOTE),
            before: BTreeMap::new(),
        };
        new.write()?;
        Ok(new)
    }

    /// What an earlier life changed, if it noted anything.
    pub(super) fn open_existing(state_dir: &Path) -> Result<Option<Self>, NetError> {
        let note = state_dir.join(NOTE);
        match fs::read_to_string(&note) {
            Ok(text) => Ok(Some(Self {
                note,
                before: parse(&text),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).during(|| format!("read {}", note.display())),
        }
    }

    /// Has these uplinks forward; others do as they did before. Every one is tried.
    pub(super) fn follow(
        &mut self,
        sysctls: &Sysctls,
        uplinks: &[Uplink],
        has_ipv6: bool,
    ) -> Result<(), NetError> {
        let ipv6 = uplinks.iter().filter(|_| has_ipv6).map(ipv6_forwarding);
        let wanted: BTreeSet<String> = uplinks.iter().map(ipv4_forwarding).chain(ipv6).collect();
        let left: Vec<String> = self.before.keys().cloned().collect();
        let left = left.into_iter().filter(|name| !wanted.contains(name));
        let left: Vec<_> = left
            .filter_map(|name| self.put_back(sysctls, &name).err())
            .collect();
        let joined = wanted
            .iter()
            .filter_map(|name| self.turn_on(sysctls, name).err());
        NetError::collect(left.into_iter().chain(joined))
    }

    /// Those of `uplinks` that forward because of us alone.
    pub(super) fn opened(&self, sysctls: &Sysctls, uplinks: &[Uplink]) -> Opened {
        let is_router = |name| sysctls.get(name).as_deref() == Some(ON);
        let opened = |router, name: fn(&Uplink) -> String| {
            let ours = uplinks
                .iter()
                .filter(|uplink| !is_router(router) && self.before.contains_key(&name(uplink)));
            ours.map(|uplink| uplink.ifindex).collect()
        };
        Opened {
            ipv4: opened(IPV4_ROUTER, ipv4_forwarding),
            ipv6: opened(IPV6_ROUTER, ipv6_forwarding),
        }
    }

    /// Puts everything back, and removes the file if that could be done.
    pub(super) fn restore(mut self, sysctls: &Sysctls) -> Result<(), NetError> {
        let names: Vec<String> = self.before.keys().cloned().collect();
        let errors = names
            .iter()
            .filter_map(|name| self.put_back(sysctls, name).err());
        NetError::collect(errors.collect::<Vec<_>>())?;
        fs::remove_file(&self.note).during(|| format!("remove {}", self.note.display()))
    }

    /// The file says what was there before anything else is.
    fn turn_on(&mut self, sysctls: &Sysctls, name: &str) -> Result<(), NetError> {
        let now = match sysctls.get(name) {
            Some(now) if now != ON => now,
            // As wanted; or a kernel, or an interface, without it.
            _ => return Ok(()),
        };
        if !self.before.contains_key(name) {
            self.before.insert(name.to_owned(), now);
            self.write().inspect_err(|_| {
                self.before.remove(name);
            })?;
        }
        sysctls.set(name, ON)
    }

    /// Unless somebody else changed it since, made the host a router, or removed the interface.
    fn put_back(&mut self, sysctls: &Sysctls, name: &str) -> Result<(), NetError> {
        let Some(before) = self.before.get(name) else {
            return Ok(());
        };
        let is_router =
            name.starts_with("ipv4/") && sysctls.get(IPV4_ROUTER).as_deref() == Some(ON);
        if sysctls.get(name).as_deref() == Some(ON) && !is_router {
            sysctls.set(name, before)?;
        }
        self.before.remove(name);
        self.write()
    }

    /// In one step: whoever reads it reads all of the old or of the new.
    fn write(&self) -> Result<(), NetError> {
        let mut text = String::new();
        for (name, was) in &self.before {
            writeln!(text, "{name} {was}").expect("text takes all that is written");
        }
        let new = self.note.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.note))
            .during(|| format!("write {}", self.note.display()))
    }
}

/// A line each.
fn parse(note: &str) -> BTreeMap<String, String> {
    let lines = note.lines().filter_map(|line| line.rsplit_once(' '));
    lines
        .map(|(name, was)| (name.to_owned(), was.to_owned()))
        .collect()
}

fn ipv4_forwarding(uplink: &Uplink) -> String {
    format!("ipv4/conf/{}/forwarding", uplink.name)
}

fn ipv6_forwarding(uplink: &Uplink) -> String {
    format!("ipv6/conf/{}/force_forwarding", uplink.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(dir: &Path, text: &str) {
        fs::write(dir.join(NOTE), text).unwrap();
    }

    #[test]
    fn what_was_changed_is_known_to_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Forwarding::open_existing(dir.path()).unwrap().is_none());
        let mut first = Forwarding::open(dir.path()).unwrap();
        let name = "ipv4/conf/eth0.7/forwarding";
        first.before.insert(name.to_owned(), "0".to_owned());
        first.write().unwrap();
        let next = Forwarding::open_existing(dir.path()).unwrap().unwrap();
        assert_eq!(next.before, first.before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_gone_is_put_back_by_forgetting_it() {
        let dir = tempfile::tempdir().unwrap();
        note(dir.path(), "ipv4/conf/nobody/forwarding 0\n");
        let forwarding = Forwarding::open(dir.path()).unwrap();
        forwarding.restore(&Sysctls::open().unwrap()).unwrap();
        assert!(!dir.path().join(NOTE).exists());
    }
}
