//! How long attaches and every step of making and destroying slots take: where the times lay, when.

use pcpm_api::times::{self, BUCKETS};
use ratatui::layout::Rect;

use super::{
    canvas::{Canvas, columns, row, rows},
    grid::{first_row, part},
    overview::end_of_time,
    theme::Role,
};
use crate::{
    render::humanise,
    top::{
        action::Action,
        num::{cells, float, index},
        state::{
            State,
            history::Sample,
            times::{Spread, Step},
        },
    },
};

/// Cells of the axis at the left of the heat map.
const AXIS: u16 = 8;

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let [map, lists] = if area.width >= 112 {
        columns(area, [1, 1])
    } else {
        rows(area, [9, 11])
    };
    heat_map(canvas, map, state);
    table(canvas, lists, state);
}

/// The step that is selected.
fn selected(state: &State) -> Step {
    Step::ALL[state.step.min(Step::ALL.len() - 1)]
}

fn heat_map(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let step = selected(state);
    let (history, range) = (&state.model().history, state.range());
    let all = history.spread(step, range);
    let plural = if all.total() == 1 { "" } else { "s" };
    let facts = format!("{} time{plural}", humanise::count(all.total()));
    let title = format!("Latency: {}", step.full_title());
    let inside = canvas.panel(area, &title, &[(Role::Dim, &facts)]);
    let spreads = |columns| {
        let columns = history.columns(range, columns);
        let spread = |samples: &Vec<&Sample>| {
            let mut spread = Spread::default();
            for sample in samples {
                spread.add(sample.times(step));
            }
            spread
        };
        columns.iter().map(spread).collect()
    };
    heat(canvas, inside, state, "none in this time", spreads);
}

/// How often which time occurred when: `spreads` has them for so many columns.
pub(super) fn heat(
    canvas: &mut Canvas<'_>,
    inside: Rect,
    state: &State,
    none: &str,
    spreads: impl FnOnce(usize) -> Vec<Spread>,
) {
    if inside.height < 3 || inside.width < AXIS + 10 {
        return;
    }
    let map = Rect {
        x: inside.x + AXIS,
        width: inside.width - AXIS,
        height: inside.height - 1,
        ..inside
    };
    canvas.time_axis(
        Rect {
            y: map.y + map.height,
            height: 1,
            ..map
        },
        state.window_s(),
        &end_of_time(state),
    );
    let spreads = spreads(usize::from(map.width));
    let occur = |bucket: &usize| spreads.iter().any(|s| s.counts()[*bucket] > 0);
    let bounds = (0..BUCKETS).find(occur).zip((0..BUCKETS).rfind(occur));
    let Some((low, high)) = bounds else {
        canvas.line(row(map, map.height / 2), 0, &[(Role::Dim, none)]);
        return;
    };
    let scale = Scale::new(low, high, map.height);
    scale.axis(
        canvas,
        Rect {
            width: AXIS,
            height: map.height,
            ..inside
        },
    );
    let columns: Vec<_> = spreads.iter().map(|spread| scale.rows(spread)).collect();
    let most = columns.iter().flatten().copied().max().unwrap_or(1);
    for (x, column) in (0..map.width).zip(&columns) {
        for (y, &count) in (0..map.height).zip(column) {
            // Few are seen beside many.
            let share = (float(count) + 1.0).ln() / (float(most) + 1.0).ln();
            let (sign, style) = canvas
                .theme
                .heat(if count > 0 { share.max(0.05) } else { 0.0 });
            canvas.cell(map, x, y, sign, style);
        }
    }
}

/// Which buckets lie in which row.
struct Scale {
    low: usize,
    /// Buckets in all rows.
    span: usize,
    height: u16,
}

impl Scale {
    fn new(low: usize, high: usize, height: u16) -> Self {
        let low = low.saturating_sub(1);
        let span = (high + 2 - low).max(usize::from(height).min(BUCKETS - low));
        Self { low, span, height }
    }

    /// The first bucket of a row, from below.
    fn bucket(&self, row: u16) -> usize {
        self.low + usize::from(row) * self.span / usize::from(self.height.max(1))
    }

    /// Counts by row, from above.
    fn rows(&self, spread: &Spread) -> Vec<u64> {
        let count = |row: u16| {
            let (from, to) = (self.bucket(row), self.bucket(row + 1));
            let (from, to) = (from.min(BUCKETS), to.min(BUCKETS));
            spread.counts()[from..to.max(from)]
                .iter()
                .fold(0, |sum: u64, count| sum.saturating_add(*count))
        };
        (0..self.height).rev().map(count).collect()
    }

    fn axis(&self, canvas: &mut Canvas<'_>, area: Rect) {
        let every = (area.height / 5).max(2);
        for line in (0..area.height).filter(|line| line % every == 0) {
            let from = times::from_us(self.bucket(area.height - 1 - line).min(BUCKETS - 1));
            let text = format!("{:>7} ", humanise::micros(from));
            canvas.line(row(area, line), 0, &[(Role::Dim, &text)]);
        }
    }
}

/// Percentiles of every step, beside those of an earlier time if one is remembered.
fn table(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let facts = match state.compared {
        Some(_) => "changes against the remembered time",
        None => "c: compare",
    };
    let room = usize::from(area.height.saturating_sub(3));
    let part = part(state.step, Step::ALL.len(), room);
    let part = part.map_or_else(String::new, |part| format!("  {part}"));
    let facts = [(Role::Dim, facts), (Role::Dim, &part)];
    let inside = canvas.panel(area, "Percentiles", &facts);
    if inside.height < 3 {
        return;
    }
    let title = format!(
        "{:<16}{:>6}{:>8}{:>8}{:>8}{:>8}",
        "", "COUNT", "p50", "p90", "p99", "MAX"
    );
    canvas.line(row(inside, 0), 0, &[(Role::Dim, &title)]);
    let (history, range) = (&state.model().history, state.range());
    let room = usize::from(inside.height - 1);
    let first = first_row(state.step, Step::ALL.len(), room);
    let visible = Step::ALL.into_iter().enumerate().skip(first);
    for (y, (number, step)) in (1..inside.height).zip(visible) {
        let now = history.spread(step, range);
        let before = state.compared.as_ref().map(|spreads| &spreads[number]);
        let line = row(inside, y);
        step_line(canvas, line, step, &now, before);
        if number == state.step {
            let style = canvas.theme.selected();
            canvas.highlight(line, style);
        }
        canvas.hit(line, Action::Select(number));
    }
    let used = 1 + cells(Step::ALL.len());
    if inside.height > used + 4 {
        let rest = super::canvas::below(inside, used + 1);
        let total = &state.model().totals[state.step.min(Step::ALL.len() - 1)];
        distribution(canvas, rest, &history.spread(selected(state), range), total);
    }
}

fn step_line(
    canvas: &mut Canvas<'_>,
    area: Rect,
    step: Step,
    now: &Spread,
    before: Option<&Spread>,
) {
    let name = format!("{:<16}", step.title());
    let count = format!("{:>6}", humanise::count(now.total()));
    let mut x = canvas.line(area, 0, &[(Role::Text, &name), (Role::Dim, &count)]);
    for percent in [50, 90, 99, 100] {
        let (us, was) = (
            now.percentile(percent),
            before.and_then(|before| before.percentile(percent)),
        );
        let (role, text) = match (before, us, was) {
            (Some(_), Some(us), Some(was)) => change(us, was),
            (_, us, _) => (
                Role::Text,
                us.map_or_else(|| "-".to_owned(), humanise::micros),
            ),
        };
        let style = canvas.theme.style(role);
        x += canvas.text(area, x, 0, &format!("{text:>8}"), style);
    }
}

/// How a time changed, in percent.
fn change(us: u64, was: u64) -> (Role, String) {
    let percent = (float(us) / float(was.max(1)) - 1.0) * 100.0;
    match percent {
        // Buckets are a quarter wide.
        percent if percent.abs() < 1.0 => (Role::Dim, "=".to_owned()),
        percent if percent > 0.0 => (Role::Bad, format!("+{:.0}%", percent.min(9999.0))),
        percent => (Role::Good, format!("{percent:.0}%")),
    }
}

/// How often which time occurred, on the screen and since the daemon started.
fn distribution(canvas: &mut Canvas<'_>, area: Rect, now: &Spread, total: &Spread) {
    let spread = if now.total() > 0 { now } else { total };
    let what = if now.total() > 0 {
        "in this time"
    } else {
        "since the daemon started"
    };
    let bounds = spread
        .counts()
        .iter()
        .position(|&count| count > 0)
        .zip(spread.counts().iter().rposition(|&count| count > 0));
    let Some((low, high)) = bounds else {
        return;
    };
    canvas.line(area, 0, &[(Role::Dim, "how often, "), (Role::Dim, what)]);
    let bars = Rect {
        y: area.y + 1,
        height: area.height.saturating_sub(2),
        ..area
    };
    let scale = Scale {
        low,
        span: high + 1 - low,
        height: bars.width.min(cells((high + 1 - low) * 4)),
    };
    let mut counts = scale.rows(spread);
    counts.reverse();
    let most = counts.iter().copied().max().unwrap_or(1);
    let widened: Vec<_> = if usize::from(scale.height) > high + 1 - low {
        widen(spread, low, high, scale.height)
    } else {
        counts
    };
    let shares: Vec<_> = widened
        .iter()
        .map(|&count| Some(float(count) / float(most.max(1))))
        .collect();
    let style = canvas.theme.style(Role::Accent);
    canvas.bars(bars, &shares, style);
    let axis = row(area, area.height - 1);
    canvas.line(
        axis,
        0,
        &[(Role::Dim, &humanise::micros(times::from_us(low)))],
    );
    let end = Rect {
        width: scale.height.min(axis.width),
        ..axis
    };
    canvas.line_right(
        end,
        0,
        &[(Role::Dim, &humanise::micros(times::from_us(high + 1)))],
    );
}

/// Buckets drawn over several columns each.
fn widen(spread: &Spread, low: usize, high: usize, width: u16) -> Vec<u64> {
    let span = float((high + 1 - low) as u64);
    let at = |column: u16| {
        let place = f64::from(column) / f64::from(width) * span;
        let bucket = low + index(place.floor());
        spread.counts()[bucket.min(high)]
    };
    (0..width).map(at).collect()
}
