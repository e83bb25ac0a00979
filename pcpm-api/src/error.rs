//! Errors of the interface, as they travel: `{"error": "io.pcpm.Pool.NAME", "parameters": {...}}`.

use serde::{Deserialize, Serialize};

/// An error reply of `io.pcpm.Pool`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", content = "parameters")]
pub enum PoolError {
    /// No slot was ready in time.
    #[serde(rename = "io.pcpm.Pool.PoolExhausted")]
    #[error(
        "the pool is exhausted: {depth} of {capacity} slots ready, {waiting} requests waiting; \
         try again in {retry_after_ms} ms"
    )]
    PoolExhausted {
        /// Slots ready now.
        depth: u32,
        /// All slots.
        capacity: u32,
        /// Requests waiting for a slot.
        waiting: u32,
        /// When a retry may succeed, in milliseconds.
        retry_after_ms: u64,
    },
    /// The owner holds no slot.
    #[serde(rename = "io.pcpm.Pool.NoSuchAttachment")]
    #[error("owner '{owner}' has no attachment")]
    NoSuchAttachment {
        /// Whom the request named.
        owner: String,
    },
    /// There is no such class of slots.
    #[serde(rename = "io.pcpm.Pool.NoSuchClass")]
    #[error("there is no class '{class}' (there are: {})", classes.join(", "))]
    NoSuchClass {
        /// What the request named.
        class: String,
        /// Those there are.
        classes: Vec<String>,
    },
    /// A parameter has a value that cannot be used.
    #[serde(rename = "io.pcpm.Pool.InvalidArgument")]
    #[error("{field}: {reason}")]
    InvalidArgument {
        /// Name of the parameter.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The owner holds a slot attached with other parameters.
    #[serde(rename = "io.pcpm.Pool.OwnerExists")]
    #[error(
        "owner '{owner}' has an attachment already{}; detach it first",
        with_other(field)
    )]
    OwnerExists {
        /// Whom the request named.
        owner: String,
        /// The first parameter that differs.
        field: String,
    },
    /// The daemon takes no new attachments.
    #[serde(rename = "io.pcpm.Pool.Draining")]
    #[error("the daemon is shutting down or draining and takes no new attachments")]
    Draining {},
    /// The caller may not do this.
    #[serde(rename = "io.pcpm.Pool.PermissionDenied")]
    #[error("permission denied: {reason}")]
    PermissionDenied {
        /// Why.
        reason: String,
    },
    /// The tenant, or the user that asks, has as much as it may have.
    #[serde(rename = "io.pcpm.Pool.QuotaExceeded")]
    #[error("{scope}'s quota of {limit} {what} is used up{}", retry(*retry_after_ms))]
    QuotaExceeded {
        /// Whose quota: `tenant` or `user`.
        scope: String,
        /// Of what: `attachments` at once or `attaches a second`.
        what: String,
        /// The quota.
        limit: u32,
        /// When a retry may succeed, in milliseconds, where only time has to pass.
        retry_after_ms: Option<u64>,
    },
    /// The daemon could not write down what it was asked to do, and so did not do it.
    #[serde(rename = "io.pcpm.Pool.NotRecorded")]
    #[error("not done, because it would not survive a restart of the daemon: {reason}")]
    NotRecorded {
        /// What could not be written, and why.
        reason: String,
    },
    /// The request was right but could not be carried out.
    #[serde(rename = "io.pcpm.Pool.Failed")]
    #[error("{reason}")]
    Failed {
        /// What went wrong.
        reason: String,
    },
}

fn with_other(field: &str) -> String {
    match field {
        "owner" => String::new(),
        other => format!(", and its {other} differs"),
    }
}

fn retry(after_ms: Option<u64>) -> String {
    after_ms.map_or_else(String::new, |ms| format!("; try again in {ms} ms"))
}

impl PoolError {
    /// An unusable value of parameter `field`.
    pub fn invalid(field: &str, reason: impl Into<String>) -> Self {
        Self::InvalidArgument {
            field: field.into(),
            reason: reason.into(),
        }
    }
}
