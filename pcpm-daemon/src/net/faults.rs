//! Failures on demand, for tests: of the steps of an operation on the kernel one fails. A step is a netlink
//! request, which the kernel itself refuses then, or a call about namespaces, mounts or sysctls.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::NetError;

/// Counts steps down; the one that finds 0 fails.
type Countdown = Arc<AtomicI64>;

thread_local! {
    static PLAN: RefCell<Option<Countdown>> = const { RefCell::new(None) };
}

/// A failure that is planned as long as this lives, for this thread and for those that work for it.
pub(super) struct Plan(Countdown);

impl Plan {
    /// Lets the step after `steps` more fail.
    pub(super) fn fail_after(steps: i64) -> Self {
        let countdown = Arc::new(AtomicI64::new(steps));
        adopt(Some(countdown.clone()));
        Self(countdown)
    }

    /// Whether it has happened.
    pub(super) fn was_met(&self) -> bool {
        self.0.load(Ordering::Relaxed) < 0
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        adopt(None);
    }
}

/// The plan of this thread, for one that works for it.
pub(super) fn plan() -> Option<Countdown> {
    PLAN.with_borrow(Clone::clone)
}

/// Makes the plan that of the calling thread.
pub(super) fn adopt(plan: Option<Countdown>) {
    PLAN.set(plan);
}

/// Whether the step that is about to be done is to fail.
pub(super) fn hits() -> bool {
    plan().is_some_and(|countdown| countdown.fetch_sub(1, Ordering::Relaxed) == 0)
}

/// Fails if this step is to.
pub(super) fn step(what: &str) -> Result<(), NetError> {
    if hits() {
        return Err(NetError::new(what, "planned by a test"));
    }
    Ok(())
}
