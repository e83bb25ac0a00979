//! Rate limits, measured by iperf3.

use anyhow::{Context, Result};
use pcpm_api::types::AttachReply;
use pcpm_tests::{Daemon, PATIENCE, Place, World, serve_iperf};
use serde_json::{Value, json};

/// The internet's address on the host's uplink: iperf3 answers UDP from it whatever it was asked at.
const SERVER: &str = "192.0.2.1";
const LIMIT: f64 = 50_000_000.0;
const PACKETS: f64 = 2000.0;
const SECONDS: &str = "4";

/// A slot whose holder has `limits`.
fn limited(daemon: &Daemon, limits: &Value) -> Result<Place> {
    let mut parameters = json!({"owner": "limited"});
    for (name, value) in limits.as_object().into_iter().flatten() {
        parameters[name] = value.clone();
    }
    let reply: AttachReply = daemon.attach_with(&parameters)?;
    Ok(daemon.place(&reply))
}

/// What iperf3 says at the end of a test between `slot` and the internet.
fn iperf3(world: &World, slot: &Place, options: &[&str]) -> Result<Value> {
    let mut server = serve_iperf(&world.internet())?;
    let mut arguments = vec!["-J", "-t", SECONDS, "-c", SERVER];
    arguments.extend(options);
    let report = slot.command("iperf3", arguments).json()?;
    // With -J, iperf3 tells most failures in its report alone and exits with 0.
    anyhow::ensure!(report["error"].is_null(), "{report}");
    server.wait(PATIENCE)?;
    Ok(report["end"].clone())
}

fn within_a_tenth(what: &str, measured: f64, limit: f64) {
    let share = measured / limit;
    assert!(
        (0.9..=1.1).contains(&share),
        "{what}: {share:.3} of the limit"
    );
}

#[test]
fn tcp_gets_its_limit_in_both_directions() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let limits = json!({"rate_up": 50_000_000, "rate_down": 50_000_000});
    let slot = limited(&daemon, &limits)?;
    for options in [&[][..], &["-R"]] {
        let received = iperf3(&world, &slot, options)?["sum_received"]["bits_per_second"].as_f64();
        within_a_tenth(
            &format!("TCP {options:?}"),
            received.context("a rate")?,
            LIMIT,
        );
    }
    for reason in ["rate-up", "rate-down"] {
        assert!(daemon.dropped(reason)? > 0, "{reason}");
    }
    Ok(())
}

#[test]
fn udp_gets_its_limit_of_bits_and_of_packets() -> Result<()> {
    let world = World::new()?;
    let daemon = world.pool_of(1)?;
    let limits = json!({"rate_up": 50_000_000, "rate_down_packets": 2000});
    let slot = limited(&daemon, &limits)?;
    let sent = iperf3(&world, &slot, &["-u", "-b", "70M", "-l", "1400"])?;
    within_a_tenth("bits", arrived(&sent, "bits_per_second")?, LIMIT);
    let seconds: f64 = SECONDS.parse()?;
    let received = iperf3(&world, &slot, &["-u", "-R", "-b", "3M", "-l", "100"])?;
    within_a_tenth("packets", arrived(&received, "packets")? / seconds, PACKETS);
    Ok(())
}

/// The part of a figure of a UDP test that was not lost.
fn arrived(end: &Value, figure: &str) -> Result<f64> {
    let of = |name: &str| {
        end["sum"][name]
            .as_f64()
            .with_context(|| format!("{name} in {end}"))
    };
    Ok(of(figure)? * (1.0 - of("lost_percent")? / 100.0))
}
