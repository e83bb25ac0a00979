//! What is on the screen: reviewed pictures of every view, what colours mean, and that nothing disturbs it.

use proptest::prelude::*;
use ratatui::{buffer::Buffer, layout::Rect, style::Modifier};

use super::{
    draw,
    text::of_buffer,
    theme::{Depth, Theme, ThemeName},
};
use crate::top::{
    action::{Action, View},
    fixture::{self, watched},
    keys::Keys,
    state::{Mode, State, input::Typed},
};

const DARK: Theme = Theme {
    name: ThemeName::Dark,
    depth: Depth::True,
    ascii: false,
};

fn drawn(state: &State, theme: Theme, width: u16, height: u16) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(state, &Keys::default(), theme, &mut buffer);
    buffer
}

fn text(state: &State, width: u16, height: u16) -> String {
    of_buffer(&drawn(state, DARK, width, height), false)
}

/// Both sizes that everything is reviewed at.
fn reviewed(name: &str, state: &State) {
    for (width, height) in [(80, 24), (120, 40)] {
        insta::assert_snapshot!(
            format!("{name}-{width}x{height}"),
            text(state, width, height)
        );
    }
}

#[test]
fn every_view_is_as_reviewed() {
    let mut state = watched(150, false);
    for view in View::ALL {
        state.act(Action::Show(view));
        reviewed(&view.title().to_lowercase(), &state);
    }
}

#[test]
fn trouble_is_told_first_with_what_to_do() {
    let mut state = watched(150, true);
    reviewed("trouble", &state);
    state.act(Action::Open);
    reviewed("warnings", &state);
}

#[test]
fn what_covers_a_view_is_as_reviewed() {
    let mut state = watched(60, false);
    state.act(Action::Help);
    reviewed("help", &state);
    state.act(Action::Close);
    state.act(Action::Show(View::Slots));
    state.act(Action::Open);
    reviewed("slot", &state);
    state.act(Action::Close);
    state.act(Action::Detach);
    reviewed("confirm", &state);
    state.act(Action::Close);
    state.act(Action::Filter);
    "state:attached tx>x"
        .chars()
        .for_each(|letter| drop(state.typed(Typed::Letter(letter))));
    reviewed("filter", &state);
    state.act(Action::Close);
    state.act(Action::Show(View::Locks));
    state.act(Action::Open);
    reviewed("stacks", &state);
}

#[test]
fn what_is_not_live_says_so() {
    let mut state = State::new(Mode::default());
    state.lost("cannot reach pcpmd at /run/pcpm/pcpm.sock".into(), 3_000);
    insta::assert_snapshot!("unreachable", text(&state, 80, 24));
    let mut cut_off = watched(30, false);
    cut_off.lost("the daemon ended it".into(), fixture::BEGUN_MS + 33_000);
    cut_off.tick(fixture::BEGUN_MS + 31_000);
    assert!(
        text(&cut_off, 80, 24).contains("stale for 2s, retry in 2s"),
        "{}",
        text(&cut_off, 80, 24)
    );
    let mut paused = watched(30, false);
    paused.act(Action::Pause);
    paused.tick(fixture::BEGUN_MS + 41_000);
    assert!(text(&paused, 80, 24).contains("paused, 12s ago"));
    insta::assert_snapshot!("too-small", text(&paused, 40, 8));
}

#[test]
fn poor_fonts_and_terminals_get_what_they_can_show() {
    let mut state = watched(150, true);
    for view in View::ALL {
        state.act(Action::Show(view));
        let theme = Theme {
            ascii: true,
            depth: Depth::None,
            ..DARK
        };
        let buffer = drawn(&state, theme, 100, 30);
        for cell in &buffer.content {
            let sign = cell.symbol();
            assert!(sign.is_ascii(), "{sign:?} in {}", view.title());
            let style = cell.style();
            let coloured = [style.fg, style.bg]
                .into_iter()
                .flatten()
                .any(|c| c != ratatui::style::Color::Reset);
            assert!(!coloured, "a colour in {}", view.title());
        }
        if view == View::Overview {
            insta::assert_snapshot!("overview-ascii", of_buffer(&buffer, false));
        }
    }
}

#[test]
fn each_state_has_a_colour_a_sign_and_a_word() {
    let state = watched(150, true);
    for name in [ThemeName::Dark, ThemeName::Light, ThemeName::Safe] {
        let buffer = drawn(&state, Theme { name, ..DARK }, 120, 40);
        let lines: Vec<_> = of_buffer(&buffer, false)
            .lines()
            .map(str::to_owned)
            .collect();
        let row = lines
            .iter()
            .position(|line| line.contains("● ready"))
            .unwrap();
        let colours: std::collections::HashSet<_> = [
            "● ready",
            "◆ attached",
            "◔ creating",
            "◌ retiring",
            "✗ failed",
        ]
        .iter()
        .map(|legend| {
            let before = lines[row].split(legend).next().unwrap();
            let x = u16::try_from(before.chars().count()).unwrap();
            buffer[(x, u16::try_from(row).unwrap())].fg
        })
        .collect();
        assert_eq!(colours.len(), 5, "{name:?}");
    }
}

#[test]
fn the_target_is_seen_over_the_areas() {
    let state = watched(150, false);
    for (name, depth) in [
        (ThemeName::Dark, Depth::True),
        (ThemeName::Light, Depth::Indexed),
        (ThemeName::Safe, Depth::True),
        (ThemeName::Dark, Depth::Sixteen),
    ] {
        let theme = Theme {
            name,
            depth,
            ..DARK
        };
        let buffer = drawn(&state, theme, 120, 40);
        let cells = buffer.content.iter();
        let line: Vec<_> = cells.filter(|cell| cell.symbol() == "╌").collect();
        assert!(line.len() > 20, "{name:?}");
        let plain = |cell: &&ratatui::buffer::Cell| cell.fg == ratatui::style::Color::Reset;
        assert!(line.iter().all(plain), "{name:?} {depth:?}");
    }
}

#[test]
fn the_selected_row_is_marked_in_every_theme_and_follows_its_slot() {
    let mut state = watched(60, false);
    state.act(Action::Show(View::Slots));
    (0..3).for_each(|_| drop(state.act(Action::Down)));
    assert_eq!(state.selected_slot().unwrap().slot.slot, "s0003");
    state.act(Action::SortReverse);
    assert_eq!(state.selected_slot().unwrap().slot.slot, "s0003");
    for (name, depth) in [
        (ThemeName::Dark, Depth::True),
        (ThemeName::Mono, Depth::None),
        (ThemeName::Dark, Depth::Sixteen),
    ] {
        let buffer = drawn(
            &state,
            Theme {
                name,
                depth,
                ..DARK
            },
            120,
            40,
        );
        let marked = |y: u16| {
            let cell = &buffer[(2, y)];
            cell.bg != ratatui::style::Color::Reset || cell.modifier.contains(Modifier::REVERSED)
        };
        assert_eq!(
            (2..39).filter(|&y| marked(y)).count(),
            1,
            "{name:?} {depth:?}"
        );
    }
}

#[test]
fn the_axis_of_times_has_room_for_every_time() {
    let mut state = watched(150, false);
    state.act(Action::Show(View::Latency));
    for _ in 0..20 {
        for (width, height) in [(80, 24), (120, 40)] {
            let screen = text(&state, width, height);
            assert!(!screen.contains('…'), "{screen}");
        }
        state.act(Action::Down);
    }
}

#[test]
fn the_waits_of_every_lock_can_be_drawn() {
    let mut state = watched(60, false);
    state.act(Action::Show(View::Locks));
    for (action, lock) in [
        (Action::NextLock, "(rcu_barrier)"),
        (Action::NextLock, "rtnl_mutex"),
        (Action::PreviousLock, "(rcu_barrier)"),
        (Action::Lock(0), "rtnl_mutex"),
        (Action::Lock(1), "(rcu_barrier)"),
    ] {
        state.act(action);
        let screen = text(&state, 120, 40);
        let title = format!("─ Waits for {lock} ─");
        assert!(screen.contains(&title), "{action:?}: {screen}");
        assert!(!screen.contains("nobody waited"), "{screen}");
    }
}

#[test]
fn the_lock_that_is_chosen_is_on_the_screen() {
    let mut state = watched(10, false);
    let mut frame = fixture::frame(10, false);
    for second in frame.locks.iter_mut().flatten() {
        let lock = second.locks[0].clone();
        second.locks = (0..16)
            .map(|number| pcpm_api::types::LockWaits {
                lock: format!("lock-{number}"),
                ..lock.clone()
            })
            .collect();
    }
    state.take(frame);
    state.act(Action::Show(View::Locks));
    for number in [0, 7, 15] {
        state.act(Action::Lock(number));
        let screen = text(&state, 80, 24);
        let chosen = state.lock();
        let shown = screen.matches(chosen).count();
        assert!(shown >= 2, "{chosen} in {screen}");
    }
}

#[test]
fn changes_are_not_offered_where_they_are_not_allowed() {
    for read_only in [false, true] {
        let mut state = watched(10, false);
        state.mode = Mode { read_only };
        state.act(Action::Show(View::Slots));
        assert_eq!(text(&state, 120, 40).contains("d detach"), !read_only);
        let can = Keys::default()
            .bindings()
            .iter()
            .any(|binding| binding.action == Action::Drain && state.can(binding.when));
        assert_eq!(can, !read_only);
    }
}

#[test]
fn hostile_names_stay_in_their_fields() {
    let mut state = watched(10, false);
    let mut frame = fixture::frame(10, false);
    let hostile = "\u{1b}[2J\u{202e}日本語\u{301}\u{301}\r\n\u{9b}x".repeat(9);
    for (number, slot) in frame
        .slots
        .iter_mut()
        .chain(&mut fixture::frame(0, false).slots)
        .enumerate()
    {
        slot.slot = format!("s{number:04}");
    }
    frame.slots = fixture::frame(0, false).slots;
    for slot in &mut frame.slots {
        (slot.owner, slot.tenant) = (Some(hostile.clone()), Some(hostile.clone()));
    }
    for event in &mut frame.events {
        event.message.clone_from(&hostile);
    }
    frame.locks.iter_mut().flatten().for_each(|second| {
        second
            .blockers
            .iter_mut()
            .for_each(|blocker| blocker.thread.clone_from(&hostile));
        second
            .waiters
            .iter_mut()
            .for_each(|waiter| waiter.thread.clone_from(&hostile));
    });
    state.take(frame);
    for view in View::ALL {
        state.act(Action::Show(view));
        for overlaid in [false, true] {
            if overlaid {
                state.act(Action::Open);
            }
            let buffer = drawn(&state, DARK, 120, 40);
            let text = of_buffer(&buffer, false);
            assert!(
                !text.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r', '\u{301}']),
                "{text}"
            );
            let right = &buffer[(119, 20)];
            assert!(
                ["│", " ", "╮", "╯", "─"].contains(&right.symbol()),
                "{:?} in {}",
                right.symbol(),
                view.title()
            );
        }
    }
}

fn any_frame() -> impl Strategy<Value = pcpm_api::types::WatchFrame> {
    let number = prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..1000_u64];
    (
        number.clone(),
        number.clone(),
        number,
        any::<u32>(),
        any::<bool>(),
        0..3_u64,
        ".{0,40}",
    )
        .prop_map(|(time, big, other, counts, full, second, name)| {
            let mut frame = fixture::frame(second, full);
            (frame.time_ms, frame.full) = (time, full);
            frame.counts.ready = counts;
            frame.counts.attached = counts.rotate_left(7);
            frame.counts.capacity = counts.rotate_left(13);
            if let Some(figures) = &mut frame.figures {
                figures.slots = frame.counts;
                figures.attach.warm = big;
                figures.uptime_s = other;
                figures.flows.used = counts;
                figures.target.refill_per_s = counts;
            }
            for slot in &mut frame.slots {
                slot.owner = slot.owner.take().map(|_| name.clone());
                slot.attached_at_ms = Some(big);
                slot.took_us = Some(other);
            }
            for usage in frame.usage.iter_mut().flatten() {
                usage.traffic.sent_bytes = big;
                usage.traffic.received_bytes = other;
            }
            for second in frame.locks.iter_mut().flatten() {
                (second.time_ms, second.interval_ms) = (other, big);
                for lock in &mut second.locks {
                    (lock.waits, lock.total_us, lock.max_us, lock.p50_us) =
                        (big, other, big, other);
                }
                for waiter in &mut second.waiters {
                    (waiter.total_us, waiter.waits) = (big, other);
                }
                for blocker in &mut second.blockers {
                    (blocker.total_us, blocker.waits) = (big, other);
                }
            }
            for time in frame
                .steps
                .iter_mut()
                .flatten()
                .flat_map(|step| &mut step.times)
            {
                (time.from_us, time.count) = (time.from_us.wrapping_mul(other), big);
            }
            frame
        })
}

fn any_action() -> impl Strategy<Value = Action> {
    let bindings = Keys::default()
        .bindings()
        .iter()
        .map(|binding| binding.action)
        .collect::<Vec<_>>();
    prop_oneof![
        proptest::sample::select(bindings),
        (0..300_usize).prop_map(Action::Select),
        (0..20_usize).prop_map(Action::Sort),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_size_and_no_data_panics(
        frames in proptest::collection::vec(any_frame(), 0..4),
        actions in proptest::collection::vec(any_action(), 0..12),
        sizes in proptest::collection::vec((1..=300_u16, 1..=100_u16), 1..4),
        typed in "[ -~]{0,12}",
        ascii in any::<bool>(),
    ) {
        let mut state = watched(3, true);
        for frame in frames {
            state.take(frame);
        }
        for action in actions {
            state.act(action);
            if state.is_typing() {
                typed.chars().for_each(|letter| drop(state.typed(Typed::Letter(letter))));
            }
            for &(width, height) in &sizes {
                drawn(&state, Theme { ascii, ..DARK }, width, height);
            }
        }
    }
}
