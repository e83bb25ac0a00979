//! The reaper: a thread that compares hubs and slots with what they are to be, now and then and when the
//! host's network changed. What a hub lost is given back in place; what is wrong with slots is told to the
//! engine, which knows who holds them. It waits for `rtnl_mutex`, the thread that serves does not.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    engine::unix_time_ms,
    net::{Host, HostChanges, HostKernel as _, Hub, HubSpec, HubState, Programs},
};

/// How often everything is looked at.
const EVERY: Duration = Duration::from_secs(10);

/// How often hubs are looked at when the host changes all the time.
const AT_MOST_EVERY: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Debug)]
pub(crate) enum Finding {
    /// A hub lacked something and has it again.
    Repaired { hub: u32, what: String },
    /// A hub cannot be repaired in place.
    BrokenHub { hub: u32, reason: String },
    /// A slot is not as it was made.
    Doubtful {
        slot: u32,
        doubt: String,
        /// When the look began, in milliseconds since the Unix epoch: what came later is not meant.
        looked_at_ms: u64,
    },
}

/// What is looked after.
pub(crate) struct Reaper {
    pub(crate) state_dir: PathBuf,
    pub(crate) hubs: Vec<(Hub, HubSpec)>,
    pub(crate) programs: Programs,
}

/// What was told already: the same again is no news.
#[derive(Default)]
struct Told {
    broken_hubs: HashMap<u32, String>,
    /// Slots that were doubtful at the last look. One look may meet a slot that is being made.
    doubtful: HashSet<u32>,
}

impl Reaper {
    /// Starts the thread, which ends with the process.
    pub(crate) fn start(self, findings: UnboundedSender<Finding>) -> anyhow::Result<()> {
        let host = Host::open(&self.state_dir)?;
        let changes = HostChanges::listen()?;
        let run = move || self.run(host, &changes, &findings);
        let thread = thread::Builder::new().name("pcpm-reaper".to_owned());
        thread.spawn(run).context("start the reaper").map(drop)
    }

    fn run(self, mut host: Host, changes: &HostChanges, findings: &UnboundedSender<Finding>) {
        let mut told = Told::default();
        let mut looked_at_slots = Instant::now();
        loop {
            let due = EVERY.saturating_sub(looked_at_slots.elapsed());
            if let Err(error) = changes.wait_at_most(due) {
                tracing::error!("hubs and slots are no longer looked after: {error}");
                return;
            }
            let mut found = self.look_at_hubs(&mut host, &mut told);
            if looked_at_slots.elapsed() >= EVERY {
                found.extend(self.look_at_slots(&mut host, &mut told));
                looked_at_slots = Instant::now();
            }
            if found
                .into_iter()
                .any(|finding| findings.send(finding).is_err())
            {
                return;
            }
            thread::sleep(AT_MOST_EVERY);
        }
    }

    fn look_at_hubs(&self, host: &mut Host, told: &mut Told) -> Vec<Finding> {
        let mut found = Vec::new();
        for (hub, spec) in &self.hubs {
            let number = hub.number;
            match host.mend_hub(hub, spec, &self.programs) {
                Ok(repaired) => {
                    told.broken_hubs.remove(&number);
                    let repaired = repaired.into_iter();
                    found.extend(repaired.map(|what| Finding::Repaired { hub: number, what }));
                }
                Err(error) => {
                    let reason = error.to_string();
                    let before = told.broken_hubs.insert(number, reason.clone());
                    let is_news = before.as_ref() != Some(&reason);
                    found.extend(is_news.then_some(Finding::BrokenHub {
                        hub: number,
                        reason,
                    }));
                }
            }
        }
        found
    }

    /// What is wrong with slots for the second time in a row.
    fn look_at_slots(&self, host: &mut Host, told: &mut Told) -> Vec<Finding> {
        let looked_at_ms = unix_time_ms();
        let numbers: Vec<u32> = self.hubs.iter().map(|(hub, _)| hub.number).collect();
        let sound = host
            .survey(&numbers)
            .into_iter()
            .filter_map(|state| match state {
                HubState::Sound(found) => Some(found.slots),
                HubState::Missing | HubState::Broken(_) => None,
            });
        let doubts: HashMap<u32, String> = sound
            .flatten()
            .filter_map(|slot| Some((slot.index, slot.doubt?)))
            .collect();
        let before = std::mem::replace(&mut told.doubtful, doubts.keys().copied().collect());
        let again = doubts.into_iter().filter(|(slot, _)| before.contains(slot));
        again
            .map(|(slot, doubt)| Finding::Doubtful {
                slot,
                doubt,
                looked_at_ms,
            })
            .collect()
    }
}
