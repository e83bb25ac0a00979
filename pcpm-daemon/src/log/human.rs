//! Lines for people: time, level, what happened, and the fields behind it. Text that others chose cannot begin
//! a new line, nor reach the terminal as anything but text.

use std::fmt::Write as _;

use tracing::Level;

use super::line::Line;

/// How the lines look.
#[derive(Clone, Copy)]
pub(super) struct Human {
    pub(super) is_coloured: bool,
}

impl Human {
    pub(super) fn encode(self, line: &Line) -> Vec<u8> {
        let mut text = format!("{} ", line.time);
        self.level(&mut text, line.level);
        let parts = [line.event.as_deref().unwrap_or_default(), &line.message];
        let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).collect();
        for (index, part) in parts.iter().enumerate() {
            text.push_str(if index == 0 { " " } else { ": " });
            escape(&mut text, part);
        }
        for (name, value) in &line.fields {
            let value = value.to_string();
            // Writing to a String cannot fail.
            let _written = if is_plain(&value) {
                write!(text, " {name}={value}")
            } else {
                write!(text, " {name}={value:?}")
            };
        }
        text.push('\n');
        text.into_bytes()
    }

    fn level(self, text: &mut String, level: Level) {
        let colour = match level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            _ => "34",
        };
        // Writing to a String cannot fail.
        let _written = if self.is_coloured {
            write!(text, "\x1b[{colour}m{:>5}\x1b[0m", level.as_str())
        } else {
            write!(text, "{:>5}", level.as_str())
        };
    }
}

/// Why the process ends, as any program says it: a line for each cause.
pub(super) fn plain(reason: &str) -> Vec<u8> {
    let mut text = String::new();
    for cause in reason.lines() {
        text.push_str("pcpmd: ");
        escape(&mut text, cause);
        text.push('\n');
    }
    text.into_bytes()
}

/// Quotation marks stay: they are no danger, and messages are full of them.
fn escape(text: &mut String, part: &str) {
    for character in part.chars() {
        match character {
            '\'' | '"' => text.push(character),
            _ => text.extend(character.escape_debug()),
        }
    }
}

fn is_plain(value: &str) -> bool {
    let needs_none = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\' && c != '=';
    !value.is_empty() && value.chars().all(needs_none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::line::{Value, sample};

    const PLAIN: Human = Human { is_coloured: false };

    fn encoded(line: &Line) -> String {
        String::from_utf8(PLAIN.encode(line)).unwrap()
    }

    #[test]
    fn an_event_is_named_before_what_is_said_about_it() {
        let mut line = sample("create veth: EEXIST");
        line.event = Some("failed".to_owned());
        line.fields = vec![
            ("slot", Value::Text("s0042".to_owned())),
            ("took_us", Value::Unsigned(7)),
        ];
        assert_eq!(
            encoded(&line),
            "2026-01-02T03:04:05.000006Z  WARN failed: create veth: EEXIST slot=s0042 took_us=7\n"
        );
        line.message.clear();
        assert!(encoded(&line).contains(" WARN failed slot="));
    }

    #[test]
    fn hostile_text_stays_within_its_line_and_its_field() {
        let mut line = sample("say\n2026 INFO \u{1b}[2J\u{202e}");
        line.fields = vec![("owner", Value::Text("a b\nlevel=\"x\"".to_owned()))];
        let text = encoded(&line);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}'),
            "{text}"
        );
        assert!(text.contains(r#" owner="a b\nlevel=\"x\"""#), "{text}");
    }

    #[test]
    fn a_failure_is_said_as_any_program_says_it() {
        assert_eq!(
            plain("this\nthat\u{1b}"),
            b"pcpmd: this\npcpmd: that\\u{1b}\n"
        );
    }
}
