//! What happened, newest first.

use ratatui::layout::Rect;

use super::{canvas::Canvas, grid, slots, theme::Role};
use crate::top::state::{
    State,
    events::{Line, Weight},
    table::Column,
};

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let model = state.model();
    let rows = state.events.rows(model.log.lines(), model.now_ms);
    let mut extent = grid::extent(&rows, &state.events, area.height.saturating_sub(2));
    if model.log.lost > 0 {
        extent = format!("{extent}, {} came too fast", model.log.lost);
    }
    let facts = slots::caption(state.events.filter.text(), &extent);
    let inside = canvas.panel(area, "Events", &[(Role::Dim, &facts)]);
    grid::table(canvas, inside, &rows, &state.events, model.now_ms, look);
    if rows.is_empty() {
        slots::nothing(canvas, inside, state.events.filter.text());
    }
}

fn look(canvas: &Canvas<'_>, line: &Line, column: &Column<Line>) -> (Option<char>, Role) {
    match column.key {
        "kind" => (Some(sign(canvas, line.weight)), role(line)),
        "owner" => (None, Role::Title),
        "message" if line.weight >= Weight::Warning => (None, role(line)),
        "time" | "level" => (None, Role::Dim),
        _ => (None, Role::Text),
    }
}

fn sign(canvas: &Canvas<'_>, weight: Weight) -> char {
    match (canvas.theme.ascii, weight) {
        (false, Weight::Routine) => '·',
        (false, Weight::Notice) => '•',
        (false, Weight::Warning) => '▲',
        (false, Weight::Bad) => '✗',
        (true, Weight::Routine) => '.',
        (true, Weight::Notice) => 'i',
        (true, Weight::Warning) => '!',
        (true, Weight::Bad) => 'X',
    }
}

pub(super) fn role(line: &Line) -> Role {
    match (line.weight, line.kind.as_str()) {
        (Weight::Bad, _) => Role::Bad,
        (Weight::Warning, _) => Role::Warning,
        (Weight::Notice, _) => Role::Accent,
        (Weight::Routine, "attached") => Role::State(pcpm_api::types::SlotState::Attached),
        (Weight::Routine, "ready" | "recycled") => Role::State(pcpm_api::types::SlotState::Ready),
        (Weight::Routine, _) => Role::Text,
    }
}
