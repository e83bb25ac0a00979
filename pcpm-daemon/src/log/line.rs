//! One line of the log, before it is known how it will be written.

use std::{
    borrow::Cow,
    fmt::{self, Debug},
};

use serde::Serialize;
use tracing::{
    Event, Level,
    field::{Field, Visit},
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

/// Bytes of a message or a field. Together with the number of lines it bounds what waits to be written.
const LONGEST_TEXT: usize = 4096;

/// The field that names an event of `pcpm watch`.
const EVENT: &str = "event";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) time: String,
    pub(super) level: Level,
    pub(super) target: Cow<'static, str>,
    /// Which event of `pcpm watch` it is, if it is one.
    pub(super) event: Option<String>,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

/// What a field says.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Boolean(bool),
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let about = event.metadata();
        let mut line = Self::new(*about.level(), about.target().to_owned().into());
        event.record(&mut line);
        line
    }

    /// Says that lines are missing before this one.
    pub(super) fn of_lost(lines: u64) -> Self {
        Self {
            message: "lines of the log were lost: whoever reads it is too slow".to_owned(),
            fields: vec![("lines", Value::Unsigned(lines))],
            ..Self::new(Level::WARN, module_path!().into())
        }
    }

    /// Says why the process ends.
    pub(super) fn of_failure(reason: String) -> Self {
        Self {
            message: bounded(reason),
            ..Self::new(Level::ERROR, module_path!().into())
        }
    }

    fn new(level: Level, target: Cow<'static, str>) -> Self {
        Self {
            time: now(),
            level,
            target,
            event: None,
            message: String::new(),
            fields: Vec::new(),
        }
    }

    fn record(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.message = text,
            (EVENT, Value::Text(text)) => self.event = Some(text),
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, Value::Text(bounded(format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, Value::Text(bounded(value.to_owned())));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, Value::Unsigned(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, Value::Signed(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, Value::Boolean(value));
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Unsigned(number) => write!(f, "{number}"),
            Self::Signed(number) => write!(f, "{number}"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
        }
    }
}

fn now() -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _written = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
pub(super) fn sample(message: &str) -> Line {
    Line {
        time: "2026-01-02T03:04:05.000006Z".to_owned(),
        level: Level::WARN,
        target: "pcpmd::engine".into(),
        event: None,
        message: message.to_owned(),
        fields: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = bounded("ä".repeat(LONGEST_TEXT));
        assert_eq!(text.chars().count(), LONGEST_TEXT / 2 + 1);
        assert!(text.ends_with("ä…"));
        assert_eq!(bounded("short".to_owned()), "short");
    }
}
