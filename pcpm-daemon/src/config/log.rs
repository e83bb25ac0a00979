//! Settings of the log.

use std::{fmt, str::FromStr};

/// What is logged, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// How lines are written.
    pub(crate) format: LogFormat,
    /// How much is logged.
    pub(crate) level: LogLevel,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For the journal where it reads stderr, else for people.
    Auto,
    /// For people, to stderr.
    Human,
    /// A JSON object each, to stderr.
    Json,
    /// With fields, to the socket of systemd's journal.
    Journald,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// Only what failed.
    Error,
    /// And what should be looked at.
    Warn,
    /// And what the daemon does.
    Info,
    /// And what happens to each slot.
    Debug,
    /// And every step.
    Trace,
}

impl LogFormat {
    pub(super) const ALL: [(Self, &str); 4] = [
        (Self::Auto, "auto"),
        (Self::Human, "human"),
        (Self::Json, "json"),
        (Self::Journald, "journald"),
    ];
}

impl LogLevel {
    pub(super) const ALL: [(Self, &str); 5] = [
        (Self::Error, "error"),
        (Self::Warn, "warn"),
        (Self::Info, "info"),
        (Self::Debug, "debug"),
        (Self::Trace, "trace"),
    ];
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named(&Self::ALL, text)
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named(&Self::ALL, text)
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&Self::ALL, self))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&Self::ALL, self))
    }
}

fn named<T: Copy>(all: &[(T, &str)], text: &str) -> Result<T, String> {
    let found = all.iter().find(|(_, name)| *name == text);
    found.map(|(value, _)| *value).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(_, name)| format!("'{name}'")).collect();
        format!("'{text}' is none of {}", names.join(", "))
    })
}

fn name<T: PartialEq>(all: &[(T, &'static str)], value: &T) -> &'static str {
    let found = all.iter().find(|(known, _)| known == value);
    found.map_or("", |(_, name)| name)
}
