//! What the keys do, as the table of keys has it.

use ratatui::layout::Rect;

use super::{
    canvas::{Canvas, below, row},
    theme::Role,
};
use crate::top::{
    keys::{Binding, Keys},
    state::{State, input::Input},
};

pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    area: Rect,
    state: &State,
    keys: &Keys,
    search: &Input,
    scroll: usize,
) {
    let needle = search.text().to_lowercase();
    let matches = |binding: &&Binding| {
        needle.is_empty()
            || [binding.name, binding.help]
                .iter()
                .any(|text| text.contains(&needle))
            || binding.all_keys(true).to_lowercase().contains(&needle)
    };
    let found: Vec<_> = keys.bindings().iter().filter(matches).collect();
    let room = usize::from(area.height.saturating_sub(4));
    let first = scroll.min(found.len().saturating_sub(room));
    let last = found.len().min(first + room);
    let facts = format!("{}-{last} of {}", (first + 1).min(last), found.len());
    let inside = canvas.panel(area, "Keys", &[(Role::Dim, &facts)]);
    let prompt = [
        (Role::Dim, " search: "),
        (Role::Text, search.text()),
        (Role::Accent, "_"),
    ];
    canvas.line(row(inside, 0), 0, &prompt);
    let table = below(inside, 2);
    for (y, binding) in (0..table.height).zip(found.iter().skip(first)) {
        let possible = state.mode.read_only
            && matches!(
                binding.when,
                crate::top::keys::When::Writable
                    | crate::top::keys::When::AttachedSlot
                    | crate::top::keys::When::ReadySlot
            );
        let role = if possible { Role::Faint } else { Role::Text };
        let key = format!(" {:<12}", binding.all_keys(canvas.theme.ascii));
        canvas.line(
            row(table, y),
            0,
            &[(Role::Accent, &key), (role, binding.help)],
        );
    }
}
