//! The program on the uplinks, and the table of what leaves through them is translated to. Owned by
//! the thread that follows the host's network: attaching waits for the kernel.
#![expect(unsafe_code, reason = "says which ABI types are plain memory")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;

use aya::{
    Pod,
    maps::{HashMap, MapData},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use pcpm_ebpf::{
    abi::{self, names},
    address::Address,
};

use super::{
    BpfError, PinDir, links, pins::UplinkPins, programs::ProgramSet, steering::ignore_missing,
};
use crate::net::{Uplink, UplinkAddresses};

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Plain(abi::Uplink);

// SAFETY: `repr(C)`, `Copy`, all padding is fields, and every bit pattern is valid.
unsafe impl Pod for Plain {}

/// The table as aya knows it.
pub(super) type Table = HashMap<MapData, u32, Plain>;

/// Which interfaces carry the program and may be left through.
pub(crate) struct Uplinks {
    program: SchedClassifier,
    program_fd: OwnedFd,
    program_id: u32,
    table: Table,
    pins: UplinkPins,
    /// By interface index, with what stands in the table; `None` for what an earlier life left.
    followed: BTreeMap<u32, Option<UplinkAddresses>>,
    /// What was attached again since somebody asked.
    repaired: Vec<String>,
}

impl Uplinks {
    /// With what an earlier life followed; what of it is no uplink any more goes with the first
    /// [`follow`](Self::follow).
    pub(super) fn new(
        programs: &ProgramSet,
        table: Table,
        pins: &PinDir,
    ) -> Result<Self, BpfError> {
        let pins = pins.uplinks();
        let known = table.keys().collect::<Result<Vec<u32>, _>>();
        let known = known.map_err(|e| BpfError::new("read the table of uplinks", &e))?;
        let earlier = known.into_iter().chain(pins.interfaces()?);
        Ok(Self {
            program: programs.packet_program(names::FROM_UPLINK)?,
            program_fd: programs.fd(names::FROM_UPLINK)?,
            program_id: programs.id(names::FROM_UPLINK)?,
            table,
            pins,
            followed: earlier.map(|index| (index, None)).collect(),
            repaired: Vec::new(),
        })
    }

    /// Makes `now` the uplinks. Each one for itself: what fails is returned, leaves the world through
    /// none of the others' addresses, and is tried again next time.
    pub(crate) fn follow(&mut self, now: &[Uplink]) -> Vec<(u32, BpfError)> {
        let gone: Vec<u32> = self.followed.keys().copied().collect();
        let gone = gone
            .into_iter()
            .filter(|index| now.iter().all(|uplink| uplink.ifindex != *index));
        let left: Vec<_> = gone
            .filter_map(|index| self.leave(index).err().map(|error| (index, error)))
            .collect();
        let joined = now
            .iter()
            .filter_map(|uplink| self.join(uplink).err().map(|error| (uplink.ifindex, error)));
        left.into_iter().chain(joined).collect()
    }

    /// What uplinks had lost and were given back since this was last called.
    pub(crate) fn take_repaired(&mut self) -> Vec<String> {
        mem::take(&mut self.repaired)
    }

    /// The program is on the interface before anything leaves through it.
    fn join(&mut self, uplink: &Uplink) -> Result<(), BpfError> {
        if !self.is_attached(uplink) && !self.adopt(uplink)? {
            let known = self.followed.get(&uplink.ifindex).copied().flatten();
            self.leave(uplink.ifindex)?;
            self.attach(uplink)?;
            let again = known.map(|_| format!("attach {} to {}", names::FROM_UPLINK, uplink.name));
            self.repaired.extend(again);
        }
        if self.followed.get(&uplink.ifindex) == Some(&Some(uplink.addresses)) {
            return Ok(());
        }
        self.table
            .insert(uplink.ifindex, Plain(shown(uplink.addresses)), 0)
            .map_err(|e| BpfError::new(format!("write the addresses of {}", uplink.name), &e))?;
        self.followed.insert(uplink.ifindex, Some(uplink.addresses));
        Ok(())
    }

    /// Nothing leaves through the interface before the program goes. Removing the pin removes the link,
    /// and with it the program; where the interface is gone, both are already.
    fn leave(&mut self, ifindex: u32) -> Result<(), BpfError> {
        ignore_missing(self.table.remove(&ifindex))
            .map_err(|e| BpfError::new(format!("forget uplink {ifindex}"), &e))?;
        self.followed.remove(&ifindex);
        let pin = self.pins.path(ifindex);
        match fs::remove_file(&pin) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(BpfError::new(format!("unpin {}", pin.display()), &e))
            }
            _ => Ok(()),
        }
    }

    /// Asked every time: an interface that went to another namespace and came back lost its programs
    /// and kept its index.
    fn is_attached(&self, uplink: &Uplink) -> bool {
        let there = SchedClassifier::query_tcx(uplink.name.as_str(), TcAttachType::Ingress);
        self.followed.contains_key(&uplink.ifindex)
            && there.is_ok_and(|(_, programs)| {
                programs
                    .iter()
                    .any(|program| program.id() == self.program_id)
            })
    }

    /// Has a link of an earlier life run our program. False: there is none on this interface.
    fn adopt(&self, uplink: &Uplink) -> Result<bool, BpfError> {
        let pin = self.pins.path(uplink.ifindex);
        if links::interface(&pin)? != Some(uplink.ifindex) {
            return Ok(false);
        }
        links::adopt(&pin, &self.program_fd, self.program_id)
    }

    /// Attaches beside whatever programs others have there. The tcx link is pinned, so the program
    /// stays when the daemon is killed.
    fn attach(&mut self, uplink: &Uplink) -> Result<(), BpfError> {
        let what = || format!("attach {} to uplink {}", names::FROM_UPLINK, uplink.name);
        let link = self
            .link(&uplink.name)
            .map_err(|e| BpfError::new(what(), &e))?;
        let link = FdLink::try_from(link).map_err(|e| BpfError::new(what(), &e))?;
        let pin = self.pins.path(uplink.ifindex);
        link.pin(&pin)
            .map_err(|e| BpfError::new(format!("pin {}", pin.display()), &e))?;
        Ok(())
    }

    fn link(&mut self, interface: &str) -> Result<SchedClassifierLink, ProgramError> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = self
            .program
            .attach_with_options(interface, TcAttachType::Ingress, order)?;
        self.program.take_link(id)
    }
}

fn shown(addresses: UplinkAddresses) -> abi::Uplink {
    abi::Uplink {
        v4: addresses.v4.map_or(Address::ANY, Into::into),
        v6: addresses.v6.map_or(Address::ANY, Into::into),
    }
}
