//! The engine: one thread owns the pool, the datapath and the slots' file descriptors, and carries
//! out what the pool decides. Clients' tasks call it directly, so an attach takes no lock, no
//! channel hop and no system call but the reply's. What blocks on the kernel is handed to
//! [`workers`].

mod attachment;
mod commands;
mod drops;
mod events;
mod findings;
mod flows;
mod latency;
mod leases;
mod options;
mod recording;
mod recycle;
pub(crate) mod recycling;
mod restore;
mod status;
mod tenants;
#[cfg(test)]
mod tests;
mod watch;
pub(crate) mod workers;

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;
use pcpm_api::{
    error::PoolError,
    limits::{self, DEFAULT_TENANT},
    options::Options,
    publish::Port,
    types::{self, Lease, OnEmpty, TargetMode},
};
use pcpm_ebpf::abi::{GATEWAY_V4, GATEWAY_V6, SlotCounters};
use tokio::sync::{Notify, oneshot};

use crate::{
    api::Caller,
    bpf::Datapath,
    collector::Collected,
    journal::{self, History, Journal},
    net::{self, Golden},
    policy::{Policies, Ranges},
    pool::{
        self, Adaptive, Command, Event, Holder, Pool, PoolSettings, RequestId, SlotIndex, Target,
    },
    process::{self, Process, ProcessLeases},
    reservation::Reservations,
};

use attachment::{Origin, SlotText};
use drops::DropLog;
use events::{EventLog, Happening};
use latency::LatencyHistogram;
use leases::Leases;
use recycle::RecycleFigures;
use recycling::RecycleSender;
use tenants::Tenants;
use watch::Watchers;
use workers::{Report, Work};

pub(crate) use attachment::{Attachment, Used};
pub(crate) use drops::DropFollower;
pub(crate) use watch::Subscription;

/// How long a request waits that does not say how long.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time a request may wait.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);

/// The engine as clients' tasks share it.
pub(crate) type Shared = Rc<RefCell<Engine>>;

/// Names a client connection.
pub(crate) type ClientId = u64;

/// What is fixed while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) state_dir: PathBuf,
    pub(crate) pool_cidr: ipnet::Ipv4Net,
    /// Prefix of the slots' IPv6 addresses, if they have some.
    pub(crate) pool_prefix6: Option<ipnet::Ipv6Net>,
    pub(crate) mtu: u32,
    pub(crate) uplinks: Vec<types::Uplink>,
}

impl World {
    /// The networks that slots have their addresses in.
    fn ranges(&self) -> impl Iterator<Item = IpNet> + use<> {
        let networks = [
            Some(self.pool_cidr.into()),
            self.pool_prefix6.map(IpNet::V6),
        ];
        networks.into_iter().flatten()
    }

    /// The address of a slot.
    pub(crate) fn address(&self, slot: SlotIndex) -> Ipv4Addr {
        (u32::from(self.pool_cidr.network()) + slot).into()
    }

    /// The IPv6 address of a slot, if slots have some.
    pub(crate) fn address6(&self, slot: SlotIndex) -> Option<Ipv6Addr> {
        let prefix = self.pool_prefix6?;
        Some((u128::from(prefix.network()) | u128::from(slot)).into())
    }

    /// All addresses of a slot, IPv4 first, as text.
    pub(crate) fn addresses(&self, slot: SlotIndex) -> Vec<String> {
        let addresses = [
            Some(self.address(slot).into()),
            self.address6(slot).map(IpAddr::V6),
        ];
        addresses
            .into_iter()
            .flatten()
            .map(|address: IpAddr| address.to_string())
            .collect()
    }

    /// The gateways of a slot, in the order of its addresses, as text.
    pub(crate) fn gateways(&self) -> Vec<String> {
        let mut gateways = vec![Ipv4Addr::from(GATEWAY_V4).to_string()];
        gateways.extend(
            self.pool_prefix6
                .map(|_| Ipv6Addr::from(GATEWAY_V6).to_string()),
        );
        gateways
    }
}

/// What an attach gets: the attachment and, if it was asked for, the slot's namespace.
pub(crate) type Attached = (Attachment, Option<OwnedFd>);

/// What a request for a slot comes to.
pub(crate) type AttachAnswer = Result<Attached, PoolError>;

/// The answer to an attach, or where it will come.
#[derive(Debug)]
pub(crate) enum Answer {
    Now(Box<AttachAnswer>),
    Later(RequestId, oneshot::Receiver<AttachAnswer>),
}

/// A request that has no answer yet.
#[derive(Debug)]
struct Pending {
    holder: Rc<Holder>,
    client: ClientId,
    asked_at: Instant,
    pass_fd: bool,
    /// Tells of the end of the process that the attachment is to live with.
    process: Option<OwnedFd>,
    reply: Option<oneshot::Sender<AttachAnswer>>,
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
    /// The epoch in which it was told that the slot is broken.
    told_broken_in: Option<u32>,
    netns: Option<OwnedFd>,
    /// The counters when the slot became ready: traffic is counted from there.
    baseline: SlotCounters,
    text: Option<Rc<SlotText>>,
    origin: Option<Origin>,
    /// The journal has it as one that may be handed out.
    is_noted_ready: bool,
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
    sizes: Sizes,
    /// Keys of the configuration that wait for the next start.
    restart_needed: Vec<String>,
    datapath: Box<dyn Datapath>,
    policies: Policies,
    work: Box<dyn Work>,
    /// Judges used slots, if they may be used again.
    recycler: Option<RecycleSender>,
    recycling: RecycleFigures,
    cannot_recycle: Option<String>,
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
    totals: status::Totals,
    attach_latency: LatencyHistogram,
    create_latency: status::CreateLatency,
    memory: status::MemoryFigures,
    collected: Collected,
    clients: u32,
    started: Instant,
    /// Wakes the timer when the pool's next deadline changed.
    deadline_changed: Rc<Notify>,
    armed: Option<pool::Now>,
    somebody_waits: Rc<Notify>,
    upkeep_wanted: Rc<Notify>,
    /// Ports that lead to slots and could not be taken on the host.
    unreserved: Vec<(SlotIndex, Port)>,
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
        settings: PoolSettings,
        datapath: Box<dyn Datapath>,
        work: Box<dyn Work>,
        reservations: Reservations,
        journal: journal::Opened,
        process_leases: ProcessLeases,
    ) -> Self {
        let room = settings.room.max(settings.capacity);
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
            sizes: Sizes::of(settings.target),
            restart_needed: Vec::new(),
            pool: Pool::new(settings),
            datapath,
            work,
            recycler: None,
            recycling: RecycleFigures::default(),
            cannot_recycle: None,
            reservations,
            records: (0..room).map(|_| Record::default()).collect(),
            leases: Leases::default(),
            process_leases,
            tenants: Tenants::default(),
            pending: HashMap::new(),
            next_request: 0,
            events: EventLog::default(),
            drops: DropLog::default(),
            watchers: Watchers::default(),
            totals: status::Totals::default(),
            attach_latency: LatencyHistogram::default(),
            create_latency: status::CreateLatency::default(),
            memory: status::MemoryFigures::default(),
            collected: Collected::default(),
            clients: 0,
            started: Instant::now(),
            deadline_changed: Rc::default(),
            armed: None,
            somebody_waits: Rc::default(),
            upkeep_wanted: Rc::default(),
            unreserved: Vec::new(),
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
        let ready: Vec<_> = self.pool.ready_slots().collect();
        for slot in ready {
            self.portray(slot);
        }
        self.feed(Event::Tick, None);
        receiver
    }

    /// Hands a slot to the owner. A request that has to wait is answered later.
    pub(crate) fn attach(
        &mut self,
        request: types::AttachRequest,
        client: ClientId,
        caller: Caller,
    ) -> Answer {
        let asked_at = Instant::now();
        let pass_fd = request.pass_fd.unwrap_or(false);
        let id = self.next_request;
        self.next_request += 1;
        let (request, process) = match self.checked(request, id, caller) {
            Ok(request) => request,
            Err(error) => {
                self.totals.refused += 1;
                return Answer::Now(Box::new(Err(error)));
            }
        };
        self.pending.insert(
            id,
            Pending {
                holder: request.holder.clone(),
                client,
                asked_at,
                pass_fd,
                process,
                reply: None,
            },
        );
        if let Some(answer) = self.feed(Event::Attach(request), Some(id)) {
            return Answer::Now(Box::new(answer));
        }
        let (reply, receiver) = oneshot::channel();
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.reply = Some(reply);
        }
        self.note_waiting(id);
        self.somebody_waits.notify_one();
        Answer::Later(id, receiver)
    }

    /// Forgets a request that waits. One that was answered meanwhile keeps its attachment.
    pub(crate) fn cancel(&mut self, request: RequestId) {
        if let Some(pending) = self.pending.remove(&request) {
            self.events
                .push(Happening::Cancelled, None, Some(&pending.holder));
            self.feed(Event::Cancel(request), None);
        }
    }

    /// Ends the owner's attachment, or only if it is the one that `id` names; its traffic is cut when
    /// this returns.
    pub(crate) fn detach(
        &mut self,
        owner: &str,
        id: Option<&str>,
        caller: Caller,
    ) -> Result<(), PoolError> {
        let slot = self.slot_named(owner, id)?;
        self.may_touch(slot, caller)?;
        self.feed(Event::Detach(slot), None);
        Ok(())
    }

    /// The owner's attachment, its traffic and flows, and its namespace if asked for.
    pub(crate) fn get(
        &self,
        owner: &str,
        pass_fd: bool,
        caller: Caller,
    ) -> Result<(Attached, Used), PoolError> {
        let slot = self.slot_of(owner)?;
        if pass_fd {
            self.may_touch(slot, caller)?;
        }
        let attached = self.attached(slot, pass_fd)?;
        Ok((attached, self.usage(slot)?))
    }

    /// All attachments, by slot.
    pub(crate) fn list(&self) -> Vec<Attachment> {
        self.pool
            .attached_slots()
            .filter_map(|slot| self.attachment(slot))
            .collect()
    }

    /// Takes what a worker did.
    fn report(&mut self, report: Report) {
        let event = match report {
            Report::Created {
                slot,
                netns,
                timings,
            } => {
                self.totals.created += 1;
                self.create_latency.record(timings);
                let baseline = self.baseline(slot);
                self.datapath.begin_flows(slot);
                let mtu = self.world.mtu;
                self.note_ready(slot, mtu, baseline);
                self.records[slot as usize] = Record {
                    netns: Some(netns),
                    baseline,
                    text: Some(Rc::new(SlotText::new(&self.world, slot, mtu))),
                    origin: None,
                    told_broken_in: None,
                    is_noted_ready: true,
                    golden: None,
                    tampered: None,
                };
                self.portray(slot);
                self.events.push(Happening::Ready, Some(slot), None);
                Event::Created(slot)
            }
            Report::CreateFailed { slot, reason } => {
                self.note_failure(slot, &reason);
                Event::CreateFailed(slot, reason)
            }
            Report::Retired { slot } => {
                self.totals.retired += 1;
                self.events.push(Happening::Retired, Some(slot), None);
                Event::Retired(slot)
            }
            Report::RetireFailed { slot, reason } => {
                self.note_failure(slot, &reason);
                Event::RetireFailed(slot, reason)
            }
            Report::Portrayed { slot, golden } => return self.portrayed(&slot, golden),
            Report::Tampered(tampered) => return self.tampered(tampered),
            Report::Judged { recycled, took } => return self.judged(recycled, took),
        };
        self.feed(event, None);
    }

    /// Told when a request begins to wait.
    pub(crate) fn somebody_waits(&self) -> Rc<Notify> {
        self.somebody_waits.clone()
    }

    /// Takes what the workers did; says whether a request waits for what they do next.
    pub(crate) fn reports(&mut self, reports: impl Iterator<Item = Report>) -> bool {
        reports.for_each(|report| self.report(report));
        self.pool.counts().waiting > 0
    }

    /// The host's ways out are others now.
    pub(crate) fn set_uplinks(&mut self, uplinks: Vec<types::Uplink>) {
        self.world.uplinks.clone_from(&uplinks);
        let now = Happening::Uplinks { now: uplinks };
        tracing::info!("uplinks: {}", now.message());
        self.events.push(now, None, None);
        self.after_change();
    }

    /// Refuses everybody from now on.
    pub(crate) fn drain(&mut self) {
        if !self.pool.is_draining() {
            self.events
                .push(Happening::Draining { on: true }, None, None);
        }
        self.feed(Event::Drain, None);
    }

    /// Takes attaches again.
    pub(crate) fn end_drain(&mut self) {
        if self.pool.is_draining() {
            self.events
                .push(Happening::Draining { on: false }, None, None);
        }
        self.feed(Event::EndDrain, None);
    }

    /// Changes how large the pool is and how much of it is kept ready.
    pub(crate) fn resize(
        &mut self,
        request: &types::ResizeRequest,
    ) -> Result<types::ResizeReply, PoolError> {
        let before = self.pool.counts().capacity;
        let capacity = request.capacity.unwrap_or(before);
        let room = self.pool.room();
        if capacity == 0 || capacity > room {
            let reason = format!("{capacity} is not from 1 to {room} (max_capacity)");
            return Err(PoolError::invalid("capacity", reason));
        }
        if let Some(ready) = request.ready.filter(|&ready| ready > capacity) {
            let reason = format!("{ready} is more than the capacity, {capacity}");
            return Err(PoolError::invalid("ready", reason));
        }
        let target = self.sizes.resized(request, before, capacity);
        self.set_size(capacity, target);
        Ok(types::ResizeReply {
            slots: self.pool.counts(),
            target: self.warm_target(),
        })
    }

    /// The same as the configuration says; false if there is no room for so many.
    pub(crate) fn resize_as_configured(&mut self, capacity: u32, target: Target) -> bool {
        let room = self.pool.room();
        self.sizes = Sizes::of(target);
        self.set_size(capacity.min(room), target);
        capacity <= room
    }

    /// Other quotas, from the next request on.
    pub(crate) fn set_quotas(&mut self, quotas: pool::Quotas) {
        self.pool.set_quotas(quotas);
    }

    /// The configuration was read again.
    pub(crate) fn reloaded(&mut self, changed: &[String], restart_needed: Vec<String>) {
        let changed = match changed {
            [] => "nothing changed".to_owned(),
            changed => format!("changed: {}", changed.join(", ")),
        };
        let message = match restart_needed.as_slice() {
            [] => changed,
            keys => format!("{changed}; restart needed for: {}", keys.join(", ")),
        };
        tracing::info!("configuration reloaded, {message}");
        self.restart_needed = restart_needed;
        self.note_reload(message);
    }

    /// The configuration was read again and is wrong: nothing changed.
    pub(crate) fn reload_failed(&mut self, reason: &str) {
        tracing::error!("configuration not reloaded: {reason}");
        self.note_reload(format!("not reloaded: {reason}"));
    }

    fn note_reload(&mut self, message: String) {
        self.events
            .push(Happening::Reloaded { message }, None, None);
        self.after_change();
    }

    fn set_size(&mut self, capacity: u32, target: Target) {
        let resized = Happening::Resized { capacity, target };
        self.events.push(resized, None, None);
        self.feed(Event::Resize { capacity, target }, None);
    }

    /// Slots by state.
    pub(crate) fn counts(&self) -> types::SlotCounts {
        self.pool.counts()
    }

    /// Connected clients.
    pub(crate) fn clients(&self) -> u32 {
        self.clients
    }

    /// A client connected.
    pub(crate) fn client_came(&mut self) {
        self.clients += 1;
    }

    /// Tells when [`processes_ended`](Self::processes_ended) has something to do.
    pub(crate) fn process_ends(&self) -> std::io::Result<process::Ends> {
        self.process_leases.ends()
    }

    /// Ends what was leased to processes that have ended.
    pub(crate) fn processes_ended(&mut self) {
        loop {
            let ended = self.process_leases.ended();
            if ended.is_empty() {
                return;
            }
            for slot in ended {
                self.feed(Event::Detach(slot), None);
                self.process_leases.end(slot);
            }
        }
    }

    /// A client's connection ended, and with it the attachments leased to it.
    pub(crate) fn client_left(&mut self, client: ClientId) {
        self.clients -= 1;
        for slot in self.leases.of(client) {
            self.feed(Event::Detach(slot), None);
        }
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

    fn now(&self) -> pool::Now {
        self.started.elapsed()
    }

    fn slot_of(&self, owner: &str) -> Result<SlotIndex, PoolError> {
        self.pool
            .slot_of(owner)
            .ok_or_else(|| PoolError::NoSuchAttachment {
                owner: owner.to_owned(),
            })
    }

    /// Refuses what is about an attachment that another user made.
    pub(super) fn may_touch(&self, slot: SlotIndex, caller: Caller) -> Result<(), PoolError> {
        match self.pool.holder(slot) {
            Some(holder) if !caller.may_touch(holder.uid) => Err(foreign(&holder.owner)),
            _ => Ok(()),
        }
    }

    /// The slot that `owner` holds, if it is the attachment that `id` names.
    fn slot_named(&self, owner: &str, id: Option<&str>) -> Result<SlotIndex, PoolError> {
        let slot = self.slot_of(owner)?;
        if id.is_some_and(|id| self.attachment(slot).is_none_or(|held| held.id() != id)) {
            return Err(PoolError::NoSuchAttachment {
                owner: owner.to_owned(),
            });
        }
        Ok(slot)
    }

    fn checked(
        &self,
        mut request: types::AttachRequest,
        id: RequestId,
        caller: Caller,
    ) -> Result<(pool::AttachRequest, Option<OwnedFd>), PoolError> {
        let tenant = request
            .tenant
            .take()
            .unwrap_or_else(|| DEFAULT_TENANT.to_owned());
        let labels = request.labels.take().unwrap_or_default();
        limits::check_owner(&request.owner)?;
        limits::check_tenant(&tenant)?;
        limits::check_labels(&labels)?;
        let timeout = request
            .timeout_ms
            .map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        if timeout > LONGEST_TIMEOUT {
            return Err(PoolError::invalid(
                "timeout_ms",
                "at most 3600000 (one hour) is allowed",
            ));
        }
        let lease = request.lease.unwrap_or(Lease::Explicit);
        let process = leased_to(lease, request.lease_pid)?;
        let (process, pidfd) = process.unzip();
        let options = Options::of(&request)?;
        let asked_at = self.now();
        let request = pool::AttachRequest {
            id,
            holder: Rc::new(Holder {
                owner: request.owner,
                tenant,
                labels,
                lease,
                process,
                options,
                uid: caller.uid,
                by_administrator: caller.may_touch_all(),
            }),
            exclusive: request.exclusive.unwrap_or(false),
            on_empty: request.on_empty.unwrap_or(OnEmpty::Wait),
            asked_at,
            deadline: asked_at + timeout,
        };
        Ok((request, pidfd))
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
        let counts = self.pool.counts();
        if self.filled.is_some() && counts.ready + counts.attached >= counts.target {
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

    /// The counters of a slot that was just made; an index that was never used has counted nothing.
    fn baseline(&self, slot: SlotIndex) -> SlotCounters {
        match self.pool.epoch(slot) {
            0 => SlotCounters::default(),
            _ => self.datapath.slot_counters(slot).unwrap_or_default(),
        }
    }

    fn note_waiting(&mut self, request: RequestId) {
        if let Some(pending) = self.pending.get(&request) {
            let waiting = Happening::Waiting {
                ahead: self.pool.counts().waiting.saturating_sub(1),
            };
            self.events.push(waiting, None, Some(&pending.holder));
            self.after_change();
        }
    }

    fn note_failure(&mut self, slot: SlotIndex, reason: &str) {
        self.totals.failed += 1;
        tracing::warn!(slot = net::slot_name(slot), "{reason}");
        let failed = Happening::Failed {
            reason: reason.to_owned(),
        };
        self.events.push(failed, Some(slot), None);
    }
}

/// Both kinds of target, so that one can be changed for the other.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    ready: u32,
    adaptive: Option<Adaptive>,
    mode: TargetMode,
}

impl Sizes {
    fn of(target: Target) -> Self {
        match target {
            Target::Fixed(ready) => Self {
                ready,
                adaptive: None,
                mode: TargetMode::Fixed,
            },
            Target::Adaptive(bounds) => Self {
                ready: bounds.first,
                adaptive: Some(bounds),
                mode: TargetMode::Adaptive,
            },
        }
    }

    /// The target after a resize. What equalled the capacity goes on doing so, the rest is kept.
    fn resized(&mut self, request: &types::ResizeRequest, before: u32, capacity: u32) -> Target {
        let follow = |size: u32| {
            if size == before {
                capacity
            } else {
                size.min(capacity)
            }
        };
        self.ready = request.ready.unwrap_or_else(|| follow(self.ready));
        self.mode = request.target.unwrap_or(self.mode);
        let bounds = self.adaptive.get_or_insert(Adaptive {
            ceiling: before,
            ..Adaptive::default()
        });
        bounds.ceiling = follow(bounds.ceiling);
        bounds.floor = bounds.floor.min(bounds.ceiling);
        bounds.first = self.ready;
        match self.mode {
            TargetMode::Fixed => Target::Fixed(self.ready),
            TargetMode::Adaptive => Target::Adaptive(*bounds),
        }
    }
}

/// Why somebody else's attachment is not changed.
fn foreign(owner: &str) -> PoolError {
    PoolError::PermissionDenied {
        reason: format!("owner '{owner}' was attached by another user"),
    }
}

/// The process that a lease is about, and what tells of its end.
fn leased_to(lease: Lease, pid: Option<u32>) -> Result<Option<(Process, OwnedFd)>, PoolError> {
    let invalid = |reason: String| PoolError::invalid("lease_pid", reason);
    match (lease, pid) {
        (Lease::Pid, Some(pid)) => {
            let opened = Process::open(pid);
            opened.map(Some).map_err(|error| invalid(error.to_string()))
        }
        (Lease::Pid, None) => Err(invalid("the lease pid needs a process".to_owned())),
        (_, Some(_)) => Err(invalid(format!("goes with the lease pid, not {lease}"))),
        (_, None) => Ok(None),
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
