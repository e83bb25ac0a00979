//! The service manager that started the daemon, as far as it is told: that the pool is ready, that the
//! configuration is read, that the main loop still turns, that the daemon stops. Where nobody asked to be told
//! (`NOTIFY_SOCKET`), nothing happens.

use std::{cell::Cell, time::Duration};

use sd_notify::NotifyState;

/// Who is told.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    /// Whether it was told that the pool is ready. Before, what else begins or ends must not look like that.
    announced: Cell<bool>,
}

impl Supervisor {
    /// The pool is ready.
    pub(crate) fn ready(&self) {
        self.announced.set(true);
        tell(&[NotifyState::Ready]);
    }

    /// Does `work`, which reads the configuration.
    pub(crate) fn reloading<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.announced.get() {
            // Without the time systemd could take an earlier READY for the end of this.
            match NotifyState::monotonic_usec_now() {
                Ok(now) => tell(&[NotifyState::Reloading, now]),
                Err(error) => tracing::warn!("read the clock: {error}"),
            }
        }
        let done = work();
        if self.announced.get() {
            tell(&[NotifyState::Ready]);
        }
        done
    }

    /// The daemon stops.
    #[expect(clippy::unused_self, reason = "who is told is one thing")]
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Tells it in time that the caller's loop turns, and what `status` says, for as long as the future is polled.
    pub(crate) async fn reassure(&self, status: impl Fn() -> String) {
        let Some(within) = watchdog() else {
            return;
        };
        // Three chances: a busy machine is late, not stuck.
        let mut ticks = tokio::time::interval(within / 3);
        loop {
            ticks.tick().await;
            tell(&[NotifyState::Watchdog, NotifyState::Status(&status())]);
        }
    }
}

/// How often it wants to hear from this very process.
fn watchdog() -> Option<Duration> {
    let mut microseconds = 0;
    let wanted = sd_notify::watchdog_enabled(false, &mut microseconds) && microseconds > 0;
    wanted.then(|| Duration::from_micros(microseconds))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!("tell the service manager: {error}");
    }
}
