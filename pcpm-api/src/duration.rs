//! Durations as people write them in options and files.

use std::time::Duration;

/// Reads `500ms`, `5s`, `2m` or `1h`. A bare number is refused: nobody can tell its unit.
///
/// # Errors
/// What is wrong with it, and how to write it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("not a duration: write 500ms, 5s, 2m or 1h".into());
    }
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "" => return Err(format!("units are needed: write {number}s or {number}ms")),
        _ => return Err(format!("unknown unit '{unit}': ms, s, m and h are known")),
    };
    let milliseconds = number.parse::<u64>().ok();
    milliseconds
        .and_then(|number| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [("500ms", 500), ("5s", 5000), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)));
        }
        assert_eq!(parse("1h"), Ok(Duration::from_hours(1)));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        for (text, reason) in [
            ("5", "units are needed: write 5s"),
            ("", "not a duration"),
            ("s", "not a duration"),
            ("-5s", "not a duration"),
            ("5 s", "unknown unit ' s'"),
            ("1.5s", "unknown unit '.5s'"),
            ("5d", "unknown unit 'd'"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615h", "too long"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
