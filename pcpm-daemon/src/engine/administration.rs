//! What administrators change while the daemon runs: sizes, quotas, draining, the configuration.

use pcpm_api::{
    error::PoolError,
    types::{self, TargetMode},
};

use super::{Engine, events::Happening};
use crate::net;
use crate::pool::{Adaptive, Event, Quotas, Target};

/// Both kinds of target, so that one can be changed for the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    ready: u32,
    adaptive: Option<Adaptive>,
    mode: TargetMode,
}

impl Sizes {
    pub(super) fn of(target: Target) -> Self {
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

impl Engine {
    /// Refuses everybody from now on.
    pub(crate) fn drain(&mut self) {
        if !self.pool.is_draining() {
            self.events
                .push(Happening::Draining { on: true }, None, None);
        }
        self.feed(Event::Drain, None);
    }

    /// Destroys a ready slot, in whose place another one is made.
    pub(crate) fn retire_ready(&mut self, name: &str) -> Result<(), PoolError> {
        let slot = (0..self.pool.room()).find(|&slot| net::slot_name(slot) == name);
        let Some(slot) = slot.filter(|&slot| self.pool.is_idle(slot)) else {
            return Err(PoolError::invalid("slot", format!("'{name}' is not ready")));
        };
        self.feed(Event::Spoiled(slot), None);
        Ok(())
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

    fn set_size(&mut self, capacity: u32, target: Target) {
        let resized = Happening::Resized { capacity, target };
        self.events.push(resized, None, None);
        self.feed(Event::Resize { capacity, target }, None);
    }

    /// Other quotas, from the next request on.
    pub(crate) fn set_quotas(&mut self, quotas: Quotas) {
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
        self.restart_needed = restart_needed;
        self.note(Happening::Reloaded { message });
    }

    /// The configuration was read again and is wrong: nothing changed.
    pub(crate) fn reload_failed(&mut self, reason: &str) {
        let reason = reason.to_owned();
        self.note(Happening::NotReloaded { reason });
    }
}
