//! Lines for programs: one JSON object each, with `time`, `level`, `target`, `message`, for events of
//! `pcpm watch` their kind as `event`, and the fields.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::line::Line;

pub(super) fn encode(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("texts, numbers and keys that are texts");
    text.push(b'\n');
    text
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("level", &self.level.as_str().to_ascii_lowercase())?;
        map.serialize_entry("target", &self.target)?;
        if let Some(event) = &self.event {
            map.serialize_entry("event", event)?;
        }
        map.serialize_entry("message", &self.message)?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::line::{Value, sample};

    #[test]
    fn numbers_are_numbers_and_text_is_escaped() {
        let mut line = sample("a\nb");
        line.event = Some("attached".to_owned());
        line.fields = vec![
            ("owner", Value::Text("x\"y".to_owned())),
            ("took_us", Value::Unsigned(7)),
        ];
        let text = String::from_utf8(encode(&line)).unwrap();
        assert_eq!(
            text,
            "{\"time\":\"2026-01-02T03:04:05.000006Z\",\"level\":\"warn\",\"target\":\"pcpmd::engine\",\
             \"event\":\"attached\",\"message\":\"a\\nb\",\"owner\":\"x\\\"y\",\"took_us\":7}\n"
        );
    }
}
