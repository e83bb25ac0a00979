//! `cargo xtask screenshot`: the dashboard over a real pool under load, as a picture for the README.

mod ansi;
mod svg;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use pcpm_tests::{Terminal, World, binary};

use crate::load::Load;
use crate::release;

#[derive(Debug, Args)]
pub(crate) struct ScreenshotArguments {
    /// How long the pool is watched under load, in seconds.
    #[arg(long, default_value_t = 125, value_parser = clap::value_parser!(u64).range(5..=900))]
    seconds: u64,
    /// A recording of 'pcpm top --record' to show instead, which takes no root.
    #[arg(long, value_name = "FILE")]
    recording: Option<PathBuf>,
    /// Which view.
    #[arg(long, default_value = "overview")]
    view: String,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE", default_value = "docs/top.svg")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &ScreenshotArguments) -> Result<()> {
    let shown = match &arguments.recording {
        Some(recording) => {
            let words = words(
                &arguments.view,
                recording.to_str().context("a path of letters")?,
            );
            let output = Command::new(binary("pcpm")?)
                .args(words)
                .envs(LOOKS)
                .output()?;
            ensure!(
                output.status.success(),
                "pcpm top: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout)?
        }
        None => of_a_pool(arguments)?,
    };
    let picture = svg::picture(&ansi::screen(&shown));
    fs::write(&arguments.out, picture)
        .with_context(|| format!("write {}", arguments.out.display()))?;
    println!("{}", arguments.out.display());
    Ok(())
}

/// What the dashboard prints its frame for.
const LOOKS: [(&str, &str); 2] = [("COLORTERM", "truecolor"), ("LC_ALL", "C.UTF-8")];

/// The words of `pcpm` that print the last frame of a recording.
fn words<'a>(view: &'a str, recording: &'a str) -> [&'a str; 10] {
    let [color, always] = ["--color", "always"];
    [
        color, always, "top", "--once", "--size", "120x38", "--view", view, "--replay", recording,
    ]
}

/// A frame of a real pool under load.
fn of_a_pool(arguments: &ScreenshotArguments) -> Result<String> {
    release::enter()?;
    let world = World::new()?;
    let recording = record(&world, Duration::from_secs(arguments.seconds))?;
    let mut pcpm = world.pcpm(words(&arguments.view, &recording))?;
    for (name, value) in LOOKS {
        pcpm = pcpm.env(name, value);
    }
    pcpm.run()
}

/// Watches a pool under load, and returns where the recording is in the world.
fn record(world: &World, lasts: Duration) -> Result<String> {
    const RECORDING: &str = "/run/recording";
    let daemon = world.spawn_daemon(&["--capacity", "128", "--ready", "64"])?;
    daemon.wait_until_ready(64)?;
    let terminal = Terminal::open(world)?;
    terminal.run(&format!(
        "{} top --record {RECORDING}",
        binary("pcpm")?.display()
    ))?;
    terminal.shows(&["Attach latency"])?;
    Load::new(world, &daemon).run(lasts)?;
    terminal.press("q")?;
    terminal.until("the dashboard ends", |screen| {
        !screen.contains("Attach latency")
    })?;
    Ok(RECORDING.to_owned())
}
