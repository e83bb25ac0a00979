//! Tables on the screen.

use std::borrow::Cow;

use ratatui::{layout::Rect, style::Modifier};

use super::{
    canvas::{Canvas, below, row},
    text::{clean, width},
    theme::Role,
};
use crate::{
    render::humanise,
    top::{
        action::Action,
        num::cells,
        state::table::{Column, Record, Table, Unit, Value},
    },
};

/// The widest that text grows to while others want room.
const WIDEST: u16 = 48;

/// How the field of a row in a column is drawn: a sign before it and what it means.
pub(super) type Look<R> = fn(&Canvas<'_>, &R, &Column<R>) -> (Option<char>, Role);

/// Draws the rows around the selected one, under their titles.
pub(super) fn table<R: Record>(
    canvas: &mut Canvas<'_>,
    area: Rect,
    rows: &[&R],
    table: &Table,
    now_ms: u64,
    look: Look<R>,
) {
    if area.height < 2 {
        return;
    }
    let selected = table.position(rows);
    let room = usize::from(area.height - 1);
    let first = first_row(selected, rows.len(), room);
    let visible = &rows[first..rows.len().min(first + room)];
    let columns = fitting::<R>(area.width, visible, now_ms);
    titles::<R>(canvas, row(area, 0), &columns, table);
    let body = below(area, 1);
    let maxima: Vec<_> = columns
        .iter()
        .map(|(at, _)| largest_past(visible, &R::COLUMNS[*at]))
        .collect();
    for (y, record) in (0..).zip(visible) {
        let line = row(body, y);
        let mut x = 0;
        for ((at, wide), max) in columns.iter().zip(&maxima) {
            let place = Rect {
                x: line.x + x,
                width: *wide,
                ..line
            };
            field(canvas, place, *record, &R::COLUMNS[*at], now_ms, *max, look);
            x += wide + 1;
        }
        let number = first + usize::from(y);
        if number == selected {
            let style = canvas.theme.selected();
            canvas.highlight(line, style);
        }
        canvas.hit(line, Action::Select(number));
    }
}

/// The first row on a screen of `room` rows on which the selected one is in the middle, if it can be.
pub(super) fn first_row(selected: usize, rows: usize, room: usize) -> usize {
    selected
        .saturating_sub(room / 2)
        .min(rows.saturating_sub(room))
}

/// Which of how many rows are seen.
pub(super) fn extent<R: Record>(rows: &[&R], table: &Table, height: u16) -> String {
    let room = usize::from(height.saturating_sub(1));
    let part = part(table.position(rows), rows.len(), room);
    part.unwrap_or_else(|| rows.len().to_string())
}

/// Which of `rows` are seen where there is not room for all.
pub(super) fn part(selected: usize, rows: usize, room: usize) -> Option<String> {
    let first = first_row(selected, rows, room);
    (rows > room).then(|| format!("{}-{} of {rows}", first + 1, first + room))
}

/// The columns that there is room for, each with its width.
fn fitting<R: Record>(room: u16, rows: &[&R], now_ms: u64) -> Vec<(usize, u16)> {
    let mut columns: Vec<_> = (0..)
        .zip(R::COLUMNS)
        .map(|(at, column)| (at, column.width))
        .collect();
    let total =
        |columns: &[(usize, u16)]| -> u16 { columns.iter().map(|(_, width)| width + 1).sum() };
    while columns.len() > 1 && total(&columns) > room + 1 {
        let least = (0..columns.len()).max_by_key(|&place| R::COLUMNS[columns[place].0].rank);
        columns.remove(least.unwrap_or(0));
    }
    let mut rest = (room + 1).saturating_sub(total(&columns));
    for (at, wide) in &mut columns {
        let column = &R::COLUMNS[*at];
        if column.unit == Unit::Text {
            let needed = rows
                .iter()
                .map(|record| width(&shown(*record, column, now_ms)))
                .max();
            // A sign may stand before it.
            let needed = cells(needed.unwrap_or(0)).min(WIDEST) + 2;
            let more = needed.saturating_sub(*wide).min(rest);
            *wide += more;
            rest -= more;
        }
    }
    let last_text = columns
        .iter_mut()
        .rev()
        .find(|(at, _)| R::COLUMNS[*at].unit == Unit::Text);
    if let Some((_, wide)) = last_text {
        *wide += rest;
    }
    columns
}

fn is_left<R>(column: &Column<R>) -> bool {
    matches!(column.unit, Unit::Text | Unit::Moment | Unit::Past)
}

fn titles<R: Record>(canvas: &mut Canvas<'_>, area: Rect, columns: &[(usize, u16)], table: &Table) {
    let mut x = 0;
    for &(at, wide) in columns {
        let column = &R::COLUMNS[at];
        let place = Rect {
            x: area.x + x,
            width: wide,
            ..area
        };
        let is_sorted = table.sort == at;
        let arrow = match (is_sorted, table.reverse, canvas.theme.ascii) {
            (false, ..) => "",
            (true, false, false) => "▲",
            (true, true, false) => "▼",
            (true, false, true) => "^",
            (true, true, true) => "v",
        };
        let role = if is_sorted { Role::Accent } else { Role::Dim };
        let spans = [(role, column.title), (role, arrow)];
        if is_left(column) {
            canvas.line(place, 0, &spans);
        } else {
            canvas.line_right(place, 0, &spans);
        }
        canvas.hit(place, Action::Sort(at));
        x += wide + 1;
    }
    let bold = ratatui::style::Style::new().add_modifier(Modifier::BOLD);
    canvas.highlight(area, bold);
}

fn largest_past<R: Record>(rows: &[&R], column: &Column<R>) -> u64 {
    let past = rows
        .iter()
        .filter_map(|record| match (column.value)(record) {
            Value::Past(past) => past.into_iter().max(),
            _ => None,
        });
    past.max().unwrap_or(0)
}

fn field<R: Record>(
    canvas: &mut Canvas<'_>,
    area: Rect,
    record: &R,
    column: &Column<R>,
    now_ms: u64,
    max: u64,
    look: Look<R>,
) {
    let (sign, role) = look(canvas, record, column);
    if let Value::Past(past) = (column.value)(record) {
        let style = canvas.theme.style(role);
        return canvas.sparkline(area, &past, max, style);
    }
    let text = shown(record, column, now_ms);
    if is_left(column) {
        let signed = sign.map_or_else(String::new, |sign| format!("{sign} "));
        canvas.line(area, 0, &[(role, &signed), (role, &text)]);
    } else {
        canvas.line_right(area, 0, &[(role, &text)]);
    }
}

/// A field as people read it.
pub(crate) fn shown<'a, R: Record>(record: &'a R, column: &Column<R>, now_ms: u64) -> Cow<'a, str> {
    match (column.value)(record) {
        Value::Missing | Value::Past(_) => "".into(),
        Value::Text(text) => match text {
            Cow::Borrowed(text) => clean(text),
            Cow::Owned(text) => clean(&text).into_owned().into(),
        },
        Value::Number(number) => number_of(number, column.unit, now_ms).into(),
    }
}

fn number_of(number: u64, unit: Unit, now_ms: u64) -> String {
    match unit {
        Unit::Count | Unit::Text | Unit::Past => humanise::count(number),
        Unit::Bytes | Unit::Rate if number == 0 => "0".to_owned(),
        Unit::Bytes | Unit::Rate => humanise::bytes(number),
        Unit::Micros => humanise::micros(number),
        Unit::Age => humanise::age(number, now_ms),
        Unit::Moment => time_of_day(number),
    }
}

/// `12:34:56.789`, in UTC.
pub(crate) fn time_of_day(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{ms:03}")
}
