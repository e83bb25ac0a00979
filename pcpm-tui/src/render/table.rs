//! Rows of cells: aligned under titles for a terminal, separated by tabs for a pipe.

use super::escape;
use super::{Hue, Look};

/// One field of a row. Its text is harmless, whoever wrote it.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    parts: Vec<(Hue, String)>,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self::painted(Hue::Plain, text)
    }

    pub(super) fn painted(hue: Hue, text: impl AsRef<str>) -> Self {
        let mut cell = Self { parts: Vec::new() };
        cell.push(hue, text.as_ref());
        cell
    }

    /// Adds text of another colour.
    pub(super) fn push(&mut self, hue: Hue, text: &str) {
        if !text.is_empty() {
            self.parts.push((hue, escape::text(text).into_owned()));
        }
    }

    /// Widens the cell to `width` characters.
    pub(super) fn pad(&mut self, width: usize) {
        let missing = width.saturating_sub(self.width());
        self.push(Hue::Plain, &" ".repeat(missing));
    }

    fn width(&self) -> usize {
        self.parts
            .iter()
            .map(|(_, text)| text.chars().count())
            .sum()
    }

    fn show(&self, look: Look) -> String {
        self.parts
            .iter()
            .map(|(hue, text)| look.paint(*hue, text))
            .collect()
    }
}

/// Renders `rows` under `titles`, which may be none.
pub(super) fn render(titles: &[&str], rows: &[Vec<Cell>], look: Look) -> String {
    if !look.aligned {
        return rows.iter().map(|row| tabbed(row, look)).collect();
    }
    let mut lines = Vec::with_capacity(rows.len() + 1);
    if !titles.is_empty() {
        lines.push(
            titles
                .iter()
                .map(|title| Cell::painted(Hue::Title, title))
                .collect(),
        );
    }
    lines.extend_from_slice(rows);
    let widths = widths(&lines);
    lines
        .iter()
        .map(|line| aligned(line, &widths, look))
        .collect()
}

fn tabbed(row: &[Cell], look: Look) -> String {
    let texts: Vec<_> = row.iter().map(|cell| cell.show(look)).collect();
    texts.join("\t") + "\n"
}

fn widths(lines: &[Vec<Cell>]) -> Vec<usize> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(Cell::width).max().unwrap_or(0)
    };
    (0..columns).map(width).collect()
}

/// The last cell is not padded: trailing spaces wrap on narrow terminals.
fn aligned(line: &[Cell], widths: &[usize], look: Look) -> String {
    let mut text = String::new();
    for (column, cell) in line.iter().enumerate() {
        text += &cell.show(look);
        if column + 1 < line.len() {
            text += &" ".repeat(widths[column] - cell.width() + 2);
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PIPE, PLAIN, TERMINAL};
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::new("web-1"), Cell::painted(Hue::Good, "up")],
            vec![Cell::new("ö\u{1b}"), Cell::painted(Hue::Bad, "down")],
        ]
    }

    #[test]
    fn a_terminal_gets_titles_and_aligned_columns() {
        let table = render(&["OWNER", "STATE"], &rows(), PLAIN);
        assert_eq!(table, "OWNER    STATE\nweb-1    up\nö\\u{1b}  down\n");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let table = render(&[], &rows(), TERMINAL);
        assert_eq!(
            table,
            "web-1    \u{1b}[32mup\u{1b}[0m\nö\\u{1b}  \u{1b}[31mdown\u{1b}[0m\n"
        );
    }

    #[test]
    fn a_pipe_gets_tabs_and_no_titles() {
        let table = render(&["OWNER", "STATE"], &rows(), PIPE);
        assert_eq!(table, "web-1\tup\nö\\u{1b}\tdown\n");
    }
}
