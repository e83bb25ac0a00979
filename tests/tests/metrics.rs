//! What monitoring reads, over HTTP, judged by the tools that read it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pcpm_tests::World;
use serde_json::{Value, json};

const ENDPOINT: &str = "127.0.0.1:9464";

fn scrape(world: &World, options: &str) -> Result<String> {
    let line = format!("curl -sS --fail --max-time 30 {options} http://{ENDPOINT}/metrics");
    world.tool(&line).run()
}

/// The value of the series that begins with `series`.
fn value(text: &str, series: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.with_context(|| format!("no {series} in {text}"))?;
    Ok(value.trim().parse()?)
}

#[test]
fn the_pool_is_measured() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "4", "--metrics", ENDPOINT])?;
    daemon.wait_until_ready(4)?;
    daemon.attach("web-1", "shop")?;
    daemon.attach("web-2", "shop")?;
    let phases = json!([{"phase": "create", "took_us": 250_000}]);
    let told = json!({"owner": "web-2", "phases": phases});
    let _: Value = daemon.connect()?.call("ReportStart", &told)?;
    daemon.detach("web-2")?;
    daemon.wait_until_ready(3)?;
    let text = scrape(&world, "")?;
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (series, expected) in [
        ("pcpm_slots{state=\"ready\"}", 3.0),
        ("pcpm_slots{state=\"attached\"}", 1.0),
        ("pcpm_attaches_total{source=\"warm\"}", 2.0),
        ("pcpm_detaches_total", 1.0),
        ("pcpm_tenant_attachments{tenant=\"shop\"}", 1.0),
        ("pcpm_attach_duration_seconds_count{source=\"warm\"}", 2.0),
        (
            "pcpm_slot_step_duration_seconds_count{step=\"create\"}",
            5.0,
        ),
        (
            "pcpm_container_start_duration_seconds_count{phase=\"create\"}",
            1.0,
        ),
        (
            "pcpm_container_start_duration_seconds_sum{phase=\"create\"}",
            0.25,
        ),
        ("pcpm_uplinks", 1.0),
    ] {
        let found = value(&text, series)?;
        assert!((found - expected).abs() < f64::EPSILON, "{series} {found}");
    }
    Ok(())
}

#[test]
fn the_tools_of_prometheus_understand_it() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "2", "--metrics", ENDPOINT])?;
    daemon.wait_until_ready(2)?;
    let classic = world.command(
        "curl",
        [
            "-sS",
            "-H",
            "Accept: text/plain",
            &format!("http://{ENDPOINT}/metrics"),
        ],
    );
    let classic = classic.run()?;
    world
        .command("promtool", ["check", "metrics"])
        .input(classic.clone())
        .run()?;

    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib");
    let rules = contrib.join("prometheus/pcpm-alerts.yml");
    let check = world.command(
        "promtool",
        ["check", "rules", rules.to_str().context("no text")?],
    );
    check.run()?;
    // What rules and dashboard ask for is there.
    let dashboard = fs::read_to_string(contrib.join("grafana/pcpm.json"))?;
    let texts = dashboard + &fs::read_to_string(&rules)?;
    let names = texts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in names.filter(|name| name.starts_with("pcpm_")) {
        let family = name.trim_end_matches("_bucket");
        assert!(classic.contains(&format!("# TYPE {family} ")), "{name}");
    }
    Ok(())
}

#[test]
fn a_unix_socket_is_for_root() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&[
        "--capacity",
        "1",
        "--metrics",
        "unix:/run/pcpm/metrics.sock",
    ])?;
    daemon.wait_until_ready(1)?;
    let mode = world.tool("stat -c %a:%U /run/pcpm/metrics.sock").run()?;
    assert_eq!(mode.trim(), "660:root");
    let ask = "curl -sS --fail --unix-socket /run/pcpm/metrics.sock http://pcpm/metrics";
    assert!(world.tool(ask).run()?.contains("pcpm_slots_capacity 1"));
    Ok(())
}

#[test]
fn what_is_no_scrape_is_refused_and_holds_nobody_up() -> Result<()> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "1", "--metrics", ENDPOINT])?;
    daemon.wait_until_ready(1)?;
    let status = |request: &str| {
        let line = format!("curl -sS -o /dev/null -w %{{http_code}} {request}");
        world.tool(&line).run()
    };
    assert_eq!(status(&format!("http://{ENDPOINT}/"))?, "404");
    assert_eq!(
        status(&format!("-X POST http://{ENDPOINT}/metrics"))?,
        "405"
    );
    // More connections than are answered, of clients that say nothing.
    let silent: Vec<_> = (0..64)
        .map(|_| {
            world
                .tool("nc 127.0.0.1 9464")
                .with(|nc| {
                    nc.stdin(std::process::Stdio::piped())
                        .stdout(std::process::Stdio::null());
                })
                .spawn()
        })
        .collect::<Result<_>>()?;
    assert_eq!(daemon.attach("web-1", "shop")?.attachment.owner, "web-1");
    drop(silent);
    scrape(&world, "--retry 20 --retry-all-errors --retry-delay 1")?;
    Ok(())
}
