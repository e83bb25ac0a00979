//! Where views draw: a part of the screen, with text, panels, and places that the mouse may click.

use pcpm_api::types::SlotState;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
};

use super::{
    text::{clean, fit, plain, width},
    theme::{Role, Theme},
};
use crate::top::{action::Action, num::cells};

/// A part of the screen that does something when it is clicked.
pub(crate) type Hit = (Rect, Action);

/// The screen being drawn.
pub(crate) struct Canvas<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) theme: Theme,
    pub(crate) hits: Vec<Hit>,
}

/// A piece of a line.
pub(crate) type Span<'a> = (Role, &'a str);

impl Canvas<'_> {
    /// Text of this program or, made harmless, of others; cut where the area ends. Returns the cells it took.
    pub(crate) fn text(&mut self, area: Rect, x: u16, y: u16, text: &str, style: Style) -> u16 {
        let area = area.intersection(self.buffer.area);
        if y >= area.height || x >= area.width {
            return 0;
        }
        let text = clean(text);
        let text = if self.theme.ascii { plain(&text) } else { text };
        let fitted = fit(&text, usize::from(area.width - x), self.theme.ascii);
        let taken = Rect {
            x: area.x + x,
            y: area.y + y,
            width: cells(width(&fitted)),
            height: 1,
        };
        // What was there, a border say, leaves no colour.
        self.buffer.set_style(taken, Style::reset());
        self.buffer.set_stringn(
            area.x + x,
            area.y + y,
            &fitted,
            usize::from(area.width - x),
            style,
        );
        taken.width
    }

    /// Pieces of text one after the other. Returns the cells they took.
    pub(crate) fn line(&mut self, area: Rect, y: u16, spans: &[Span<'_>]) -> u16 {
        let mut x = 0;
        for (role, text) in spans {
            let style = self.theme.style(*role);
            x += self.text(area, x, y, text, style);
        }
        x
    }

    /// The same at the right edge, if there is room.
    pub(crate) fn line_right(&mut self, area: Rect, y: u16, spans: &[Span<'_>]) -> u16 {
        let total = spans.iter().map(|(_, text)| width(&clean(text))).sum();
        let total = cells(total).min(area.width);
        let rest = Rect {
            x: area.x + area.width - total,
            width: total,
            ..area
        };
        self.line(rest, y, spans)
    }

    pub(crate) fn cell(&mut self, area: Rect, x: u16, y: u16, sign: char, style: Style) {
        if x < area.width
            && y < area.height
            && let Some(cell) = self.buffer.cell_mut((area.x + x, area.y + y))
        {
            cell.set_char(sign).set_style(style);
        }
    }

    /// A frame with a title, and facts at its right. Returns what is inside.
    pub(crate) fn panel(&mut self, area: Rect, title: &str, facts: &[Span<'_>]) -> Rect {
        if area.height < 2 || area.width < 4 {
            return Rect { height: 0, ..area };
        }
        let (right, bottom) = (area.width - 1, area.height - 1);
        let style = self.theme.style(Role::Faint);
        let [horizontal, vertical, corners @ ..] = if self.theme.ascii {
            ['-', '|', '+', '+', '+', '+']
        } else {
            ['─', '│', '╭', '╮', '╰', '╯']
        };
        for x in 1..right {
            self.cell(area, x, 0, horizontal, style);
            self.cell(area, x, bottom, horizontal, style);
        }
        for y in 1..bottom {
            self.cell(area, 0, y, vertical, style);
            self.cell(area, right, y, vertical, style);
        }
        for ((x, y), corner) in [(0, 0), (right, 0), (0, bottom), (right, bottom)]
            .into_iter()
            .zip(corners)
        {
            self.cell(area, x, y, corner, style);
        }
        self.captions(area, title, facts);
        Rect {
            x: area.x + 1,
            y: area.y + 1,
            width: area.width - 2,
            height: area.height - 2,
        }
    }

    fn captions(&mut self, area: Rect, title: &str, facts: &[Span<'_>]) {
        let top = Rect {
            x: area.x + 2,
            width: area.width.saturating_sub(4),
            height: 1,
            ..area
        };
        let title = format!(" {title} ");
        let taken = self.line(top, 0, &[(Role::Title, &title)]);
        let rest = Rect {
            x: top.x + taken,
            width: top.width - taken,
            ..top
        };
        let room: usize = facts.iter().map(|(_, text)| width(text)).sum();
        if facts.is_empty() || room + 3 > usize::from(rest.width) {
            return;
        }
        let mut spans = vec![(Role::Dim, " ")];
        spans.extend_from_slice(facts);
        spans.push((Role::Dim, " "));
        self.line_right(rest, 0, &spans);
    }

    /// Empties an area for what covers it.
    pub(crate) fn clear(&mut self, area: Rect) {
        let area = area.intersection(self.buffer.area);
        for y in area.top()..area.bottom() {
            for x in area.left()..area.right() {
                self.buffer[(x, y)].reset();
            }
        }
    }

    /// Lays a style over what is there.
    pub(crate) fn highlight(&mut self, area: Rect, style: Style) {
        self.buffer
            .set_style(area.intersection(self.buffer.area), style);
    }

    /// What is behind an overlay is faint.
    pub(crate) fn dim(&mut self, area: Rect) {
        let style = self
            .theme
            .style(Role::Faint)
            .remove_modifier(Modifier::BOLD);
        self.highlight(area, style);
    }

    pub(crate) fn hit(&mut self, area: Rect, action: Action) {
        if !area.is_empty() {
            self.hits.push((area, action));
        }
    }

    /// A state's sign in its colour.
    pub(crate) fn state_style(&self, state: SlotState) -> Style {
        self.theme.style(Role::State(state))
    }
}

/// Rows of `area` from `from` on.
pub(crate) fn below(area: Rect, from: u16) -> Rect {
    let from = from.min(area.height);
    Rect {
        y: area.y + from,
        height: area.height - from,
        ..area
    }
}

/// One row of `area`.
pub(crate) fn row(area: Rect, y: u16) -> Rect {
    let below = below(area, y);
    Rect {
        height: below.height.min(1),
        ..below
    }
}

/// `area` in columns whose widths are as `parts` to each other.
pub(crate) fn columns<const N: usize>(area: Rect, parts: [u16; N]) -> [Rect; N] {
    split(area.x, area.width, parts).map(|(x, width)| Rect { x, width, ..area })
}

/// `area` in rows whose heights are as `parts` to each other.
pub(crate) fn rows<const N: usize>(area: Rect, parts: [u16; N]) -> [Rect; N] {
    split(area.y, area.height, parts).map(|(y, height)| Rect { y, height, ..area })
}

fn split<const N: usize>(start: u16, length: u16, parts: [u16; N]) -> [(u16, u16); N] {
    let total: u32 = parts.iter().map(|&part| u32::from(part)).sum();
    let mut passed = 0;
    let place = |passed: u32| {
        let place = u32::from(length) * passed / total.max(1);
        u16::try_from(place).unwrap_or(length)
    };
    parts.map(|part| {
        let from = place(passed);
        passed += u32::from(part);
        (start + from, place(passed) - from)
    })
}
