//! The doctor's checks.

use pcpm_api::types::{Check, CheckStatus};

use super::table::{Cell, render};
use super::{Hue, Look};

/// Each check's status, its name and what was found; what to do about it stands below for people, in
/// a column of its own for programs.
pub(crate) fn lines(checks: &[Check], look: Look) -> String {
    let rows: Vec<_> = checks.iter().flat_map(|check| rows(check, look)).collect();
    render(&[], &rows, look)
}

fn rows(check: &Check, look: Look) -> Vec<Vec<Cell>> {
    let status = Cell::painted(hue(check.status), check.status.as_str());
    let mut found = vec![status, Cell::new(&check.name), Cell::new(&check.detail)];
    let advice = check.advice.as_deref();
    if !look.aligned {
        found.extend(advice.map(Cell::new));
        return vec![found];
    }
    let below = advice.map(|advice| {
        vec![
            Cell::new(""),
            Cell::new(""),
            Cell::new(format!("-> {advice}")),
        ]
    });
    std::iter::once(found).chain(below).collect()
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
    use super::super::tests::{PIPE, PLAIN};
    use super::*;

    #[test]
    fn advice_stands_below_what_was_found_or_in_a_column_of_its_own() {
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
failed  limits  64 files
                -> raise LimitNOFILE
";
        assert_eq!(lines(&checks, PLAIN), expected);
        let expected = "ok\tlimits\t20000 files\nfailed\tlimits\t64 files\traise LimitNOFILE\n";
        assert_eq!(lines(&checks, PIPE), expected);
    }
}
