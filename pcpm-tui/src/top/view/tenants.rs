//! Tenants: what they hold, use and lose.

use ratatui::layout::Rect;

use super::{
    canvas::{Canvas, below, row},
    grid, slots,
    theme::Role,
};
use crate::{
    render::humanise,
    top::{
        num::cells,
        state::{State, history, table::Column, tenants::Tenant},
    },
};

/// Reasons of drops that are shown under the table.
const REASONS: usize = 6;

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let model = state.model();
    let tenants = model.tenants();
    let rows = state.tenants.rows(tenants.iter(), model.now_ms);
    let reasons = drops(state);
    let below_height = if reasons.is_empty() {
        0
    } else {
        cells(reasons.len()) + 2
    };
    let upper = Rect {
        height: area.height - below_height.min(area.height / 2),
        ..area
    };
    let extent = grid::extent(&rows, &state.tenants, upper.height.saturating_sub(2));
    let facts = slots::caption(state.tenants.filter.text(), &extent);
    let inside = canvas.panel(upper, "Tenants", &[(Role::Dim, &facts)]);
    grid::table(canvas, inside, &rows, &state.tenants, model.now_ms, look);
    if rows.is_empty() {
        slots::nothing(canvas, inside, state.tenants.filter.text());
    }
    let lower = below(area, upper.height);
    if lower.height > 2 {
        drops_panel(canvas, lower, state, &reasons);
    }
}

/// Reasons for which packets were dropped since the daemon's programs were loaded, most first.
fn drops(state: &State) -> Vec<(String, u64, String)> {
    let status = state.model().figures.as_ref();
    let drops = status.into_iter().flat_map(|status| &status.drops);
    let mut drops: Vec<_> = drops
        .filter(|drop| drop.packets > 0)
        .map(|drop| (drop.reason.clone(), drop.packets, drop.description.clone()))
        .collect();
    drops.sort_by_key(|(_, packets, _)| std::cmp::Reverse(*packets));
    drops.truncate(REASONS);
    drops
}

fn drops_panel(
    canvas: &mut Canvas<'_>,
    area: Rect,
    state: &State,
    reasons: &[(String, u64, String)],
) {
    let total = state.model().figures.as_ref().map_or(0, history::dropped);
    let facts = format!("{} packets since the start", humanise::count(total));
    let inside = canvas.panel(area, "Dropped, of all", &[(Role::Dim, &facts)]);
    let most = reasons.first().map_or(1, |(_, packets, _)| *packets);
    for (y, (reason, packets, description)) in (0..inside.height).zip(reasons) {
        let line = row(inside, y);
        let packets_text = format!("{:>7} ", humanise::count(*packets));
        let taken = canvas.line(line, 0, &[(Role::Text, &packets_text)]);
        let bar = Rect {
            x: line.x + taken,
            width: 10.min(line.width - taken),
            ..line
        };
        share_bar(canvas, bar, *packets, most);
        let rest = Rect {
            x: bar.x + bar.width + 1,
            width: line.width.saturating_sub(taken + bar.width + 1),
            ..line
        };
        let name = format!("{reason:<22}");
        canvas.line(
            rest,
            0,
            &[
                (Role::Warning, &name),
                (Role::Dim, " "),
                (Role::Dim, description),
            ],
        );
    }
}

/// A bar as long as the share.
pub(super) fn share_bar(canvas: &mut Canvas<'_>, area: Rect, part: u64, whole: u64) {
    let share = crate::top::num::share(part, whole);
    let filled =
        cells(crate::top::num::index(share * f64::from(area.width))).max(u16::from(part > 0));
    let (full, rest) = if canvas.theme.ascii {
        ('=', '.')
    } else {
        ('━', '─')
    };
    for x in 0..area.width {
        let (sign, role) = if x < filled {
            (full, Role::Accent)
        } else {
            (rest, Role::Faint)
        };
        let style = canvas.theme.style(role);
        canvas.cell(area, x, 0, sign, style);
    }
}

fn look(_: &Canvas<'_>, tenant: &Tenant, column: &Column<Tenant>) -> (Option<char>, Role) {
    let is_full = tenant
        .limit
        .is_some_and(|limit| tenant.attachments >= u64::from(limit));
    match column.key {
        "tenant" => (None, Role::Title),
        "slots" | "quota" if is_full => (None, Role::Bad),
        "drops" if tenant.drops > 0 => (None, Role::Warning),
        "traffic" => (None, Role::Line(0)),
        "why" => (None, Role::Warning),
        "packets" | "opened" => (None, Role::Dim),
        _ => (None, Role::Text),
    }
}
