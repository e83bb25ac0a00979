//! What a thread of the daemon is doing, for whoever sees it wait for a lock.

use std::{
    cell::{Cell, RefCell},
    sync::{Arc, OnceLock, atomic::Ordering},
};

use super::Pacing;
use crate::bpf::{WorkerMarks, WorkerPlace};

thread_local! {
    /// How the thread says what it is doing and asks before it does; neither if nobody wants to know.
    static TELLER: RefCell<Option<Teller>> = const { RefCell::new(None) };
    /// Where it says so.
    static PLACE: Cell<Option<WorkerPlace>> = const { Cell::new(None) };
}

/// A step of the job of a thread that may take the rtnl lock.
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
    /// Taking the golden copy of a new slot.
    Portray = 7,
    /// Judging a used one.
    Judge = 8,
    /// Comparing a hub with what it is to be.
    Hub = 9,
    /// Comparing slots with what they are to be.
    Slots = 10,
    /// Following the host's uplinks and addresses.
    Uplink = 11,
}

impl Operation {
    const ALL: [Self; 11] = [
        Self::Namespace,
        Self::Mount,
        Self::Link,
        Self::Configure,
        Self::Retire,
        Self::Mend,
        Self::Portray,
        Self::Judge,
        Self::Hub,
        Self::Slots,
        Self::Uplink,
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
            Self::Portray => "recycle/portray",
            Self::Judge => "recycle/judge",
            Self::Hub => "reap/hub",
            Self::Slots => "reap/slots",
            Self::Uplink => "uplink",
        }
    }
}

impl Operation {
    /// Whether the rtnl lock is taken for it.
    pub(crate) const fn takes_rtnl(self) -> bool {
        !matches!(self, Self::Mount)
    }
}

/// How a thread says what it is doing and asks before it does.
#[derive(Clone, Default)]
pub(crate) struct Teller {
    /// Where there are places to say so, as soon as the tracer is attached.
    pub(crate) marks: Arc<OnceLock<WorkerMarks>>,
    /// Who says when it may begin; nobody if it need not ask.
    pub(crate) pacing: Option<Arc<dyn Pacing>>,
}

impl Teller {
    /// The same without asking.
    pub(crate) fn hurried(&self) -> Self {
        Self {
            pacing: None,
            ..self.clone()
        }
    }

    /// From now on it is the calling thread's.
    pub(crate) fn adopt(self) {
        TELLER.set(Some(self));
    }

    fn place(&self) -> Option<WorkerPlace> {
        if PLACE.get().is_none() {
            PLACE.set(self.marks.get().and_then(WorkerMarks::join));
        }
        PLACE.get()
    }
}

/// The calling thread does `operation` from now on, perhaps after a pause.
pub(crate) fn begin(operation: Operation) {
    TELLER.with_borrow(|teller| {
        let Some(teller) = teller else {
            return;
        };
        if let Some(pacing) = &teller.pacing {
            end();
            pacing.wait_for_turn(operation);
        }
        if let Some(place) = teller.place() {
            place.operation.store(operation as u64, Ordering::Relaxed);
        }
    });
}

/// The calling thread does nothing worth telling any more.
pub(crate) fn end() {
    if let Some(place) = PLACE.get() {
        place.operation.store(0, Ordering::Relaxed);
    }
}

/// What the calling thread does is done by threads that it starts and waits for.
pub(crate) struct HandedOn {
    teller: Option<Teller>,
    place: Option<WorkerPlace>,
}

/// To be taken by threads that work for the calling one.
pub(crate) fn hand_on() -> HandedOn {
    HandedOn {
        teller: TELLER.with_borrow(Clone::clone),
        place: PLACE.get(),
    }
}

impl HandedOn {
    /// The calling thread works for the one that handed this on, as long as what is returned lives.
    pub(crate) fn take(&self) -> Helper {
        let marks = self.teller.as_ref().map(|teller| teller.marks.clone());
        let joined = marks.filter(|marks| {
            let marks = marks.get().zip(self.place);
            marks.is_some_and(|(marks, place)| marks.join_at(place))
        });
        Helper { joined }
    }
}

/// A thread that works for another one.
pub(crate) struct Helper {
    joined: Option<Arc<OnceLock<WorkerMarks>>>,
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(marks) = self.joined.as_ref().and_then(|marks| marks.get()) {
            marks.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Mutex};

    use super::*;

    #[test]
    fn every_operation_has_a_number_and_a_name_of_its_own() {
        for operation in Operation::ALL {
            let number = operation as u32;
            assert_eq!(Operation::from_number(number), Some(operation));
        }
        let names: BTreeSet<_> = Operation::ALL.map(Operation::name).into();
        assert_eq!(names.len(), Operation::ALL.len());
    }

    #[derive(Default)]
    struct Asked(Mutex<Vec<Operation>>);

    impl Pacing for Asked {
        fn wait_for_turn(&self, operation: Operation) {
            self.0.lock().unwrap().push(operation);
        }

        fn batch(&self) -> usize {
            1
        }
    }

    #[test]
    fn a_thread_asks_before_each_step_once_it_has_somebody_to_ask() {
        let asked = Arc::new(Asked::default());
        begin(Operation::Mount);
        let teller = Teller {
            pacing: Some(asked.clone()),
            ..Teller::default()
        };
        teller.adopt();
        for operation in Operation::ALL {
            begin(operation);
        }
        end();
        assert_eq!(*asked.0.lock().unwrap(), Operation::ALL);
    }
}
