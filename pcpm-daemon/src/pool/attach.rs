//! Who gets which slot: requests are answered, or wait, and slots are given back.

use std::rc::Rc;

use pcpm_api::types::{OnEmpty, SlotCounts, Source};

use super::{
    AttachRequest, Command, Now, Pool, Recycle, Refusal, RequestId, SlotIndex, slot::State,
};

impl Pool {
    pub(super) fn attach(&mut self, request: AttachRequest, now: Now, commands: &mut Vec<Command>) {
        self.next_request = request.id + 1;
        if self.draining {
            commands.push(request.refused(Refusal::Draining));
        } else if let Some(answer) = self.answer_of_owner(&request) {
            commands.push(answer);
        } else if !self.has_slot_for(&request) && !self.may_wait(request.on_empty) {
            self.demand.missed(now);
            commands.push(request.refused(Refusal::Exhausted));
        } else if let Err(exceeded) = self.usage.admit(&request.holder, now) {
            commands.push(request.refused(Refusal::Quota(exceeded)));
        } else if let Some(slot) = self.kept.take(&request.holder.tenant) {
            self.grant(request, slot, Source::Warm, commands);
        } else if let Some(slot) = self.take_ready() {
            self.demand.taken(now);
            self.grant(request, slot, Source::Warm, commands);
        } else {
            self.demand.taken(now);
            self.waiting.push(request);
        }
    }

    /// Whether a slot is there for the request that nobody else waits for.
    fn has_slot_for(&self, request: &AttachRequest) -> bool {
        self.kept.has(&request.holder.tenant) || self.waiting.is_empty() && !self.ready.is_empty()
    }

    /// Takes the next ready slot, if nobody waits for it.
    fn take_ready(&mut self) -> Option<SlotIndex> {
        self.waiting.is_empty().then(|| self.ready.pop_front())?
    }

    /// What a request gets whose owner has an attachment already.
    fn answer_of_owner(&self, request: &AttachRequest) -> Option<Command> {
        let slot = self.slot_of(&request.holder.owner)?;
        let holder = self.holder(slot).expect("owners names attached slots only");
        if request.holder.uid != holder.uid && !request.holder.by_administrator {
            return Some(request.refused(Refusal::Foreign { slot }));
        }
        let differs = request.exclusive.then_some("owner");
        Some(
            match differs.or_else(|| holder.difference(&request.holder)) {
                None => Command::Existing {
                    request: request.id,
                    slot,
                },
                Some(field) => request.refused(Refusal::OwnerExists { slot, field }),
            },
        )
    }

    /// Whether a request that finds no ready slot is queued. One that has a slot made needs one that
    /// is, or is about to be, vacant. One that waits may do so even when nothing is coming: a slot that
    /// is attached can be given back before the deadline.
    fn may_wait(&self, on_empty: OnEmpty) -> bool {
        let SlotCounts {
            vacant,
            creating,
            retiring,
            kept,
            ..
        } = self.counts;
        let coming = vacant + creating + retiring + kept;
        match on_empty {
            OnEmpty::Wait => true,
            OnEmpty::Create => coming > self.waiting.len(),
            OnEmpty::Fail => false,
        }
    }

    pub(super) fn cancel(&mut self, request: RequestId, now: Now) {
        if let Some(request) = self.waiting.remove(request) {
            self.usage.release(&request.holder, now);
        }
    }

    fn grant(
        &mut self,
        request: AttachRequest,
        slot: SlotIndex,
        source: Source,
        commands: &mut Vec<Command>,
    ) {
        self.owners.insert(request.holder.owner.clone(), slot);
        self.slots[slot as usize].epoch += 1;
        self.set(slot, State::Attached(request.holder));
        commands.push(Command::Grant {
            request: request.id,
            slot,
            source,
        });
    }

    pub(super) fn detach(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        if self.holder(slot).is_none() {
            return;
        }
        if let State::Attached(holder) = self.set(slot, State::Retiring) {
            self.owners.remove(&holder.owner);
            self.usage.release(&holder, now);
            let end = if self.recycling() == Recycle::Never || self.draining {
                Command::Retire(slot)
            } else {
                self.slots[slot as usize].used_by = Some(holder.tenant.as_str().into());
                Command::Recycle(slot)
            };
            commands.extend([Command::Revoke { slot, holder }, end]);
        }
    }

    pub(super) fn unused(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        if self.holder(slot).is_none() {
            return;
        }
        if let State::Attached(holder) = self.set(slot, State::Ready) {
            self.owners.remove(&holder.owner);
            self.usage.release(&holder, now);
            if self.slots[slot as usize].used_by.is_some() {
                self.ready_for_tenant(slot, now, commands);
            } else if slot < self.settings.capacity {
                self.ready.push_front(slot);
                self.serve_waiting(now, commands);
            } else {
                self.retire(slot, commands);
            }
        }
    }

    /// Gives ready slots to those who wait, in the order in which they came.
    pub(super) fn serve_waiting(&mut self, now: Now, commands: &mut Vec<Command>) {
        while !self.ready.is_empty() {
            let Some(request) = self.waiting.pop() else {
                return;
            };
            if let Some(answer) = self.answer_of_owner(&request) {
                self.usage.release(&request.holder, now);
                commands.push(answer);
                continue;
            }
            let slot = self.ready.pop_front().expect("it is not empty");
            let source = self.source_for(&request, slot);
            self.grant(request, slot, source, commands);
        }
    }

    /// Gives a slot that is for one tenant alone to the first of its requests that wait, or keeps it.
    pub(super) fn serve_tenant(
        &mut self,
        slot: SlotIndex,
        tenant: Rc<str>,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        while let Some(request) = self.waiting.pop_of(&tenant) {
            if let Some(answer) = self.answer_of_owner(&request) {
                self.usage.release(&request.holder, now);
                commands.push(answer);
                continue;
            }
            return self.grant(request, slot, Source::Warm, commands);
        }
        self.set(slot, State::Kept(tenant.clone()));
        self.kept.push(tenant, slot);
    }

    /// Where the slot comes from for a request that waited. It was made for the request if the
    /// request asked for that, or was there before the slot began to be made.
    fn source_for(&self, request: &AttachRequest, slot: SlotIndex) -> Source {
        let begun_later = request.id < self.slots[slot as usize].begun_before;
        if request.on_empty == OnEmpty::Create || begun_later {
            Source::Cold
        } else {
            Source::Warm
        }
    }

    pub(super) fn refuse_late(&mut self, now: Now, commands: &mut Vec<Command>) {
        while let Some(request) = self.waiting.pop_late(now) {
            self.usage.release(&request.holder, now);
            commands.push(request.refused(Refusal::Exhausted));
        }
    }
}
