//! Carries out what the pool decides: work for the workers, words for the datapath, answers for
//! clients.

use std::rc::Rc;

use pcpm_api::{
    error::PoolError,
    types::{Lease, Source},
};
use pcpm_ebpf::abi::AttachmentWord;

use super::{
    Attached, Engine, Unusable, attachment::Origin, events::Happening, requests::foreign,
    unix_time_ms,
};
use crate::{
    net::SlotSpec,
    pool::{Command, Event, Exceeded, Holder, Refusal, RequestId, Scope, SlotIndex},
};

impl Engine {
    /// Carries out one command; an answer is returned with the request it belongs to.
    pub(super) fn carry_out(
        &mut self,
        command: Command,
    ) -> Option<(RequestId, Result<Attached, PoolError>)> {
        match command {
            Command::Create(slot) => {
                let class = self.pool.class_of(slot);
                let spec = SlotSpec {
                    mtu: self.mtu(class),
                    share: self.classes[class].share,
                    ..self.world.spec(slot)
                };
                self.work.create(spec);
            }
            Command::Retire(slot) => self.retire(slot),
            Command::Recycle(slot) => self.recycle(slot),
            Command::Revoke { slot, holder } => self.revoke(slot, &holder),
            Command::Grant {
                request,
                slot,
                source,
            } => {
                return Some((request, self.grant(request, slot, source)));
            }
            Command::Existing { request, slot } => {
                return Some((request, self.existing(request, slot)));
            }
            Command::Refuse { request, refusal } => {
                return Some((request, Err(self.refuse(request, refusal))));
            }
        }
        None
    }

    /// What a slot is made of, and was.
    pub(super) fn slot_spec(&self, slot: SlotIndex) -> SlotSpec {
        let text = self.records[slot as usize].text.as_ref();
        SlotSpec {
            mtu: text.map_or_else(|| self.mtu(self.pool.class_of(slot)), |text| text.mtu()),
            share: text.map(|text| text.share()).unwrap_or_default(),
            ..self.world.spec(slot)
        }
    }

    fn grant(
        &mut self,
        request: RequestId,
        slot: SlotIndex,
        source: Source,
    ) -> Result<Attached, PoolError> {
        let holder = self.pool.holder(slot).cloned();
        let holder = holder.expect("the pool grants attached slots");
        let epoch = self.pool.epoch(slot);
        let tenant = self.tenants.acquire(&holder.tenant);
        let asked_at = self.pending[&request].asked_at;
        let granted = self.live_with_process(request, slot);
        let granted = granted.and_then(|()| self.put_on_terms(slot));
        let granted = granted.and_then(|holder| {
            let policy = self.grant_options(slot, epoch)?;
            let took_us = u64::try_from(asked_at.elapsed().as_micros()).unwrap_or(u64::MAX);
            let origin = Origin {
                source,
                took_us,
                attached_at_ms: unix_time_ms(),
                life: self.life,
            };
            self.write_attached(slot, tenant, policy, origin, &holder)
                .inspect_err(|_| self.revoke_options(slot, &holder))?;
            Ok(origin)
        });
        let origin = match granted {
            Ok(origin) => origin,
            Err(error) => {
                self.tenants.release(&holder.tenant);
                self.process_leases.end(slot);
                self.totals.refused += 1;
                return Err(self.give_up(slot, error, Event::Unused(slot)));
            }
        };
        self.datapath
            .publish(slot, AttachmentWord::attached(epoch, tenant));
        let attached = Happening::Attached {
            source,
            took_us: origin.took_us,
        };
        self.events.push(attached, Some(slot), Some(&holder));
        let pending = &self.pending[&request];
        let pass_fd = pending.pass_fd;
        if holder.lease == Lease::Connection {
            self.leases.grant(slot, pending.client);
        }
        self.records[slot as usize].origin = Some(origin);
        self.show_soon(slot);
        self.totals.count_attach(source);
        self.note_attach_time(source, asked_at.elapsed());
        // A request that is refused after all must not keep the slot.
        self.attached(slot, pass_fd)
            .map_err(|error| self.give_up(slot, error, Event::Detach(slot)))
    }

    fn live_with_process(&mut self, request: RequestId, slot: SlotIndex) -> Result<(), PoolError> {
        let pending = self.pending.get_mut(&request);
        let Some(pidfd) = pending.and_then(|pending| pending.process.take()) else {
            return Ok(());
        };
        let granted = self.process_leases.grant(slot, pidfd);
        granted.map_err(|errno| PoolError::Failed {
            reason: format!("watch the process of the lease: {errno}"),
        })
    }

    fn give_up(&mut self, slot: SlotIndex, error: PoolError, then: Event) -> PoolError {
        self.unusable.push(Unusable {
            slot,
            error: error.clone(),
            then,
        });
        error
    }

    fn existing(&mut self, request: RequestId, slot: SlotIndex) -> Result<Attached, PoolError> {
        if let Some(unusable) = self.unusable.iter().find(|u| u.slot == slot) {
            return Err(unusable.error.clone());
        }
        let pending = &self.pending[&request];
        let pass_fd = pending.pass_fd;
        if self
            .pool
            .holder(slot)
            .is_some_and(|holder| holder.lease == Lease::Connection)
        {
            self.leases.grant(slot, pending.client);
        }
        self.attached(slot, pass_fd)
    }

    /// The error for a request that gets no slot; watchers are told whose it was.
    fn refuse(&mut self, request: RequestId, refusal: Refusal) -> PoolError {
        let error = self.refusal(refusal);
        let happening = if let PoolError::PoolExhausted { waiting, .. } = error {
            self.totals.exhausted += 1;
            Happening::Exhausted { waiting }
        } else {
            self.totals.refused += 1;
            let error = error.clone();
            Happening::Refused { error }
        };
        let holder = self.pending.get(&request).map(|pending| &pending.holder);
        self.events.push(happening, None, holder);
        error
    }

    fn refusal(&self, refusal: Refusal) -> PoolError {
        match refusal {
            Refusal::Exhausted(class) => {
                let counts = self.pool.counts_of(class);
                PoolError::PoolExhausted {
                    depth: counts.ready,
                    capacity: counts.capacity,
                    waiting: counts.waiting,
                    retry_after_ms: self.retry_after_ms(&counts),
                }
            }
            Refusal::OwnerExists { slot, field } => PoolError::OwnerExists {
                owner: self.owner_of(slot).to_owned(),
                field: field.to_owned(),
            },
            Refusal::Foreign { slot } => foreign(self.owner_of(slot)),
            Refusal::Quota(exceeded) => quota_exceeded(exceeded),
            Refusal::Draining => PoolError::Draining {},
        }
    }

    fn owner_of(&self, slot: SlotIndex) -> &str {
        self.pool.holder(slot).map_or("", |holder| &holder.owner)
    }

    fn revoke(&mut self, slot: SlotIndex, holder: &Rc<Holder>) {
        self.datapath
            .publish(slot, AttachmentWord::detached(self.pool.epoch(slot)));
        self.records[slot as usize].broken = None;
        self.note_detached(slot);
        self.revoke_options(slot, holder);
        self.leases.end(slot);
        self.process_leases.end(slot);
        self.tenants.release(&holder.tenant);
        self.totals.detached += 1;
        self.events
            .push(Happening::Detached, Some(slot), Some(holder));
    }
}

fn quota_exceeded(exceeded: Exceeded) -> PoolError {
    let (scope, what, limit, retry_after) = match exceeded {
        Exceeded::Attachments { scope, limit } => (scope, "attachments", limit, None),
        Exceeded::Rate {
            scope,
            limit,
            retry_after,
        } => (scope, "attaches a second", limit, Some(retry_after)),
    };
    let scope = match scope {
        Scope::Tenant => "tenant",
        Scope::User => "user",
    };
    PoolError::QuotaExceeded {
        scope: scope.to_owned(),
        what: what.to_owned(),
        limit,
        // Rounded up: a retry at that time is not too early.
        retry_after_ms: retry_after
            .map(|pause| u64::try_from(pause.as_millis() + 1).unwrap_or(u64::MAX)),
    }
}
