//! Why a call failed, told apart by what the caller can do about it.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::error::PoolError;

/// Why a call, or the connection it needs, failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("cannot reach pcpmd at {}{}", .socket.display(), unreachable_hint(.source))]
    Unreachable {
        /// Where the daemon was looked for.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon refused the request.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The daemon could not make sense of the request: it is of another version.
    #[error(transparent)]
    Varlink(#[from] ServiceError),
    /// The peer does not speak the protocol as agreed.
    #[error("{method}: {}: {reason}", .socket.display())]
    Protocol {
        /// What was called.
        method: String,
        /// Where the peer listens.
        socket: PathBuf,
        /// What is wrong with its answer.
        reason: String,
    },
    /// No answer in time.
    #[error("{method}: no answer from {} within {after:?}", .socket.display())]
    Timeout {
        /// What was called.
        method: String,
        /// Who should have answered.
        socket: PathBuf,
        /// How long the answer was waited for.
        after: Duration,
    },
    /// The daemon closed the connection, or the connection was lost.
    #[error("{method}: the connection to pcpmd at {} was lost", .socket.display())]
    Lost {
        /// What was called.
        method: String,
        /// Where the daemon listens.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ClientError {
    /// Whether the daemon is the one that is missing: not there, gone, or silent.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Lost { .. }
        )
    }
}

fn unreachable_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => " (the socket is open to root only: try with sudo)",
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => " (is pcpmd running?)",
        _ => "",
    }
}

/// An error reply of `org.varlink.service`, which every Varlink service may send.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[serde(tag = "error", content = "parameters")]
pub enum ServiceError {
    /// The peer is another service.
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    #[error("the service does not have the interface {interface}; is it pcpmd?")]
    InterfaceNotFound {
        /// What was asked for.
        interface: String,
    },
    /// The daemon does not know the method.
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    #[error("pcpmd does not know the method {method}; is it of another version?")]
    MethodNotFound {
        /// What was called.
        method: String,
    },
    /// The daemon knows the method and cannot do it.
    #[serde(rename = "org.varlink.service.MethodNotImplemented")]
    #[error("pcpmd cannot do {method}; is it of another version?")]
    MethodNotImplemented {
        /// What was called.
        method: String,
    },
    /// The daemon does not know a parameter, or not in this form.
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    #[error("pcpmd does not take the parameter {parameter}; is it of another version?")]
    InvalidParameter {
        /// Which one.
        parameter: String,
    },
    /// The caller may not call the method.
    #[serde(rename = "org.varlink.service.PermissionDenied")]
    #[error("permission denied")]
    PermissionDenied {},
    /// The method only streams.
    #[serde(rename = "org.varlink.service.ExpectedMore")]
    #[error("the method must be called with 'more'")]
    ExpectedMore {},
}
