//! Shows how a pool fills: a bar on a terminal, a few lines elsewhere.

use std::io::{IsTerminal, Write, stderr};

use anyhow::Result;
use pcpm_tests::Daemon;

const BAR: u32 = 40;

/// Waits until `slots` slots are ready, showing how many are.
///
/// # Errors
/// When they never are.
pub(crate) fn fill(daemon: &Daemon, slots: u32) -> Result<()> {
    let mut shown = None;
    let mut show = |ready: u32| {
        let step = if stderr().is_terminal() { BAR } else { 4 };
        let now = ready * step / slots.max(1);
        if shown.replace(now) != Some(now) {
            draw(ready, slots);
        }
    };
    daemon.watch(&format!("{slots} slots are ready"), |frame| {
        show(frame.counts.ready);
        (frame.counts.ready >= slots).then_some(())
    })?;
    if stderr().is_terminal() {
        eprintln!();
    }
    Ok(())
}

fn draw(ready: u32, slots: u32) {
    let mut out = stderr();
    if !out.is_terminal() {
        eprintln!("filling the pool: {ready} of {slots} slots ready");
        return;
    }
    let done = (ready * BAR / slots.max(1)).min(BAR);
    let (full, empty) = (repeat("#", done), repeat(".", BAR - done));
    let _ = write!(
        out,
        "\rfilling the pool [{full}{empty}] {ready} of {slots} slots ready"
    );
    let _ = out.flush();
}

fn repeat(mark: &str, count: u32) -> String {
    (0..count).map(|_| mark).collect()
}
