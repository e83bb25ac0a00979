//! A daemon that is killed again and again while clients attach and detach. What it answered has to be
//! true after every restart, and connections through its slots must not notice.
//!
//! Every client knows what it was told about its owner. Where the daemon died before the answer both
//! outcomes are right, and the next daemon's list says which it was.

mod client;
mod connection;
mod moment;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use pcpm_api::types::{Attachment, ListReply, SlotCounts};
use serde_json::json;

use self::client::{Client, Told};
use self::connection::Connections;
use self::moment::{Moment, Waiting};
use crate::daemon::Daemon;
use crate::snapshot::HostState;
use crate::world::World;
use crate::{PATIENCE, random::Random};

/// Findings that are told in full.
const TOLD: usize = 20;

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct ChaosPlan {
    /// How often the daemon is killed.
    pub cycles: u32,
    /// Clients that attach and detach, each for an owner of its own.
    pub clients: u32,
    /// Where the times at which it is killed come from.
    pub seed: u64,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Chaos {
    /// Times that the daemon was killed.
    pub cycles: u32,
    /// Of them while slots were made and destroyed.
    pub in_refill: u32,
    /// Of them while the journal was written anew.
    pub in_compaction: u32,
    /// Attaches that were answered.
    pub attaches: u64,
    /// Detaches that were answered.
    pub detaches: u64,
    /// Calls that the daemon died before answering.
    pub unanswered: u64,
    /// Attachments that were answered and are not there.
    pub lost: u64,
    /// Attachments that were given back and are there again.
    pub risen: u64,
    /// Slots with two owners, and owners with two slots.
    pub double: u64,
    /// Slots, links and mounts too many or too few, and what is left in the end.
    pub leaked: u64,
    /// Connections that ended.
    pub broken: u64,
    /// Connections that went on all the time.
    pub connections: u64,
    /// The longest that a connection waited for an echo.
    pub longest_silence: Duration,
    /// From the start of a daemon until it answers.
    pub restarts: Vec<Duration>,
    /// Some of what was found, in words.
    pub told: Vec<String>,
}

impl Chaos {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.lost + self.risen + self.double + self.leaked + self.broken == 0
    }

    fn tell(&mut self, finding: String) {
        if self.told.len() < TOLD {
            self.told.push(finding);
        }
    }
}

impl fmt::Display for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut restarts = self.restarts.clone();
        restarts.sort_unstable();
        let median = restarts
            .get(restarts.len() / 2)
            .copied()
            .unwrap_or_default();
        let longest = restarts.last().copied().unwrap_or_default();
        writeln!(
            f,
            "{} cycles, {} of them in the middle of refill and {} of compaction: {} attaches and {} detaches answered, \
             {} calls unanswered",
            self.cycles,
            self.in_refill,
            self.in_compaction,
            self.attaches,
            self.detaches,
            self.unanswered
        )?;
        writeln!(
            f,
            "attachments lost {}, back again {}, double {}; objects leaked {}; connections broken {} of {}",
            self.lost, self.risen, self.double, self.leaked, self.broken, self.connections
        )?;
        write!(
            f,
            "longest silence of a connection {:?}; restarts {median:?} (median), {longest:?} (longest)",
            self.longest_silence
        )?;
        self.told.iter().try_for_each(|told| write!(f, "\n{told}"))
    }
}

/// Kills and restarts a daemon under load.
///
/// # Errors
/// When anything but the daemon's promises fails.
pub fn chaos(plan: ChaosPlan) -> Result<Chaos> {
    let world = World::new()?;
    let before = HostState::of(world.host())?;
    let mut random = Random::new(plan.seed);
    let mut run = Chaos::default();
    let capacity = connection::SLOTS + plan.clients + plan.clients / 3;
    let mut daemon = start(&world, capacity)?;
    daemon.wait_until_ready(capacity)?;
    let connections = Connections::open(&world, &daemon)?;
    let mut clients: Vec<_> = (0..plan.clients)
        .map(|number| Client::new(number, random.next()))
        .collect();
    for cycle in 0..plan.cycles {
        let moment = Moment::of(cycle);
        let waiting = Waiting::begin(moment, &world.path("/"))?;
        load_and_kill(&mut daemon, &mut clients, |daemon| {
            waiting.wait(daemon, &mut random)
        })?;
        run.in_refill += u32::from(moment == Moment::Refill);
        run.in_compaction += u32::from(moment == Moment::Compaction);
        let begun = Instant::now();
        daemon = start(&world, capacity).context("restart")?;
        run.restarts.push(begun.elapsed());
        compare(&daemon, &mut clients, &mut run)?;
        connections.check_published(&world)?;
        run.cycles += 1;
    }
    for client in &clients {
        run.attaches += client.attaches;
        run.detaches += client.detaches;
        run.unanswered += client.unanswered;
    }
    let (broken, silence) = connections.close(&mut run)?;
    run.broken = broken;
    run.longest_silence = silence;
    look_for_leaks(&world, daemon, capacity, &before, &mut run)?;
    Ok(run)
}

fn start(world: &World, capacity: u32) -> Result<Daemon> {
    world.spawn_daemon(&["--capacity", &capacity.to_string()])
}

/// All clients attach and detach until the daemon is killed under them, in the moment that is waited for.
fn load_and_kill(
    daemon: &mut Daemon,
    clients: &mut [Client],
    wait: impl FnOnce(&Daemon) -> Result<()>,
) -> Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    let socket = daemon.socket().to_owned();
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let (socket, over) = (&socket, over.clone());
                scope.spawn(move || client.work(socket, &over))
            })
            .collect();
        let waited = wait(daemon);
        daemon.signal(Signal::SIGKILL)?;
        daemon.wait(PATIENCE)?;
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        waited
    })
}

/// What the daemon says against what the clients were told.
fn compare(daemon: &Daemon, clients: &mut [Client], run: &mut Chaos) -> Result<()> {
    let list: ListReply = daemon.connect()?.call("List", &json!({}))?;
    let mut by_owner = BTreeMap::<&str, &Attachment>::new();
    let mut by_slot = BTreeMap::<&str, &str>::new();
    for held in &list.attachments {
        if let Some(other) = by_slot.insert(&held.slot, &held.owner) {
            run.double += 1;
            run.tell(format!(
                "{} belongs to {other} and {}",
                held.slot, held.owner
            ));
        }
        if by_owner.insert(&held.owner, held).is_some() {
            run.double += 1;
            run.tell(format!("{} has two slots", held.owner));
        }
    }
    for client in clients {
        let now = by_owner.get(client.owner.as_str()).copied();
        match (&client.told, now) {
            (Told::Attached(id), Some(held)) if held.id != *id => {
                run.lost += 1;
                run.tell(format!("{}: {id} is {} now", client.owner, held.id));
            }
            (Told::Attached(id), None) => {
                run.lost += 1;
                run.tell(format!(
                    "{}: {id} is gone; the daemon says:\n{}",
                    client.owner,
                    daemon.log()
                ));
            }
            (Told::Detached, Some(held)) => {
                run.risen += 1;
                run.tell(format!("{} has {} again", client.owner, held.id));
            }
            _ => {}
        }
        client.told = now.map_or(Told::Detached, |held| Told::Attached(held.id.clone()));
    }
    Ok(())
}

/// With nobody there every slot is ready, and there is one link, one mount and one name for each; without the
/// daemon the host is as it was.
fn look_for_leaks(
    world: &World,
    mut daemon: Daemon,
    capacity: u32,
    before: &HostState,
    run: &mut Chaos,
) -> Result<()> {
    let list: ListReply = daemon.connect()?.call("List", &json!({}))?;
    for held in list.attachments {
        daemon.detach(&held.owner)?;
    }
    let all_ready = |counts: &SlotCounts| counts.ready == capacity;
    daemon.wait_until("every slot is ready again", all_ready)?;
    let links = links_in_hubs(world, capacity)?;
    let (mounts, names) = (files_in(world, "live")?, files_in(world, "netns")?);
    for (what, found) in [("mounts", mounts), ("names", names), ("links", links)] {
        if found != capacity {
            run.leaked += u64::from(found.abs_diff(capacity));
            run.tell(format!("{found} {what} for {capacity} slots"));
        }
    }
    daemon.stop(PATIENCE)?;
    let difference = HostState::of(world.host())?.difference(before);
    // The directories are those of a daemon that was killed: the last one found them.
    let left: Vec<_> = difference
        .lines()
        .filter(|line| !line.ends_with("/run/pcpm"))
        .collect();
    run.leaked += left.len() as u64;
    for line in left {
        run.tell(format!("left: {line}"));
    }
    Ok(())
}

/// How many files are in a directory of the state directory.
fn files_in(world: &World, directory: &str) -> Result<u32> {
    let files = world.tool(&format!("ls /run/pcpm/{directory}/")).run()?;
    Ok(u32::try_from(files.lines().count())?)
}

fn links_in_hubs(world: &World, capacity: u32) -> Result<u32> {
    let mut links = 0;
    for hub in 0..capacity.div_ceil(512) {
        let inside = world.slot(format!("/run/pcpm/hubs/{hub}"));
        let names = inside.tool("ip -o link show type veth").run()?;
        let slots = names.lines().filter(|line| line.contains(": s"));
        links += u32::try_from(slots.count())?;
    }
    ensure!(links > 0, "no links are seen in the hubs");
    Ok(links)
}
