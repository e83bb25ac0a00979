//! Has the kernel check a program and take it.

use std::{
    error::Error,
    io, iter,
    time::{Duration, Instant},
};

use aya::programs::ProgramError;
use nix::errno::Errno;

use super::BpfError;

/// How long a check that is broken off is begun again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the kernel's words about a program, how many bytes an error tells.
const TOLD: usize = 240;

/// Loads the program `name` by `load`.
pub(crate) fn load_verified(
    name: &str,
    load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), BpfError> {
    let what = || format!("load program {name}");
    to_the_end(load).map_err(|error| match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            tracing::debug!("the kernel's verifier about {name}: {log}");
            BpfError::new(what(), &io::Error::other(refusal(&io_error, &log)))
        }
        other => BpfError::new(what(), &other),
    })
}

/// Has the kernel check a program to the end. It breaks off with `EAGAIN` when the thread has a signal, also to stop (a
/// debugger, a frozen control group; `do_check` in `kernel/bpf/verifier.c`, Linux 6.18): then it is asked again.
pub(crate) fn to_the_end<T, E: Error + 'static>(
    mut check: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match check() {
            Err(error) if is_broken_off(&error) && begun.elapsed() < PATIENCE => {}
            done => return done,
        }
    }
}

fn is_broken_off(error: &(dyn Error + 'static)) -> bool {
    let again = Some(Errno::EAGAIN as i32);
    let mut causes = iter::successors(Some(error), |&error| error.source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.raw_os_error() == again)
}

/// Why a program was refused: the log is of each instruction, at its end is the reason, and after it are figures.
fn refusal(error: &io::Error, log: &str) -> String {
    const FIGURES: [&str; 3] = ["verification time", "stack depth", "processed"];
    let is_reason =
        |line: &&str| !line.is_empty() && !FIGURES.iter().any(|figure| line.starts_with(figure));
    let Some(reason) = log.lines().rev().map(str::trim).find(is_reason) else {
        return error.to_string();
    };
    let reason = &reason[..reason.floor_char_boundary(TOLD)];
    format!("{error}; the verifier: {reason}")
}

#[cfg(test)]
mod tests {
    use aya_obj::VerifierLog;

    use super::*;

    fn refused(errno: Errno, log: &str) -> ProgramError {
        ProgramError::LoadError {
            io_error: errno.into(),
            verifier_log: VerifierLog::new(log.to_owned()),
        }
    }

    #[test]
    fn a_check_that_signals_break_off_is_begun_again() {
        let mut signals = 30;
        let load = || {
            if signals == 0 {
                return Ok(());
            }
            signals -= 1;
            Err(refused(Errno::EAGAIN, "0: R1=ctx()"))
        };
        load_verified("steer", load).unwrap();
        assert_eq!(signals, 0);
    }

    #[test]
    fn a_refused_program_is_told_with_the_reason_alone() {
        let log = "0: R1=ctx() R10=fp0\n1: (79) r0 = *(u64 *)(r1 +0)\nR1 invalid mem access 'scalar'\n\
                   verification time 31 usec\nstack depth 0\nprocessed 2 insns\n";
        let mut attempts = 0;
        let load = || {
            attempts += 1;
            Err(refused(Errno::EACCES, log))
        };
        let error = load_verified("steer", load).unwrap_err().to_string();
        let wanted = "load program steer: Permission denied (os error 13); the verifier: R1 invalid mem access 'scalar'";
        assert_eq!((attempts, error.as_str()), (1, wanted));
    }

    #[test]
    fn a_long_reason_is_cut() {
        let error = refusal(&Errno::E2BIG.into(), &"ä".repeat(TOLD));
        assert!(error.len() < TOLD + 100, "{error}");
    }
}
