//! What classes say about rules and limits, put in force: for a slot that is handed out, and for all that
//! are held when a class says something else than before.

use std::rc::Rc;

use pcpm_api::{error::PoolError, options::Options};

use super::{Engine, events::Happening};
use crate::pool::{Holder, SlotIndex, Terms};

impl Engine {
    /// Has whoever is to be let out of the slot on the terms of its class.
    pub(super) fn put_on_terms(&mut self, slot: SlotIndex) -> Result<Rc<Holder>, PoolError> {
        let holder = self.holder_on_terms(slot)?;
        self.pool.change_holder(slot, holder.clone());
        Ok(holder)
    }

    /// Whoever holds the slot, with the rules and limits that its class gives it now.
    fn holder_on_terms(&self, slot: SlotIndex) -> Result<Rc<Holder>, PoolError> {
        let holder = self.pool.holder(slot);
        self.on_terms(slot, holder.expect("terms are those of attached slots"))
    }

    /// The same for one that is to hold the slot. Where the class is not there any more, what it gave stays.
    pub(super) fn on_terms(
        &self,
        slot: SlotIndex,
        holder: &Rc<Holder>,
    ) -> Result<Rc<Holder>, PoolError> {
        let class = &self.classes[self.pool.class_of(slot)];
        if class.is_removed {
            return Ok(holder.clone());
        }
        let terms = class.terms.as_ref();
        let terms = terms.map(|given| given.with(&holder.options)).transpose()?;
        if terms == holder.terms {
            return Ok(holder.clone());
        }
        Ok(Rc::new(Holder {
            terms,
            ..holder.as_ref().clone()
        }))
    }

    /// The rules and limits that classes give, in the order of the classes. They are in force when this
    /// returns; says for how many attachments that are others than before.
    pub(crate) fn set_terms(&mut self, terms: Vec<Option<Rc<Terms>>>) -> u32 {
        for (class, terms) in self.classes.iter_mut().zip(terms) {
            class.terms = terms;
        }
        self.apply_terms()
    }

    /// Has all attachments on the terms of their classes. One that cannot be keeps those it has.
    pub(super) fn apply_terms(&mut self) -> u32 {
        let mut updated = 0;
        for slot in self.pool.attached_slots().collect::<Vec<_>>() {
            updated += u32::from(self.apply_terms_to(slot));
        }
        updated
    }

    /// Refuses a change of what cannot be put together any more with what the class gave.
    pub(super) fn may_change_terms(
        &self,
        slot: SlotIndex,
        before: &Holder,
        after: &Options,
    ) -> Result<(), PoolError> {
        let class = &self.classes[self.pool.class_of(slot)];
        let ports = Options {
            publish: before.options.publish.clone(),
            ..after.clone()
        };
        let difference = before.options.difference(&ports);
        match difference.filter(|_| class.is_removed && before.terms.is_some()) {
            Some(field) => Err(PoolError::invalid(
                field,
                format!(
                    "class '{}' is not configured any more, so the rules and limits that it gave stay as they are",
                    class.name
                ),
            )),
            None => Ok(()),
        }
    }

    fn apply_terms_to(&mut self, slot: SlotIndex) -> bool {
        let before = self.pool.holder(slot).cloned();
        let before = before.expect("it is attached");
        let after = self.holder_on_terms(slot);
        let changed = after.and_then(|after| {
            let differs = !Rc::ptr_eq(&before, &after);
            if differs {
                self.change(slot, &before, &after)?;
            }
            Ok(differs)
        });
        changed.unwrap_or_else(|error| {
            let reason = error.to_string();
            let happening = Happening::NotUpdated { reason };
            self.events.push(happening, Some(slot), Some(&before));
            false
        })
    }
}
