//! The one error of this module: what was done to what, and the kernel's reason.

use std::{fmt, io};

use nix::errno::Errno;

/// A failed operation, what was operated on and why: `create veth s0042 in hub 0: EEXIST: File exists`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {cause}{}", Listed(also))]
pub(crate) struct NetError {
    /// Operation and object.
    pub(crate) what: String,
    /// The reason, the kernel's error number first where it has one.
    pub(crate) cause: String,
    pub(super) errno: Option<Errno>,
    /// What failed after it, while the rest was done or undone.
    pub(crate) also: Vec<NetError>,
}

/// What failed after the first error, one behind the other.
struct Listed<'a>(&'a [NetError]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|error| write!(f, "; {error}"))
    }
}

impl NetError {
    pub(crate) fn new(what: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: cause.into(),
            errno: None,
            also: Vec::new(),
        }
    }

    /// The kernel said `errno`, and perhaps why.
    pub(super) fn kernel(what: impl Into<String>, errno: Errno, words: Option<&str>) -> Self {
        let mut error = Self::new(what, errno.to_string());
        error.errno = Some(errno);
        match words {
            Some(words) => error.hint(words),
            None => error,
        }
    }

    /// Adds an explanation to the reason.
    pub(super) fn hint(mut self, words: &str) -> Self {
        self.cause = format!("{} ({words})", self.cause);
        self
    }

    /// Names the object that the operation was part of: `set up eth0 of s0042`.
    pub(super) fn of(mut self, object: &str) -> Self {
        self.what = format!("{} of {object}", self.what);
        self
    }

    /// Adds what could not be undone.
    pub(super) fn and(mut self, also: impl IntoIterator<Item = NetError>) -> Self {
        self.also.extend(also);
        self
    }

    /// The first error with the others below it; success when there is none.
    pub(super) fn collect(errors: impl IntoIterator<Item = NetError>) -> Result<(), NetError> {
        let mut errors = errors.into_iter();
        match errors.next() {
            Some(first) => Err(first.and(errors)),
            None => Ok(()),
        }
    }
}

/// Names the operation and the object of a system call's result.
pub(super) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, NetError>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|errno| NetError::kernel(what(), errno, None))
    }
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|error| match error.raw_os_error() {
            Some(number) => NetError::kernel(what(), Errno::from_raw(number), None),
            None => NetError::new(what(), error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operation_object_reason_and_what_could_not_be_undone() {
        let undo = Err::<(), _>(Errno::EBUSY).during(|| "unmount s0042".to_owned());
        let error =
            NetError::kernel("create veth s0042 in hub 0", Errno::EEXIST, None).and(undo.err());
        assert_eq!(
            error.to_string(),
            "create veth s0042 in hub 0: EEXIST: File exists; unmount s0042: EBUSY: Device or resource busy"
        );
    }

    #[test]
    fn no_errors_are_success() {
        assert!(NetError::collect([]).is_ok());
    }
}
