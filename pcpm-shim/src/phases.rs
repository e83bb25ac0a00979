//! How long the phases of a container's start take, and telling the daemon so. No start depends on that: it is told
//! when the work is done, nothing is waited for, and what cannot be told is not.

use std::time::{Duration, Instant};

use pcpm_api::client::Client;
use pcpm_api::types::{PhaseTime, ReportStartRequest, StartPhase};

/// How long a daemon that does not listen may hold up whoever tells it something.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// Takes the times of one start.
#[derive(Debug)]
pub struct Stopwatch {
    begun: Instant,
    phases: Vec<PhaseTime>,
}

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        Self {
            begun: Instant::now(),
            phases: Vec::new(),
        }
    }

    /// Does `work`, whose time belongs to `phase`; a phase may have several parts.
    pub fn time<T>(&mut self, phase: StartPhase, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.add(phase, begun.elapsed());
        done
    }

    /// All the time so far is `phase`.
    pub fn whole(&mut self, phase: StartPhase) {
        self.add(phase, self.begun.elapsed());
    }

    fn add(&mut self, phase: StartPhase, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        match self.phases.iter_mut().find(|told| told.phase == phase) {
            Some(told) => told.took_us = told.took_us.saturating_add(took_us),
            None => self.phases.push(PhaseTime { phase, took_us }),
        }
    }

    /// Tells the times of the start of `owner`'s container, of attachment `id` where that is known.
    pub fn tell(self, pool: &mut Client, owner: &str, id: Option<&str>) {
        pool.set_timeout(PATIENCE);
        // Figures are all that is lost.
        let _ = pool.report_start(&ReportStartRequest {
            owner: owner.to_owned(),
            id: id.map(str::to_owned),
            phases: self.phases,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(2);

    fn pause() {
        std::thread::sleep(PAUSE);
    }

    #[test]
    fn parts_of_a_phase_are_added_up_and_the_whole_has_all_of_them() {
        let mut watch = Stopwatch::start();
        watch.time(StartPhase::Bundle, pause);
        watch.time(StartPhase::Attach, pause);
        watch.time(StartPhase::Bundle, pause);
        watch.whole(StartPhase::Add);
        let told: Vec<_> = watch.phases.iter().map(|told| told.phase).collect();
        assert_eq!(
            told,
            [StartPhase::Bundle, StartPhase::Attach, StartPhase::Add]
        );
        for (told, parts) in watch.phases.iter().zip([2, 1, 3]) {
            let least = parts * PAUSE;
            assert!(Duration::from_micros(told.took_us) >= least, "{told:?}");
        }
    }

    #[test]
    fn a_daemon_that_reads_nothing_holds_nobody_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut pool = Client::over(ours, "/run/deaf.sock");
        let begun = Instant::now();
        // More than there is room for.
        for _ in 0..100 {
            let mut watch = Stopwatch::start();
            watch.whole(StartPhase::Start);
            watch.tell(&mut pool, &"x".repeat(1 << 16), None);
        }
        drop(theirs);
        assert!(begun.elapsed() < 100 * PATIENCE, "{:?}", begun.elapsed());
    }
}
