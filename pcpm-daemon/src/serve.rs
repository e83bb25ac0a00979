//! The running daemon: starts the workers, the engine and the service, and ends them when told to.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pcpm_api::types::{Check, CheckStatus, Uplink};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{self, UnboundedReceiver},
    task::LocalSet,
};

use crate::{
    api::{Access, Listener, Live, Service},
    bpf::DropEvents,
    collector::{Collector, FillChange},
    config::{self, Args, Config, Egress, OnExit},
    duty::Duty,
    engine::{
        Engine, Settings, Shared,
        names::Names,
        recycling::Recycler,
        workers::{Report, Workers},
    },
    host_world::{self, Built},
    journal::Opened,
    locks::{Insight, LockHistory, Pacing, operation::Teller},
    log::Log,
    metrics::Metrics,
    open_files,
    process::ProcessLeases,
    reaper::Finding,
    reload::Reload,
    reservation::{HostSockets, Reservations},
    supervisor::Supervisor,
};

/// Slots that may be in creation for each worker; more would only wait before the workers.
const CREATING_PER_WORKER: u32 = 16;

/// Checks of the host that run at once; others wait their turn.
const DOCTORS_AT_ONCE: usize = 2;

/// How long what failed is left alone.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long the service manager waits at most to hear that the pool is ready: one that cannot be filled serves, too.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long clients that waited for a slot have to take the answer that there will be none.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Reports taken before anybody else has a turn.
const REPORTS_AT_ONCE: usize = 64;

/// How long reports may gather; less than it takes to make what [`CREATING_PER_WORKER`] allows.
const GATHER_REPORTS: Duration = Duration::from_millis(4);

/// Records of dropped packets taken before anybody else has a turn.
const DROPS_AT_ONCE: usize = 256;

/// How long they may gather: a flood of them wakes the daemon no more often than this.
const GATHER_DROPS: Duration = Duration::from_millis(50);

/// The signals that stop the daemon, heard from the moment this exists: what is being made when one
/// comes is finished first, and then removed in order.
pub(crate) struct StopSignals {
    runtime: Runtime,
    signals: [(&'static str, Signal); 3],
}

impl StopSignals {
    /// Begins to listen.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(DOCTORS_AT_ONCE + 1)
            .build()
            .context("start the runtime")?;
        let inside = runtime.enter();
        let listen = |name, kind| anyhow::Ok((name, signal(kind).context("listen for signals")?));
        let signals = [
            listen("SIGTERM", SignalKind::terminate())?,
            listen("SIGINT", SignalKind::interrupt())?,
            listen("SIGHUP", SignalKind::hangup())?,
        ];
        drop(inside);
        Ok(Self { runtime, signals })
    }
}

/// Serves until a signal stops it, with at most `open_files` file descriptors.
pub(crate) fn until_stopped(
    (args, config, log): (&Args, &Config, &Rc<Log>),
    open_files: u64,
    built: Built,
    journal: Opened,
    stop: StopSignals,
) -> anyhow::Result<()> {
    let (reports, inbox) = mpsc::unbounded_channel();
    let insight = insight(config.locks);
    let pacer = insight.pacer(config.max_rtnl_wait);
    let teller = Teller {
        marks: insight.marks.clone(),
        pacing: pacer.clone().map(|pacer| pacer as Arc<dyn Pacing>),
    };
    let started = Workers::start(built.kernels, &reports, &teller);
    let (workers, work) = started.context("start the workers")?;
    let settings = Settings {
        classes: config.class_specs(),
        shared: config.max_capacity,
        creating: config.workers * CREATING_PER_WORKER,
        quotas: config.quotas.clone(),
        most_slots: open_files::room_for_slots(config, open_files),
    };
    let mut engine = Engine::new(
        built.world,
        settings,
        Box::new(built.steering),
        Box::new(work),
        reservations(config, open_files::room_for_ports(config, open_files)),
        journal,
        ProcessLeases::new().context("watch processes")?,
    );
    let recycler = match built.recycler {
        Some(Ok(recycling)) => {
            let started = Recycler::start(recycling, &reports, teller.clone());
            let (recycler, sender) = started.context("start the recycler")?;
            engine.recycle_with(sender);
            Some(recycler)
        }
        Some(Err(why)) => {
            engine.cannot_recycle(why);
            None
        }
        None => None,
    };
    let (names, sender) =
        Names::start(built.names, teller.clone()).context("start the thread that shows slots")?;
    engine.show_with(sender);
    engine.pacer = pacer;
    engine.restore(built.found);
    let engine = Rc::new(RefCell::new(engine));
    let StopSignals { runtime, signals } = stop;
    let (changes, uplinks) = mpsc::unbounded_channel();
    let (fills, fill_changes) = mpsc::unbounded_channel();
    let collected = engine.borrow().collected();
    let collector = Collector::start(Box::new(built.flows), collected, fills)
        .context("start the thread that collects dead flows")?;
    let (found, findings) = mpsc::unbounded_channel();
    let duty = Duty::default();
    let looked_after = built
        .uplinks
        .follow(changes, found.clone(), duty.clone(), teller.hurried())
        .and_then(|()| built.reaper.start(found, duty.clone(), teller));
    let served = looked_after.and_then(|()| {
        let inboxes = (inbox, uplinks, fill_changes, built.drop_events, findings);
        let locks = insight.history.clone();
        LocalSet::new().block_on(
            &runtime,
            serve((args, config, log), engine, locks, inboxes, signals),
        )
    });
    duty.end();
    collector.stop();
    workers.stop();
    names.finish();
    insight.stop();
    if let Some(recycler) = recycler {
        recycler.stop();
    }
    served
}

fn reservations(config: &Config, room: u32) -> Reservations {
    let reservations = Reservations::new(Box::new(HostSockets), room);
    match config.egress {
        Egress::Ebpf => reservations,
        Egress::Host => reservations.beside_translated(config.nat.ports),
    }
}

fn insight(locks: config::Locks) -> Insight {
    if locks.enabled {
        Insight::start(locks.long_wait)
    } else {
        Insight::off()
    }
}

/// What the daemon is told by others than clients.
type Inboxes = (
    UnboundedReceiver<Report>,
    UnboundedReceiver<Vec<Uplink>>,
    UnboundedReceiver<FillChange>,
    DropEvents,
    UnboundedReceiver<Finding>,
);

async fn serve(
    (args, config, log): (&Args, &Config, &Rc<Log>),
    engine: Shared,
    locks: Arc<LockHistory>,
    (reports, uplinks, fills, drops, findings): Inboxes,
    signals: [(&'static str, Signal); 3],
) -> anyhow::Result<()> {
    let access = Access::resolve(&config.access).map_err(anyhow::Error::msg)?;
    let listener = Listener::bind(&config.socket, &access)?;
    let metrics = match &config.metrics {
        Some(endpoint) => Some(Metrics::bind(endpoint, access.socket_group).await?),
        None => None,
    };
    tracing::info!(socket = %config.socket.display(), slots = config.slots(), "serving");
    let live = Rc::new(Live::new(access, config.api.max_clients));
    let supervisor = Rc::new(Supervisor::default());
    let reload = Reload::new(
        (args.clone(), config.clone()),
        engine.clone(),
        live.clone(),
        log.clone(),
        supervisor.clone(),
    );
    let service = Rc::new(Service {
        engine: engine.clone(),
        doctor: doctor(config),
        live,
        reload,
        locks,
        unanswered: Cell::new(0),
    });
    let clients = service.clone();
    tokio::task::spawn_local(Engine::run_timer(engine.clone()));
    tokio::task::spawn_local(Engine::run_names(engine.clone()));
    tokio::task::spawn_local(take_reports(engine.clone(), reports));
    tokio::task::spawn_local(take_uplinks(engine.clone(), uplinks));
    tokio::task::spawn_local(take_fills(engine.clone(), fills));
    tokio::task::spawn_local(take_drops(engine.clone(), drops));
    tokio::task::spawn_local(take_findings(engine.clone(), findings));
    tokio::task::spawn_local(keep_up(engine.clone()));
    tokio::task::spawn_local(end_process_leases(engine.clone()));
    tokio::task::spawn_local(announce_ready(engine.clone(), supervisor.clone()));
    tokio::task::spawn_local(reassure(engine.clone(), supervisor.clone()));
    tokio::task::spawn_local(async move { listener.serve(clients).await });
    if let Some(metrics) = metrics {
        tokio::task::spawn_local(metrics.serve(engine.clone(), service.locks.clone()));
    }
    // The outermost future is polled whenever any task was woken, so it should have little to do.
    let stopped = tokio::task::spawn_local(stop_signal(signals, service.clone()));
    stopped.await.context("wait for a signal")?;
    supervisor.stopping();
    engine.borrow_mut().refuse_everybody();
    if config.on_exit == OnExit::Keep {
        engine.borrow_mut().show_rest();
    }
    // Whoever waited is told why it gets nothing; one that does not read is not waited for.
    let answered = async {
        while service.unanswered.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let _in_time = tokio::time::timeout(LAST_ANSWERS, answered).await;
    Ok(())
}

/// Returns when a signal stops the daemon. SIGHUP does where a terminal was closed that it was started from;
/// everywhere else it has the configuration read again.
async fn stop_signal(signals: [(&'static str, Signal); 3], service: Rc<Service>) {
    let [mut terminate, mut interrupt, mut hangup] = signals;
    let hangup_stops = belongs_to_a_terminal();
    let name = loop {
        tokio::select! {
            _ = terminate.1.recv() => break terminate.0,
            _ = interrupt.1.recv() => break interrupt.0,
            _ = hangup.1.recv() => if hangup_stops {
                break hangup.0;
            } else {
                // What came of it is in the log.
                drop(service.reload.run());
            }
        }
    };
    tracing::info!("{name}: stopping");
}

/// Whether the daemon has a controlling terminal, and no service manager that started it.
fn belongs_to_a_terminal() -> bool {
    let is_managed = ["INVOCATION_ID", "NOTIFY_SOCKET"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    !is_managed && std::fs::File::open("/dev/tty").is_ok()
}

/// Takes what the workers did. While nobody waits for it, reports are left to gather: waking for each
/// slot made takes the processors from the workers that make them.
async fn take_reports(engine: Shared, mut inbox: UnboundedReceiver<Report>) {
    let wanted = engine.borrow().somebody_waits();
    let mut reports = Vec::new();
    while inbox.recv_many(&mut reports, REPORTS_AT_ONCE).await > 0 {
        let waited_for = engine.borrow_mut().reports(reports.drain(..));
        if !waited_for {
            let _in_time = tokio::time::timeout(GATHER_REPORTS, wanted.notified()).await;
        }
    }
}

async fn take_uplinks(engine: Shared, mut changes: UnboundedReceiver<Vec<Uplink>>) {
    while let Some(uplinks) = changes.recv().await {
        engine.borrow_mut().set_uplinks(uplinks);
    }
}

async fn take_findings(engine: Shared, mut findings: UnboundedReceiver<Finding>) {
    while let Some(finding) = findings.recv().await {
        engine.borrow_mut().found(finding);
    }
}

async fn take_fills(engine: Shared, mut changes: UnboundedReceiver<FillChange>) {
    while let Some(change) = changes.recv().await {
        engine.borrow_mut().fill_changed(change);
    }
}

/// Takes what the programs tell of dropped packets.
async fn take_drops(engine: Shared, drops: DropEvents) {
    let told = async {
        let mut inbox = drops.listen()?;
        loop {
            let records = inbox.take(DROPS_AT_ONCE).await?;
            engine.borrow_mut().dropped(records.into_iter());
            tokio::time::sleep(GATHER_DROPS).await;
        }
    };
    let ended: io::Result<Infallible> = told.await;
    let Err(error) = ended;
    tracing::error!("dropped packets are counted only: {error}");
}

/// Ends attachments with the processes that they were leased to.
async fn end_process_leases(engine: Shared) {
    let watched = async {
        let ends = engine.borrow().process_ends()?;
        loop {
            ends.next().await?;
            engine.borrow_mut().processes_ended();
        }
    };
    let ended: io::Result<Infallible> = watched.await;
    let Err(error) = ended;
    tracing::error!("leases to processes do not end: {error}");
}

/// Compacts the journal when that is wanted, and tries again what failed.
async fn keep_up(engine: Shared) {
    let wanted = engine.borrow().upkeep_wanted();
    loop {
        wanted.notified().await;
        let compaction = engine.borrow_mut().begin_compaction();
        if let Some(compaction) = compaction
            && let Ok(outcome) = tokio::task::spawn_blocking(move || compaction.run()).await
        {
            engine.borrow_mut().end_compaction(outcome);
        }
        if engine.borrow().has_failed() {
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            engine.borrow_mut().try_again();
        }
    }
}

/// Begins the fill and tells the service manager when the warm target is reached, or is not in time.
async fn announce_ready(engine: Shared, supervisor: Rc<Supervisor>) {
    let begun = Instant::now();
    let mut filled = engine.borrow_mut().start();
    let in_time = tokio::time::timeout(READY_WITHIN, &mut filled).await;
    supervisor.ready();
    let done = if let Ok(done) = in_time {
        done
    } else {
        let within = READY_WITHIN.as_secs();
        tracing::warn!("the warm target is not reached within {within} s: serving what there is");
        filled.await
    };
    if done.is_ok() {
        let took_ms = begun.elapsed().as_millis();
        let slots = engine.borrow().status().slots.ready;
        tracing::info!(slots, took_ms, "the warm target is reached");
    }
}

/// Has the service manager know that this thread is not stuck.
async fn reassure(engine: Shared, supervisor: Rc<Supervisor>) {
    let status = || {
        let slots = engine.borrow().status().slots;
        let (ready, attached) = (slots.ready, slots.attached);
        format!("{ready} slots ready, {attached} attached")
    };
    supervisor.reassure(status).await;
}

/// The checks of the host for `Doctor`.
fn doctor(config: &Config) -> Arc<dyn Fn() -> Vec<Check> + Send + Sync> {
    let config = config.clone();
    Arc::new(move || {
        host_world::checks(&config).unwrap_or_else(|error| {
            vec![Check {
                name: "host".to_owned(),
                status: CheckStatus::Failed,
                detail: format!("{error:#}"),
                advice: None,
            }]
        })
    })
}
