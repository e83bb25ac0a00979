//! Requests that wait for a slot: served in order of arrival, each with its own deadline.

use std::collections::{BTreeMap, BTreeSet};

use super::{AttachRequest, Now, RequestId};

#[derive(Debug, Default)]
pub(super) struct WaitingQueue {
    /// Ids grow with arrival, so the first one is the oldest.
    requests: BTreeMap<RequestId, AttachRequest>,
    deadlines: BTreeSet<(Now, RequestId)>,
}

impl WaitingQueue {
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.requests.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &AttachRequest> {
        self.requests.values()
    }

    pub(super) fn push(&mut self, request: AttachRequest) {
        self.deadlines.insert((request.deadline, request.id));
        self.requests.insert(request.id, request);
    }

    /// Takes the oldest request.
    pub(super) fn pop(&mut self) -> Option<AttachRequest> {
        let (_, request) = self.requests.pop_first()?;
        self.deadlines.remove(&(request.deadline, request.id));
        Some(request)
    }

    /// Takes the oldest request that `wanted` says yes to.
    pub(super) fn pop_first_where(
        &mut self,
        wanted: impl Fn(&AttachRequest) -> bool,
    ) -> Option<AttachRequest> {
        let id = self.requests.values().find(|request| wanted(request))?.id;
        self.remove(id)
    }

    /// Takes a request whose deadline has come.
    pub(super) fn pop_late(&mut self, now: Now) -> Option<AttachRequest> {
        let &(deadline, id) = self.deadlines.first()?;
        (deadline <= now).then(|| self.remove(id)).flatten()
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<AttachRequest> {
        let request = self.requests.remove(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        Some(request)
    }

    pub(super) fn next_deadline(&self) -> Option<Now> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }
}
