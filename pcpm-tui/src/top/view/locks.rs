//! Who waits for the kernel's locks, and who holds them.

use pcpm_api::types::{LockBlocker, LockWaiter, LockWaits, LongWait};
use ratatui::layout::Rect;

use super::{
    canvas::{Canvas, Span, columns, row, rows},
    grid, latency, slots,
    tenants::share_bar,
    theme::Role,
};
use crate::{
    render::humanise,
    top::{
        action::Action,
        num::{cells, float},
        state::{
            State,
            locks::{RTNL, Waits},
            table::Column,
        },
    },
};

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let (model, range) = (state.model(), state.range());
    if let Some(reason) = &model.locks.unavailable {
        let inside = canvas.panel(area, "Locks", &[]);
        canvas.line(
            row(inside, 1),
            0,
            &[(Role::Warning, "  not watched: "), (Role::Text, reason)],
        );
        canvas.line(
            row(inside, 2),
            0,
            &[(Role::Dim, "  'pcpm doctor' says what the kernel lacks")],
        );
        return;
    }
    let waits = model.locks.waits(range);
    let [upper, middle, lower] = rows(area, [8, 7, 7]);
    let [chart, locks] = columns(upper, [1, 1]);
    wait_chart(canvas, chart, state, &waits);
    lock_list(canvas, locks, state, &waits);
    waiters(canvas, middle, state, &waits);
    let [blockers, longest] = columns(lower, [1, 1]);
    blocker_list(canvas, blockers, &waits);
    long_list(canvas, longest, &waits);
}

/// How long waits for the chosen lock took, second by second.
fn wait_chart(canvas: &mut Canvas<'_>, area: Rect, state: &State, waits: &Waits) {
    let found = waits.locks.iter().find(|lock| state.is_chosen(lock));
    let figures = found.map_or_else(String::new, |lock| {
        let [p50, p99, max] = [lock.p50_us, lock.p99_us, lock.max_us].map(humanise::micros);
        format!("p50 {p50} p99 {p99} max {max}")
    });
    let title = format!("Waits for {}", state.lock());
    let inside = canvas.panel(area, &title, &[(Role::Dim, &figures)]);
    let (locks, range) = (&state.model().locks, state.range());
    let spreads = |columns| locks.spreads(|lock| state.is_chosen(lock), range, columns);
    latency::heat(canvas, inside, state, "nobody waited in this time", spreads);
}

/// A figure of a lock: its title, its cells, and what it is.
type Figure = (&'static str, usize, fn(&LockWaits, &Waits) -> String);

/// Those that matter less are behind.
const FIGURES: [Figure; 5] = [
    ("WAITS", 8, |lock, _| humanise::count(lock.waits)),
    ("TOTAL", 8, |lock, _| humanise::micros(lock.total_us)),
    ("p99", 8, |lock, _| humanise::micros(lock.p99_us)),
    ("MAX", 8, |lock, _| humanise::micros(lock.max_us)),
    ("SHARE", 7, |lock, waits| {
        let share = float(lock.total_us) / 10.0 / float(waits.observed_ms.max(1));
        format!("{share:.1}%")
    }),
];

/// Cells that the name of a lock has at least.
const NAME: usize = 12;

fn lock_list(canvas: &mut Canvas<'_>, area: Rect, state: &State, waits: &Waits) {
    let facts = format!("of {}", humanise::millis(waits.observed_ms));
    let inside = canvas.panel(area, "Locks", &[(Role::Dim, &facts)]);
    if inside.height < 2 {
        return;
    }
    if waits.locks.is_empty() {
        let nobody = [(Role::Dim, " nobody waited in this time")];
        canvas.line(row(inside, 1), 0, &nobody);
    }
    let room = usize::from(inside.width).saturating_sub(NAME);
    let mut taken = 0;
    let fits = |(_, wide, _): &&Figure| {
        taken += wide;
        taken <= room
    };
    let figures: Vec<_> = FIGURES.iter().take_while(fits).collect();
    let wide: usize = figures.iter().map(|(_, wide, _)| wide).sum();
    let name_width = usize::from(inside.width).saturating_sub(wide);
    let titles = figures
        .iter()
        .map(|(title, wide, _)| format!("{title:>wide$}"));
    let title = format!("{:<name_width$}{}", "LOCK", titles.collect::<String>());
    canvas.line(row(inside, 0), 0, &[(Role::Dim, &title)]);
    let chosen = waits.locks.iter().position(|lock| state.is_chosen(lock));
    let rows = usize::from(inside.height - 1);
    let first = grid::first_row(chosen.unwrap_or(0), waits.locks.len(), rows);
    let visible = waits.locks.iter().enumerate().skip(first);
    for (y, (number, lock)) in (1..inside.height).zip(visible) {
        let line = row(inside, y);
        lock_name(canvas, line, lock, name_width);
        let texts = figures.iter().map(|(_, wide, figure)| {
            let text = figure(lock, waits);
            format!("{text:>wide$}")
        });
        canvas.line_right(line, 0, &[(Role::Text, &texts.collect::<String>())]);
        if state.is_chosen(lock) {
            let style = canvas.theme.selected();
            canvas.highlight(line, style);
        }
        canvas.hit(line, Action::Lock(number));
    }
}

/// A lock and, where that makes a difference, whether it was asked for to read or to write.
fn lock_name(canvas: &mut Canvas<'_>, area: Rect, lock: &LockWaits, room: usize) {
    let place = Rect {
        width: cells(room).min(area.width),
        ..area
    };
    let role = if lock.lock == RTNL {
        Role::Title
    } else {
        Role::Text
    };
    let (_, mode) = lock.kind.split_once(':').unwrap_or_default();
    let name = Rect {
        width: place.width - cells(mode.len() + 1).min(place.width),
        ..place
    };
    let taken = canvas.line(name, 0, &[(role, &lock.lock)]);
    let beside = Rect {
        x: place.x + taken + 1,
        ..place
    };
    canvas.line(beside.intersection(place), 0, &[(Role::Dim, mode)]);
}

fn waiters(canvas: &mut Canvas<'_>, area: Rect, state: &State, waits: &Waits) {
    let now_ms = state.model().now_ms;
    let shown = state.waiters.rows(waits.waiters.iter(), now_ms);
    let extent = grid::extent(&shown, &state.waiters, area.height.saturating_sub(2));
    let facts = slots::caption(state.waiters.filter.text(), &extent);
    let inside = canvas.panel(area, "Who waits", &[(Role::Dim, &facts)]);
    grid::table(canvas, inside, &shown, &state.waiters, now_ms, look);
}

fn look(_: &Canvas<'_>, waiter: &LockWaiter, column: &Column<LockWaiter>) -> (Option<char>, Role) {
    match column.key {
        "waiter" => (None, Role::Title),
        "lock" if waiter.lock != RTNL => (None, Role::Dim),
        "in" => (None, Role::Dim),
        _ => (None, Role::Text),
    }
}

fn blocker_list(canvas: &mut Canvas<'_>, area: Rect, waits: &Waits) {
    let inside = canvas.panel(area, "Who is waited for", &[]);
    let most = waits.blockers.first().map_or(1, |blocker| blocker.total_us);
    for (y, blocker) in (0..inside.height).zip(&waits.blockers) {
        let line = row(inside, y);
        let took = format!("{:>7} ", humanise::micros(blocker.total_us));
        let taken = canvas.line(line, 0, &[(Role::Text, &took)]);
        let bar = Rect {
            x: line.x + taken,
            width: 8,
            ..line
        };
        share_bar(canvas, bar.intersection(line), blocker.total_us, most);
        let rest = Rect {
            x: line.x + taken + 9,
            width: line.width.saturating_sub(taken + 9),
            ..line
        };
        blocker_line(canvas, rest, blocker);
    }
    if waits.blockers.is_empty() && inside.height > 0 {
        canvas.line(row(inside, 0), 0, &[(Role::Dim, " nobody")]);
    }
}

fn blocker_line(canvas: &mut Canvas<'_>, area: Rect, blocker: &LockBlocker) {
    let operation = blocker.operation.as_deref();
    let pid = blocker.pid.filter(|_| operation.is_none());
    let pid = pid.map_or_else(String::new, |pid| format!("({pid})"));
    let caller = blocker
        .caller
        .as_deref()
        .map_or_else(String::new, |caller| format!(" in {caller}"));
    let lock = if blocker.lock == RTNL {
        String::new()
    } else {
        format!(", {}", blocker.lock)
    };
    let spans: [Span<'_>; 4] = [
        (Role::Title, operation.unwrap_or(&blocker.thread)),
        (Role::Dim, &pid),
        (Role::Dim, &caller),
        (Role::Dim, &lock),
    ];
    canvas.line(area, 0, &spans);
}

fn long_list(canvas: &mut Canvas<'_>, area: Rect, waits: &Waits) {
    let facts = if waits.long.is_empty() {
        ""
    } else {
        "Enter: stacks"
    };
    let inside = canvas.panel(area, "Longest waits", &[(Role::Dim, facts)]);
    for (y, wait) in (0..inside.height).zip(&waits.long) {
        long_line(canvas, row(inside, y), wait);
    }
    if waits.long.is_empty() && inside.height > 0 {
        canvas.line(row(inside, 0), 0, &[(Role::Dim, " none of 10 ms or more")]);
    }
}

/// One wait in a line.
pub(super) fn long_line(canvas: &mut Canvas<'_>, area: Rect, wait: &LongWait) {
    let time = grid::time_of_day(wait.time_ms);
    let waited = format!(" {:>7} ", humanise::micros(wait.waited_us));
    let who = wait.operation.as_deref().unwrap_or(&wait.thread);
    let holder = wait
        .holder
        .as_deref()
        .map_or_else(String::new, |holder| format!(" held by {holder}"));
    let caller = format!(" in {}", wait.caller);
    canvas.line(
        area,
        0,
        &[
            (Role::Dim, time.get(..8).unwrap_or(&time)),
            (Role::Warning, &waited),
            (Role::Title, who),
            (Role::Dim, &caller),
            (Role::Dim, &holder),
        ],
    );
}
