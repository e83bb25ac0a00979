//! What clients ask of attachments: checks of what they say, and of what they may.

use std::{
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use pcpm_api::{
    error::PoolError,
    limits::{self, DEFAULT_TENANT},
    options::Options,
    types::{self, Lease, OnEmpty},
};
use tokio::sync::oneshot;

use super::{Attachment, ClientId, Engine, Used, events::Happening};
use crate::{
    api::Caller,
    net::slot_name,
    pool::{self, Event, Holder, Process, RequestId, SlotIndex},
    process,
};

/// How long a request waits that does not say how long.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time a request may wait.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);

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
pub(super) struct Pending {
    pub(super) holder: Rc<Holder>,
    pub(super) client: ClientId,
    pub(super) asked_at: Instant,
    pub(super) pass_fd: bool,
    /// Tells of the end of the process that the attachment is to live with.
    pub(super) process: Option<OwnedFd>,
    pub(super) reply: Option<oneshot::Sender<AttachAnswer>>,
}

impl Engine {
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

    /// All attachments, by slot, or that of one slot.
    pub(crate) fn list(&self, request: &types::ListRequest) -> Vec<Attachment> {
        let attached = self.pool.attached_slots();
        let Some(only) = &request.slot else {
            return attached.filter_map(|slot| self.attachment(slot)).collect();
        };
        let number = only
            .strip_prefix('s')
            .and_then(|digits| digits.parse().ok());
        let mut found = attached.filter(|&slot| Some(slot) == number && slot_name(slot) == *only);
        let found = found.next().and_then(|slot| self.attachment(slot));
        found.into_iter().collect()
    }

    /// Refuses what is about an attachment that another user made.
    pub(super) fn may_touch(&self, slot: SlotIndex, caller: Caller) -> Result<(), PoolError> {
        match self.pool.holder(slot) {
            Some(holder) if !caller.may_touch(holder.uid) => Err(foreign(&holder.owner)),
            _ => Ok(()),
        }
    }

    /// The slot that `owner` holds, if it is the attachment that `id` names.
    pub(super) fn slot_named(&self, owner: &str, id: Option<&str>) -> Result<SlotIndex, PoolError> {
        let slot = self.slot_of(owner)?;
        if id.is_some_and(|id| self.attachment(slot).is_none_or(|held| held.id() != id)) {
            return Err(PoolError::NoSuchAttachment {
                owner: owner.to_owned(),
            });
        }
        Ok(slot)
    }

    fn slot_of(&self, owner: &str) -> Result<SlotIndex, PoolError> {
        self.pool
            .slot_of(owner)
            .ok_or_else(|| PoolError::NoSuchAttachment {
                owner: owner.to_owned(),
            })
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
        let class = self.class_named(request.class.as_deref())?;
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
        let process = leased_to(lease, request.lease_pid, caller)?;
        let (process, pidfd) = process.unzip();
        let options = Options::of(&request)?;
        let asked_at = self.now();
        let request = pool::AttachRequest {
            id,
            class,
            holder: Rc::new(Holder {
                owner: request.owner,
                tenant,
                class: self.classes[class].name.clone(),
                labels,
                lease,
                process,
                options,
                terms: None,
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

    fn note_waiting(&mut self, request: RequestId) {
        if let Some(pending) = self.pending.get(&request) {
            let class = self.class_named(Some(&pending.holder.class));
            let counts = class.map(|class| self.pool.counts_of(class));
            let waiting = Happening::Waiting {
                ahead: counts.map_or(0, |counts| counts.waiting.saturating_sub(1)),
            };
            self.events.push(waiting, None, Some(&pending.holder));
            self.after_change();
        }
    }
}

/// Why somebody else's attachment is not changed.
pub(super) fn foreign(owner: &str) -> PoolError {
    PoolError::PermissionDenied {
        reason: format!("owner '{owner}' was attached by another user"),
    }
}

/// The process that a lease is about, and what tells of its end.
fn leased_to(
    lease: Lease,
    pid: Option<u32>,
    caller: Caller,
) -> Result<Option<(Process, OwnedFd)>, PoolError> {
    let invalid = |reason: String| PoolError::invalid("lease_pid", reason);
    // The caller's process is known to be there: it waits for the answer.
    match (lease, pid.or(caller.pid.filter(|_| lease == Lease::Pid))) {
        (Lease::Pid, Some(pid)) => {
            let opened = process::open(pid);
            opened.map(Some).map_err(|error| invalid(error.to_string()))
        }
        (Lease::Pid, None) => Err(invalid(
            "the caller's process is not visible here; name one, or lease by connection".to_owned(),
        )),
        (_, Some(_)) => Err(invalid(format!("goes with the lease pid, not {lease}"))),
        (_, None) => Ok(None),
    }
}
