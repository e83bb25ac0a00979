//! The pool at a glance: what is wrong, how full it is, how fast attaches are, and what slows the refill.

use pcpm_api::types::{SlotCounts, SlotState};
use ratatui::layout::Rect;

use super::{
    canvas::{Canvas, Span, below, columns, row, rows},
    chart::{Line, Stack, linear, logarithmic, spread_labels},
    text::width,
    theme::Role,
};
use crate::{
    render::humanise,
    top::{
        num::{cells, float, index, share},
        state::{
            State,
            history::Sample,
            locks::RTNL,
            times::{Spread, Step},
            warnings::{Level, Warning, warnings},
        },
    },
};

/// States from the bottom of the chart.
const STACK: [SlotState; 6] = [
    SlotState::Ready,
    SlotState::Kept,
    SlotState::Attached,
    SlotState::Creating,
    SlotState::Retiring,
    SlotState::Failed,
];

/// The percentiles that are drawn.
const PERCENTILES: [(u64, &str); 4] = [(50, "p50"), (90, "p90"), (99, "p99"), (100, "max")];

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let taken = verdict(canvas, area, state);
    let area = below(area, taken);
    depth_bar(canvas, area, state);
    let area = below(area, 2);
    let [upper, lower] = rows(area, [11, 9]);
    let [pool, latency] = columns(upper, [11, 9]);
    pool_chart(canvas, pool, state);
    latency_chart(canvas, latency, state);
    if lower.width >= 96 {
        let [attaches, lock, refill] = columns(lower, [1, 1, 1]);
        attach_panel(canvas, attaches, state);
        lock_panel(canvas, lock, state);
        refill_panel(canvas, refill, state);
    } else {
        let [attaches, lock] = columns(lower, [11, 9]);
        attach_panel(canvas, attaches, state);
        lock_panel(canvas, lock, state);
    }
}

/// Warnings, or that there are none. Returns the rows it took.
fn verdict(canvas: &mut Canvas<'_>, area: Rect, state: &State) -> u16 {
    let model = state.model();
    let found = warnings(model);
    if found.is_empty() {
        let counts = model.counts;
        let sign = if canvas.theme.ascii { " ok " } else { " ✓ " };
        let text = format!("{} of {} ready, nobody waits", counts.ready, counts.target);
        canvas.line(
            area,
            0,
            &[
                (Role::Good, sign),
                (Role::Good, "all is well"),
                (Role::Dim, "  "),
                (Role::Dim, &text),
            ],
        );
        return 1;
    }
    let room = (area.height / 8).clamp(1, 5);
    let mut y = 0;
    let mut shown = Vec::new();
    for warning in &found {
        let is_long = width(&warning.what) + width(&warning.advice) + 14 > usize::from(area.width);
        let height = if is_long && y + 2 <= room { 2 } else { 1 };
        if y + height > room {
            break;
        }
        shown.push((warning, rows_of(area, y, height)));
        y += height;
    }
    let more = found.len() - shown.len();
    let rest = if more > 0 {
        format!(" +{more} more: Enter ")
    } else {
        String::new()
    };
    let taken = canvas.line_right(row(area, y - 1), 0, &[(Role::Accent, &rest)]);
    for (number, (warning, place)) in (1..).zip(&shown) {
        let taken = if number == shown.len() { taken } else { 0 };
        warning_line(canvas, *place, taken, warning, model.now_ms);
    }
    y
}

fn rows_of(area: Rect, y: u16, height: u16) -> Rect {
    Rect {
        height,
        ..below(area, y)
    }
}

/// What is wrong and since when; what to do beside it or, where there is a second row, below. At the end of the last row
/// so many cells are taken.
fn warning_line(canvas: &mut Canvas<'_>, area: Rect, taken: u16, warning: &Warning, now_ms: u64) {
    let role = match warning.level {
        Level::Bad => Role::Bad,
        Level::Warning => Role::Warning,
    };
    let sign = sign(canvas.theme.ascii, warning.level);
    let since = warning.since_ms.map_or_else(String::new, |since_ms| {
        format!("  [{}]", humanise::age(since_ms, now_ms))
    });
    let what: [Span<'_>; 3] = [(role, sign), (role, &warning.what), (Role::Text, &since)];
    let advice: [Span<'_>; 2] = [(Role::Dim, "   "), (Role::Dim, &warning.advice)];
    let last = Rect {
        width: area.width - taken,
        ..area
    };
    if area.height > 1 {
        canvas.line(area, 0, &what);
        canvas.line(last, 1, &advice);
    } else {
        canvas.line(last, 0, &[&what[..], &advice[..]].concat());
    }
}

/// What stands before a warning.
pub(super) fn sign(ascii: bool, level: Level) -> &'static str {
    match (ascii, level) {
        (false, Level::Bad) => " ✗ ",
        (false, Level::Warning) => " ▲ ",
        (true, Level::Bad) => " X ",
        (true, Level::Warning) => " ! ",
    }
}

fn count(counts: &SlotCounts, state: SlotState) -> u32 {
    match state {
        SlotState::Ready => counts.ready,
        SlotState::Kept => counts.kept,
        SlotState::Attached => counts.attached,
        SlotState::Creating => counts.creating,
        SlotState::Retiring => counts.retiring,
        SlotState::Failed => counts.failed,
        SlotState::Vacant => counts.vacant,
    }
}

/// The capacity as one bar, and what its parts are.
fn depth_bar(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let counts = at_end(state);
    let bar = Rect {
        x: area.x + 1,
        width: area.width - 2,
        height: area.height.min(1),
        ..area
    };
    let total: u64 = STACK
        .iter()
        .map(|&state| u64::from(count(&counts, state)))
        .sum();
    let total = total.max(counts.capacity.into());
    let mut x = 0;
    let mut sum = 0;
    for state in STACK {
        let own = u64::from(count(&counts, state));
        sum += own;
        let end = cells(index(share(sum, total) * f64::from(bar.width)));
        let end = if own > 0 {
            end.max(x + 1).min(bar.width)
        } else {
            end.max(x)
        };
        let (sign, style) = (canvas.theme.pattern(state), canvas.state_style(state));
        let sign = if canvas.theme.has_patterns() {
            sign
        } else {
            '━'
        };
        for x in x..end {
            canvas.cell(bar, x, 0, sign, style);
        }
        x = end;
    }
    let faint = canvas.theme.style(Role::Faint);
    for x in x..bar.width {
        canvas.cell(bar, x, 0, if canvas.theme.ascii { '.' } else { '─' }, faint);
    }
    legend(canvas, row(area, 1), counts);
}

fn legend(canvas: &mut Canvas<'_>, area: Rect, counts: SlotCounts) {
    let end = format!("target {}  capacity {} ", counts.target, counts.capacity);
    let taken = canvas.line_right(area, 0, &[(Role::Dim, &end)]);
    let area = Rect {
        width: area.width - taken,
        ..area
    };
    let mut x = 1;
    for state in [&STACK[..], &[SlotState::Vacant]].concat() {
        let number = count(&counts, state);
        let label = format!("{} {} ", canvas.theme.sign(state), state.as_str());
        if number == 0 && state == SlotState::Kept {
            continue;
        }
        let style = if number > 0 || state == SlotState::Ready {
            canvas.state_style(state)
        } else {
            canvas.theme.style(Role::Faint)
        };
        if x + cells(label.len()) + 4 > area.width {
            break;
        }
        x += canvas.text(area, x, 0, &label, style);
        let text = canvas
            .theme
            .style(if number > 0 { Role::Text } else { Role::Faint });
        x += canvas.text(area, x, 0, &number.to_string(), text) + 2;
    }
}

/// The counts at the end of the time on the screen.
fn at_end(state: &State) -> SlotCounts {
    let model = state.model();
    if state.back_ms() == 0 {
        return model.counts;
    }
    let sample = model.history.at(state.range().end_ms);
    sample.map_or(model.counts, |sample| sample.counts)
}

/// What stands at the right end of the axis of time.
pub(super) fn end_of_time(state: &State) -> String {
    match state.back_ms() {
        0 => "now".to_owned(),
        back_ms => format!("-{}", super::chart::seconds(back_ms / 1000)),
    }
}

fn pool_chart(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let counts = at_end(state);
    let facts = format!("{} of {} ready", counts.ready, counts.target);
    let inside = canvas.panel(area, "Pool", &[(Role::Dim, &facts)]);
    if inside.height < 3 || inside.width < 20 {
        return;
    }
    let [plot, labels] = with_labels(inside, 13);
    let chart = Rect {
        height: plot.height - 1,
        ..plot
    };
    let samples = state
        .model()
        .history
        .columns(state.range(), usize::from(chart.width));
    let most = samples
        .iter()
        .flatten()
        .map(|sample| sample.counts.capacity.saturating_add(sample.counts.beyond));
    let max = most.max().unwrap_or(counts.capacity).max(1);
    let stacks: Vec<_> = samples
        .iter()
        .map(|samples| samples.last().map(|sample| stack(sample)))
        .collect();
    canvas.stacked(chart, &stacks, max);
    let target = canvas.theme.style(Role::Title);
    for (x, samples) in (0..chart.width).zip(&samples) {
        if let Some(sample) = samples.last() {
            let share = linear(sample.counts.target.into(), max.into());
            canvas.level(chart, x, share, target);
        }
    }
    canvas.time_axis(
        row(plot, plot.height - 1),
        state.window_s(),
        &end_of_time(state),
    );
    pool_labels(
        canvas,
        Rect {
            height: chart.height,
            ..labels
        },
        counts,
        max,
    );
}

/// What the areas are, each beside its end.
fn pool_labels(canvas: &mut Canvas<'_>, area: Rect, counts: SlotCounts, max: u32) {
    let mut sum = 0_u32;
    let mut labels = Vec::new();
    for state in STACK {
        let own = count(&counts, state);
        if own > 0 {
            let middle = linear(f64::from(sum) + f64::from(own) / 2.0, max.into());
            labels.push((
                middle,
                Role::State(state),
                format!("{} {own}", state.as_str()),
            ));
        }
        sum = sum.saturating_add(own);
    }
    let target = linear(counts.target.into(), max.into());
    labels.push((target, Role::Title, format!("target {}", counts.target)));
    labels.sort_by(|one, other| other.0.total_cmp(&one.0));
    draw_labels(canvas, area, &labels);
}

/// Labels at shares of the height.
fn draw_labels(canvas: &mut Canvas<'_>, area: Rect, labels: &[(f64, Role, String)]) {
    if area.height == 0 {
        return;
    }
    let labels = &labels[..labels.len().min(usize::from(area.height))];
    let at = |share: f64| cells(index((1.0 - share) * f64::from(area.height - 1)));
    let wanted: Vec<_> = labels.iter().map(|(share, ..)| at(*share)).collect();
    for (y, (_, role, text)) in spread_labels(&wanted, area.height).into_iter().zip(labels) {
        canvas.line(row(area, y), 0, &[(*role, " "), (*role, text)]);
    }
}

/// A place for a chart, and one for labels at its right if there is room.
fn with_labels(area: Rect, width: u16) -> [Rect; 2] {
    let width = if area.width >= width * 3 { width } else { 0 };
    let plot = Rect {
        width: area.width - width,
        ..area
    };
    let labels = Rect {
        x: area.x + plot.width,
        width,
        ..area
    };
    [plot, labels]
}

fn stack(sample: &Sample) -> Stack {
    STACK.map(|state| (state, count(&sample.counts, state)))
}

/// All attaches of some seconds.
fn attaches(samples: &[&Sample]) -> Spread {
    let mut spread = Spread::default();
    for sample in samples {
        spread.add(sample.times(Step::Warm));
        spread.add(sample.times(Step::Cold));
    }
    spread
}

fn latency_chart(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let (model, range) = (state.model(), state.range());
    let all: Vec<_> = model.history.within(range).collect();
    let spread = attaches(&all);
    let facts = format!("{} attaches", humanise::count(spread.total()));
    let inside = canvas.panel(area, "Attach latency", &[(Role::Dim, &facts)]);
    if inside.height < 3 || inside.width < 20 {
        return;
    }
    percentile_line(canvas, row(inside, 0), &spread);
    let [plot, labels] = with_labels(below(inside, 1), 9);
    let chart = Rect {
        height: plot.height.saturating_sub(1),
        ..plot
    };
    let spreads: Vec<_> = model
        .history
        .columns(range, usize::from(chart.width))
        .iter()
        .map(|samples| attaches(samples))
        .collect();
    let min = spreads
        .iter()
        .filter_map(|spread| spread.percentile(50))
        .min();
    let (Some(min), Some(max)) = (min, spreads.iter().filter_map(Spread::max).max()) else {
        canvas.line(
            row(plot, plot.height / 2),
            0,
            &[(Role::Dim, " no attaches in this time")],
        );
        return;
    };
    let place = |us: u64| logarithmic(float(us), float(min) * 0.8, float(max) * 1.1);
    let lines: Vec<_> = (0..PERCENTILES.len())
        .zip(PERCENTILES)
        .rev()
        .map(|(number, (percent, _))| {
            let style = canvas.theme.style(Role::Line(number));
            let line = spreads
                .iter()
                .map(|spread| spread.percentile(percent).map(place));
            Line {
                style,
                // The longest of each second has nothing to do with that of the next.
                is_connected: percent < 100,
                shares: line.collect(),
            }
        })
        .collect();
    canvas.lines(chart, &lines);
    canvas.time_axis(
        row(plot, chart.height),
        state.window_s(),
        &end_of_time(state),
    );
    let newest = spreads.iter().rev().find(|spread| spread.total() > 0);
    let labelled: Vec<_> = (0..PERCENTILES.len())
        .zip(PERCENTILES)
        .rev()
        .filter_map(|(number, (percent, name))| {
            let us = newest?.percentile(percent)?;
            Some((
                place(us),
                Role::Line(number),
                format!("{name} {}", humanise::micros(us)),
            ))
        })
        .collect();
    let names: Vec<_> = labelled
        .into_iter()
        .map(|(share, role, text)| {
            let short = text.split(' ').next().unwrap_or_default().to_owned();
            (share, role, if labels.width >= 12 { text } else { short })
        })
        .collect();
    draw_labels(
        canvas,
        Rect {
            height: chart.height,
            ..labels
        },
        &names,
    );
}

/// The percentiles as numbers.
fn percentile_line(canvas: &mut Canvas<'_>, area: Rect, spread: &Spread) {
    let texts: Vec<_> = PERCENTILES
        .iter()
        .map(|&(percent, name)| {
            let us = spread.percentile(percent);
            (name, us.map_or_else(|| "-".to_owned(), humanise::micros))
        })
        .collect();
    let mut x = 0;
    for (number, (name, text)) in texts.iter().enumerate() {
        let wide = cells(width(name) + width(text) + 2);
        if x + wide > area.width {
            break;
        }
        let spans = [
            (Role::Dim, " "),
            (Role::Line(number), *name),
            (Role::Dim, " "),
            (Role::Text, text),
        ];
        let place = Rect {
            x: area.x + x,
            width: wide,
            ..area
        };
        canvas.line(place, 0, &spans);
        x += wide + 1;
    }
}

/// The mean of a figure in each column.
fn means(columns: &[Vec<&Sample>], figure: impl Fn(&Sample) -> f64) -> Vec<Option<f64>> {
    let mean = |samples: &Vec<&Sample>| {
        let sum: f64 = samples.iter().map(|sample| figure(sample)).sum();
        (!samples.is_empty()).then(|| sum / float(samples.len() as u64))
    };
    columns.iter().map(mean).collect()
}

fn most(columns: &[Option<f64>]) -> f64 {
    columns.iter().flatten().copied().fold(0.0, f64::max)
}

fn shares(columns: &[Option<f64>], max: f64) -> Vec<Option<f64>> {
    columns
        .iter()
        .map(|column| column.map(|value| linear(value, max)))
        .collect()
}

/// A rate as people say it.
fn rate(per_s: f64) -> String {
    if per_s > 0.0 && per_s < 10.0 {
        format!("{per_s:.1}/s")
    } else {
        format!("{per_s:.0}/s")
    }
}

/// The last sample on the screen.
fn newest(state: &State) -> Option<&Sample> {
    state.model().history.at(state.range().end_ms)
}

fn attach_panel(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let now = newest(state).map(|sample| sample.rates).unwrap_or_default();
    let facts = rate(now.attached());
    let inside = canvas.panel(area, "Attaches", &[(Role::Text, &facts)]);
    if inside.height < 2 {
        return;
    }
    let columns = state
        .model()
        .history
        .columns(state.range(), usize::from(inside.width));
    let (warm, cold) = (
        means(&columns, |s| s.rates.warm),
        means(&columns, |s| s.rates.cold),
    );
    let both = means(&columns, |sample| sample.rates.attached());
    let max = most(&both);
    let (warm_sum, cold_sum) = (sum(&warm), sum(&cold));
    let percent = |part: f64| {
        let all = warm_sum + cold_sum;
        if all > 0.0 {
            format!("{:.0}%", part / all * 100.0)
        } else {
            "-".to_owned()
        }
    };
    let (share_warm, share_cold) = (percent(warm_sum), percent(cold_sum));
    let refused = rate(now.refused);
    let refused_role = if now.refused > 0.0 {
        Role::Warning
    } else {
        Role::Dim
    };
    canvas.line(
        row(inside, 0),
        0,
        &[
            (Role::Line(1), " warm "),
            (Role::Text, &share_warm),
            (Role::Line(2), "  cold "),
            (Role::Text, &share_cold),
            (refused_role, "  refused "),
            (refused_role, &refused),
        ],
    );
    let chart = below(inside, 1);
    let styles = [
        canvas.theme.style(Role::Line(1)),
        canvas.theme.style(Role::Line(2)),
    ];
    canvas.two_bars(chart, &shares(&warm, max), &shares(&cold, max), styles);
    peak(canvas, chart, max);
}

fn sum(columns: &[Option<f64>]) -> f64 {
    columns.iter().flatten().sum()
}

/// What the top of a chart stands for.
fn peak(canvas: &mut Canvas<'_>, chart: Rect, max: f64) {
    if max > 0.0 && chart.height > 1 {
        let text = format!("{} ", rate(max));
        canvas.line(chart, 0, &[(Role::Dim, &text)]);
    }
}

fn lock_panel(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let (locks, range) = (&state.model().locks, state.range());
    let columns = locks.columns(RTNL, range, usize::from(area.width.saturating_sub(2)));
    let per_s: Vec<_> = columns
        .iter()
        .map(|cost| cost.map(|cost| float(cost.waits) * 1000.0 / float(cost.observed_ms.max(1))))
        .collect();
    let now = per_s.iter().rev().find_map(|waits| *waits).unwrap_or(0.0);
    let facts = format!("{} waits", rate(now));
    let inside = canvas.panel(area, "rtnl lock", &[(Role::Text, &facts)]);
    if inside.height < 2 {
        return;
    }
    if let Some(reason) = &locks.unavailable {
        canvas.line(
            row(inside, 0),
            0,
            &[(Role::Dim, " not watched: "), (Role::Dim, reason)],
        );
        return;
    }
    let waits = locks.waits(range);
    let rtnl = waits.locks.iter().find(|waits| waits.lock == RTNL);
    let figure = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), humanise::micros);
    let (p99, max) = (
        figure(rtnl.map(|r| r.p99_us)),
        figure(rtnl.map(|r| r.max_us)),
    );
    canvas.line(
        row(inside, 0),
        0,
        &[
            (Role::Dim, " p99 "),
            (Role::Text, &p99),
            (Role::Dim, "  max "),
            (Role::Text, &max),
        ],
    );
    let blocker = waits.blockers.iter().find(|blocker| blocker.lock == RTNL);
    let last = row(inside, inside.height - 1);
    let chart_height = if blocker.is_some() && inside.height > 2 {
        inside.height - 2
    } else {
        inside.height - 1
    };
    let chart = Rect {
        height: chart_height,
        ..below(inside, 1)
    };
    let top = most(&per_s);
    let style = canvas.theme.style(Role::Line(0));
    canvas.bars(chart, &shares(&per_s, top), style);
    peak(canvas, chart, top);
    if let Some(blocker) = blocker.filter(|_| inside.height > 2) {
        let took = humanise::micros(blocker.total_us);
        let caller = blocker
            .caller
            .as_deref()
            .map_or_else(String::new, |caller| format!(" in {caller}"));
        canvas.line(
            last,
            0,
            &[
                (Role::Dim, " held by "),
                (Role::Text, &blocker.thread),
                (Role::Dim, " "),
                (Role::Text, &took),
                (Role::Dim, &caller),
            ],
        );
    }
}

fn refill_panel(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let model = state.model();
    let columns = model
        .history
        .columns(state.range(), usize::from(area.width.saturating_sub(2)));
    let made = means(&columns, |sample| {
        sample.rates.created + sample.rates.recycled
    });
    let now = newest(state).map_or(0.0, |sample| sample.rates.created + sample.rates.recycled);
    let facts = rate(now);
    let inside = canvas.panel(area, "Refill", &[(Role::Text, &facts)]);
    if inside.height < 2 {
        return;
    }
    let limit = newest(state).map_or(0, |sample| sample.refill_per_s);
    let limit_text = format!("{limit}/s");
    let figures = model.figures.as_ref();
    let pacing = figures
        .and_then(|status| status.pacing.as_ref())
        .filter(|pacing| pacing.pause_us > 0);
    let (word, how) = match (pacing, figures) {
        (Some(pacing), _) => ("  held back ", humanise::micros(pacing.pause_us)),
        (None, Some(status)) => ("  target ", status.target.mode.to_string()),
        (None, None) => ("", String::new()),
    };
    canvas.line(
        row(inside, 0),
        0,
        &[
            (Role::Dim, " can make "),
            (Role::Text, &limit_text),
            (Role::Dim, word),
            (Role::Text, &how),
        ],
    );
    let chart = Rect {
        height: inside.height - 1,
        ..below(inside, 1)
    };
    let chart = if inside.height > 3 {
        Rect {
            height: chart.height - 1,
            ..chart
        }
    } else {
        chart
    };
    let max = most(&made);
    let style = canvas.theme.style(Role::State(SlotState::Creating));
    canvas.bars(chart, &shares(&made, max), style);
    peak(canvas, chart, max);
    if inside.height > 3 {
        let p50 = |step: Step| {
            let us = model.history.spread(step, state.range()).percentile(50);
            us.map_or_else(|| "-".to_owned(), humanise::micros)
        };
        let (namespace, link, configure) =
            (p50(Step::Namespace), p50(Step::Link), p50(Step::Configure));
        canvas.line(
            row(inside, inside.height - 1),
            0,
            &[
                (Role::Dim, " p50 netns "),
                (Role::Text, &namespace),
                (Role::Dim, " link "),
                (Role::Text, &link),
                (Role::Dim, " conf "),
                (Role::Text, &configure),
            ],
        );
    }
}
