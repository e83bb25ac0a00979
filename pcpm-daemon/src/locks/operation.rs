//! What a worker thread is doing, for whoever sees it wait for a lock.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

thread_local! {
    /// Where the thread says what it is doing; nowhere if nobody wants to know.
    static PLACE: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
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

/// From now on the calling thread says at `place` what it is doing.
pub(crate) fn tell_at(place: Option<&'static AtomicU64>) {
    PLACE.set(place);
}

/// The calling thread does `operation` from now on; `None`: nothing worth telling.
pub(crate) fn now(operation: Option<Operation>) {
    if let Some(place) = PLACE.get() {
        place.store(operation.map_or(0, |op| op as u64), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_does_is_found_at_its_place_by_number() {
        static HERE: AtomicU64 = AtomicU64::new(0);
        now(Some(Operation::Mount));
        tell_at(Some(&HERE));
        for operation in Operation::ALL {
            now(Some(operation));
            let number = u32::try_from(HERE.load(Ordering::Relaxed)).unwrap();
            assert_eq!(Operation::from_number(number), Some(operation));
        }
        now(None);
        assert_eq!(HERE.load(Ordering::Relaxed), 0);
        tell_at(None);
    }
}
