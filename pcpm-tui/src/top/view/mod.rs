//! The screen, made of the state: the same state is always the same screen. Says, too, what a click where means.

mod canvas;
mod chart;
mod events;
mod grid;
mod head;
mod help;
mod latency;
mod locks;
mod overlay;
mod overview;
mod slots;
mod tenants;
pub(crate) mod text;
pub(crate) mod theme;

#[cfg(test)]
mod tests;

use ratatui::{buffer::Buffer, layout::Rect};

use self::{
    canvas::{Canvas, Hit},
    theme::{Role, Theme},
};
use super::{action::View, keys::Keys, state::State};

/// The smallest screen that everything fits on.
const SMALLEST: (u16, u16) = (60, 16);

/// Draws everything into the buffer.
pub(crate) fn draw(state: &State, keys: &Keys, theme: Theme, buffer: &mut Buffer) -> Vec<Hit> {
    let area = buffer.area;
    let mut canvas = Canvas {
        buffer,
        theme,
        hits: Vec::new(),
    };
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(&mut canvas, area);
        return Vec::new();
    }
    let header = Rect { height: 1, ..area };
    let footer = Rect {
        y: area.bottom() - 1,
        height: 1,
        ..area
    };
    let body = Rect {
        y: area.y + 1,
        height: area.height - 2,
        ..area
    };
    head::header(&mut canvas, header, state);
    body_of(&mut canvas, body, state);
    head::footer(&mut canvas, footer, state, keys);
    if state.overlay.is_some() {
        overlay::draw(&mut canvas, body, footer, state, keys);
    }
    canvas.hits
}

/// Rows of a table on a screen of that height, about.
pub(crate) fn page(height: u16) -> usize {
    usize::from(height.saturating_sub(6)).max(1)
}

fn body_of(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    if state.model().figures.is_none() {
        return nothing_yet(canvas, area, state);
    }
    match state.view {
        View::Overview => overview::draw(canvas, area, state),
        View::Slots => slots::draw(canvas, area, state),
        View::Locks => locks::draw(canvas, area, state),
        View::Latency => latency::draw(canvas, area, state),
        View::Tenants => tenants::draw(canvas, area, state),
        View::Events => events::draw(canvas, area, state),
    }
}

/// Before the first frame there is only the connection to speak of.
fn nothing_yet(canvas: &mut Canvas<'_>, area: Rect, state: &State) {
    use super::state::Link;
    let lines: [(Role, String); 3] = match &state.link {
        Link::Lost {
            reason, retry_ms, ..
        } => {
            let seconds = retry_ms.saturating_sub(state.clock_ms).div_ceil(1000);
            [
                (Role::Bad, "no connection to pcpmd".to_owned()),
                (Role::Text, reason.clone()),
                (
                    Role::Dim,
                    format!("trying again in {seconds}s; 'pcpm doctor' checks the host"),
                ),
            ]
        }
        Link::Replay(_) => [
            (Role::Title, "the recording begins".to_owned()),
            (Role::Text, String::new()),
            (Role::Text, String::new()),
        ],
        Link::Connecting | Link::Live => [
            (Role::Title, "connecting to pcpmd".to_owned()),
            (Role::Text, String::new()),
            (
                Role::Dim,
                "a daemon before 'Watch' had figures shows nothing here".to_owned(),
            ),
        ],
    };
    centred(canvas, area, &lines);
}

fn centred(canvas: &mut Canvas<'_>, area: Rect, lines: &[(Role, String)]) {
    let top =
        (usize::from(area.height).saturating_sub(lines.len()) / 2).min(usize::from(area.height));
    for (y, (role, text)) in (super::num::cells(top)..).zip(lines) {
        let text = text::clean(text);
        let shown = text::fit(&text, usize::from(area.width), canvas.theme.ascii);
        let x = (area.width - super::num::cells(text::width(&shown))) / 2;
        let style = canvas.theme.style(*role);
        canvas.text(area, x, y, &shown, style);
    }
}

fn too_small(canvas: &mut Canvas<'_>, area: Rect) {
    let (width, height) = SMALLEST;
    let lines = [
        (Role::Title, "pcpm top".to_owned()),
        (Role::Text, format!("needs {width}x{height}")),
        (Role::Dim, format!("this is {}x{}", area.width, area.height)),
    ];
    centred(canvas, area, &lines);
}
