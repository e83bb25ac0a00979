//! Who gets which slot: requests are answered, or wait, and slots are given back.

use std::rc::Rc;

use pcpm_api::types::{OnEmpty, Source};

use super::{
    AttachRequest, ClassIndex, Command, Now, Pool, Recycle, Refusal, RequestId, SlotIndex,
    slot::State,
};

impl Pool {
    pub(super) fn attach(&mut self, request: AttachRequest, now: Now, commands: &mut Vec<Command>) {
        self.next_request = request.id + 1;
        let class = request.class;
        if self.classes[class].draining {
            return commands.push(request.refused(Refusal::Draining));
        }
        if let Some(answer) = self.answer_of_owner(&request) {
            return commands.push(answer);
        }
        let class = &mut self.classes[class];
        if !class.has_slot_for(&request) && !class.may_wait(request.on_empty) {
            class.demand.missed(now);
            commands.push(request.refused(Refusal::Exhausted(request.class)));
        } else if let Err(exceeded) = self.usage.admit(&request.holder, now) {
            commands.push(request.refused(Refusal::Quota(exceeded)));
        } else if let Some(slot) = class.kept.take(&request.holder.tenant) {
            self.grant(request, slot, Source::Warm, commands);
        } else if let Some(slot) = class.take_ready(&request.holder.tenant) {
            class.demand.taken(now);
            self.grant(request, slot, Source::Warm, commands);
        } else {
            class.demand.taken(now);
            class.waiting.push(request);
        }
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

    pub(super) fn cancel(&mut self, request: RequestId, now: Now) {
        let mut queues = self.classes.iter_mut().map(|class| &mut class.waiting);
        if let Some(request) = queues.find_map(|waiting| waiting.remove(request)) {
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
            let class = self.class_of(slot);
            let draining = self.classes[class].draining;
            let end = if self.recycling(class) == Recycle::Never || draining {
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
            } else if self.has_place(slot) {
                let class = self.class_of(slot);
                self.classes[class].ready.push_front(slot);
                self.serve_waiting(class, now, commands);
            } else {
                self.retire(slot, commands);
            }
        }
    }

    /// Gives ready slots to those who wait, in the order in which they came.
    pub(super) fn serve_waiting(
        &mut self,
        class: ClassIndex,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        while let Some(request) = self.classes[class].next_to_serve() {
            if let Some(answer) = self.answer_of_owner(&request) {
                self.usage.release(&request.holder, now);
                commands.push(answer);
                continue;
            }
            let ready = self.classes[class].ready.pop_front();
            let slot = ready.expect("the next is served only if there is one");
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
        let class = self.class_of(slot);
        let is_its = |request: &AttachRequest| *request.holder.tenant == *tenant;
        while let Some(request) = self.classes[class].waiting.pop_first_where(is_its) {
            if let Some(answer) = self.answer_of_owner(&request) {
                self.usage.release(&request.holder, now);
                commands.push(answer);
                continue;
            }
            return self.grant(request, slot, Source::Warm, commands);
        }
        self.set(slot, State::Kept(tenant.clone()));
        self.classes[class].kept.push(tenant, slot);
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

    pub(super) fn refuse_late(&mut self, class: ClassIndex, now: Now, commands: &mut Vec<Command>) {
        while let Some(request) = self.classes[class].waiting.pop_late(now) {
            self.usage.release(&request.holder, now);
            commands.push(request.refused(Refusal::Exhausted(class)));
        }
    }
}
