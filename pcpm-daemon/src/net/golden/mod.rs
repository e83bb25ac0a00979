//! What a slot looks like when nobody has been in it: taken when it is made, and compared with what it
//! looks like when it was given back.
//!
//! A picture is a hash for each section, so that a difference has a name. It is taken by a thread in
//! the slot's namespace and changes nothing. What the kernel changes by itself (statistics, ages, random
//! timers) is left out, field by field (`questions`); all else counts, known or unknown.

mod files;
mod generic;
mod offloads;
mod questions;
mod sockets;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::LazyLock;

use super::error::{During as _, NetError};
use super::raw::RawNetlink;

pub(super) use generic::Families;
pub(super) use sockets::{Usage, end_orphans};

/// Hashes are compared within one life of the daemon only, and nobody outside can look for collisions.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A picture: the hash of each section, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picture {
    sections: Vec<(&'static str, u64)>,
}

impl Picture {
    /// Takes a picture of the new slot that the thread is in, as it will stay.
    pub(super) fn take_new(families: &Families) -> Result<Self, NetError> {
        offloads::settle()?;
        Self::take(families)
    }

    /// Takes a picture of the namespace that the thread is in.
    pub(super) fn take(families: &Families) -> Result<Self, NetError> {
        let mut sections = Vec::with_capacity(32);
        for group in questions::ALL {
            let mut socket = RawNetlink::open(group.protocol)
                .during(|| format!("open a netlink socket for {}", group.name))?;
            for question in group.questions {
                let answer = question.ask(&mut socket);
                let answer = answer.during(|| format!("look at {}", question.section))?;
                sections.push((question.section, KEY.hash_one(answer)));
            }
        }
        for (section, answer) in families.look()? {
            sections.push((section, KEY.hash_one(answer)));
        }
        for (section, text) in files::read_all()? {
            sections.push((section, KEY.hash_one(text)));
        }
        sections.push(("offloads", KEY.hash_one(offloads::read()?)));
        sections.push(("bpf", KEY.hash_one(offloads::programs()?)));
        Ok(Self { sections })
    }

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
