//! How checks are shown to people.

use pcpm_api::types::{Check, CheckStatus};

/// One line for each failed check: what was found and what to do.
pub(crate) fn failures(checks: &[Check]) -> Vec<String> {
    let failed = checks
        .iter()
        .filter(|check| check.status == CheckStatus::Failed);
    failed.map(line).collect()
}

/// All checks for a terminal, a line each and the advice below it.
pub(crate) fn report(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    checks.iter().map(|check| entry(check, width)).collect()
}

fn entry(check: &Check, width: usize) -> String {
    let Check {
        name,
        status,
        detail,
        advice,
    } = check;
    let found = format!("{status:<7}  {name:<width$}  {detail}\n");
    match advice {
        Some(advice) => format!("{found}{:7}  {:width$}  -> {advice}\n", "", ""),
        None => found,
    }
}

fn line(check: &Check) -> String {
    let Check {
        name,
        detail,
        advice,
        ..
    } = check;
    match advice {
        Some(advice) => format!("{name}: {detail} ({advice})"),
        None => format!("{name}: {detail}"),
    }
}
