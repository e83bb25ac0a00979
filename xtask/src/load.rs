//! A pool under a load that goes up and down, with a dashboard that watches it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pcpm_tests::{Daemon, Process, World};

const TENANTS: [&str; 5] = ["shop", "search", "ml", "edge-eu", "edge-us"];
const KINDS: [&str; 4] = ["web", "job", "fn", "api"];

/// Attachments that come and go.
pub(crate) struct Load<'a> {
    world: &'a World,
    daemon: &'a Daemon,
    held: Vec<String>,
    made: usize,
    /// Traffic between slots, until it is dropped.
    traffic: Vec<Process>,
}

impl<'a> Load<'a> {
    pub(crate) fn new(world: &'a World, daemon: &'a Daemon) -> Self {
        Self {
            world,
            daemon,
            held: Vec::new(),
            made: 0,
            traffic: Vec::new(),
        }
    }

    /// Attaches until so many are held, or detaches the oldest.
    pub(crate) fn hold(&mut self, count: usize) -> Result<()> {
        while self.held.len() > count {
            let oldest = self.held.remove(0);
            self.daemon.detach(&oldest)?;
        }
        while self.held.len() < count {
            let owner = format!("{}-{}", KINDS[self.made % KINDS.len()], self.made);
            self.daemon
                .attach(&owner, TENANTS[self.made % TENANTS.len()])?;
            self.held.push(owner);
            self.made += 1;
        }
        Ok(())
    }

    /// Ends so many of the oldest attachments, and makes as many new ones.
    pub(crate) fn turn_over(&mut self, count: usize) -> Result<()> {
        let held = self.held.len();
        self.hold(held.saturating_sub(count))?;
        self.hold(held)
    }

    /// Has the newest attachment send to one of its tenant, and to one of another, who does not hear it.
    pub(crate) fn send(&mut self) -> Result<()> {
        let from = self
            .daemon
            .get(self.held.last().context("nothing is held")?)?;
        let peer = |back: usize| {
            let owner = self
                .held
                .iter()
                .rev()
                .nth(back)
                .context("too few are held")?;
            Ok::<_, anyhow::Error>(self.daemon.get(owner)?.attachment.addresses[0].clone())
        };
        for (peer, interval) in [(peer(TENANTS.len())?, "0.01"), (peer(1)?, "0.5")] {
            let ping = format!("ping -n -q -W 1 -s 900 -i {interval} {peer}");
            let tool = self.world.slot(&from.attachment.netns).tool(&ping);
            let quiet = tool.with(|command| {
                command.stdout(std::process::Stdio::null());
            });
            self.traffic.push(quiet.spawn()?);
        }
        if self.traffic.len() > 16 {
            self.traffic.drain(..2);
        }
        Ok(())
    }

    /// A quiet pool, a burst, and a quiet pool again, for so long.
    pub(crate) fn run(&mut self, lasts: Duration) -> Result<()> {
        const STEP: Duration = Duration::from_millis(200);
        let begun = Instant::now();
        let mut next = begun;
        for step in 0_usize.. {
            let passed = begun.elapsed();
            if passed >= lasts {
                return Ok(());
            }
            let part = passed.as_secs_f64() / lasts.as_secs_f64();
            let burst = (1.0 - (part - 0.6).abs() * 5.0).max(0.0);
            let held = 24 + scaled(burst, 66) + step * 7 % 5;
            self.hold(held)?;
            self.turn_over(1 + step % 3)?;
            if step % 8 == 0 {
                self.send()?;
            }
            next += STEP;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a small number"
)]
fn scaled(share: f64, most: u32) -> usize {
    (share * f64::from(most)) as usize
}
