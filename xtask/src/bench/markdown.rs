//! Tables in Markdown that can be read as they are, too.

/// The first row is the heading; the first column stands to the left, the others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let cell = |row: &[String], column: usize| {
        let text = row.get(column).map(String::as_str).unwrap_or_default();
        text.replace('|', "\\|")
    };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| (0..columns).map(|column| cell(row, column)).collect())
        .collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default().max(2)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut lines: Vec<_> = rows.iter().map(|row| line(row, &widths)).collect();
    if !lines.is_empty() {
        lines.insert(1, rule(&widths));
    }
    lines.concat()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).enumerate();
    let cells = cells.map(|(column, (cell, width))| match column {
        0 => format!("| {cell:<width$} "),
        _ => format!("| {cell:>width$} "),
    });
    cells.collect::<String>() + "|\n"
}

fn rule(widths: &[usize]) -> String {
    let cells = widths.iter().enumerate();
    let cells = cells.map(|(column, width)| match column {
        0 => format!("|:{}", "-".repeat(width + 1)),
        _ => format!("|{}:", "-".repeat(width + 1)),
    });
    cells.collect::<String>() + "|\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [
            vec![String::new(), "p50".into()],
            vec!["pcpm".into(), "9 us".into()],
        ];
        assert_eq!(
            table(&rows),
            "|      |  p50 |\n|:-----|-----:|\n| pcpm | 9 us |\n"
        );
    }
}
