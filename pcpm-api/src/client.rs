//! A small blocking client: a Unix socket, JSON and nothing else, so that programs that live for
//! milliseconds can afford it. Every call has a deadline. Streaming clients with an event loop of
//! their own use zlink instead.
//!
//! ```no_run
//! use pcpm_api::client::Client;
//! use pcpm_api::types::AttachRequest;
//!
//! let mut pool = Client::connect(pcpm_api::DEFAULT_SOCKET)?;
//! let request = AttachRequest { owner: "web-1".into(), ..AttachRequest::default() };
//! let attachment = pool.attach(&request)?;
//! println!("{} at {}", attachment.netns, attachment.addresses[0]);
//! pool.detach("web-1")?;
//! # Ok::<(), pcpm_api::client::ClientError>(())
//! ```

mod error;
mod fds;
mod message;
#[cfg(test)]
mod tests;
mod wire;

use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::error::{ClientError, ServiceError};
use self::message::{Call, Refusal, Replies, read_reply};
use self::wire::{Deadline, Wire};
use crate::types::{
    AttachReply, AttachRequest, Attachment, Check, DetachRequest, DoctorReply, DrainReply,
    DrainRequest, DropsReply, DropsRequest, GetReply, GetRequest, ListReply, ListRequest,
    LocksReply, LocksRequest, ReloadReply, ReportStartRequest, ResizeReply, ResizeRequest,
    RetireRequest, Status, UpdateRequest, WatchFrame, WatchRequest,
};

/// How long a call may take unless [`Client::set_timeout`] says otherwise. A wait for a slot that the
/// request itself asks for comes on top.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a wait for a slot may last when the request leaves it to the daemon.
const UNSTATED_WAIT: Duration = Duration::from_mins(1);

/// Silence after which a watched daemon is given up; it promises a frame every 10 s.
const WATCH_SILENCE: Duration = Duration::from_secs(30);

/// A connection to `pcpmd`. Calls go one at a time. After an error other than a refusal
/// ([`ClientError::Pool`], [`ClientError::Varlink`]) the connection is closed and further calls fail.
pub struct Client {
    wire: Wire,
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], or [`ClientError::Timeout`] when the daemon accepts nobody.
    pub fn connect(socket: impl AsRef<Path>) -> Result<Self, ClientError> {
        Self::connect_within(socket, DEFAULT_TIMEOUT)
    }

    /// Connects like [`Client::connect`], with `timeout` for this and for every call.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_within(
        socket: impl AsRef<Path>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let socket = socket.as_ref().to_owned();
        match Wire::connect(&socket, timeout) {
            Ok(wire) => Ok(Self {
                wire,
                socket,
                timeout,
            }),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Err(ClientError::Timeout {
                method: "connect".into(),
                socket,
                after: timeout,
            }),
            Err(source) => Err(ClientError::Unreachable { socket, source }),
        }
    }

    /// Speaks over a connection made elsewhere; `socket` is what errors call its other end.
    pub fn over(stream: UnixStream, socket: impl Into<PathBuf>) -> Self {
        Self {
            wire: Wire::over(stream),
            socket: socket.into(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Sets how long every further call may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Hands a slot to `request.owner`. The deadline is extended by the time the request may wait.
    ///
    /// # Errors
    /// [`PoolError`](crate::error::PoolError) as the interface says; otherwise as [`Client::call`].
    pub fn attach(&mut self, request: &AttachRequest) -> Result<Attachment, ClientError> {
        let (reply, _) = self.send_attach(request)?;
        Ok(reply.attachment)
    }

    /// Attaches and receives the namespace's file descriptor, which outlives any rename or unmount of
    /// its path.
    ///
    /// # Errors
    /// As [`Client::attach`]; [`ClientError::Protocol`] when no descriptor came.
    pub fn attach_with_netns(
        &mut self,
        request: &AttachRequest,
    ) -> Result<(Attachment, OwnedFd), ClientError> {
        let request = AttachRequest {
            pass_fd: Some(true),
            ..request.clone()
        };
        let (reply, fds) = self.send_attach(&request)?;
        let netns = self.pick_fd("Attach", reply.netns_fd, fds)?;
        Ok((reply.attachment, netns))
    }

    /// Ends the attachment of `owner`; its traffic is cut when this returns.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn detach(&mut self, owner: &str) -> Result<(), ClientError> {
        self.detach_as(&DetachRequest {
            owner: owner.into(),
            id: None,
        })
    }

    /// Ends the attachment of `owner` if it is still the one that `id` names.
    ///
    /// # Errors
    /// As for [`Client::detach`]; [`PoolError::NoSuchAttachment`] if it is another one by now.
    ///
    /// [`PoolError::NoSuchAttachment`]: crate::error::PoolError::NoSuchAttachment
    pub fn detach_only(&mut self, owner: &str, id: &str) -> Result<(), ClientError> {
        self.detach_as(&DetachRequest {
            owner: owner.into(),
            id: Some(id.into()),
        })
    }

    fn detach_as(&mut self, request: &DetachRequest) -> Result<(), ClientError> {
        let Nothing {} = self.call("Detach", request)?;
        Ok(())
    }

    /// Changes a live attachment: what the request does not name stays.
    ///
    /// # Errors
    /// As [`Client::call`]; then nothing has changed.
    pub fn update(&mut self, request: &UpdateRequest) -> Result<Attachment, ClientError> {
        self.call("Update", request)
    }

    /// The attachment of `owner` and its traffic.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn get(&mut self, owner: &str) -> Result<GetReply, ClientError> {
        let request = GetRequest {
            owner: owner.into(),
            pass_fd: None,
        };
        self.call("Get", &request)
    }

    /// The attachment of `owner` and its namespace's file descriptor.
    ///
    /// # Errors
    /// As [`Client::call`]; [`ClientError::Protocol`] when no descriptor came.
    pub fn get_with_netns(&mut self, owner: &str) -> Result<(GetReply, OwnedFd), ClientError> {
        let request = GetRequest {
            owner: owner.into(),
            pass_fd: Some(true),
        };
        let (reply, fds): (GetReply, _) = self.exchange("Get", &request, self.timeout)?;
        let netns = self.pick_fd("Get", reply.netns_fd, fds)?;
        Ok((reply, netns))
    }

    /// All attachments, by slot.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn list(&mut self) -> Result<Vec<Attachment>, ClientError> {
        let reply: ListReply = self.call("List", &ListRequest::default())?;
        Ok(reply.attachments)
    }

    /// The attachment that holds `slot`, by the slot's name.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn holder_of(&mut self, slot: &str) -> Result<Option<Attachment>, ClientError> {
        let request = ListRequest {
            slot: Some(slot.to_owned()),
        };
        let reply: ListReply = self.call("List", &request)?;
        Ok(reply.attachments.into_iter().next())
    }

    /// Counts, totals and health.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.call("Status", &Nothing {})
    }

    /// Tells how long phases of a container's start took. Nothing is waited for, not even whether the daemon takes it.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] or [`ClientError::Lost`] when it cannot be sent.
    pub fn report_start(&mut self, request: &ReportStartRequest) -> Result<(), ClientError> {
        self.tell("ReportStart", request)
    }

    /// The checks of the host.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn doctor(&mut self) -> Result<Vec<Check>, ClientError> {
        let reply: DoctorReply = self.call("Doctor", &Nothing {})?;
        Ok(reply.checks)
    }

    /// Takes no new attachments from now on, or again.
    ///
    /// # Errors
    /// [`PoolError`](crate::error::PoolError) as the interface says; otherwise as [`Client::call`].
    pub fn drain(&mut self, request: &DrainRequest) -> Result<DrainReply, ClientError> {
        self.call("Drain", request)
    }

    /// Destroys a ready slot, in whose place another one is made.
    ///
    /// # Errors
    /// As [`Client::call`]; refused for a slot that is not ready.
    pub fn retire(&mut self, slot: &str) -> Result<(), ClientError> {
        let request = RetireRequest { slot: slot.into() };
        let Nothing {} = self.call("Retire", &request)?;
        Ok(())
    }

    /// Changes how large a class of slots is.
    ///
    /// # Errors
    /// [`PoolError`](crate::error::PoolError) as the interface says; otherwise as [`Client::call`].
    pub fn resize(&mut self, request: &ResizeRequest) -> Result<ResizeReply, ClientError> {
        self.call("Resize", request)
    }

    /// Has the daemon read its configuration again.
    ///
    /// # Errors
    /// [`PoolError::Failed`](crate::error::PoolError::Failed) with what is wrong with it; otherwise as
    /// [`Client::call`].
    pub fn reload(&mut self) -> Result<ReloadReply, ClientError> {
        self.call("Reload", &Nothing {})
    }

    /// Follows the pool.
    ///
    /// # Errors
    /// As [`Client::call`]; errors of the frames come with the frames.
    pub fn watch(self, request: &WatchRequest) -> Result<Watch, ClientError> {
        let interval = Duration::from_millis(request.interval_ms.unwrap_or_default());
        self.follow("Watch", request, WATCH_SILENCE.saturating_add(interval))
    }

    /// Who waited for the kernel's locks lately, and who held them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn locks(&mut self, request: &LocksRequest) -> Result<LocksReply, ClientError> {
        self.call("Locks", request)
    }

    /// The same, second by second from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn follow_locks(self, request: &LocksRequest) -> Result<Frames<LocksReply>, ClientError> {
        self.follow("Locks", request, WATCH_SILENCE)
    }

    /// The packets dropped lately.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn drops(&mut self, request: &DropsRequest) -> Result<DropsReply, ClientError> {
        self.call("Drops", request)
    }

    /// The packets dropped lately, and then those that are.
    ///
    /// # Errors
    /// As [`Client::call`]; errors of the frames come with the frames.
    pub fn follow_drops(self, request: &DropsRequest) -> Result<Frames<DropsReply>, ClientError> {
        self.follow("Drops", request, WATCH_SILENCE)
    }

    fn follow<P: Serialize, T>(
        mut self,
        method: &'static str,
        parameters: &P,
        silence: Duration,
    ) -> Result<Frames<T>, ClientError> {
        let deadline = Instant::now().checked_add(self.timeout);
        self.send(method, parameters, Replies::Many, deadline)
            .map_err(|e| self.failed(method, e, self.timeout))?;
        Ok(Frames {
            client: self,
            method,
            silence,
            until: None,
            ended: false,
            frame: PhantomData,
        })
    }

    /// Calls a method of `io.pcpm.Pool`, or any other one by its full name.
    ///
    /// # Errors
    /// A refusal of the daemon; [`ClientError::Timeout`], [`ClientError::Lost`] or
    /// [`ClientError::Protocol`] when there is none, after which the connection is closed.
    pub fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &P,
    ) -> Result<R, ClientError> {
        let (result, _) = self.exchange(method, parameters, self.timeout)?;
        Ok(result)
    }

    fn tell<P: Serialize>(&mut self, method: &str, parameters: &P) -> Result<(), ClientError> {
        let deadline = Instant::now().checked_add(self.timeout);
        self.send(method, parameters, Replies::None, deadline)
            .map_err(|e| self.failed(method, e, self.timeout))
    }

    fn send_attach(
        &mut self,
        request: &AttachRequest,
    ) -> Result<(AttachReply, Vec<OwnedFd>), ClientError> {
        let wait = request
            .timeout_ms
            .map_or(UNSTATED_WAIT, Duration::from_millis);
        self.exchange("Attach", request, self.timeout.saturating_add(wait))
    }

    fn exchange<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &P,
        timeout: Duration,
    ) -> Result<(R, Vec<OwnedFd>), ClientError> {
        let deadline = Instant::now().checked_add(timeout);
        let received = self
            .send(method, parameters, Replies::One, deadline)
            .and_then(|()| self.wire.receive(deadline));
        let (message, fds) = received.map_err(|e| self.failed(method, e, timeout))?;
        match read_reply(&message) {
            Ok((_, true)) => Err(self.nonsense(method, "several replies to one call".into())),
            Ok((result, false)) => Ok((result, fds)),
            Err(refusal) => Err(self.refused(method, refusal)),
        }
    }

    fn send<P: Serialize>(
        &mut self,
        method: &str,
        parameters: &P,
        replies: Replies,
        deadline: Deadline,
    ) -> io::Result<()> {
        let call = Call {
            method: &full_name(method),
            parameters,
            more: replies == Replies::Many,
            oneway: replies == Replies::None,
        };
        self.wire.send(serde_json::to_vec(&call)?, deadline)
    }

    fn refused(&mut self, method: &str, refusal: Refusal) -> ClientError {
        match refusal {
            Refusal::Pool(error) => error.into(),
            Refusal::Service(error) => error.into(),
            Refusal::Nonsense(reason) => self.nonsense(method, reason),
        }
    }

    fn nonsense(&mut self, method: &str, reason: String) -> ClientError {
        self.wire.abandon();
        ClientError::Protocol {
            method: method.into(),
            socket: self.socket.clone(),
            reason,
        }
    }

    fn failed(&mut self, method: &str, source: io::Error, after: Duration) -> ClientError {
        if source.kind() == ErrorKind::InvalidData {
            return self.nonsense(method, source.to_string());
        }
        self.wire.abandon();
        let (method, socket) = (method.into(), self.socket.clone());
        if source.kind() == ErrorKind::TimedOut {
            return ClientError::Timeout {
                method,
                socket,
                after,
            };
        }
        ClientError::Lost {
            method,
            socket,
            source,
        }
    }

    fn pick_fd(
        &mut self,
        method: &str,
        index: Option<u32>,
        fds: Vec<OwnedFd>,
    ) -> Result<OwnedFd, ClientError> {
        index
            .and_then(|index| fds.into_iter().nth(index as usize))
            .ok_or_else(|| self.nonsense(method, "the namespace's descriptor is missing".into()))
    }
}

/// The socket, for those who wait for the daemon to go away.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.stream().as_fd()
    }
}

/// Frames of a watched pool; the first one is full.
pub type Watch = Frames<WatchFrame>;

/// The replies to one call, as they come. Ends after an error.
pub struct Frames<T> {
    client: Client,
    method: &'static str,
    silence: Duration,
    until: Deadline,
    ended: bool,
    frame: PhantomData<T>,
}

impl<T: DeserializeOwned> Iterator for Frames<T> {
    type Item = Result<T, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let frame = self.receive();
        self.ended = !matches!(frame, Ok((_, true)));
        Some(frame.map(|(frame, _)| frame))
    }
}

impl<T: DeserializeOwned> Frames<T> {
    /// Ends with [`ClientError::Timeout`] when `limit` is over.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.until = Instant::now().checked_add(limit);
        self
    }

    fn receive(&mut self) -> Result<(T, bool), ClientError> {
        let silent = Instant::now().checked_add(self.silence);
        let deadline = [silent, self.until].into_iter().flatten().min();
        let received = self.client.wire.receive(deadline);
        let (message, _) =
            received.map_err(|e| self.client.failed(self.method, e, self.silence))?;
        read_reply(&message).map_err(|refusal| self.client.refused(self.method, refusal))
    }
}

/// No parameters.
#[derive(Serialize, Deserialize)]
struct Nothing {}

fn full_name(method: &str) -> String {
    if method.contains('.') {
        return method.to_owned();
    }
    format!("{}.{method}", crate::INTERFACE_NAME)
}
