//! What goes into the pool and what comes out of it.

use std::{collections::BTreeMap, fmt, ops::Range, rc::Rc};

use pcpm_api::{
    limits::DEFAULT_CLASS,
    options::Options,
    types::{Lease, OnEmpty, Source},
};
use serde::{Deserialize, Serialize};

use super::{
    ClassIndex, Exceeded, Now, Quotas, RequestId, ReserveSettings, SlotIndex, Target, Terms,
};

/// How large the pool is and how it is filled.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// At least one.
    pub classes: Vec<ClassSettings>,
    /// Indexes below are for the classes that have none of their own.
    pub shared: u32,
    /// Slots that may be in creation at once; more would only queue before the workers.
    pub creating: u32,
    /// How much of it one tenant or user may have, of all classes together.
    pub quotas: Quotas,
}

/// Slots that are made alike.
#[derive(Clone, Debug)]
pub struct ClassSettings {
    /// Slots that may be in use; a resize changes it.
    pub capacity: u32,
    /// Ready slots aimed for.
    pub target: Target,
    /// Ready slots held back for some tenants.
    pub reserves: Vec<ReserveSettings>,
    /// Indexes that only its slots have, if it has some of its own.
    pub indexes: Option<Range<SlotIndex>>,
    /// What becomes of used slots, where it can be found out whether they are clean.
    pub recycle: Recycle,
}

/// What becomes of a slot that was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recycle {
    /// It is destroyed, and another one made in its place.
    #[default]
    Never,
    /// It is kept for the tenant that had it, if nobody is in it or reaches it any more.
    SameTenant,
    /// It is used again by anybody if it is found to be as good as new.
    Verified,
}

/// As the configuration says it.
impl fmt::Display for Recycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::SameTenant => "same-tenant",
            Self::Verified => "verified",
        })
    }
}

/// A process, for as long as the host is up: another one that gets its id later began at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number in the daemon's process namespace.
    pub pid: u32,
    /// When it began, in clock ticks since boot.
    pub started: u64,
}

/// Who holds a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its name: a container's id. Nobody else has the same.
    pub owner: String,
    /// Whose it is: those of one tenant reach each other.
    pub tenant: String,
    /// The class of slots that it asked for.
    #[serde(default = "default_class", skip_serializing_if = "is_default_class")]
    pub class: Rc<str>,
    /// What its platform wants to find again; nothing is done with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What ends the attachment.
    pub lease: Lease,
    /// What the lease `pid` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// What it asked for.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options,
    /// The rules and limits that count, where its class gives some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Rc<Terms>>,
    /// The user that attached it, by number.
    pub uid: u32,
    /// Whether that user was an administrator then: no quota of users counts it.
    pub by_administrator: bool,
}

/// The class of what says nothing of classes.
pub fn default_class() -> Rc<str> {
    DEFAULT_CLASS.into()
}

/// Whether nothing has to be said of it.
pub fn is_default_class(class: &Rc<str>) -> bool {
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
pub struct AttachRequest {
    /// Names it in what becomes of it.
    pub id: RequestId,
    /// Of which class the slot is to be.
    pub class: ClassIndex,
    /// Who is to hold the slot.
    pub holder: Rc<Holder>,
    /// Refuse it if the owner has an attachment, whatever its parameters.
    pub exclusive: bool,
    /// What is to happen if no slot is ready.
    pub on_empty: OnEmpty,
    /// When it came.
    pub asked_at: Now,
    /// When it is refused if it still waits.
    pub deadline: Now,
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
pub enum Event {
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
        /// Which class.
        class: ClassIndex,
        /// Slots that may be in use.
        capacity: u32,
        /// Ready slots aimed for.
        target: Target,
    },
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the slot, as its class is made.
    Create(SlotIndex),
    /// Destroy the slot.
    Retire(SlotIndex),
    /// See whether the slot can be used again, and destroy it if not.
    Recycle(SlotIndex),
    /// Let the slot's traffic pass, then answer the request.
    Grant {
        /// The one to answer.
        request: RequestId,
        /// What it gets.
        slot: SlotIndex,
        /// Whether the slot was ready when it was asked for.
        source: Source,
    },
    /// Answer the request with the attachment its owner has already.
    Existing {
        /// The one to answer.
        request: RequestId,
        /// The slot that its owner holds.
        slot: SlotIndex,
    },
    /// Answer the request with an error.
    Refuse {
        /// The one to answer.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// Cut the slot's traffic; comes before its [`Command::Retire`].
    Revoke {
        /// Whose traffic.
        slot: SlotIndex,
        /// Who held it.
        holder: Rc<Holder>,
    },
}

/// Why an attach is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No slot of this class, or none in time.
    Exhausted(ClassIndex),
    /// The owner holds this slot, attached with another value of this parameter.
    OwnerExists {
        /// The one that it holds.
        slot: SlotIndex,
        /// The parameter, by its name in the protocol.
        field: &'static str,
    },
    /// The owner's slot was attached by another user.
    Foreign {
        /// The one that it holds.
        slot: SlotIndex,
    },
    /// More than the tenant or the user may have.
    Quota(Exceeded),
    /// The pool is being drained.
    Draining,
}

/// A slot as an earlier life left it.
#[derive(Debug)]
pub struct Restored {
    /// Which one.
    pub slot: SlotIndex,
    /// That it was made for.
    pub class: ClassIndex,
    /// Its last attachment.
    pub epoch: u32,
    /// What is there of it.
    pub now: Left,
}

/// What an earlier life left of a slot.
#[derive(Debug)]
pub enum Left {
    /// It is not there.
    Nothing,
    /// It is clean.
    Ready,
    /// It is clean enough for the tenant that had it.
    Kept(Rc<str>),
    /// Somebody holds it.
    Attached(Rc<Holder>),
    /// Something that has to be destroyed.
    Spent,
}
