//! Events as lines of the log. A storm of one kind is told by its first lines and a number: a client can cause
//! more events than anybody wants to keep.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::Level;

use super::events::Happening;
use crate::{
    net::slot_name,
    pool::{Holder, SlotIndex},
};

/// Lines that events of one kind may be in one [`WINDOW`]. Those below `info` are asked for, and all told.
const LINES: u32 = 10;

/// See [`LINES`].
const WINDOW: Duration = Duration::from_secs(1);

/// What was logged lately, by kind.
#[derive(Debug, Default)]
pub(super) struct LogLines(HashMap<&'static str, Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl LogLines {
    pub(super) fn log(
        &mut self,
        happening: &Happening,
        slot: Option<SlotIndex>,
        holder: Option<&Holder>,
    ) {
        let event = happening.kind();
        // A level is part of what the compiler makes of a line.
        macro_rules! line {
            ($level:expr, $left_out:expr) => {
                tracing::event!(
                    target: "pcpmd::events",
                    $level,
                    event,
                    slot = slot.map(slot_name),
                    owner = holder.map(|holder| holder.owner.as_str()),
                    tenant = holder.map(|holder| holder.tenant.as_str()),
                    left_out = $left_out,
                    "{}",
                    happening.message()
                )
            };
        }
        let level = happening.level();
        if level == Level::DEBUG {
            line!(Level::DEBUG, None::<u64>);
        } else if let Some(left_out) = self.admits(event, Instant::now()) {
            let left_out = Some(left_out).filter(|&lines| lines > 0);
            match level {
                Level::ERROR => line!(Level::ERROR, left_out),
                Level::WARN => line!(Level::WARN, left_out),
                _ => line!(Level::INFO, left_out),
            }
        }
    }

    /// Whether the event may be a line; if so, how many before it were not.
    fn admits(&mut self, event: &'static str, now: Instant) -> Option<u64> {
        let window = self.0.entry(event).or_insert(Window {
            began: now,
            lines: 0,
            left_out: 0,
        });
        if now.duration_since(window.began) >= WINDOW {
            window.began = now;
            window.lines = 0;
        }
        if window.lines == LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_one_kind_is_told_by_its_first_lines_and_a_number() {
        let mut lines = LogLines::default();
        let now = Instant::now();
        let told = (0..25).filter(|_| lines.admits("failed", now).is_some());
        assert_eq!(told.count(), 10);
        assert_eq!(lines.admits("lost", now), Some(0), "another kind");
        assert_eq!(lines.admits("failed", now + WINDOW), Some(15));
        assert_eq!(lines.admits("failed", now + WINDOW), Some(0));
    }
}
