//! The reaper: a thread that compares hubs, slots and hooks with what they are to be, now and then and when
//! the host's network changed. What a hub or the root control group lost is given back in place; what is wrong
//! with slots is told to the engine, which knows who holds them. It waits for `rtnl_mutex`, the thread that
//! serves does not.

use std::{
    collections::{HashMap, HashSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    bpf::{HubWays, SocketHooks},
    duty::Duty,
    engine::unix_time_ms,
    locks::operation::{self, Operation, Teller},
    net::{Host, HostChanges, HostKernel as _, Hub, HubSpec, HubState, Programs, Share},
};

/// How often hubs are looked at when the host changes all the time.
const AT_MOST_EVERY: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Something that is no slot lacked something and has it again.
    Repaired { what: String },
    /// Something that is no slot cannot be repaired.
    Broken { reason: String },
    /// Of these slots something is there, and these of their namespaces beside the network one; of others in these
    /// hubs nothing is.
    Slots {
        hubs: HashSet<u32>,
        there: HashMap<u32, Share>,
        /// As below.
        looked_at_ms: u64,
    },
    /// A slot is not as it was made.
    Doubtful {
        slot: u32,
        doubt: String,
        /// When the look began, in milliseconds since the Unix epoch: what came later is not meant.
        looked_at_ms: u64,
    },
    /// A slot that was doubtful is as it was made.
    Sound { slot: u32 },
}

/// What is looked after.
pub(crate) struct Reaper {
    pub(crate) host: Host,
    pub(crate) hubs: Vec<(Hub, HubSpec)>,
    pub(crate) programs: Programs,
    pub(crate) ways: HubWays,
    pub(crate) sockets: Option<SocketHooks>,
    /// How often everything is looked at.
    pub(crate) interval: Duration,
}

/// What was told already: the same again is no news.
#[derive(Default)]
struct Told {
    /// What is broken, by its name.
    broken: HashMap<String, String>,
    /// Slots that were doubtful at the last look. One look may meet a slot that is being made.
    doubtful: HashSet<u32>,
}

impl Reaper {
    /// Starts the thread, which ends with its duty.
    pub(crate) fn start(
        self,
        findings: UnboundedSender<Finding>,
        duty: Duty,
        teller: Teller,
    ) -> anyhow::Result<()> {
        let changes = HostChanges::listen()?;
        let run = move || {
            teller.adopt();
            self.run(&changes, &findings, &duty);
        };
        let thread = thread::Builder::new().name("pcpm-reaper".to_owned());
        thread.spawn(run).context("start the reaper").map(drop)
    }

    fn run(mut self, changes: &HostChanges, findings: &UnboundedSender<Finding>, duty: &Duty) {
        let mut told = Told::default();
        let mut looked = Instant::now();
        loop {
            let due = self.interval.saturating_sub(looked.elapsed());
            if let Err(error) = changes.wait_at_most(due) {
                tracing::error!("hubs and slots are no longer looked after: {error}");
                return;
            }
            let look = || {
                let mut found = self.look_at_hubs(&mut told);
                if looked.elapsed() >= self.interval {
                    found.extend(self.look_at_sockets(&mut told));
                    let mended = self.host.mend_mounts().map_err(anyhow::Error::from);
                    found.extend(told.news("slots", mended));
                    found.extend(self.look_at_slots(&mut told));
                    looked = Instant::now();
                }
                operation::end();
                found
            };
            let Some(found) = duty.on(look) else {
                return;
            };
            if found
                .into_iter()
                .any(|finding| findings.send(finding).is_err())
            {
                return;
            }
            thread::sleep(AT_MOST_EVERY.min(self.interval));
        }
    }

    fn look_at_hubs(&mut self, told: &mut Told) -> Vec<Finding> {
        let mut found = Vec::new();
        for (hub, spec) in &mut self.hubs {
            operation::begin(Operation::Hub);
            let before = hub.host_ifindex;
            let mended = self
                .host
                .mend_hub(hub, spec, &self.programs)
                .map_err(anyhow::Error::from);
            let mended = mended.and_then(|missing| {
                if hub.host_ifindex != before {
                    self.ways.set(hub.number, hub.host_ifindex)?;
                }
                Ok(missing)
            });
            found.extend(told.news(&format!("hub {}", hub.number), mended));
        }
        found
    }

    fn look_at_sockets(&self, told: &mut Told) -> Vec<Finding> {
        let Some(sockets) = &self.sockets else {
            return Vec::new();
        };
        told.news("published ports", sockets.mend().map_err(Into::into))
    }

    /// Which slots are there, what is wrong with some for the second time in a row, and what is right again.
    fn look_at_slots(&mut self, told: &mut Told) -> Vec<Finding> {
        let looked_at_ms = unix_time_ms();
        let numbers: Vec<u32> = self.hubs.iter().map(|(hub, _)| hub.number).collect();
        let mut hubs = HashSet::new();
        let (mut slots, mut there) = (HashMap::new(), HashMap::new());
        operation::begin(Operation::Slots);
        for state in self.host.survey(&numbers) {
            if let HubState::Sound(found) = state {
                hubs.insert(found.hub.number);
                for slot in found.slots {
                    there.insert(slot.index, slot.share);
                    slots.insert(slot.index, slot.doubt);
                }
            }
        }
        let mut found = vec![Finding::Slots {
            hubs,
            there,
            looked_at_ms,
        }];
        let mut doubtful = HashSet::new();
        for (slot, doubt) in slots {
            let is_again = told.doubtful.contains(&slot);
            let Some(doubt) = doubt else {
                found.extend(is_again.then_some(Finding::Sound { slot }));
                continue;
            };
            doubtful.insert(slot);
            found.extend(is_again.then_some(Finding::Doubtful {
                slot,
                doubt,
                looked_at_ms,
            }));
        }
        told.doubtful = doubtful;
        found
    }
}

impl Told {
    /// What is to be told of a repair.
    fn news(&mut self, of: &str, mended: anyhow::Result<Vec<String>>) -> Vec<Finding> {
        match mended {
            Ok(missing) => {
                let was_broken = self.broken.remove(of);
                let again = was_broken.map(|reason| format!("was broken: {reason}"));
                let repaired = missing.into_iter().map(|what| format!("{of}: {what}"));
                let told = repaired.chain(again);
                told.map(|what| Finding::Repaired { what }).collect()
            }
            Err(error) => {
                let reason = format!("{of}: {error:#}");
                let before = self.broken.insert(of.to_owned(), reason.clone());
                let is_news = before.as_ref() != Some(&reason);
                is_news
                    .then_some(Finding::Broken { reason })
                    .into_iter()
                    .collect()
            }
        }
    }
}
