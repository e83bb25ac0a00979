//! Values of options that clap does not know: rates, leases and labels.

use pcpm_api::{rates, types::Lease};

/// Reads a rate: `500k`, `10M`, `1G`, or `none`, which is what 0 is for the daemon.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => rates::parse(text),
    }
}

/// Reads `120x40`.
pub(crate) fn size(text: &str) -> Result<(u16, u16), String> {
    let sides = text.split_once('x');
    let sides = sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match sides {
        Some((width @ 1..=1000, height @ 1..=1000)) => Ok((width, height)),
        _ => Err("not a size: write 120x40, each at most 1000".into()),
    }
}

/// Reads how many times as fast, from a quarter to 64 times.
pub(crate) fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if (0.25..=64.0).contains(&speed) => Ok(speed),
        _ => Err("not a speed: write a number from 0.25 to 64".into()),
    }
}

/// A lease, and the process that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseOption {
    pub(crate) lease: Lease,
    pub(crate) pid: Option<u32>,
}

impl LeaseOption {
    /// That of this process, whatever becomes of the daemon meanwhile.
    pub(crate) fn this_process() -> Self {
        Self {
            lease: Lease::Pid,
            pid: None,
        }
    }

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
    fn a_label_is_split_at_the_first_equals_sign() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a="), Ok(("a".into(), String::new())));
        assert!(label("a").unwrap_err().contains("KEY=VALUE"));
    }
}
