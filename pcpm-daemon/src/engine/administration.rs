//! What administrators change while the daemon runs: sizes, quotas, draining, the configuration.

use pcpm_api::{
    error::PoolError,
    types::{self, DrainReply, DrainRequest, TargetMode},
};

use super::{Engine, events::Happening};
use crate::net;
use crate::pool::{Adaptive, ClassIndex, Event, Quotas, Target};

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
    pub(crate) fn refuse_everybody(&mut self) {
        self.set_draining(None, true);
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

    /// Refuses who asks for a slot of a class, or of any, from now on, or takes attaches again.
    pub(crate) fn drain(&mut self, request: &DrainRequest) -> Result<DrainReply, PoolError> {
        let draining = request.undo != Some(true);
        let class = self.chosen(request.class.as_deref())?;
        self.set_draining(class, draining);
        let attached = match class {
            Some(class) => self.pool.counts_of(class).attached,
            None => self.pool.counts().attached,
        };
        Ok(DrainReply { draining, attached })
    }

    fn chosen(&self, class: Option<&str>) -> Result<Option<ClassIndex>, PoolError> {
        class.map(|name| self.class_named(Some(name))).transpose()
    }

    fn set_draining(&mut self, class: Option<ClassIndex>, on: bool) {
        let was = class.map_or(self.pool.is_draining(), |class| self.pool.drains(class));
        if was != on {
            let name = class.map(|class| self.classes[class].name.clone());
            let happening = Happening::Draining { on };
            self.events.push_in(happening, name, None, None);
        }
        let event = if on {
            Event::Drain(class)
        } else {
            Event::EndDrain(class)
        };
        self.feed(event, None);
    }

    /// Changes how large a class is and how much of it is kept ready.
    pub(crate) fn resize(
        &mut self,
        request: &types::ResizeRequest,
    ) -> Result<types::ResizeReply, PoolError> {
        let class = self.class_named(request.class.as_deref())?;
        let before = self.pool.counts_of(class).capacity;
        let capacity = request.capacity.unwrap_or(before);
        let room = self.room_for(class);
        if capacity == 0 || capacity > room {
            let reason = format!("{capacity} is not from 1 to {room} ({})", self.bound(class));
            return Err(PoolError::invalid("capacity", reason));
        }
        if let Some(ready) = request.ready.filter(|&ready| ready > capacity) {
            let reason = format!("{ready} is more than the capacity, {capacity}");
            return Err(PoolError::invalid("ready", reason));
        }
        let sizes = &mut self.classes[class].sizes;
        let target = sizes.resized(request, before, capacity);
        self.set_size(class, capacity, target);
        Ok(types::ResizeReply {
            slots: self.pool.counts_of(class),
            target: self.warm_target(class),
        })
    }

    /// How large the class can be made, as the others are now.
    fn room_for(&self, class: ClassIndex) -> u32 {
        self.pool.room_for(class).min(self.room_in_files(class))
    }

    /// The same as far as file descriptors go. What there is already may stay.
    fn room_in_files(&self, class: ClassIndex) -> u32 {
        let own = self.pool.counts_of(class).capacity;
        let others = self.pool.counts().capacity - own;
        self.most_slots.saturating_sub(others).max(own)
    }

    /// What bounds the size of a class.
    fn bound(&self, class: ClassIndex) -> &'static str {
        match self.classes.len() {
            _ if self.room_in_files(class) < self.pool.room_for(class) => "the limit on open files",
            1 => "max_capacity",
            _ if self.pool.has_own_indexes(class) => "its addresses",
            _ => "max_capacity, less what other classes have of it",
        }
    }

    /// The same as the configuration says, for each class in order; false if there is no room for so many.
    pub(crate) fn resize_as_configured(&mut self, sizes: &[(u32, Target)]) -> bool {
        let mut fits = true;
        // What becomes smaller makes room for the rest.
        for growing in [false, true] {
            for (class, &(capacity, target)) in sizes.iter().enumerate() {
                let before = self.pool.counts_of(class).capacity;
                if (capacity > before) == growing {
                    let room = self.room_for(class);
                    fits &= capacity <= room;
                    self.classes[class].sizes = Sizes::of(target);
                    self.set_size(class, capacity.min(room), target);
                }
            }
        }
        fits
    }

    fn set_size(&mut self, class: ClassIndex, capacity: u32, target: Target) {
        let resized = Happening::Resized { capacity, target };
        let name = self.classes[class].name.clone();
        self.events.push_in(resized, Some(name), None, None);
        let resize = Event::Resize {
            class,
            capacity,
            target,
        };
        self.feed(resize, None);
    }

    /// Other quotas, from the next request on.
    pub(crate) fn set_quotas(&mut self, quotas: Quotas) {
        self.pool.set_quotas(quotas);
    }

    /// The configuration was read again.
    pub(crate) fn reloaded(
        &mut self,
        changed: &[String],
        restart_needed: Vec<String>,
        updated: u32,
    ) {
        let changed = match changed {
            [] => "nothing changed".to_owned(),
            changed => format!("changed: {}", changed.join(", ")),
        };
        let changed = match updated {
            0 => changed,
            1 => format!("{changed}; 1 attachment has other rules or limits"),
            _ => format!("{changed}; {updated} attachments have other rules or limits"),
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
