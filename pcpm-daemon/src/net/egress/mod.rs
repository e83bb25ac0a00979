//! What the host's own stack needs to carry what slots send to the world, and the answers: forwarding on
//! the uplinks, and a table of nftables with the rule that translates. Both are the same for one slot and
//! for thousands.

mod forwarding;
mod nft;

use std::mem;
use std::path::Path;

use self::forwarding::Forwarding;
use self::nft::Table;
use super::error::NetError;
use super::sysctl::Sysctls;
use super::{Uplink, mark};

/// How slots' packets are to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Masquerade {
    /// The ports (and echo identifiers) that stand for slots', both ends included.
    pub(crate) first_port: u16,
    pub(crate) last_port: u16,
    /// Whether slots have IPv6.
    pub(crate) has_ipv6: bool,
    /// Whether it is translated, too.
    pub(crate) translates_ipv6: bool,
}

/// What a look finds out about a host that is to send slots' packets. Nothing is changed by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EgressFacts {
    /// Whether the kernel would take the table, or why not.
    pub(crate) table: Result<(), String>,
    /// Whether IPv6 packets of slots would be forwarded: by an interface of its own (Linux 6.17), or because the
    /// host forwards it anyway.
    pub(crate) forwards_ipv6: bool,
}

/// The host's part, followed by whoever follows the uplinks.
#[derive(Debug)]
pub(crate) struct HostEgress {
    masquerade: Masquerade,
    forwarding: Forwarding,
    table: Table,
    repaired: Vec<String>,
}

impl HostEgress {
    /// Notes that it begins, so that [`end`] knows of it whatever happens. Nothing else is changed yet.
    pub(crate) fn begin(state_dir: &Path, masquerade: Masquerade) -> Result<Self, NetError> {
        Ok(Self {
            masquerade,
            forwarding: Forwarding::open(state_dir)?,
            table: Table::of(&mark(state_dir)),
            repaired: Vec::new(),
        })
    }

    /// What was found to be missing, and is there again, since this was asked last.
    pub(crate) fn take_repaired(&mut self) -> Vec<String> {
        mem::take(&mut self.repaired)
    }

    /// Has the host carry packets between slots and these uplinks. What is as it should be stays
    /// untouched.
    pub(crate) fn follow(&mut self, uplinks: &[Uplink]) -> Result<(), NetError> {
        let sysctls = Sysctls::open()?;
        let forwarding = self
            .forwarding
            .follow(&sysctls, uplinks, self.masquerade.has_ipv6);
        let opened = self.forwarding.opened(&sysctls, uplinks);
        let table = self
            .table
            .ensure(self.masquerade, &opened)
            .map(|repaired| self.repaired.extend(repaired));
        NetError::collect(forwarding.err().into_iter().chain(table.err()))
    }
}

/// Takes back what an earlier [`HostEgress`] of this state directory changed, if there was one. Every step
/// is tried.
pub(crate) fn end(state_dir: &Path) -> Result<(), NetError> {
    let Some(forwarding) = Forwarding::open_existing(state_dir)? else {
        return Ok(());
    };
    let table = Table::of(&mark(state_dir)).remove();
    let restored = Sysctls::open().and_then(|sysctls| forwarding.restore(&sysctls));
    NetError::collect(table.err().into_iter().chain(restored.err()))
}

/// Looks whether this host can do it.
pub(crate) fn facts(state_dir: &Path, masquerade: Masquerade) -> EgressFacts {
    let forwards_ipv6 = Sysctls::open().is_ok_and(|sysctls| forwarding::can_forward_ipv6(&sysctls));
    let table = Table::of(&mark(state_dir)).check(masquerade);
    EgressFacts {
        table: table.map_err(|error| error.cause),
        forwards_ipv6,
    }
}
