//! Repairing a slot that somebody holds: its mount, and its link in the hub. What is wrong is asked of the
//! same eyes that found it (`survey`), and asked again after each step.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use pcpm_ebpf::abi::{GATEWAY_MAC, LINK_INDEX_BASE};

use super::{SlotWorker, try_configure};
use crate::net::{
    SlotSpec,
    error::NetError,
    hub_of, link,
    namespace::{self, Away},
    netlink::Batch,
    share, slot_name,
    survey::{self, LinkDoubt},
    tc,
};

/// Steps that a repair takes at most: a link may have been changed and lost its filter.
const STEPS: usize = 3;

impl SlotWorker {
    pub(super) fn mend(&mut self, spec: &SlotSpec, netns: &OwnedFd) -> Result<(), NetError> {
        let home = self.home.clone();
        home.mounts.restore(netns, spec.index)?;
        for _ in 0..STEPS {
            let socket = self.hub(hub_of(spec.index))?;
            match survey::link_doubt(socket, spec.index, netns)? {
                None => return share::check(&home.state_dir, spec),
                Some(LinkDoubt::Gone) => self.reconnect(spec, netns)?,
                Some(LinkDoubt::Changed(_)) => socket.run(restoration(spec.index))?,
                Some(LinkDoubt::NotSteered) => self.rejoin(spec.index)?,
                Some(doubt @ LinkDoubt::Elsewhere) => {
                    return Err(NetError::new("repair its link", doubt.to_string()));
                }
            }
        }
        Err(NetError::new(
            "repair its link",
            "somebody keeps changing it",
        ))
    }

    /// Makes the link anew, and configures its end in the slot as in a new one. What else the holder made
    /// there stays.
    fn reconnect(&mut self, spec: &SlotSpec, netns: &OwnedFd) -> Result<(), NetError> {
        self.connect(spec, netns)?;
        let home = self.home.clone();
        let _away = Away::from(&home.netns);
        let configured = namespace::enter(netns).and_then(|()| {
            try_configure(spec, |refused| refused.error.errno == Some(Errno::EEXIST))
        });
        configured.map_err(|error| error.and(self.disconnect_one(spec.index)))
    }

    /// Joins the link to the steering filter, in place of whatever qdisc is there.
    fn rejoin(&mut self, index: u32) -> Result<(), NetError> {
        let ifindex = LINK_INDEX_BASE + index;
        let socket = self.hub(hub_of(index))?;
        let mut removal = Batch::default();
        removal.add("remove a foreign qdisc", 0, tc::remove_ingress(ifindex));
        // There may be none.
        let _refused = socket.execute(removal)?;
        let mut joining = Batch::default();
        joining.add(
            format!("join {} to the steering filter", slot_name(index)),
            link::CREATE,
            tc::ingress_in_block(ifindex, tc::SLOT_BLOCK),
        );
        socket.run(joining)
    }
}

/// Gives a link the name, hardware address and group that it was made with, and sets it up.
fn restoration(index: u32) -> Batch {
    let ifindex = LINK_INDEX_BASE + index;
    let name = slot_name(index);
    let mut batch = Batch::default();
    let what = |change: &str| format!("{change} of the link of {name}");
    batch.add(what("restore the name"), 0, link::set_name(ifindex, &name));
    batch.add(
        what("restore the hardware address"),
        0,
        link::set_mac(ifindex, GATEWAY_MAC),
    );
    batch.add(
        what("restore the group"),
        0,
        link::set_group(ifindex, link::SLOT_GROUP),
    );
    batch.add(format!("set up {name}"), 0, link::set_up(ifindex));
    batch
}
