//! What is shown, as files for other programs.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use anyhow::{Context, Result};
use pcpm_api::types::LockWaiter;
use serde_json::{Value as Json, json};

use super::{
    action::View,
    state::{
        State,
        events::Line,
        slots::Row,
        table::{Record, Unit, Value},
        tenants::Tenant,
    },
};
use crate::render::humanise;

/// Everything that is known at the time on the screen.
pub(crate) fn snapshot(state: &State) -> Json {
    let model = state.model();
    let tenants = model.tenants();
    let waits = model.locks.waits(state.range());
    json!({
        "time": humanise::moment(model.now_ms),
        "time_ms": model.now_ms,
        "counts": model.counts,
        "figures": model.figures,
        "slots": records(model.slots.rows()),
        "tenants": records(tenants.iter()),
        "locks": {
            "observed_ms": waits.observed_ms,
            "locks": waits.locks,
            "waiters": waits.waiters,
            "blockers": waits.blockers,
            "long_waits": waits.long,
        },
        "events": records(model.log.lines()),
    })
}

fn records<'a, R: Record>(rows: impl Iterator<Item = &'a R>) -> Json {
    rows.map(|row| {
        let fields = R::COLUMNS.iter().map(|column| {
            let value = match (column.value)(row) {
                Value::Missing => Json::Null,
                Value::Text(text) => text.into(),
                Value::Number(number) => number.into(),
                Value::Past(past) => past.into(),
            };
            (column.key.to_owned(), value)
        });
        Json::Object(fields.collect())
    })
    .collect()
}

/// The table of the view, if it has one, as comma-separated values.
pub(crate) fn csv(state: &State) -> Option<String> {
    let model = state.model();
    let now_ms = model.now_ms;
    Some(match state.view {
        View::Slots => lines::<Row>(&state.slots.rows(model.slots.rows(), now_ms)),
        View::Tenants => lines::<Tenant>(&state.tenants.rows(model.tenants().iter(), now_ms)),
        View::Events => lines::<Line>(&state.events.rows(model.log.lines(), now_ms)),
        View::Locks => {
            let waits = model.locks.waits(state.range());
            lines::<LockWaiter>(&state.waiters.rows(waits.waiters.iter(), now_ms))
        }
        View::Overview | View::Latency => return None,
    })
}

fn lines<R: Record>(rows: &[&R]) -> String {
    let columns: Vec<_> = R::COLUMNS
        .iter()
        .filter(|column| column.unit != Unit::Past)
        .collect();
    let titles: Vec<_> = columns.iter().map(|column| column.key.to_owned()).collect();
    let mut text = titles.join(",") + "\r\n";
    for row in rows {
        let fields: Vec<_> = columns
            .iter()
            .map(|column| field(&(column.value)(row)))
            .collect();
        text += &(fields.join(",") + "\r\n");
    }
    text
}

/// A field that stays one, and that no spreadsheet takes for a formula.
fn field(value: &Value<'_>) -> String {
    match value {
        Value::Missing | Value::Past(_) => String::new(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => {
            let harmless = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
                "'"
            } else {
                ""
            };
            let text = format!("{harmless}{text}");
            if text.contains(['"', ',', '\n', '\r']) {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text
            }
        }
    }
}

/// Writes a new file in the current directory, for its owner alone.
///
/// # Errors
/// It exists or cannot be written.
pub(crate) fn write(time_ms: u64, extension: &str, content: &str) -> Result<PathBuf> {
    let moment = humanise::moment(time_ms).replace([':', '.'], "-");
    let path = PathBuf::from(format!("pcpm-top-{moment}.{extension}"));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let mut file = file.with_context(|| format!("create {}", path.display()))?;
    file.write_all(content.as_bytes())
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_fields_and_are_no_formulas() {
        for (text, written) in [
            ("web", "web"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=cmd()", "'=cmd()"),
            ("two\nlines", "\"two\nlines\""),
        ] {
            assert_eq!(field(&Value::text(text)), written);
        }
    }
}
