//! One client: reads a call, answers it, reads the next.

use std::{
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use pcpm_api::{
    error::PoolError,
    limits::MESSAGE_BYTES,
    types::{
        AttachRequest, DetachRequest, DoctorReply, DropsRequest, LocksRequest, ReportStartRequest,
        UpdateRequest, WatchFrame, WatchRequest,
    },
};
use serde::Serialize;
use tokio::{net::UnixStream, sync::oneshot::Receiver, task::JoinError};
use zlink::{Connection, Reply, connection::socket::WriteHalf as _};

use super::{
    Service,
    access::Caller,
    calls::{Call, RawCall},
    peer::Peer,
    service::{self, Info, ServiceError},
    socket::ClientStream,
};
use crate::{
    engine::{
        Answer, AttachAnswer, AttachReply, Attached, Attachment, ClientId, DropFollower,
        Subscription, Used,
    },
    locks::LockFollower,
    pool::RequestId,
};

/// Frames of a watcher are at least this far apart unless it asks for something else.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// The shortest interval a watcher may ask for.
const SHORTEST_WATCH_INTERVAL: Duration = Duration::from_millis(10);
/// A watcher hears something at least this often, so both sides notice a dead connection.
const WATCH_HEARTBEAT: Duration = Duration::from_secs(10);

/// How far back `Locks` looks unless it is told.
const LOCKS_OF: Duration = Duration::from_secs(10);
/// How far it can.
const LOCKS_OF_AT_MOST: Duration = Duration::from_mins(10);
/// The most groups of each kind that it tells of.
const MOST_LOCK_GROUPS: u64 = 1000;

/// A connected client.
pub(super) struct Client {
    connection: Connection<ClientStream>,
    stream: ClientStream,
    /// Where messages are written before they are sent.
    outgoing: Vec<u8>,
    service: Rc<Service>,
    id: ClientId,
    caller: Caller,
}

/// The connection cannot be used any more.
struct Gone;

type Step = Result<(), Gone>;

/// What is needed to answer one call.
#[derive(Clone, Copy)]
struct Mode {
    oneway: bool,
    more: bool,
}

impl From<zlink::Error> for Gone {
    fn from(_: zlink::Error) -> Self {
        Self
    }
}

impl Client {
    pub(super) fn new(
        stream: UnixStream,
        service: Rc<Service>,
        id: ClientId,
    ) -> zlink::Result<Self> {
        let caller = service.live.access.borrow().caller(&Peer::of(&stream)?);
        let stream = ClientStream::new(stream)?;
        let connection = Connection::new(stream.clone());
        service.engine.borrow_mut().client_came();
        Ok(Self {
            connection,
            stream,
            outgoing: Vec::new(),
            service,
            id,
            caller,
        })
    }

    /// Serves until the client goes or breaks the protocol.
    pub(super) async fn serve(mut self) {
        while self.serve_call().await.is_ok() {}
    }

    async fn serve_call(&mut self) -> Step {
        let (call, mode) = match self.connection.receive_call::<RawCall<'_>>().await {
            Ok((call, _fds_are_closed)) => {
                let mode = Mode {
                    oneway: call.oneway(),
                    more: call.more(),
                };
                (call.method().parse(), mode)
            }
            Err(error) => return self.refuse_message(&error).await,
        };
        match call {
            Ok(call) => match self.caller.may_call(&call) {
                Ok(()) => self.answer(call, mode).await,
                Err(error) => self.error(mode, &error).await,
            },
            Err(error) => self.error(mode, &error).await,
        }
    }

    /// Answers what is not a call. The stream is lost if the end of the message is.
    async fn refuse_message(&mut self, error: &zlink::Error) -> Step {
        let reason = match error {
            zlink::Error::Json(json) => format!("message: {json}"),
            zlink::Error::BufferOverflow => {
                format!("message: longer than {MESSAGE_BYTES} bytes")
            }
            _ => return Err(Gone),
        };
        let reply = ServiceError::InvalidParameter { parameter: reason };
        self.send(&reply, Vec::new()).await?;
        match error {
            zlink::Error::Json(_) => Ok(()),
            _ => Err(Gone),
        }
    }

    async fn answer(&mut self, call: Call, mode: Mode) -> Step {
        match call {
            Call::Attach(request) => self.attach(request, mode).await,
            Call::Detach(request) => {
                let done = self.detach(&request);
                self.result(mode, done.map(|()| NoParameters {})).await
            }
            Call::Update(request) => {
                let updated = self.update(&request);
                self.result(mode, updated).await
            }
            Call::Get(request) => {
                let pass_fd = request.pass_fd.unwrap_or(false);
                let got = self.get(&request.owner, pass_fd);
                self.got(mode, got).await
            }
            Call::ReportStart(request) => {
                let noted = self.report_start(&request);
                self.result(mode, noted.map(|()| NoParameters {})).await
            }
            Call::List(request) => {
                let attachments = self.service.engine.borrow().list(&request);
                self.reply(mode, ListReply { attachments }).await
            }
            Call::Status => {
                let status = self.service.engine.borrow().status();
                self.reply(mode, status).await
            }
            Call::Watch(request) => self.watch(&request, mode).await,
            Call::Drops(request) => self.drops(request, mode).await,
            Call::Locks(request) => self.locks(&request, mode).await,
            Call::Drain(request) => {
                let drained = self.service.engine.borrow_mut().drain(&request);
                self.result(mode, drained).await
            }
            Call::Resize(request) => {
                let resized = self.service.engine.borrow_mut().resize(&request);
                self.result(mode, resized).await
            }
            Call::Retire(request) => {
                let retired = self.service.engine.borrow_mut().retire_ready(&request.slot);
                self.result(mode, retired.map(|()| NoParameters {})).await
            }
            Call::Reload => {
                let reloaded = self.service.reload.run();
                let reloaded = reloaded.map_err(|reason| PoolError::Failed { reason });
                self.result(mode, reloaded).await
            }
            Call::Doctor => self.doctor(mode).await,
            Call::Info => self.reply(mode, Info::new()).await,
            Call::Description(request) => match service::describe(&request) {
                Ok(description) => self.reply(mode, description).await,
                Err(error) => self.error(mode, &error).await,
            },
        }
    }

    fn ask_for_slot(&self, request: AttachRequest) -> Answer {
        let mut engine = self.service.engine.borrow_mut();
        engine.attach(request, self.id, self.caller)
    }

    fn detach(&self, request: &DetachRequest) -> Result<(), PoolError> {
        let mut engine = self.service.engine.borrow_mut();
        engine.detach(&request.owner, request.id.as_deref(), self.caller)
    }

    fn update(&self, request: &UpdateRequest) -> Result<Attachment, PoolError> {
        let mut engine = self.service.engine.borrow_mut();
        engine.update(request, self.caller)
    }

    fn get(&self, owner: &str, pass_fd: bool) -> Result<(Attached, Used), PoolError> {
        let engine = self.service.engine.borrow();
        engine.get(owner, pass_fd, self.caller)
    }

    fn report_start(&self, request: &ReportStartRequest) -> Result<(), PoolError> {
        let mut engine = self.service.engine.borrow_mut();
        engine.report_start(request, self.caller)
    }

    async fn attach(&mut self, request: AttachRequest, mode: Mode) -> Step {
        let attached = match self.ask_for_slot(request) {
            Answer::Now(attached) => *attached,
            Answer::Later(id, receiver) => {
                let _unanswered = Unanswered::count(&self.service);
                let answer = self.later(id, receiver).await?;
                return self.attach_answer(mode, answer).await;
            }
        };
        self.attach_answer(mode, attached).await
    }

    /// Waits for the answer, as long as the client does.
    async fn later(
        &self,
        id: RequestId,
        answer: Receiver<AttachAnswer>,
    ) -> Result<AttachAnswer, Gone> {
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| Gone),
            () = self.stream.hangup() => {
                self.service.engine.borrow_mut().cancel(id);
                Err(Gone)
            }
        }
    }

    async fn attach_answer(&mut self, mode: Mode, answer: AttachAnswer) -> Step {
        match answer {
            Ok(attached) => self.attached(mode, attached).await,
            Err(error) => self.error(mode, &error).await,
        }
    }

    async fn attached(&mut self, mode: Mode, (attachment, netns): Attached) -> Step {
        let netns_fd = netns.is_some().then_some(0);
        let reply = AttachReply {
            attachment,
            usage: None,
            netns_fd,
        };
        self.reply_with(mode, reply, netns.into_iter().collect())
            .await
    }

    async fn got(&mut self, mode: Mode, got: Result<(Attached, Used), PoolError>) -> Step {
        match got {
            Ok(((attachment, netns), usage)) => {
                let netns_fd = netns.is_some().then_some(0);
                let reply = AttachReply {
                    attachment,
                    usage: Some(usage),
                    netns_fd,
                };
                self.reply_with(mode, reply, netns.into_iter().collect())
                    .await
            }
            Err(error) => self.error(mode, &error).await,
        }
    }

    async fn doctor(&mut self, mode: Mode) -> Step {
        let doctor = self.service.doctor.clone();
        match tokio::task::spawn_blocking(move || doctor()).await {
            Ok(mut checks) => {
                checks.push(self.service.locks.check());
                checks.push(self.service.engine.borrow().journal_check());
                self.reply(mode, DoctorReply { checks }).await
            }
            Err(error) => self.could_not(mode, "check the host", &error).await,
        }
    }

    async fn could_not(&mut self, mode: Mode, what: &str, error: &JoinError) -> Step {
        let reason = format!("{what}: {error}");
        self.error(mode, &PoolError::Failed { reason }).await
    }

    async fn watch(&mut self, request: &WatchRequest, mode: Mode) -> Step {
        if mode.oneway {
            return Ok(());
        }
        if !mode.more {
            return self.error(mode, &ServiceError::ExpectedMore {}).await;
        }
        let interval = request
            .interval_ms
            .map_or(WATCH_INTERVAL, Duration::from_millis);
        if !(SHORTEST_WATCH_INTERVAL..=WATCH_HEARTBEAT).contains(&interval) {
            let error = PoolError::invalid("interval_ms", "must be from 10 to 10000");
            return self.error(mode, &error).await;
        }
        let subscription = Subscription::new(&self.service.engine, request);
        let wants_locks = request.locks == Some(true);
        let mut locks = wants_locks.then(|| LockFollower::new(&self.service.locks));
        self.frame(with_locks(subscription.snapshot(), locks.as_mut()))
            .await?;
        loop {
            let changed = async {
                tokio::select! {
                    () = subscription.changed() => {}
                    () = locks_changed(locks.as_mut()) => {}
                }
            };
            tokio::select! {
                () = self.stream.hangup() => return Err(Gone),
                () = paced(interval, subscription.due(), changed) => {}
            }
            self.frame(with_locks(subscription.delta(), locks.as_mut()))
                .await?;
        }
    }

    async fn drops(&mut self, request: DropsRequest, mode: Mode) -> Step {
        if !mode.more {
            let recent = self.service.engine.borrow().recent_drops(request);
            return self.result(mode, recent).await;
        }
        if mode.oneway {
            return Ok(());
        }
        let follower = match DropFollower::new(&self.service.engine, request) {
            Ok(follower) => follower,
            Err(error) => return self.error(mode, &error).await,
        };
        self.frame(follower.records()).await?;
        loop {
            tokio::select! {
                () = self.stream.hangup() => return Err(Gone),
                () = paced(WATCH_INTERVAL, None, follower.came()) => {}
            }
            self.frame(follower.records()).await?;
        }
    }

    async fn locks(&mut self, request: &LocksRequest, mode: Mode) -> Step {
        let (last, top) = match locks_wanted(request) {
            Ok(wanted) => wanted,
            Err(error) => return self.error(mode, &error).await,
        };
        let history = self.service.locks.clone();
        if !mode.more || mode.oneway {
            let seconds = request.history == Some(true);
            // Adding up ten minutes takes long enough for others to notice.
            let report = tokio::task::spawn_blocking(move || history.report(last, top, seconds));
            return match report.await {
                Ok(report) => self.reply(mode, report).await,
                Err(error) => self.could_not(mode, "add up waits", &error).await,
            };
        }
        let mut changes = history.changes();
        loop {
            if let Some(reason) = history.why_unavailable() {
                let reason = format!("lock insight: {reason}");
                return self.error(mode, &PoolError::Failed { reason }).await;
            }
            tokio::select! {
                () = self.stream.hangup() => return Err(Gone),
                another = changes.changed() => another.map_err(|_| Gone)?,
            }
            if history.why_unavailable().is_none() {
                let second = history.report(Duration::from_millis(1), top, false);
                self.frame(second).await?;
            }
        }
    }

    async fn frame<T: Serialize>(&mut self, frame: T) -> Step {
        let reply = Reply::new(Some(frame)).set_continues(Some(true));
        self.send(&reply, Vec::new()).await
    }

    async fn result<T: Serialize>(&mut self, mode: Mode, result: Result<T, PoolError>) -> Step {
        match result {
            Ok(parameters) => self.reply(mode, parameters).await,
            Err(error) => self.error(mode, &error).await,
        }
    }

    async fn reply<T: Serialize>(&mut self, mode: Mode, parameters: T) -> Step {
        self.reply_with(mode, parameters, Vec::new()).await
    }

    async fn reply_with<T: Serialize>(
        &mut self,
        mode: Mode,
        parameters: T,
        fds: Vec<OwnedFd>,
    ) -> Step {
        if mode.oneway {
            return Ok(());
        }
        self.send(&Reply::new(Some(parameters)), fds).await
    }

    async fn error<E: Serialize>(&mut self, mode: Mode, error: &E) -> Step {
        if mode.oneway {
            return Ok(());
        }
        self.send(error, Vec::new()).await
    }

    /// Sends one message. The connection's own way is not taken: it tries again from the beginning with 256
    /// bytes more, until the message fits, which takes the square of its length.
    async fn send<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> Step {
        self.outgoing.clear();
        serde_json::to_writer(&mut self.outgoing, message).map_err(|_| Gone)?;
        self.outgoing.push(0);
        self.stream.write(&self.outgoing, &fds, None).await?;
        if self.outgoing.capacity() > MESSAGE_BYTES {
            self.outgoing = Vec::new();
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.service.engine.borrow_mut().client_left(self.id);
    }
}

/// How far back, and how many of each kind.
fn locks_wanted(request: &LocksRequest) -> Result<(Duration, Option<usize>), PoolError> {
    let last = request.last_ms.map_or(LOCKS_OF, Duration::from_millis);
    if last > LOCKS_OF_AT_MOST {
        return Err(PoolError::invalid("last_ms", "must be at most 600000"));
    }
    let top = match request.top {
        Some(top @ 0..=MOST_LOCK_GROUPS) => usize::try_from(top).ok(),
        Some(_) => return Err(PoolError::invalid("top", "must be at most 1000")),
        None => None,
    };
    Ok((last, top))
}

/// What a watcher is told that asked for waits for locks as well.
fn with_locks(frame: WatchFrame, locks: Option<&mut LockFollower>) -> WatchFrame {
    let Some(locks) = locks else {
        return frame;
    };
    WatchFrame {
        locks: Some(locks.frames()),
        locks_unavailable: locks.why_unavailable(),
        ..frame
    }
}

/// Returns when there is something to tell of locks, never where nobody asked.
async fn locks_changed(locks: Option<&mut LockFollower>) {
    match locks {
        Some(locks) => locks.changed().await,
        None => std::future::pending().await,
    }
}

/// The reply of `List`.
#[derive(Debug, Serialize)]
struct ListReply {
    attachments: Vec<Attachment>,
}

/// Counts a client as unanswered while it lives.
struct Unanswered(Rc<Service>);

impl Unanswered {
    fn count(service: &Rc<Service>) -> Self {
        service.unanswered.update(|clients| clients + 1);
        Self(service.clone())
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.update(|clients| clients - 1);
    }
}

/// A reply without parameters.
#[derive(Debug, Serialize)]
struct NoParameters {}

/// Returns when the next frame is due: after a change, at the time that is given, or as a sign of life.
async fn paced(interval: Duration, due: Option<Instant>, changed: impl Future<Output = ()>) {
    let paced = async {
        tokio::time::sleep(interval).await;
        changed.await;
    };
    let alive = Instant::now() + WATCH_HEARTBEAT;
    let due = due.map_or(alive, |due| due.min(alive));
    let _nothing_changed = tokio::time::timeout_at(due.into(), paced).await;
}
