//! What a slot looks like when nobody has been in it: taken when it is made, and compared with what it
//! looks like when it was given back.
//!
//! A picture is a hash for each section, so that a difference has a name. It is taken by a thread in
//! the slot's namespace and changes nothing but what TCP noted about peers. What the kernel changes by itself
//! (statistics, ages, random timers) is left out, field by field (`questions`); all else counts, known or unknown.
//!
//! What a slot costs here decides whether it is worth using again. Nothing is asked that the kernel answers by a
//! walk over all namespaces of the machine: it would cost more with every slot. That is neighbours and their
//! settings, which kernel programs read where they are (`Witness`), and notes of TCP.

mod files;
mod generic;
mod offloads;
mod questions;
mod sockets;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::LazyLock;

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use pcpm_ebpf::witness::{LinkState, Neighbours};

use super::error::{During as _, NetError};
use super::raw::RawNetlink;
use super::{LinkStates, Witness};

pub(super) use files::Tables;
pub(super) use generic::Families;
pub(super) use questions::is_of_the_kernel;
pub(super) use sockets::{Usage, end_orphans};

/// Hashes are compared within one life of the daemon only, and nobody outside can look for collisions.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A picture: the hash of each section, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picture {
    sections: Vec<(&'static str, u64)>,
    /// What the links' drivers can be asked.
    drivers: Vec<offloads::Question>,
}

/// What pictures are taken with. Of one thread.
pub(super) struct Camera<'a> {
    pub(super) families: &'a Families,
    pub(super) tables: &'a Tables,
    pub(super) witness: &'a dyn Witness,
}

impl Camera<'_> {
    /// Takes a picture of the new slot that the thread is in, as it will stay.
    pub(super) fn take_new(&self, netns: BorrowedFd<'_>) -> Result<Picture, NetError> {
        offloads::settle()?;
        self.take(netns, offloads::answered()?)
    }

    /// Takes another one of the namespace that the thread is in. What TCP noted about peers is forgotten before.
    pub(super) fn take_again(
        &self,
        netns: BorrowedFd<'_>,
        first: &Picture,
    ) -> Result<Picture, NetError> {
        self.take(netns, first.drivers.clone())
    }

    fn take(
        &self,
        netns: BorrowedFd<'_>,
        drivers: Vec<offloads::Question>,
    ) -> Result<Picture, NetError> {
        let mut sections = Vec::with_capacity(48);
        let links = self.witness.links()?;
        for group in questions::ALL {
            let mut socket = RawNetlink::open(group.protocol)
                .during(|| format!("open a netlink socket for {}", group.name))?;
            for question in group.questions {
                sections.push(look(question, &mut socket)?);
            }
            if group.protocol == NETLINK_ROUTE && !links.knows_neighbours {
                sections.push(look(&questions::NEIGHBOURS, &mut socket)?);
            }
        }
        sections.extend(sections_of(&links));
        let mut generic = RawNetlink::open(NETLINK_GENERIC)
            .during(|| "open a generic netlink socket".to_owned())?;
        self.families.flush_tcp_metrics(&mut generic)?;
        for (section, answer) in self.families.look(&mut generic)? {
            sections.push((section, KEY.hash_one(answer)));
        }
        for (section, text) in self.tables.read_all()? {
            sections.push((section, KEY.hash_one(text)));
        }
        sections.push(("offloads", KEY.hash_one(offloads::read(&drivers)?)));
        sections.push(("bpf", KEY.hash_one(offloads::programs(netns)?)));
        Ok(Picture { sections, drivers })
    }
}

fn look(
    question: &questions::Question,
    socket: &mut RawNetlink,
) -> Result<(&'static str, u64), NetError> {
    let answer = question.ask(socket);
    let answer = answer.during(|| format!("look at {}", question.section))?;
    Ok((question.section, KEY.hash_one(answer)))
}

/// What the kernel programs see of links.
fn sections_of(links: &LinkStates) -> [(&'static str, u64); 4] {
    let all = &links.links;
    let neighbours = |part: fn(&Neighbours) -> u64| {
        let each = all.iter().flat_map(|link| link.neighbours.iter().map(part));
        KEY.hash_one(each.collect::<Vec<_>>())
    };
    let hash_of =
        |part: fn(&LinkState) -> u64| KEY.hash_one(all.iter().map(part).collect::<Vec<_>>());
    [
        (
            "neighbours",
            neighbours(|these| KEY.hash_one((these.count, these.is_cut_off, these.told()))),
        ),
        (
            "neighbour tables",
            neighbours(|these| KEY.hash_one(these.parameters)),
        ),
        (
            "offloads",
            hash_of(|link| {
                KEY.hash_one((
                    link.index,
                    link.queues,
                    link.features,
                    link.hardware_features,
                    link.wanted_features,
                ))
            }),
        ),
        (
            "bpf",
            hash_of(|link| KEY.hash_one((link.index, link.programs))),
        ),
    ]
}

impl Picture {
    /// The first section in which another picture differs.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let mut pairs = self.sections.iter().zip(&other.sections);
        let differs = pairs.find(|(one, other)| one != other);
        differs
            .map(|(one, _)| one.0)
            .or_else(|| (self.sections.len() != other.sections.len()).then_some("sections"))
    }
}

/// What the kernel answered: bytes, or the number of its refusal, which is an answer too.
type Answer = Result<Vec<u8>, i32>;

/// Tells the kernel's refusals, which are answers, from failures to ask.
fn answer(asked: io::Result<Vec<u8>>) -> io::Result<Answer> {
    match asked {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(error) => match error.raw_os_error() {
            Some(number) => Ok(Err(number)),
            None => Err(error),
        },
    }
}
