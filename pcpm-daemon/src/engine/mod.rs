//! The engine: one thread owns the pool, the datapath and the slots' file descriptors, and carries
//! out what the pool decides. Clients' tasks call it directly, so an attach takes no lock, no
//! channel hop and no system call but the reply's. What blocks on the kernel is handed to
//! [`workers`].

mod administration;
mod attachment;
mod classes;
mod commands;
mod drops;
mod events;
mod figures;
mod findings;
mod flows;
mod job_queue;
mod latency;
mod leases;
mod log_lines;
mod measurements;
pub(crate) mod names;
mod options;
mod recording;
mod recycle;
pub(crate) mod recycling;
mod reports;
mod requests;
mod restore;
mod starts;
mod status;
mod tenants;
mod terms;
#[cfg(test)]
mod tests;
mod watch;
pub(crate) mod workers;
mod world;

use std::{
    cell::RefCell,
    collections::HashMap,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use pcpm_api::{error::PoolError, publish::Port, types};
use pcpm_ebpf::abi::{PortKey, SlotCounters};
use tokio::sync::{Notify, oneshot};

use crate::{
    bpf::Datapath,
    collector::Collected,
    journal::{self, History, Journal},
    locks::Pacer,
    net::Golden,
    policy::{Policies, Ranges},
    pool::{self, Command, Event, Pool, PoolSettings, Quotas, RequestId, SlotIndex},
    process::ProcessLeases,
    reservation::Reservations,
};

use attachment::{Origin, SlotText};
use classes::Class;
use drops::DropLog;
use events::{EventLog, Happening};
use findings::Broken;
use latency::LatencyHistogram;
use leases::Leases;
use names::{Showing, Shown};
use recycle::RecycleFigures;
use recycling::RecycleSender;
use requests::Pending;
use tenants::Tenants;
use watch::Watchers;
use workers::Work;

pub(crate) use attachment::{AttachReply, Attachment, Used};
pub(crate) use classes::ClassSpec;
pub(crate) use drops::DropFollower;
pub(crate) use measurements::{Measurements, Times};
pub(crate) use requests::{Answer, AttachAnswer, Attached};
pub(crate) use watch::Subscription;
pub(crate) use world::World;

/// The engine as clients' tasks share it.
pub(crate) type Shared = Rc<RefCell<Engine>>;

/// Names a client connection.
pub(crate) type ClientId = u64;

/// What the pool is made of.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The class `default` is the first.
    pub(crate) classes: Vec<ClassSpec>,
    /// Indexes below are for the classes that have none of their own.
    pub(crate) shared: u32,
    /// Slots that may be in creation at once.
    pub(crate) creating: u32,
    /// How much of it one tenant or user may have.
    pub(crate) quotas: Quotas,
    /// Slots of all classes that there are file descriptors for.
    pub(crate) most_slots: u32,
}

/// A slot that was granted to a request that then failed.
#[derive(Debug)]
struct Unusable {
    slot: SlotIndex,
    error: PoolError,
    /// What becomes of the slot.
    then: Event,
}

/// What the engine knows of a slot beside the pool's state.
#[derive(Debug, Default)]
struct Record {
    /// What is wrong with the slot while somebody holds it.
    broken: Option<Broken>,
    /// A worker repairs it: it must not be destroyed meanwhile.
    is_mending: bool,
    /// It is to be destroyed when that is over.
    is_spent: bool,
    netns: Option<OwnedFd>,
    /// When it became ready in this life, in milliseconds since the Unix epoch.
    ready_at_ms: u64,
    /// The counters when the slot became ready: traffic is counted from there.
    baseline: SlotCounters,
    text: Option<Rc<SlotText>>,
    origin: Option<Origin>,
    /// The journal has it as one that may be handed out.
    is_noted_ready: bool,
    shown: Shown,
    /// What the slot looked like when nobody had been in it.
    golden: Option<Golden>,
    /// How its tenant changed it, if it did.
    tampered: Option<String>,
}

/// See the module's documentation.
pub(crate) struct Engine {
    world: World,
    /// Tells this life of the daemon from all others: when it began.
    life: u64,
    pool: Pool,
    /// In the order of the pool's.
    classes: Vec<Class>,
    /// Slots of all classes that there are file descriptors for.
    most_slots: u32,
    /// Keys of the configuration that wait for the next start.
    restart_needed: Vec<String>,
    datapath: Box<dyn Datapath>,
    policies: Policies,
    work: Box<dyn Work>,
    /// Judges used slots, if they may be used again.
    recycler: Option<RecycleSender>,
    recycling: RecycleFigures,
    cannot_recycle: Option<String>,
    /// Holds the workers back for the sake of others, if it is told to.
    pub(crate) pacer: Option<Arc<Pacer>>,
    reservations: Reservations,
    journal: Journal,
    /// What the journal said when it was opened, until that is restored.
    history: History,
    /// What is wrong with what it said.
    findings: Vec<journal::Finding>,
    /// Whether the last of its events tells of a failure.
    journal_fails: bool,
    records: Vec<Record>,
    leases: Leases,
    process_leases: ProcessLeases,
    tenants: Tenants,
    pending: HashMap<RequestId, Pending>,
    next_request: RequestId,
    events: EventLog,
    drops: DropLog,
    watchers: Watchers,
    showing: Showing,
    totals: status::Totals,
    attach_latency: LatencyHistogram,
    sources: figures::SourceLatency,
    retire_latency: LatencyHistogram,
    create_latency: status::CreateLatency,
    starts: starts::Starts,
    memory: status::MemoryFigures,
    collected: Collected,
    clients: u32,
    /// The last one could not be accepted.
    turns_clients_away: bool,
    started: Instant,
    /// Wakes the timer when the pool's next deadline changed.
    deadline_changed: Rc<Notify>,
    armed: Option<pool::Now>,
    somebody_waits: Rc<Notify>,
    upkeep_wanted: Rc<Notify>,
    /// Ports that lead to slots and could not be taken on the host.
    unreserved: Vec<(SlotIndex, Port)>,
    /// Ports that nobody publishes any more and that could not be withdrawn.
    not_withdrawn: Vec<PortKey>,
    /// Told once, when the warm target is reached for the first time.
    filled: Option<oneshot::Sender<()>>,
    commands: Vec<Command>,
    /// Slots granted to requests that then failed.
    unusable: Vec<Unusable>,
}

impl Engine {
    /// An engine over an empty pool. [`restore`](Self::restore) takes over what an earlier life left,
    /// [`start`](Self::start) begins to fill it.
    pub(crate) fn new(
        world: World,
        settings: Settings,
        datapath: Box<dyn Datapath>,
        work: Box<dyn Work>,
        reservations: Reservations,
        journal: journal::Opened,
        process_leases: ProcessLeases,
    ) -> Self {
        let Settings {
            classes,
            shared,
            creating,
            quotas,
            most_slots,
        } = settings;
        let pool = Pool::new(PoolSettings {
            classes: classes.iter().map(|class| class.pool.clone()).collect(),
            shared,
            creating,
            quotas,
        });
        let journal::Opened {
            journal,
            history,
            findings,
        } = journal;
        Self {
            life: unix_time_ms().max(history.used.life + 1),
            journal,
            history,
            findings,
            journal_fails: false,
            policies: Policies::new(Ranges::new(world.ranges())),
            world,
            classes: classes.iter().map(Class::new).collect(),
            most_slots,
            restart_needed: Vec::new(),
            datapath,
            work,
            recycler: None,
            recycling: RecycleFigures::default(),
            cannot_recycle: None,
            pacer: None,
            reservations,
            records: (0..pool.room()).map(|_| Record::default()).collect(),
            pool,
            leases: Leases::default(),
            process_leases,
            tenants: Tenants::default(),
            pending: HashMap::new(),
            next_request: 0,
            events: EventLog::default(),
            drops: DropLog::default(),
            watchers: Watchers::default(),
            showing: Showing::default(),
            totals: status::Totals::default(),
            attach_latency: LatencyHistogram::default(),
            sources: figures::SourceLatency::default(),
            retire_latency: LatencyHistogram::default(),
            create_latency: status::CreateLatency::default(),
            starts: starts::Starts::default(),
            memory: status::MemoryFigures::default(),
            collected: Collected::default(),
            clients: 0,
            turns_clients_away: false,
            started: Instant::now(),
            deadline_changed: Rc::default(),
            armed: None,
            somebody_waits: Rc::default(),
            upkeep_wanted: Rc::default(),
            unreserved: Vec::new(),
            not_withdrawn: Vec::new(),
            filled: None,
            commands: Vec::new(),
            unusable: Vec::new(),
        }
    }

    /// Used slots may be used again, if they are found clean. To be called before the first slot is
    /// restored or made.
    pub(crate) fn recycle_with(&mut self, recycler: RecycleSender) {
        self.recycler = Some(recycler);
        self.pool.recycle();
    }

    /// Used slots should be used again, but cannot be, for this reason.
    pub(crate) fn cannot_recycle(&mut self, why: String) {
        tracing::warn!("used slots are destroyed: {why}");
        self.cannot_recycle = Some(why);
    }

    /// Begins to fill the pool. The receiver is told when the warm target is reached.
    pub(crate) fn start(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.filled = Some(sender);
        let counts = self.pool.counts();
        if counts.vacant == counts.capacity {
            self.memory.start_fill();
        }
        let idle: Vec<_> = self.pool.idle_slots().collect();
        for slot in idle {
            self.portray(slot);
        }
        self.feed(Event::Tick, None);
        receiver
    }

    /// Told when a request begins to wait.
    pub(crate) fn somebody_waits(&self) -> Rc<Notify> {
        self.somebody_waits.clone()
    }

    /// The host's ways out are others now.
    pub(crate) fn set_uplinks(&mut self, uplinks: Vec<types::Uplink>) {
        self.world.uplinks.clone_from(&uplinks);
        self.note(Happening::Uplinks { now: uplinks });
    }

    /// Something that is about no slot.
    fn note(&mut self, happening: Happening) {
        self.events.push(happening, None, None);
        self.after_change();
    }

    /// Connected clients.
    pub(crate) fn clients(&self) -> u32 {
        self.clients
    }

    /// A client could be accepted, or not for this reason. That is told when it changes.
    pub(crate) fn accepting(&mut self, failure: Option<String>) {
        let is_trouble = failure.is_some();
        if std::mem::replace(&mut self.turns_clients_away, is_trouble) != is_trouble {
            let message = match failure {
                Some(reason) => format!("cannot be accepted: {reason}"),
                None => "are accepted again".to_owned(),
            };
            self.note(Happening::Clients {
                message,
                is_trouble,
            });
        }
    }

    /// A client connected.
    pub(crate) fn client_came(&mut self) {
        self.clients += 1;
    }

    /// Ticks the pool whenever it asks to be.
    pub(crate) async fn run_timer(engine: Shared) {
        let changed = engine.borrow().deadline_changed.clone();
        loop {
            let due = {
                let engine = engine.borrow();
                engine.armed.map(|at| engine.started + at)
            };
            tokio::select! {
                () = changed.notified() => {}
                () = sleep_until(due) => {
                    let mut engine = engine.borrow_mut();
                    engine.armed = None;
                    engine.feed(Event::Tick, None);
                }
            }
        }
    }

    /// Remembers what happened to a slot that nobody holds.
    fn tell_of_slot(&mut self, happening: Happening, slot: SlotIndex) {
        let class = self.class_name(slot).clone();
        self.events
            .push_in(happening, Some(class), Some(slot), None);
    }

    fn now(&self) -> pool::Now {
        self.started.elapsed()
    }

    /// Feeds the pool and carries out what it decides, and what follows from that. The answer to
    /// request `own`, if there is one now, is returned; all others go to whoever waits for them.
    fn feed(&mut self, event: Event, own: Option<RequestId>) -> Option<AttachAnswer> {
        let mut own_answer = self.feed_one(event, own);
        while let Some(unusable) = self.unusable.pop() {
            own_answer = self.feed_one(unusable.then, own).or(own_answer);
        }
        own_answer
    }

    fn feed_one(&mut self, event: Event, own: Option<RequestId>) -> Option<AttachAnswer> {
        let mut commands = std::mem::take(&mut self.commands);
        let now = self.now();
        self.pool.handle(event, now, &mut commands);
        let mut own_answer = None;
        for command in commands.drain(..) {
            if let Some((request, answer)) = self.carry_out(command) {
                let reply = self
                    .pending
                    .remove(&request)
                    .and_then(|pending| pending.reply);
                match reply {
                    _ if own == Some(request) => own_answer = Some(answer),
                    // Whoever stops waiting cancels, so the receiver is there; if its connection
                    // breaks now the attachment lives on as after any lost reply.
                    Some(reply) => drop(reply.send(answer)),
                    None => {}
                }
            }
        }
        self.commands = commands;
        self.after_change();
        own_answer
    }

    /// What has to follow every change of the pool: watchers, the timer, the first fill's end.
    fn after_change(&mut self) {
        self.watchers
            .touch(self.pool.take_touched(), self.events.next_sequence());
        let deadline = self.pool.next_deadline();
        if deadline != self.armed {
            self.armed = deadline;
            self.deadline_changed.notify_one();
        }
        self.watch_journal();
        if self.filled.is_some() && self.pool.is_filled() {
            let counts = self.pool.counts();
            self.fill_ended(counts.ready + counts.attached);
        }
    }

    fn fill_ended(&mut self, slots: u32) {
        self.memory.end_fill(slots);
        if let Some(filled) = self.filled.take() {
            // The daemon may have stopped listening: it is shutting down.
            let _nobody_listens = filled.send(());
        }
    }
}

/// Sleeps until `due`, for ever if it is never due.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_time_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
