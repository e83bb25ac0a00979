//! All slots: who holds them, and what they use.

use ratatui::layout::Rect;

use super::{canvas::Canvas, grid, theme::Role};
use crate::top::state::{
    State,
    slots::Row,
    table::{Column, Unit},
};

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let model = state.model();
    let rows = state.slots.rows(model.slots.rows(), model.now_ms);
    let facts = caption(
        state.slots.filter.text(),
        &grid::extent(&rows, &state.slots, area.height.saturating_sub(2)),
    );
    let inside = canvas.panel(area, "Slots", &[(Role::Dim, &facts)]);
    grid::table(canvas, inside, &rows, &state.slots, model.now_ms, look);
    if rows.is_empty() {
        nothing(canvas, inside, state.slots.filter.text());
    }
}

/// Which rows are shown, and of what.
pub(super) fn caption(filter: &str, extent: &str) -> String {
    if filter.is_empty() {
        extent.to_owned()
    } else {
        format!("{filter}  {extent}")
    }
}

/// A table without rows says why.
pub(super) fn nothing(canvas: &mut Canvas<'_>, area: Rect, filter: &str) {
    let text = if filter.is_empty() {
        "there is nothing yet"
    } else {
        "nothing matches the filter"
    };
    canvas.line(
        super::canvas::row(area, 2),
        0,
        &[(Role::Dim, "  "), (Role::Dim, text)],
    );
}

fn look(canvas: &Canvas<'_>, row: &Row, column: &Column<Row>) -> (Option<char>, Role) {
    match column.key {
        "state" => {
            let state = row.slot.state;
            (Some(canvas.theme.sign(state)), Role::State(state))
        }
        "drops" if row.drops > 0 => (None, Role::Warning),
        "reason" => (None, Role::Bad),
        "sent" => (None, Role::Line(0)),
        "received" => (None, Role::Line(1)),
        "from" if row.source() == "cold" => (None, Role::Warning),
        "owner" => (None, Role::Title),
        "slot" | "epoch" | "address" | "from" => (None, Role::Dim),
        _ if column.unit == Unit::Past => (None, Role::Dim),
        _ => (None, Role::Text),
    }
}
