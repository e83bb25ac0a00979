//! Frames of a watched pool as lines.

use pcpm_api::types::{Event, LockFrame, SlotCounts, WatchFrame};

use super::table::{Cell, render};
use super::{Hue, Look, humanise, locks};

/// Lines cannot wait for each other to be aligned: columns are as wide as their usual content.
const WIDTHS: [usize; 5] = [24, 10, 5, 20, 10];

/// Locks told of in a frame.
const LOCKS: usize = 3;

/// A line for the snapshot if `frame` is one, and one for each event, lock and long wait.
pub(crate) fn lines(frame: &WatchFrame, look: Look) -> String {
    let mut rows = Vec::new();
    if frame.full {
        rows.push(announcement(
            frame.time_ms,
            "watching",
            &summary(&frame.counts),
        ));
    }
    if frame.events_lost > 0 {
        let lost = format!("{} events came too fast to be shown", frame.events_lost);
        rows.push(announcement(frame.time_ms, "lost", &lost));
    }
    rows.extend(frame.events.iter().map(row));
    if let (true, Some(reason)) = (frame.full, &frame.locks_unavailable) {
        let message = format!("not watched: {reason}");
        rows.push(announcement(frame.time_ms, "lock", &message));
    }
    rows.extend(frame.locks.iter().flatten().flat_map(lock_rows));
    rows.into_iter()
        .map(|row| render(&[], &[padded(row, look)], look))
        .collect()
}

fn summary(counts: &SlotCounts) -> String {
    let SlotCounts {
        ready,
        attached,
        creating,
        retiring,
        failed,
        capacity,
        ..
    } = counts;
    format!(
        "{ready} ready, {attached} attached, {creating} creating, {retiring} retiring, \
         {failed} failed of {capacity} slots"
    )
}

fn lock_rows(frame: &LockFrame) -> Vec<Vec<Cell>> {
    let locks = frame.locks.iter().take(LOCKS);
    let locks = locks.map(|lock| ("lock", frame.time_ms, locks::lock_sentence(lock, frame)));
    let waits = frame.long_waits.iter();
    let waits = waits.map(|wait| ("wait", wait.time_ms, locks::wait_sentence(wait)));
    locks
        .chain(waits)
        .map(|(kind, time_ms, message)| announcement(time_ms, kind, &message))
        .collect()
}

fn announcement(time_ms: u64, kind: &str, message: &str) -> Vec<Cell> {
    let event = Event {
        sequence: 0,
        time_ms,
        kind: kind.into(),
        slot: None,
        owner: None,
        tenant: None,
        class: None,
        message: message.into(),
    };
    row(&event)
}

fn row(event: &Event) -> Vec<Cell> {
    let optional = |field: &Option<String>| Cell::new(field.as_deref().unwrap_or("-"));
    vec![
        Cell::painted(Hue::Faint, humanise::moment(event.time_ms)),
        Cell::painted(hue(&event.kind), &event.kind),
        optional(&event.slot),
        optional(&event.owner),
        optional(&event.tenant),
        Cell::new(&event.message),
    ]
}

fn padded(mut row: Vec<Cell>, look: Look) -> Vec<Cell> {
    if look.aligned {
        row.iter_mut()
            .zip(WIDTHS)
            .for_each(|(cell, width)| cell.pad(width));
    }
    row
}

fn hue(kind: &str) -> Hue {
    match kind {
        "ready" | "attached" | "updated" | "recycled" => Hue::Good,
        "detached" | "retired" | "unclean" => Hue::Busy,
        "waiting" | "cancelled" | "exhausted" | "refused" | "lost" | "tampered" | "wait" => {
            Hue::Warning
        }
        "failed" => Hue::Bad,
        _ => Hue::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PIPE, PLAIN};
    use super::*;

    fn frame(full: bool, events: Vec<Event>) -> WatchFrame {
        let counts = SlotCounts {
            ready: 5,
            capacity: 8,
            ..SlotCounts::default()
        };
        WatchFrame {
            full,
            time_ms: 0,
            counts,
            slots: Vec::new(),
            events,
            ..WatchFrame::default()
        }
    }

    fn attached() -> Event {
        Event {
            sequence: 1,
            time_ms: 1_500,
            kind: "attached".into(),
            slot: Some("s0007".into()),
            owner: Some("web\u{7}".into()),
            tenant: None,
            class: None,
            message: "in 14µs".into(),
        }
    }

    #[test]
    fn a_snapshot_is_summed_up() {
        let text = lines(&frame(true, Vec::new()), PIPE);
        assert!(
            text.starts_with("1970-01-01T00:00:00.000Z\twatching\t-\t-\t-\t5 ready"),
            "{text}"
        );
        assert!(text.ends_with("of 8 slots\n"), "{text}");
    }

    #[test]
    fn an_event_is_a_line_of_six_fields() {
        let text = lines(&frame(false, vec![attached()]), PIPE);
        let expected = "1970-01-01T00:00:01.500Z\tattached\ts0007\tweb\\u{7}\t-\tin 14µs\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_of_different_frames_are_aligned() {
        let mut other = attached();
        other.owner = None;
        let column = |event| {
            let text = lines(&frame(false, vec![event]), PLAIN);
            text.find("in 14").unwrap()
        };
        assert_eq!(column(attached()), column(other));
    }

    #[test]
    fn lost_events_are_told() {
        let mut frame = frame(false, Vec::new());
        assert_eq!(lines(&frame, PIPE), "");
        frame.events_lost = 3;
        assert!(lines(&frame, PIPE).contains("\tlost\t-\t-\t-\t3 events"));
    }

    #[test]
    fn a_lock_is_a_line_with_who_waited_and_who_was_waited_for() {
        let mut frame = frame(false, Vec::new());
        frame.locks = Some(vec![locks::tests::frame()]);
        let text = lines(&frame, PIPE);
        let expected = "1970-01-01T00:00:01.000Z\tlock\t-\t-\t-\trtnl_mutex: 20.0k waits, 2.5s in all, p99 2.0ms, \
                        max 31.0ms; most by pcpm-refill-0 (refill/link) in rtnl_newlink; held by ev\\u{1b}il(412) in \
                        rtnl_dellink\n\
                        1970-01-01T00:00:00.000Z\twait\t-\t-\t-\trefill/link waited 3.2ms for rtnl_mutex in \
                        rtnl_newlink, held by networkd(412) in rtnl_dellink\n";
        assert_eq!(text, expected);
    }
}
