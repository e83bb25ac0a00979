//! Mixed load on many attachments while they come and go. Every payload says whose it is, so that one
//! that reaches anybody else is noticed.
//!
//! A sender holds the receiver's place locked while it sends; who replaces the attachment there waits
//! for that. So whatever says that it is for an attachment was sent while that was one.

mod endpoint;
mod load;
mod stamp;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::endpoint::Endpoint;
use self::stamp::Stamp;
use crate::PATIENCE;
use crate::daemon::Daemon;
use crate::world::World;

/// Attachments at any time.
const HOLDERS: usize = 200;
/// Slots that are made anew meanwhile.
const SPARE: usize = 56;
const TENANTS: u64 = 6;
/// Detached attachments that go on sending.
const GHOSTS: usize = 40;
/// Where every attachment listens, and the world.
const PORT: u16 = 7000;
const FIRST_PUBLISHED_PORT: u16 = 10_000;
/// Shorter than TCP takes to send its first packet again: perhaps to the next holder of an address.
const PATIENCE_FOR_TCP: Duration = Duration::from_millis(300);
/// Violations that are told in full.
const TOLD: usize = 10;

/// What a run of [`churn`] saw.
#[derive(Debug)]
pub struct Churn {
    /// Attachments that came and went.
    pub attachments: u64,
    /// Datagrams that reached the attachment they were for: from slots, from the world as answers,
    /// and through published ports.
    pub datagrams: [u64; 3],
    /// Connections that were answered by whom they were for: slot, world, published port.
    pub connections: [u64; 3],
    /// Payloads that reached somebody else.
    pub violations: u64,
    /// Some of them, in words.
    pub told: Vec<String>,
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |[slots, world, ports]: [u64; 3]| {
            format!("{slots} of slots, {world} of the world, {ports} through published ports")
        };
        writeln!(f, "{} attachments came and went", self.attachments)?;
        writeln!(f, "datagrams received: {}", line(self.datagrams))?;
        writeln!(f, "connections answered: {}", line(self.connections))?;
        write!(
            f,
            "payloads that reached the wrong one: {}",
            self.violations
        )?;
        for told in &self.told {
            write!(f, "\n{told}")?;
        }
        Ok(())
    }
}

/// What the threads share.
struct Field {
    // Before the world that it lives in.
    daemon: Daemon,
    world: World,
    places: Vec<RwLock<Arc<Endpoint>>>,
    ghosts: Mutex<Vec<Arc<Endpoint>>>,
    serials: AtomicU64,
    over: AtomicBool,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    datagrams: [AtomicU64; 3],
    connections: [AtomicU64; 3],
    violations: AtomicU64,
    told: Mutex<Vec<String>>,
}

/// Where a payload came from, an index of the tally.
#[derive(Clone, Copy, Debug)]
enum Way {
    Slot,
    World,
    PublishedPort,
}

/// Attaches and detaches for `span` under load, and for a while longer where that was not `enough`.
///
/// # Errors
/// When anything but the load itself fails.
pub fn churn(span: Duration, enough: fn(&Churn) -> bool) -> Result<Churn> {
    raise_file_limit()?;
    let field = Field::prepare()?;
    let jobs: [fn(&Field) -> Result<()>; 6] = [
        load::send_datagrams,
        |field| {
            load::receive(field);
            Ok(())
        },
        load::answer_from_world,
        load::send_from_world,
        load::connect_from_slots,
        load::connect_from_world,
    ];
    thread::scope(|scope| {
        let field = &field;
        let threads = jobs.map(|job| scope.spawn(move || field.until_over(job)));
        let replaced = field.until_over(|field| field.replace_for(span, enough));
        let ended = threads.map(|thread| thread.join().map_err(|_| anyhow!("a job panicked"))?);
        ended.into_iter().chain([replaced]).collect::<Result<()>>()
    })?;
    Ok(field.result())
}

impl Field {
    fn prepare() -> Result<Self> {
        let world = World::new()?;
        let daemon = world.pool_of(u32::try_from(HOLDERS + SPARE)?)?;
        let serials = AtomicU64::new(1);
        let attach = |place| {
            let serial = serials.fetch_add(1, Ordering::Relaxed);
            let endpoint = Endpoint::attach(&daemon, place, serial, serial % TENANTS)?;
            Ok(RwLock::new(Arc::new(endpoint)))
        };
        let places = (0..HOLDERS).map(attach).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            daemon,
            world,
            places,
            ghosts: Mutex::default(),
            serials,
            over: AtomicBool::new(false),
            tally: Tally::default(),
        })
    }

    /// However one job ends, all do.
    fn until_over(&self, job: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let result = job(self);
        self.over.store(true, Ordering::Relaxed);
        result
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn replace_for(&self, span: Duration, enough: fn(&Churn) -> bool) -> Result<()> {
        let begin = Instant::now();
        let goes_on = |passed: Duration| {
            passed < span || (passed < span + PATIENCE && !enough(&self.result()))
        };
        let mut place = 0;
        while goes_on(begin.elapsed()) && !self.is_over() {
            // No divisor of the number of places: neighbours are replaced far apart.
            place = (place + 73) % HOLDERS;
            self.replace(place)
                .with_context(|| format!("holder {place}"))?;
        }
        Ok(())
    }

    fn replace(&self, place: usize) -> Result<()> {
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let mut holder = self.places[place]
            .write()
            .map_err(|_| anyhow!("poisoned"))?;
        holder.detach(&self.daemon)?;
        let next = Endpoint::attach(&self.daemon, place, serial, (serial / 7) % TENANTS)?;
        let gone = std::mem::replace(&mut *holder, Arc::new(next));
        let mut ghosts = self.ghosts.lock().map_err(|_| anyhow!("poisoned"))?;
        if ghosts.len() == GHOSTS {
            ghosts.remove(0);
        }
        ghosts.push(gone);
        Ok(())
    }

    fn result(&self) -> Churn {
        let read = |counts: &[AtomicU64; 3]| counts.each_ref().map(|c| c.load(Ordering::Relaxed));
        let told = self.tally.told.lock().map(|told| told.clone());
        Churn {
            attachments: self.serials.load(Ordering::Relaxed),
            datagrams: read(&self.tally.datagrams),
            connections: read(&self.tally.connections),
            violations: self.tally.violations.load(Ordering::Relaxed),
            told: told.unwrap_or_default(),
        }
    }
}

impl Tally {
    /// `receiver` got a payload that says `stamp`.
    fn judge(&self, stamp: Option<Stamp>, receiver: &Endpoint, counts: &[AtomicU64; 3], way: Way) {
        let right = stamp.is_some_and(|stamp| {
            stamp.to == receiver.serial && stamp.tenant == receiver.tenant && stamp.too_late == 0
        });
        if right {
            counts[way as usize].fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.tell(format!(
            "{way:?}: {stamp:?} reached attachment {} of tenant {} at {}",
            receiver.serial, receiver.tenant, receiver.address
        ));
    }

    fn tell(&self, violation: String) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut told) = self.told.lock()
            && told.len() < TOLD
        {
            told.push(violation);
        }
    }
}

/// The host's port behind which the attachment at `place` listens.
fn published_port(place: usize) -> u16 {
    FIRST_PUBLISHED_PORT + u16::try_from(place).unwrap_or(u16::MAX - FIRST_PUBLISHED_PORT)
}

fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit on open files")
}
