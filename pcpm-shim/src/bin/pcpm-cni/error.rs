//! Errors as the CNI specification has them: a number that engines act on, and words for people.

use std::fmt;

use pcpm_api::client::ClientError;
use pcpm_api::error::PoolError;
use serde::Serialize;

/// Codes of the specification (CNI 1.1.0, section 5), and one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfig = 7,
    TryAgainLater = 11,
    NotAvailable = 50,
    NotAvailableAndLimited = 51,
    /// The daemon or the kernel refused what was asked for.
    Failed = 100,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) code: Code,
    msg: String,
    details: String,
}

/// What is printed.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Error {
    pub(crate) fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    pub(crate) fn with(mut self, details: impl fmt::Display) -> Self {
        self.details = format!("{details}");
        self
    }

    /// An environment variable is missing or of no use.
    pub(crate) fn environment(variable: &str, reason: impl AsRef<str>) -> Self {
        let msg = format!("{variable}: {}", reason.as_ref());
        Self::new(Code::InvalidEnvironment, msg)
    }

    /// A key of the configuration has a value that cannot be used.
    pub(crate) fn config(key: &str, reason: impl AsRef<str>) -> Self {
        Self::new(Code::InvalidConfig, format!("{key}: {}", reason.as_ref()))
    }

    /// A key of the configuration asks for what this plugin does not do. The specification wants key and value
    /// in the message.
    pub(crate) fn unsupported(key: &str, value: &serde_json::Value, reason: &str) -> Self {
        let msg = format!("unsupported field {key}: {value}");
        Self::new(Code::UnsupportedField, msg).with(reason)
    }

    /// The same as an answer to STATUS.
    pub(crate) fn unavailable(self) -> Self {
        Self {
            code: Code::NotAvailable,
            ..self
        }
    }

    /// The JSON to print.
    pub(crate) fn report(&self, cni_version: &str) -> String {
        let report = Report {
            cni_version,
            code: self.code as u32,
            msg: &self.msg,
            details: &self.details,
        };
        serde_json::to_string_pretty(&report).expect("texts and a number can be written as JSON")
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let (code, msg) = match &error {
            ClientError::Pool(refused) => classify(refused),
            _ if error.is_unreachable() => (Code::TryAgainLater, "pcpmd does not answer"),
            _ => (Code::Failed, "pcpmd is of another version"),
        };
        Self::new(code, msg).with(error)
    }
}

fn classify(refused: &PoolError) -> (Code, &'static str) {
    match refused {
        PoolError::PoolExhausted { .. } => (Code::TryAgainLater, "no pooled network is ready"),
        PoolError::Draining {} => (Code::TryAgainLater, "the pool is draining"),
        PoolError::QuotaExceeded { .. } => (Code::TryAgainLater, "a quota is used up"),
        PoolError::NotRecorded { .. } => (Code::TryAgainLater, "pcpmd cannot keep its journal"),
        PoolError::NoSuchAttachment { .. } => (Code::UnknownContainer, "unknown container"),
        PoolError::InvalidArgument { .. } => (Code::InvalidConfig, "pcpmd refused a value"),
        PoolError::NoSuchClass { .. } => (Code::InvalidConfig, "there is no such class of slots"),
        PoolError::OwnerExists { .. } => (Code::Failed, "the container has a network already"),
        PoolError::PermissionDenied { .. } | PoolError::Failed { .. } => {
            (Code::Failed, "pcpmd refused")
        }
    }
}
