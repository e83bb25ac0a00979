//! What goes into the pool and what comes out of it.

use std::{collections::BTreeMap, ops::Range, rc::Rc};

use pcpm_api::{
    limits::DEFAULT_CLASS,
    options::Options,
    types::{Lease, OnEmpty, Source},
};
use serde::{Deserialize, Serialize};

use super::{
    ClassIndex, Exceeded, Now, Quotas, RequestId, ReserveSettings, SlotIndex, Target, Terms,
};
use crate::process::Process;

/// How large the pool is and how it is filled.
#[derive(Clone, Debug)]
pub(crate) struct PoolSettings {
    /// At least one.
    pub(crate) classes: Vec<ClassSettings>,
    /// Indexes below are for the classes that have none of their own.
    pub(crate) shared: u32,
    /// Slots that may be in creation at once; more would only queue before the workers.
    pub(crate) creating: u32,
    /// How much of it one tenant or user may have, of all classes together.
    pub(crate) quotas: Quotas,
}

/// Slots that are made alike.
#[derive(Clone, Debug)]
pub(crate) struct ClassSettings {
    /// Slots that may be in use; a resize changes it.
    pub(crate) capacity: u32,
    /// Ready slots aimed for.
    pub(crate) target: Target,
    /// Ready slots held back for some tenants.
    pub(crate) reserves: Vec<ReserveSettings>,
    /// Indexes that only its slots have, if it has some of its own.
    pub(crate) indexes: Option<Range<SlotIndex>>,
    /// What becomes of used slots, where it can be found out whether they are clean.
    pub(crate) recycle: Recycle,
}

/// What becomes of a slot that was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Recycle {
    /// It is destroyed, and another one made in its place.
    #[default]
    Never,
    /// It is kept for the tenant that had it, if nobody is in it or reaches it any more.
    SameTenant,
    /// It is used again by anybody if it is found to be as good as new.
    Verified,
}

/// Who holds a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) owner: String,
    pub(crate) tenant: String,
    /// The class of slots that it asked for.
    #[serde(default = "default_class", skip_serializing_if = "is_default_class")]
    pub(crate) class: Rc<str>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) lease: Lease,
    /// What the lease `pid` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<Process>,
    /// What it asked for.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub(crate) options: Options,
    /// The rules and limits that count, where its class gives some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) terms: Option<Rc<Terms>>,
    /// The user that attached it, by number.
    pub(crate) uid: u32,
    /// Whether that user was an administrator then: no quota of users counts it.
    pub(crate) by_administrator: bool,
}

/// The class of what says nothing of classes.
pub(crate) fn default_class() -> Rc<str> {
    DEFAULT_CLASS.into()
}

/// Whether nothing has to be said of it.
pub(crate) fn is_default_class(class: &Rc<str>) -> bool {
    **class == *DEFAULT_CLASS
}

impl Holder {
    /// The first parameter in which two requests of one owner differ.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        [
            ("tenant", self.tenant == other.tenant),
            ("class", self.class == other.class),
            ("labels", self.labels == other.labels),
            ("lease", self.lease == other.lease),
            ("lease_pid", self.process == other.process),
        ]
        .into_iter()
        .find_map(|(field, same)| (!same).then_some(field))
        .or_else(|| self.options.difference(&other.options))
    }
}

/// A request for a slot.
#[derive(Clone, Debug)]
pub(crate) struct AttachRequest {
    pub(crate) id: RequestId,
    pub(crate) class: ClassIndex,
    pub(crate) holder: Rc<Holder>,
    /// Refuse it if the owner has an attachment, whatever its parameters.
    pub(crate) exclusive: bool,
    pub(crate) on_empty: OnEmpty,
    pub(crate) asked_at: Now,
    pub(crate) deadline: Now,
}

impl AttachRequest {
    pub(super) fn refused(&self, refusal: Refusal) -> Command {
        Command::Refuse {
            request: self.id,
            refusal,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time passed, see [`super::Pool::next_deadline`].
    Tick,
    /// Somebody asks for a slot.
    Attach(AttachRequest),
    /// A request that waits is no longer wanted.
    Cancel(RequestId),
    /// An attached slot is given back.
    Detach(SlotIndex),
    /// An attached slot could not be let out, and no packet passed it: its request is answered, the
    /// slot is as good as new.
    Unused(SlotIndex),
    /// A ready slot is no longer as it was made.
    Spoiled(SlotIndex),
    /// A [`Command::Create`] succeeded.
    Created(SlotIndex),
    /// A [`Command::Create`] failed and left nothing behind.
    CreateFailed(SlotIndex, String),
    /// A [`Command::Recycle`] found the slot clean enough. If not, the slot is destroyed, as by
    /// [`Command::Retire`].
    Recycled(SlotIndex),
    /// A [`Command::Retire`] succeeded.
    Retired(SlotIndex),
    /// A [`Command::Retire`] failed; something of the slot may be left.
    RetireFailed(SlotIndex, String),
    /// No attach of this class, or of any, is answered from now on, and nothing is made any more.
    Drain(Option<ClassIndex>),
    /// The end of that.
    EndDrain(Option<ClassIndex>),
    /// The class has this capacity and target from now on. Slots beyond are destroyed as they become free.
    Resize {
        class: ClassIndex,
        capacity: u32,
        target: Target,
    },
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Make the slot, as its class is made.
    Create(SlotIndex),
    /// Destroy the slot.
    Retire(SlotIndex),
    /// See whether the slot can be used again, and destroy it if not.
    Recycle(SlotIndex),
    /// Let the slot's traffic pass, then answer the request.
    Grant {
        request: RequestId,
        slot: SlotIndex,
        source: Source,
    },
    /// Answer the request with the attachment its owner has already.
    Existing { request: RequestId, slot: SlotIndex },
    /// Answer the request with an error.
    Refuse {
        request: RequestId,
        refusal: Refusal,
    },
    /// Cut the slot's traffic; comes before its [`Command::Retire`]. Says who held it.
    Revoke { slot: SlotIndex, holder: Rc<Holder> },
}

/// Why an attach is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No slot of this class, or none in time.
    Exhausted(ClassIndex),
    /// The owner holds this slot, attached with another value of this parameter.
    OwnerExists {
        slot: SlotIndex,
        field: &'static str,
    },
    /// The owner's slot was attached by another user.
    Foreign { slot: SlotIndex },
    /// More than the tenant or the user may have.
    Quota(Exceeded),
    /// The pool is being drained.
    Draining,
}

/// A slot as an earlier life left it.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) slot: SlotIndex,
    /// That it was made for.
    pub(crate) class: ClassIndex,
    /// Its last attachment.
    pub(crate) epoch: u32,
    pub(crate) now: Left,
}

/// What an earlier life left of a slot.
#[derive(Debug)]
pub(crate) enum Left {
    Nothing,
    /// It is clean.
    Ready,
    /// It is clean enough for the tenant that had it.
    Kept(Rc<str>),
    Attached(Rc<Holder>),
    /// Something that has to be destroyed.
    Spent,
}
