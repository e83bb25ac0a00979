//! Follows the host's way out and its addresses: a thread that looks again whenever the host's network
//! changes.

use std::{path::PathBuf, thread};

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedSender;

use crate::bpf::HostAddresses;
use crate::net::{Host, HostChanges, HostKernel as _, Uplink, UplinkChoice};

/// What to look for, and what was found when the daemon started.
#[derive(Debug)]
pub(crate) struct UplinkSearch {
    pub(crate) state_dir: PathBuf,
    pub(crate) choice: UplinkChoice,
    pub(crate) found: Option<Uplink>,
    /// Kept up to date.
    pub(crate) addresses: HostAddresses,
}

impl UplinkSearch {
    /// Starts the thread, which ends with the process. Every other uplink than the last is sent,
    /// `None` when there is none or the one asked for cannot be used.
    pub(crate) fn follow(self, changes: UnboundedSender<Option<Uplink>>) -> anyhow::Result<()> {
        let host = Host::open(&self.state_dir)?;
        let notifications = HostChanges::listen()?;
        let run = move || self.run(host, &notifications, &changes);
        let thread = thread::Builder::new()
            .name("pcpm-uplink".to_owned())
            .spawn(run);
        thread
            .context("start the thread that follows the uplink")
            .map(drop)
    }

    fn run(
        mut self,
        mut host: Host,
        notifications: &HostChanges,
        changes: &UnboundedSender<Option<Uplink>>,
    ) {
        loop {
            // Looked at once before the first notification: it may have changed since the start.
            let now = host.find_uplink(&self.choice).unwrap_or_else(|error| {
                tracing::warn!("no uplink: {error}");
                None
            });
            if now != self.found {
                self.found.clone_from(&now);
                if changes.send(now).is_err() {
                    return;
                }
            }
            follow_addresses(&mut host, &mut self.addresses);
            if let Err(error) = notifications.wait() {
                tracing::error!("the uplink is no longer followed: {error}");
                return;
            }
        }
    }
}

/// Writes the host's addresses as they are now. What cannot be written is tried again with the next
/// change.
pub(crate) fn follow_addresses(host: &mut Host, addresses: &mut HostAddresses) {
    match host.addresses() {
        Ok(now) => {
            if let Err(error) = addresses.follow(&now) {
                tracing::error!("published ports: {error}");
            }
        }
        Err(error) => tracing::error!("published ports: {error}"),
    }
}
