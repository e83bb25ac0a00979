//! Work that the engine hands to threads and that they have not begun. The engine never waits for it. The pool bounds it: a
//! slot is in one state at a time.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Jobs of the kind `J`, shared with the threads that do them.
#[derive(Debug)]
pub(super) struct JobQueue<J> {
    /// `None` once it is closed.
    jobs: Mutex<Option<J>>,
    changed: Condvar,
}

/// What there is to do now.
pub(super) enum Next<T> {
    Job(T),
    /// Nothing for that long, or until there are other jobs.
    Wait(Option<Duration>),
}

impl<J: Default> Default for JobQueue<J> {
    fn default() -> Self {
        Self {
            jobs: Mutex::new(Some(J::default())),
            changed: Condvar::new(),
        }
    }
}

impl<J> JobQueue<J> {
    /// Changes the jobs; nothing comes of it when the queue is closed.
    pub(super) fn change(&self, change: impl FnOnce(&mut J)) {
        if let Some(jobs) = self.lock().as_mut() {
            change(jobs);
        }
        self.changed.notify_one();
    }

    /// Forgets all jobs; there will be none.
    pub(super) fn close(&self) {
        *self.lock() = None;
        self.changed.notify_all();
    }

    /// Waits until `take` finds a job; `None` when there will be none.
    pub(super) fn next<T>(&self, take: impl Fn(&mut J) -> Next<T>) -> Option<T> {
        let mut jobs = self.lock();
        loop {
            jobs = match take(jobs.as_mut()?) {
                Next::Job(job) => return Some(job),
                Next::Wait(None) => self
                    .changed
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner),
                Next::Wait(Some(pause)) => {
                    let waited = self.changed.wait_timeout(jobs, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// A thread that panicked left the jobs as they were before its change, or after it.
    fn lock(&self) -> MutexGuard<'_, Option<J>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Arc, thread};

    use super::*;

    fn first(jobs: &mut VecDeque<u32>) -> Next<u32> {
        jobs.pop_front().map_or(Next::Wait(None), Next::Job)
    }

    #[test]
    fn who_waits_gets_the_job_that_comes() {
        let queue = Arc::new(JobQueue::<VecDeque<u32>>::default());
        let worker = queue.clone();
        let worker = thread::spawn(move || worker.next(first));
        queue.change(|jobs| jobs.push_back(7));
        assert_eq!(worker.join().unwrap(), Some(7));
    }

    #[test]
    fn a_closed_queue_has_no_jobs_and_takes_none() {
        let queue = JobQueue::<VecDeque<u32>>::default();
        queue.change(|jobs| jobs.push_back(7));
        queue.close();
        queue.change(|jobs| jobs.push_back(8));
        assert_eq!(queue.next(first), None);
    }

    #[test]
    fn all_who_wait_are_told_that_it_is_closed() {
        let queue = Arc::new(JobQueue::<VecDeque<u32>>::default());
        let workers =
            [queue.clone(), queue.clone()].map(|worker| thread::spawn(move || worker.next(first)));
        queue.close();
        for worker in workers {
            assert_eq!(worker.join().unwrap(), None);
        }
    }
}
