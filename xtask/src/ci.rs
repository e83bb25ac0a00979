//! `cargo xtask ci`: everything that a change must pass, each step reported, none left out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pcpm_tests::Process;

use crate::ebpf::{self, EbpfVerb};
use crate::steps;
use crate::test::{self, TestArguments};

/// Where tools are installed: kept between runs, gone with the build directory.
const TOOLS: &str = "tools";
/// Installing a tool compiles it.
const INSTALL: Duration = Duration::from_mins(12);

/// Ratios that even a busy machine measures alike, beside those that were measured when they were last looked at: medians of
/// processes that share one processor. Memory is not among them: others use it, too.
const RATIOS: &str = "xtask bench --check xtask/baseline.json --report target/bench/check \
    attach --slots 256 --clients 1 --sizes 64 --rounds 5 \
    datapath --slots 10 --loads round-trips,connections --beside bridge,nftables --rounds 15 --seconds 0.1";

type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("format", || {
        steps::run(&mut steps::cargo("fmt --all --check"))
    }),
    ("clippy", || {
        steps::run(&mut steps::cargo(
            "clippy --workspace --all-targets -- -D warnings",
        ))
    }),
    ("docs", || {
        let mut doc = steps::cargo("doc --workspace --no-deps --document-private-items");
        steps::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("typos", || run_tool("typos-cli", "typos", &[])),
    ("dependencies", || {
        run_tool(
            "cargo-deny",
            "cargo-deny",
            &["check", "bans", "licenses", "sources"],
        )
    }),
    ("kernel programs", || {
        ebpf::run(EbpfVerb::Setup)?;
        ebpf::run(EbpfVerb::Check)
    }),
    ("tests", || test::run(&TestArguments::all())),
    ("ratios", || steps::run(&mut steps::cargo(RATIOS))),
];

pub(crate) fn run() -> Result<()> {
    let outcomes: Vec<_> = STEPS.iter().map(attempt).collect();
    println!();
    outcomes.iter().for_each(Outcome::show);
    let failed = outcomes
        .iter()
        .filter(|outcome| outcome.error.is_some())
        .count();
    if failed > 0 {
        bail!("{failed} of {} steps failed", STEPS.len());
    }
    Ok(())
}

struct Outcome {
    name: &'static str,
    took: Duration,
    error: Option<anyhow::Error>,
}

fn attempt((name, step): &Step) -> Outcome {
    println!("\n=== {name}");
    let start = Instant::now();
    let error = step().err();
    if let Some(error) = &error {
        println!("{name} failed: {error:#}");
    }
    Outcome {
        name,
        took: start.elapsed(),
        error,
    }
}

impl Outcome {
    fn show(&self) {
        let seconds = self.took.as_secs();
        match &self.error {
            None => println!("{:<16} {seconds:>4} s  ok", self.name),
            Some(error) => println!("{:<16} {seconds:>4} s  FAILED: {error:#}", self.name),
        }
    }
}

/// Runs `program` of the crate `package`, installing it if it is not there.
fn run_tool(package: &str, program: &str, arguments: &[&str]) -> Result<()> {
    let path = tool(package, program)?;
    steps::run(
        Command::new(path)
            .args(arguments)
            .current_dir(steps::workspace()),
    )
}

fn tool(package: &str, program: &str) -> Result<PathBuf> {
    if steps::exists(program) {
        return Ok(program.into());
    }
    let root = steps::target()?.join(TOOLS);
    let path = root.join("bin").join(program);
    if !path.exists() {
        install(package, &root)?;
    }
    Ok(path)
}

fn install(package: &str, root: &Path) -> Result<()> {
    let mut install = steps::cargo("install --locked --quiet --root");
    install.arg(root).arg(package);
    println!("installing {package}");
    let mut installing = Process::new(package, install.spawn()?)?;
    let status = installing.wait(INSTALL)?;
    if !status.success() {
        bail!("cargo could not install {package}");
    }
    Ok(())
}
