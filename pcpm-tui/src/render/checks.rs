//! The doctor's checks.

use pcpm_api::types::{Check, CheckStatus};

use super::table::{Cell, render};
use super::{Hue, Look};

/// One line per check: its status, its name, what was found and what to do about it.
pub(crate) fn lines(checks: &[Check], look: Look) -> String {
    let rows: Vec<_> = checks.iter().map(row).collect();
    render(&[], &rows, look)
}

fn row(check: &Check) -> Vec<Cell> {
    let status = Cell::painted(hue(check.status), check.status.as_str());
    let found = match &check.advice {
        Some(advice) => format!("{} -> {advice}", check.detail),
        None => check.detail.clone(),
    };
    vec![status, Cell::new(&check.name), Cell::new(found)]
}

const fn hue(status: CheckStatus) -> Hue {
    match status {
        CheckStatus::Ok => Hue::Good,
        CheckStatus::Warning => Hue::Warning,
        CheckStatus::Failed => Hue::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::PLAIN;
    use super::*;

    #[test]
    fn advice_stands_beside_what_was_found() {
        let check = |status, detail: &str, advice: Option<&str>| Check {
            name: "limits".into(),
            status,
            detail: detail.into(),
            advice: advice.map(Into::into),
        };
        let checks = [
            check(CheckStatus::Ok, "20000 files", None),
            check(CheckStatus::Failed, "64 files", Some("raise LimitNOFILE")),
        ];
        let expected = "\
ok      limits  20000 files
failed  limits  64 files -> raise LimitNOFILE
";
        assert_eq!(lines(&checks, PLAIN), expected);
    }
}
