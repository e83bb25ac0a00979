//! The host as the daemon sees it: who is at home where, and one entry for each of its duties.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::error::NetError;
use super::mounts::{HostMountNamespace, HostMounts, Mounts};
use super::namespace;
use super::netlink::Netlink;
use super::recycle::Recycler;
use super::slot::SlotWorker;
use super::tables::Tables;
use super::{
    Conflict, FoundUplinks, HostKernel, Hub, HubSpec, HubState, Programs, Share, SlotKernel,
    SlotNames, SlotRecycler, Swept, TamperWatch, UplinkChoice, Witness, addresses, cookie, hub,
    mark, share, survey, sweep, uplink,
};

/// A sweep that takes longer waits for somebody else who holds `rtnl_mutex`.
const SWEEP_WITHIN: Duration = Duration::from_mins(1);

/// What every thread needs to find its way.
pub(super) struct Home {
    pub(super) state_dir: PathBuf,
    /// The host's namespace.
    pub(super) netns: OwnedFd,
    pub(super) mounts: Mounts,
}

impl Home {
    /// Unmounts all namespaces of a slot; fine if there is nothing.
    pub(super) fn unmount_slot(&self, index: u32) -> Result<(), NetError> {
        let network = self.mounts.remove(index);
        let others = share::unmount(&self.state_dir, index);
        NetError::collect(network.err().into_iter().chain(others.err()))
    }

    pub(super) fn hubs(&self) -> PathBuf {
        self.state_dir.join("hubs")
    }

    pub(super) fn hub(&self, number: u32) -> PathBuf {
        self.hubs().join(number.to_string())
    }

    pub(super) fn mark(&self) -> String {
        mark(&self.state_dir)
    }
}

/// The real hands on slots' names.
struct Names(Arc<Home>);

impl SlotNames for Names {
    fn show(&mut self, index: u32) -> Result<(), NetError> {
        self.0.mounts.show(index)
    }
}

/// The real host.
pub(crate) struct Host {
    home: Arc<Home>,
    socket: Netlink,
    workers: u32,
}

impl Host {
    /// Makes the calling thread's namespaces "the host".
    pub(crate) fn open(state_dir: &Path) -> Result<Self, NetError> {
        Self::open_beside(state_dir, HostMountNamespace::of_thread()?)
    }

    /// The same, where the host's mounts are in another namespace than the thread.
    pub(crate) fn open_beside(
        state_dir: &Path,
        mounts: HostMountNamespace,
    ) -> Result<Self, NetError> {
        let home = Home {
            state_dir: state_dir.to_owned(),
            netns: namespace::current()?,
            mounts: Mounts::open(state_dir, mounts)?,
        };
        Ok(Self {
            home: Arc::new(home),
            socket: Netlink::open()?,
            workers: 0,
        })
    }

    /// Another pair of hands, for another thread; the calling one is in the host.
    pub(crate) fn another(&self) -> Result<Self, NetError> {
        Ok(Self {
            home: Arc::clone(&self.home),
            socket: Netlink::open()?,
            workers: 0,
        })
    }

    /// To be called last by a daemon that keeps what there is.
    pub(crate) fn leave(&self) -> Result<(), NetError> {
        self.home.mounts.leave()
    }

    /// The host's namespace.
    #[cfg(test)]
    pub(super) fn home_netns(&self) -> OwnedFd {
        self.home.netns.try_clone().expect("a descriptor is free")
    }

    fn tables(&mut self) -> Result<Tables, NetError> {
        Tables::read(&mut self.socket, &self.home.mark())
    }
}

impl HostKernel for Host {
    fn has_remains(&self) -> bool {
        !sweep::find_remains(&self.home).is_empty()
    }

    fn survey(&mut self, hubs: &[u32]) -> Vec<HubState> {
        survey::hubs(&self.home, hubs)
    }

    fn sweep(&mut self, kept: &[Hub]) -> Swept {
        let kept = kept.iter().map(|hub| (hub.number, hub.host_ifindex));
        sweep::remove_others(&self.home, kept.collect(), SWEEP_WITHIN)
    }

    fn prepare(&mut self, which: Option<HostMounts>, share: Share) -> Result<(), NetError> {
        self.home.mounts.prepare(which)?;
        namespace::share_directory(&self.home.hubs())?;
        let mut others = share::directories(&self.home.state_dir, share);
        others.try_for_each(|directory| namespace::share_directory(&directory))
    }

    fn create_hub(&mut self, spec: &HubSpec, programs: &Programs) -> Result<Hub, NetError> {
        hub::create(&self.home, &mut self.socket, spec, programs)
    }

    fn mend_hub(
        &mut self,
        hub: &mut Hub,
        spec: &HubSpec,
        programs: &Programs,
    ) -> Result<Vec<String>, NetError> {
        hub::mend(&self.home, &mut self.socket, hub, spec, programs)
    }

    fn mend_mounts(&mut self) -> Result<Vec<String>, NetError> {
        let was_missing = self.home.mounts.keep_pinned()?;
        let missing = was_missing.then(|| "mount what they are mounted in".to_owned());
        Ok(missing.into_iter().collect())
    }

    fn worker(&mut self, hubs: Arc<[Hub]>) -> Box<dyn SlotKernel> {
        self.workers += 1;
        Box::new(SlotWorker::new(Arc::clone(&self.home), hubs, self.workers))
    }

    fn names(&mut self) -> Box<dyn SlotNames> {
        Box::new(Names(Arc::clone(&self.home)))
    }

    fn watch_slots(&mut self, hubs: &[Hub]) -> Result<TamperWatch, NetError> {
        TamperWatch::listen(hubs)
    }

    fn recycler(
        &mut self,
        witness: Box<dyn Witness>,
        watch: Arc<TamperWatch>,
    ) -> Box<dyn SlotRecycler> {
        Box::new(Recycler::new(Arc::clone(&self.home), witness, watch))
    }

    fn find_uplinks(&mut self, choice: &UplinkChoice) -> Result<FoundUplinks, NetError> {
        Ok(uplink::find(&self.tables()?, choice))
    }

    fn addresses(&mut self) -> Result<BTreeSet<IpAddr>, NetError> {
        addresses::of_host(&mut self.socket, &self.home.mark())
    }

    fn conflict(&mut self, pool: IpNet) -> Result<Option<Conflict>, NetError> {
        Ok(self.tables()?.conflict(pool))
    }

    fn netns_cookie(&mut self) -> Result<u64, NetError> {
        cookie::current()
    }

    fn remove_everything(&mut self, within: Duration) -> Swept {
        sweep::remove_everything(&self.home, within)
    }
}
