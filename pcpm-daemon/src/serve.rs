//! The running daemon: starts the workers, the engine and the service, and ends them when told to.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pcpm_api::types::{Check, CheckStatus};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{self, UnboundedReceiver},
    task::LocalSet,
};

use crate::{
    api::{Listener, Service},
    config::Config,
    engine::{
        Engine, Shared,
        workers::{Report, Workers},
    },
    host_world::{self, Built},
    pool::PoolSettings,
};

/// Slots that may be in creation for each worker; more would only wait before the workers.
const CREATING_PER_WORKER: u32 = 16;

/// Reports taken before anybody else has a turn.
const REPORTS_AT_ONCE: usize = 64;

/// How long reports may gather; less than it takes to make what [`CREATING_PER_WORKER`] allows.
const GATHER_REPORTS: Duration = Duration::from_millis(4);

/// Serves until SIGTERM or SIGINT.
pub(crate) fn until_stopped(config: &Config, built: Built) -> anyhow::Result<()> {
    let (reports, inbox) = mpsc::unbounded_channel();
    let (workers, work) = Workers::start(built.kernels, &reports).context("start the workers")?;
    let settings = PoolSettings {
        capacity: config.capacity,
        ready: config.ready,
        creating: config.refill.workers * CREATING_PER_WORKER,
    };
    let engine = Engine::new(
        built.world,
        settings,
        Box::new(built.steering),
        Box::new(work),
    );
    let served = run(config, engine, inbox);
    workers.stop();
    served
}

fn run(config: &Config, engine: Engine, inbox: UnboundedReceiver<Report>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let local = LocalSet::new();
    local.block_on(
        &runtime,
        serve(config, Rc::new(RefCell::new(engine)), inbox),
    )
}

async fn serve(
    config: &Config,
    engine: Shared,
    inbox: UnboundedReceiver<Report>,
) -> anyhow::Result<()> {
    let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let listener = Listener::bind(&config.socket)?;
    tracing::info!(socket = %config.socket.display(), capacity = config.capacity, "serving");
    let service = Rc::new(Service {
        engine: engine.clone(),
        doctor: doctor(config),
        max_clients: config.api.max_clients,
    });
    tokio::task::spawn_local(Engine::run_timer(engine.clone()));
    tokio::task::spawn_local(take_reports(engine.clone(), inbox));
    tokio::task::spawn_local(announce_ready(engine.clone()));
    tokio::task::spawn_local(async move { listener.serve(service).await });
    // The outermost future is polled whenever any task was woken, so it should have little to do.
    let stopped = tokio::task::spawn_local(stop_signal(terminate, interrupt));
    stopped.await.context("wait for a signal")?;
    notify(sd_notify::NotifyState::Stopping);
    engine.borrow_mut().drain();
    Ok(())
}

async fn stop_signal(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
}

/// Takes what the workers did. While nobody waits for it, reports are left to gather: waking for each
/// slot made takes the processors from the workers that make them.
async fn take_reports(engine: Shared, mut inbox: UnboundedReceiver<Report>) {
    let wanted = engine.borrow().somebody_waits();
    let mut reports = Vec::new();
    while inbox.recv_many(&mut reports, REPORTS_AT_ONCE).await > 0 {
        let mut engine = engine.borrow_mut();
        reports.drain(..).for_each(|report| engine.report(report));
        if !engine.has_waiting() {
            drop(engine);
            let _in_time = tokio::time::timeout(GATHER_REPORTS, wanted.notified()).await;
        }
    }
}

/// Begins the fill and tells the service manager when the warm target is reached.
async fn announce_ready(engine: Shared) {
    let begun = Instant::now();
    let filled = engine.borrow_mut().start();
    if filled.await.is_ok() {
        let took_ms = begun.elapsed().as_millis();
        let slots = engine.borrow().status().slots.ready;
        tracing::info!(slots, took_ms, "the warm target is reached");
        notify(sd_notify::NotifyState::Ready);
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!("tell the service manager: {error}");
    }
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
