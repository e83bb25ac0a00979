//! What an earlier life of the daemon left in the kernel, as it was found at start. Who held the slots
//! is not known here: that is the journal's.

use std::os::fd::OwnedFd;

use crate::net::Share;

/// What was found. Nothing is, where there was no earlier life.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Every slot of the pool of which something is left, in any order, each once.
    pub(crate) slots: Vec<FoundSlot>,
}

/// One slot.
#[derive(Debug)]
pub(crate) struct FoundSlot {
    pub(crate) index: u32,
    /// Its namespace, where it is still mounted.
    pub(crate) netns: Option<OwnedFd>,
    /// What is mounted of its other namespaces.
    pub(crate) share: Share,
    /// Why nobody may use it, if link, filter, mount or namespace is not what it should be. A slot
    /// without a doubt has a namespace.
    pub(crate) doubt: Option<String>,
}
