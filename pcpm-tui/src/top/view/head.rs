//! The first and the last line: where one is, whether what is shown is true, and what can be done.

use ratatui::{layout::Rect, style::Modifier};

use super::{
    canvas::{Canvas, Span},
    chart::seconds,
    text::width,
    theme::Role,
};
use crate::{
    render::humanise,
    top::{
        action::{Action, View},
        keys::{Keys, When},
        num::cells,
        state::{Link, State},
    },
};

pub(super) fn header(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    let status = status(canvas, state);
    let spans: Vec<Span<'_>> = status
        .iter()
        .map(|(role, text)| (*role, text.as_str()))
        .collect();
    let taken = canvas.line_right(area, 0, &spans);
    let rest = Rect {
        width: area.width.saturating_sub(taken + 1),
        ..area
    };
    tabs(canvas, rest, state.view);
}

/// How much room the names of views have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tabs {
    Wide,
    Narrow,
    Numbers,
}

impl Tabs {
    fn that_fit(room: u16) -> Self {
        let names: usize = View::ALL.iter().map(|view| view.title().len()).sum();
        let needed = |around: usize| cells(names + View::ALL.len() * around);
        match room {
            room if room >= needed(5) => Self::Wide,
            room if room >= needed(3) => Self::Narrow,
            _ => Self::Numbers,
        }
    }

    fn label(self, number: usize, view: View, is_current: bool) -> String {
        match self {
            Self::Numbers if !is_current => format!(" {number} "),
            Self::Narrow => format!("{number} {}", view.title()),
            Self::Wide | Self::Numbers => format!(" {number} {} ", view.title()),
        }
    }
}

/// Views by number and name; only the numbers where there is no room.
fn tabs(canvas: &mut Canvas<'_>, area: Rect, current: View) {
    let tabs = Tabs::that_fit(area.width);
    let mut x = u16::from(tabs == Tabs::Narrow);
    for (number, view) in (1..).zip(View::ALL) {
        let is_current = view == current;
        let label = tabs.label(number, view, is_current);
        let style = if is_current {
            canvas
                .theme
                .style(Role::Accent)
                .add_modifier(Modifier::BOLD | Modifier::REVERSED)
        } else {
            canvas.theme.style(Role::Dim)
        };
        let place = Rect {
            x: area.x + x.min(area.width),
            width: cells(width(&label)).min(area.width.saturating_sub(x)),
            height: 1,
            ..area
        };
        x += canvas.text(area, x, 0, &label, style) + 1;
        canvas.hit(place, Action::Show(view));
    }
}

/// Whether what is shown is what is.
fn status(canvas: &Canvas<'_>, state: &State) -> Vec<(Role, String)> {
    let sign =
        |plain: &'static str, ascii: &'static str| if canvas.theme.ascii { ascii } else { plain };
    let window = (Role::Dim, format!("  {} ", seconds(state.window_s())));
    if let Link::Lost {
        since_ms, retry_ms, ..
    } = &state.link
    {
        let ago = seconds(state.clock_ms.saturating_sub(*since_ms) / 1000);
        let again = seconds(retry_ms.saturating_sub(state.clock_ms).div_ceil(1000));
        let text = format!("{} stale for {ago}, retry in {again}", sign("○", "!"));
        return vec![(Role::Bad, text), window];
    }
    if let Some(paused_ms) = state.paused_for_ms() {
        let text = format!(
            "{} paused, {} ago",
            sign("‖", "||"),
            seconds(paused_ms / 1000)
        );
        return vec![(Role::Warning, text), window];
    }
    if let Link::Replay(replay) = &state.link {
        let at = format!(
            "{}/{}",
            seconds(replay.position_ms / 1000),
            seconds(replay.length_ms / 1000)
        );
        let how = if replay.ended {
            "ended".to_owned()
        } else {
            format!("{}x", replay.speed)
        };
        let text = format!("{} replay {how} {at}", sign("▶", ">"));
        return vec![(Role::Accent, text), window];
    }
    let mut status = vec![(Role::Good, format!("{} live", sign("●", "*")))];
    if let Some(figures) = &state.model().figures {
        let up = humanise::long(std::time::Duration::from_secs(figures.uptime_s));
        status.push((Role::Dim, format!("  up {up}")));
    }
    status.push(window);
    status
}

pub(super) fn footer(canvas: &mut Canvas<'_>, area: Rect, state: &State, keys: &Keys) {
    if let Some(notice) = state.notice() {
        canvas.line(area, 0, &[(Role::Accent, " "), (Role::Accent, notice)]);
        return;
    }
    let mut x = 1;
    let possible = keys.bindings().iter().filter(|binding| {
        !binding.short.is_empty() && state.can(binding.when) && !is_hidden(binding.when, state)
    });
    // What is special to the moment comes first, so that it is what is seen where there is no room.
    let mut possible: Vec<_> = possible.collect();
    possible.sort_by_key(|binding| binding.when == When::Always);
    for binding in possible {
        let key = binding.key(canvas.theme.ascii);
        let label = format!(" {}", binding.short);
        let needed = cells(width(&key) + width(&label));
        if x + needed + 1 > area.width {
            break;
        }
        let place = Rect {
            x: area.x + x,
            width: needed,
            ..area
        };
        let key_style = canvas.theme.style(Role::Accent);
        let dim = canvas.theme.style(Role::Dim);
        x += canvas.text(area, x, 0, &key, key_style);
        x += canvas.text(area, x, 0, &label, dim) + 2;
        canvas.hit(place, binding.action);
    }
}

/// Under an overlay only closing it makes sense.
fn is_hidden(when: When, state: &State) -> bool {
    state.overlay.is_some() && when != When::Overlay
}
