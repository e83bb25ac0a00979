//! What a worker thread is doing, for whoever sees it wait for a lock.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Pacing;

thread_local! {
    /// Where the thread says what it is doing; nowhere if nobody wants to know.
    static PLACE: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
    /// Who says when it may begin; nobody if it need not ask.
    static PACING: RefCell<Option<Arc<dyn Pacing>>> = const { RefCell::new(None) };
}

/// A step of a worker's job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Operation {
    /// Making the namespace of a slot, and what is in it before its link.
    Namespace = 1,
    /// Mounting it.
    Mount = 2,
    /// Making its link, from the hub.
    Link = 3,
    /// Configuring it from inside.
    Configure = 4,
    /// Destroying slots.
    Retire = 5,
    /// Repairing a slot that somebody holds.
    Mend = 6,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::Namespace,
        Self::Mount,
        Self::Link,
        Self::Configure,
        Self::Retire,
        Self::Mend,
    ];

    /// The one that is noted as this number.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|op| *op as u32 == number)
    }

    /// As people read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "refill/namespace",
            Self::Mount => "refill/mount",
            Self::Link => "refill/link",
            Self::Configure => "refill/configure",
            Self::Retire => "retire",
            Self::Mend => "repair",
        }
    }
}

impl Operation {
    /// Whether the rtnl lock is taken for it.
    pub(crate) const fn takes_rtnl(self) -> bool {
        !matches!(self, Self::Mount)
    }
}

/// From now on the calling thread asks `pacing` before it begins anything.
pub(crate) fn ask_before(pacing: Option<Arc<dyn Pacing>>) {
    PACING.set(pacing);
}

/// From now on the calling thread says at `place` what it is doing.
pub(crate) fn tell_at(place: Option<&'static AtomicU64>) {
    PLACE.set(place);
}

/// The calling thread does `operation` from now on, perhaps after a pause.
pub(crate) fn begin(operation: Operation) {
    PACING.with_borrow(|pacing| {
        if let Some(pacing) = pacing {
            end();
            pacing.wait_for_turn(operation);
        }
    });
    tell(operation as u64);
}

/// The calling thread does nothing worth telling any more.
pub(crate) fn end() {
    tell(0);
}

fn tell(number: u64) {
    if let Some(place) = PLACE.get() {
        place.store(number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_does_is_found_at_its_place_by_number() {
        static HERE: AtomicU64 = AtomicU64::new(0);
        begin(Operation::Mount);
        tell_at(Some(&HERE));
        for operation in Operation::ALL {
            begin(operation);
            let number = u32::try_from(HERE.load(Ordering::Relaxed)).unwrap();
            assert_eq!(Operation::from_number(number), Some(operation));
        }
        end();
        assert_eq!(HERE.load(Ordering::Relaxed), 0);
        tell_at(None);
    }
}
