//! What can be wrong with the settings, and where it stands.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there are no settings. Every text starts with the place to look at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The configuration file cannot be read.
    #[error("read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: {reason}")]
    Syntax {
        /// File and line.
        origin: Origin,
        /// What the parser said.
        reason: String,
    },
    /// There is no such key.
    #[error("{origin}: {key}: unknown key{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// File and line.
        origin: Origin,
        /// The key, with its table.
        key: String,
        /// The key that may have been meant, with its table.
        nearest: Option<String>,
    },
    /// The value cannot be used.
    #[error("{origin}: {key}: {reason}")]
    Invalid {
        /// File and line, or the option.
        origin: Origin,
        /// The key, with its table.
        key: String,
        /// What is wrong with the value, which is part of the text.
        reason: String,
    },
}

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In a file; lines count from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// As this command line option.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Option(name) => f.write_str(name),
        }
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!(", did you mean '{key}'?"))
}
