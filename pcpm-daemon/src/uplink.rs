//! Follows the host's ways out and its addresses: a thread that looks again whenever the host's
//! network changes. It owns the program on the uplinks, because attaching waits for the kernel.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::Context as _;
use pcpm_api::types;
use tokio::sync::mpsc::UnboundedSender;

use crate::bpf::{HostAddresses, Uplinks};
use crate::duty::Duty;
use crate::host_world::shown;
use crate::locks::operation::{self, Operation, Teller};
use crate::net::{FoundUplinks, Host, HostChanges, HostEgress, HostKernel as _, UplinkChoice};
use crate::reaper::Finding;

/// What is followed, and how it was when last looked at.
pub(crate) struct UplinkFollower {
    pub(crate) state_dir: PathBuf,
    pub(crate) choice: UplinkChoice,
    pub(crate) uplinks: Uplinks,
    pub(crate) addresses: HostAddresses,
    /// What the host's own stack needs, where it sends slots' packets.
    pub(crate) egress: Option<HostEgress>,
    /// Those that carry the program, the best first.
    pub(crate) followed: Vec<types::Uplink>,
    /// How often the host is looked at when it says nothing of a change.
    pub(crate) interval: Duration,
}

impl UplinkFollower {
    /// Starts the thread, which ends with its duty. Whenever the uplinks have become others, they
    /// are sent, and what they had lost of the program is told.
    pub(crate) fn follow(
        self,
        changes: UnboundedSender<Vec<types::Uplink>>,
        findings: UnboundedSender<Finding>,
        duty: Duty,
        teller: Teller,
    ) -> anyhow::Result<()> {
        let host = Host::open(&self.state_dir)?;
        let notifications = match self.egress {
            Some(_) => HostChanges::listen_with_firewall()?,
            None => HostChanges::listen()?,
        };
        let run = move || {
            teller.adopt();
            self.run(host, &notifications, &changes, &findings, &duty);
        };
        let thread = thread::Builder::new()
            .name("pcpm-uplink".to_owned())
            .spawn(run);
        thread
            .context("start the thread that follows the uplinks")
            .map(drop)
    }

    fn run(
        mut self,
        mut host: Host,
        notifications: &HostChanges,
        changes: &UnboundedSender<Vec<types::Uplink>>,
        findings: &UnboundedSender<Finding>,
        duty: &Duty,
    ) {
        loop {
            // Looked at once before the first notification: it may have changed since the start.
            let before = self.followed.clone();
            if duty.on(|| self.look(&mut host)).is_none() {
                return;
            }
            if self.followed != before && changes.send(self.followed.clone()).is_err() {
                return;
            }
            let egress = self.egress.as_mut().map(HostEgress::take_repaired);
            for what in self
                .uplinks
                .take_repaired()
                .into_iter()
                .chain(egress.into_iter().flatten())
            {
                // Whoever listens ends with the process.
                let _unheard = findings.send(Finding::Repaired { what });
            }
            // A program can go without a word.
            if let Err(error) = notifications.wait_at_most(self.interval) {
                tracing::error!("the uplinks are no longer followed: {error}");
                return;
            }
        }
    }

    /// Follows the host as it is now. What cannot be followed is tried again with the next change.
    fn look(&mut self, host: &mut Host) {
        operation::begin(Operation::Uplink);
        match host.find_uplinks(&self.choice) {
            Ok(found) => self.take(&found),
            Err(error) => tracing::error!("look for uplinks: {error}"),
        }
        self.follow_addresses(host);
        operation::end();
    }

    /// Makes the uplinks those that were found.
    pub(crate) fn take(&mut self, found: &FoundUplinks) {
        // Nothing leaves through an uplink before the host's stack can carry it.
        let egress = self.egress.as_mut();
        if let Some(Err(error)) = egress.map(|egress| egress.follow(&found.usable)) {
            tracing::error!("{error}");
        }
        let failed = self.uplinks.follow(&found.usable);
        for (_, error) in &failed {
            tracing::error!("{error}");
        }
        let is_followed = |index| failed.iter().all(|(failed, _)| *failed != index);
        let followed = found.usable.iter().filter(|u| is_followed(u.ifindex));
        self.followed = followed.map(shown).collect();
    }

    /// Writes the host's addresses as they are now.
    pub(crate) fn follow_addresses(&mut self, host: &mut Host) {
        match host.addresses() {
            Ok(now) => {
                if let Err(error) = self.addresses.follow(&now) {
                    tracing::error!("published ports: {error}");
                }
            }
            Err(error) => tracing::error!("published ports: {error}"),
        }
    }
}
