//! Charts: stacked areas, lines, bars and sparklines, of cells alone. What they show is in the order of columns.

use pcpm_api::types::SlotState;
use ratatui::{layout::Rect, style::Style};

use super::{canvas::Canvas, theme::Role};
use crate::top::num::{cells, float, index};

/// Eighths of a cell, from below.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same for poor fonts.
const ASCII_LEVELS: [char; 9] = [' ', '.', '.', '_', '_', '=', '=', '#', '#'];

/// A number between two others, as a share of the way.
pub(crate) fn linear(value: f64, max: f64) -> f64 {
    if max <= 0.0 {
        0.0
    } else {
        (value / max).clamp(0.0, 1.0)
    }
}

/// The same where each step is as much more as the one before.
pub(crate) fn logarithmic(value: f64, min: f64, max: f64) -> f64 {
    let (value, min) = (value.max(1.0).ln(), min.max(1.0).ln());
    let span = max.max(1.0).ln() - min;
    if span <= 0.0 {
        0.0
    } else {
        ((value - min) / span).clamp(0.0, 1.0)
    }
}

/// A line in a chart: shares of the height, column by column.
pub(crate) struct Line {
    pub(crate) style: Style,
    pub(crate) is_connected: bool,
    pub(crate) shares: Vec<Option<f64>>,
}

/// One column of a stacked area: how much of each state, from below.
pub(crate) type Stack = [(SlotState, u32); 6];

impl Canvas<'_> {
    /// Areas on top of each other; none where nothing is known. `max` fills the height.
    pub(crate) fn stacked(&mut self, area: Rect, columns: &[Option<Stack>], max: u32) {
        for (x, stack) in (0..area.width).zip(columns) {
            let Some(stack) = stack else { continue };
            let tops = tops(stack, max, u32::from(area.height) * 8);
            for y in 0..area.height {
                let from = u32::from(area.height - 1 - y) * 8;
                self.stacked_cell(area, (x, y), &tops, from);
            }
        }
    }

    /// The cell whose lower edge is at `from` eighths.
    fn stacked_cell(
        &mut self,
        area: Rect,
        (x, y): (u16, u16),
        tops: &[(SlotState, u32)],
        from: u32,
    ) {
        let at = |eighth: u32| {
            tops.iter()
                .find(|(_, top)| eighth < *top)
                .map(|(state, _)| *state)
        };
        if self.theme.has_patterns() {
            if let Some(state) = at(from + 3) {
                let style = self.state_style(state);
                self.cell(area, x, y, self.theme.pattern(state), style);
            }
            return;
        }
        let Some(lower) = at(from) else { return };
        let style = self.state_style(lower);
        let filled = (from..from + 8)
            .take_while(|eighth| at(*eighth) == Some(lower))
            .count();
        // What lies above within the cell is its background: two states to a cell, the rest is left out.
        let above = at(from + u32::from(cells(filled)).min(7)).filter(|above| *above != lower);
        let style = match above.and_then(|above| self.state_style(above).fg) {
            Some(background) if filled < 8 => style.bg(background),
            _ => style,
        };
        self.cell(area, x, y, EIGHTHS[filled], style);
    }

    /// A horizontal line over what is there, at a share of the height.
    pub(crate) fn level(&mut self, area: Rect, x: u16, share: f64, style: Style) {
        if area.height == 0 {
            return;
        }
        let y = cells(index((1.0 - share) * f64::from(area.height - 1)));
        let sign = if self.theme.ascii { '-' } else { '╌' };
        if x < area.width
            && let Some(cell) = self.buffer.cell_mut((area.x + x, area.y + y))
        {
            // A full cell lies behind the line.
            let behind = if cell.symbol() == "█" {
                cell.fg
            } else {
                cell.bg
            };
            cell.set_char(sign).set_style(style).set_bg(behind);
        }
    }

    /// Columns of one colour, each a share of the height.
    pub(crate) fn bars(&mut self, area: Rect, columns: &[Option<f64>], style: Style) {
        self.two_bars(area, columns, &[], [style, style]);
    }

    /// Columns of two parts on top of each other.
    pub(crate) fn two_bars(
        &mut self,
        area: Rect,
        lower: &[Option<f64>],
        upper: &[Option<f64>],
        styles: [Style; 2],
    ) {
        let height = f64::from(area.height) * 8.0;
        let levels = if self.theme.ascii {
            ASCII_LEVELS
        } else {
            EIGHTHS
        };
        for (x, share) in (0..area.width).zip(lower) {
            let Some(share) = share else { continue };
            let more = upper.get(usize::from(x)).copied().flatten().unwrap_or(0.0);
            let (first, all) = (index(share * height), index((share + more) * height));
            // What there is at all is seen.
            let all = if share + more > 0.0 { all.max(1) } else { 0 };
            for y in 0..area.height {
                let from = usize::from(area.height - 1 - y) * 8;
                let filled = all.saturating_sub(from).min(8);
                if filled > 0 {
                    let is_upper = first <= from + filled / 2;
                    self.cell(
                        area,
                        x,
                        y,
                        levels[filled],
                        styles[usize::from(is_upper && more > 0.0)],
                    );
                }
            }
        }
    }

    /// The last values in one row, the newest at the right.
    pub(crate) fn sparkline(&mut self, area: Rect, values: &[u64], max: u64, style: Style) {
        let shown = &values[values.len().saturating_sub(usize::from(area.width))..];
        let start = area.width - cells(shown.len());
        let columns: Vec<_> = shown
            .iter()
            .map(|&value| Some(linear(float(value), float(max))))
            .collect();
        let area = Rect {
            x: area.x + start,
            width: area.width - start,
            height: area.height.min(1),
            ..area
        };
        self.bars(area, &columns, style);
    }

    /// Lines of dots, a value for each cell across; later lines lie over earlier ones.
    pub(crate) fn lines(&mut self, area: Rect, lines: &[Line]) {
        let mut dots = Dots::new(area, self.theme.ascii);
        for line in lines {
            let mut before = None;
            for (x, share) in line.shares.iter().take(usize::from(area.width)).enumerate() {
                let y = share.map(|share| dots.row(share));
                if let Some(y) = y {
                    // The way from the value before is in the left half of the cell.
                    let from = before.filter(|_| line.is_connected).unwrap_or(y);
                    for y in y.min(from)..=y.max(from) {
                        dots.set(2 * x, y, line.style);
                    }
                    dots.set(2 * x + 1, y, line.style);
                }
                before = y;
            }
        }
        dots.draw(self, area);
    }
}

/// How far up each state of a stack reaches, in eighths of a cell.
fn tops(stack: &Stack, max: u32, height: u32) -> Vec<(SlotState, u32)> {
    let mut sum = 0_u64;
    let mut below = 0;
    stack
        .iter()
        .map(|&(state, count)| {
            sum += u64::from(count);
            let top = (sum * u64::from(height)).div_ceil(u64::from(max.max(1)));
            let top = u32::try_from(top).unwrap_or(height).min(height);
            // What there is at all is seen.
            let top = if count > 0 {
                top.max(below + 1).min(height)
            } else {
                below
            };
            below = top;
            (state, top)
        })
        .collect()
}

/// Dots of lines before they are cells.
struct Dots {
    width: usize,
    height: usize,
    ascii: bool,
    cells: Vec<(u8, Style)>,
}

impl Dots {
    fn new(area: Rect, ascii: bool) -> Self {
        let (width, height) = (usize::from(area.width), usize::from(area.height));
        Self {
            width,
            height,
            ascii,
            cells: vec![(0, Style::new()); width * height],
        }
    }

    /// The row of dots at a share of the height, from above.
    fn row(&self, share: f64) -> usize {
        index((1.0 - share.clamp(0.0, 1.0)) * float((self.height * 4).saturating_sub(1) as u64))
    }

    fn set(&mut self, x: usize, y: usize, style: Style) {
        /// Dots of a Braille cell by row and column, as Unicode numbers them.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let place = (y / 4) * self.width + x / 2;
        if let Some((dots, painted)) = self.cells.get_mut(place) {
            *dots |= BITS[y % 4][x % 2];
            *painted = style;
        }
    }

    fn sign(&self, dots: u8) -> char {
        if !self.ascii {
            return char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ');
        }
        let (upper, lower) = (dots & 0x1b != 0, dots & 0xe4 != 0);
        match (upper, lower) {
            (true, true) => '|',
            (true, false) => '\'',
            _ => '.',
        }
    }

    fn draw(&self, canvas: &mut Canvas<'_>, area: Rect) {
        for (place, &(dots, style)) in self.cells.iter().enumerate() {
            if dots != 0 {
                let (x, y) = (cells(place % self.width), cells(place / self.width));
                canvas.cell(area, x, y, self.sign(dots), style);
            }
        }
    }
}

/// Labels at the right of a chart, each as near to its height as the others let it.
pub(crate) fn spread_labels(wanted: &[u16], height: u16) -> Vec<u16> {
    let mut order: Vec<_> = (0..wanted.len()).collect();
    order.sort_by_key(|&label| wanted[label]);
    let mut places = vec![0; wanted.len()];
    let mut next = 0;
    for (rank, &label) in order.iter().enumerate() {
        let left = cells(order.len() - 1 - rank);
        let latest = height.saturating_sub(1).saturating_sub(left);
        let place = wanted[label].max(next).min(latest.max(next));
        places[label] = place;
        next = place + 1;
    }
    places
}

/// The axis of time under a chart.
impl Canvas<'_> {
    pub(crate) fn time_axis(&mut self, area: Rect, span_s: u64, end: &str) {
        let style = self.theme.style(Role::Dim);
        let start = format!("-{}", seconds(span_s));
        let middle = format!("-{}", seconds(span_s / 2));
        self.text(area, 0, 0, &start, style);
        if area.width > 30 {
            let x = area.width / 2 - cells(middle.len()) / 2;
            self.text(area, x, 0, &middle, style);
        }
        self.line_right(area, 0, &[(Role::Dim, end)]);
    }
}

/// `90s`, `5m`.
pub(crate) fn seconds(seconds: u64) -> String {
    if seconds >= 60 && seconds.is_multiple_of(60) {
        format!("{}m", seconds / 60)
    } else if seconds >= 60 {
        format!("{}m{}s", seconds / 60, seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_order_and_do_not_cover_each_other() {
        for (wanted, height, places) in [
            (&[5, 5, 5][..], 10, &[5, 6, 7][..]),
            (&[9, 9, 8], 10, &[8, 9, 7]),
            (&[0, 4], 10, &[0, 4]),
            (&[3], 1, &[0]),
        ] {
            assert_eq!(spread_labels(wanted, height), places, "{wanted:?}");
        }
    }

    #[test]
    fn a_state_that_has_any_slots_is_seen() {
        let stack = [
            (SlotState::Ready, 9999),
            (SlotState::Kept, 0),
            (SlotState::Attached, 1),
            (SlotState::Creating, 0),
            (SlotState::Retiring, 0),
            (SlotState::Failed, 0),
        ];
        let tops = tops(&stack, 20_000, 80);
        assert_eq!(tops[0].1 + 1, tops[2].1);
        assert_eq!(tops[2].1, tops[5].1);
    }

    #[test]
    fn scales_end_where_they_should() {
        for (share, expected) in [
            (linear(5.0, 10.0), 0.5),
            (linear(11.0, 10.0), 1.0),
            (linear(1.0, 0.0), 0.0),
            (logarithmic(1.0, 1.0, 100.0), 0.0),
            (logarithmic(10.0, 1.0, 100.0), 0.5),
            (logarithmic(100.0, 1.0, 100.0), 1.0),
            (logarithmic(5.0, 9.0, 9.0), 0.0),
        ] {
            assert!((share - expected).abs() < 1e-9, "{share} {expected}");
        }
    }
}
