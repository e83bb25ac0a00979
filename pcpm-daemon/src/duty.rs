//! Threads that look after the host put back what is missing. When the daemon removes all of it they must have
//! stopped, or they would.

use std::sync::{Arc, PoisonError, RwLock};

/// Shared by such threads; clones are the same duty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Duty(Arc<RwLock<Over>>);

/// Whether it is.
type Over = bool;

impl Duty {
    /// Does `work`, unless the duty is over.
    pub(crate) fn on<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let over = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (!*over).then(work)
    }

    /// Ends it: when this returns, whoever was at work is done, and nobody begins any more.
    pub(crate) fn end(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn work_that_began_is_done_when_the_duty_is_over_and_none_begins() {
        let duty = Duty::default();
        let (began, beginning) = mpsc::channel();
        let (done, end) = mpsc::channel();
        let other = duty.clone();
        let at_work = thread::spawn(move || {
            other.on(|| {
                began.send(()).unwrap();
                thread::yield_now();
                done.send(()).unwrap();
            })
        });
        beginning.recv().unwrap();
        duty.end();
        end.try_recv().unwrap();
        assert_eq!(duty.on(|| ()), None);
        assert_eq!(at_work.join().unwrap(), Some(()));
    }
}
