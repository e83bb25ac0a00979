//! What may cover a view.

use pcpm_api::types::{GetReply, LongWait};

use super::input::Input;

/// What covers the view.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Overlay {
    /// What the keys do, searched for what is typed.
    Help { search: Input, scroll: usize },
    /// A filter being typed, and what was in force before.
    Filter { input: Input, before: String },
    /// Everything about a slot. What only the daemon knows comes later.
    Slot {
        name: String,
        told: Option<Result<Box<GetReply>, String>>,
    },
    /// All of an event.
    Event(Box<super::events::Line>),
    /// All about a tenant.
    Tenant(String),
    /// The longest waits, one of them with its stack.
    Waits {
        waits: Vec<LongWait>,
        selected: usize,
    },
    /// All warnings with their advice.
    Warnings,
    /// Something to be done if the user says yes.
    Confirm(Request),
    /// How many slots to keep ready.
    Resize(Input),
}

/// What the daemon may be asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// End this attachment of the owner, and no later one.
    Detach {
        owner: String,
        slot: String,
        epoch: u32,
    },
    Retire {
        slot: String,
    },
    Drain {
        undo: bool,
    },
    Resize {
        ready: u32,
    },
}

impl Request {
    /// The question before it is done.
    pub(crate) fn question(&self) -> String {
        match self {
            Self::Detach { owner, slot, .. } => {
                format!("End the attachment of '{owner}' ({slot})? Its traffic is cut at once.")
            }
            Self::Retire { slot } => format!("Destroy the ready slot {slot}? It is made anew."),
            Self::Drain { undo: false } => {
                "Take no new attachments? Those there are go on; whoever waits is refused."
                    .to_owned()
            }
            Self::Drain { undo: true } => "Take new attachments again?".to_owned(),
            Self::Resize { ready } => format!("Keep {ready} slots ready?"),
        }
    }

    /// What was done.
    pub(crate) fn done(&self) -> String {
        match self {
            Self::Detach { owner, .. } => format!("detached '{owner}'"),
            Self::Retire { slot } => format!("{slot} is destroyed"),
            Self::Drain { undo: false } => "draining".to_owned(),
            Self::Drain { undo: true } => "taking attachments again".to_owned(),
            Self::Resize { ready } => format!("{ready} slots are kept ready"),
        }
    }
}
