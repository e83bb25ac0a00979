//! Values of options that clap does not know: durations with a unit, rates, and labels.

use std::time::Duration;

use pcpm_api::{rates, types::Lease};

/// Reads `500ms`, `5s`, `2m` or `1h`. A bare number is refused: nobody can tell its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
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

/// Reads a rate: `500k`, `10M`, `1G`, or `none`, which is what 0 is for the daemon.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => rates::parse(text),
    }
}

/// A lease, and the process that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseOption {
    pub(crate) lease: Lease,
    pub(crate) pid: Option<u32>,
}

impl LeaseOption {
    /// That of a command that holds what it attached.
    pub(crate) fn connection() -> Self {
        Self {
            lease: Lease::Connection,
            pid: None,
        }
    }
}

/// Reads `explicit`, `connection` or `pid:PID`.
pub(crate) fn lease(text: &str) -> Result<LeaseOption, String> {
    if let Some(pid) = text.strip_prefix("pid:") {
        let pid = pid
            .parse()
            .map_err(|_| format!("'{pid}' is not the id of a process"))?;
        return Ok(LeaseOption {
            lease: Lease::Pid,
            pid: Some(pid),
        });
    }
    match text.parse() {
        Ok(lease @ (Lease::Explicit | Lease::Connection)) => Ok(LeaseOption { lease, pid: None }),
        _ => Err("not a lease: write explicit, connection or pid:PID".into()),
    }
}

/// Reads `KEY=VALUE`; the value may be empty and may contain `=`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.into(), value.into())),
        None => Err("not a label: write KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [("500ms", 500), ("5s", 5000), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
    }

    #[test]
    fn a_lease_may_be_about_a_process() {
        let of = |lease, pid| Ok(LeaseOption { lease, pid });
        assert_eq!(lease("explicit"), of(Lease::Explicit, None));
        assert_eq!(lease("connection"), of(Lease::Connection, None));
        assert_eq!(lease("pid:42"), of(Lease::Pid, Some(42)));
        assert_eq!(lease("pid:x"), Err("'x' is not the id of a process".into()));
        for text in ["pid", "", "for ever"] {
            assert!(lease(text).unwrap_err().contains("pid:PID"), "{text}");
        }
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
            let error = duration(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_label_is_split_at_the_first_equals_sign() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a="), Ok(("a".into(), String::new())));
        assert!(label("a").unwrap_err().contains("KEY=VALUE"));
    }
}
