//! What a watcher is told once a second: figures, and what attachments used.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pcpm_api::types::{SlotUsage, Traffic, WatchFrame};
use pcpm_tests::World;
use serde_json::json;

/// More than one call to the kernel reads, so that the reading goes on where it stopped.
const SLOTS: u32 = 1100;

#[test]
fn what_attachments_used_is_what_get_says_of_them() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(SLOTS)?;
    let owners: Vec<_> = (0..SLOTS).map(|i| format!("o{i}")).collect();
    let attached = owners.iter().map(|owner| daemon.attach(owner, "t"));
    let attached: Vec<_> = attached.collect::<Result<_>>()?;
    let (first, last) = (&attached[0], attached.last().context("one")?);
    let peer = &last.attachment.addresses[0];
    let ping = format!("ping -n -q -c 3 -i 0.1 {peer}");
    daemon.place(first).tool(&ping).run()?;
    let mut wire = daemon.connect()?;
    wire.stream("Watch", &json!({"usage": true, "figures": true}))?;
    let frame: WatchFrame = wire.next_reply()?;
    let used = frame.usage.context("no usage")?;
    assert_eq!(used.len(), owners.len());
    for attached in [first, last] {
        let attachment = &attached.attachment;
        let told = daemon.get(&attachment.owner)?;
        let seen: &SlotUsage = used
            .iter()
            .find(|usage| usage.slot == attachment.slot)
            .context("the slot is missing")?;
        // A kernel's own reports (MLD) are dropped whenever they come: between the two answers, too.
        let later = Traffic {
            dropped_packets: told.traffic.dropped_packets,
            ..seen.traffic
        };
        assert_eq!(later, told.traffic, "{}", attachment.slot);
        assert!(seen.traffic.dropped_packets <= told.traffic.dropped_packets);
        assert_eq!(seen.epoch, attachment.epoch);
        assert!(seen.traffic.sent_packets >= 3, "{seen:?}");
    }
    let figures = frame.figures.context("no figures")?;
    assert_eq!(figures.slots.attached, SLOTS);
    Ok(())
}

#[test]
fn figures_go_on_though_nothing_happens() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(2)?;
    let mut wire = daemon.connect()?;
    let asked = Instant::now();
    wire.stream("Watch", &json!({"figures": true}))?;
    let mut told = Vec::new();
    while told.len() < 4 {
        let frame: WatchFrame = wire.next_reply()?;
        told.extend(frame.figures.map(|_| frame.time_ms));
    }
    // The first are due at once, all others a second after those before: they may be late, never early.
    assert!(asked.elapsed() >= Duration::from_secs(3), "{told:?}");
    Ok(())
}
