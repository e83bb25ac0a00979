//! `cargo xtask test`: unit tests as whoever calls, privileged tests as root, counted together.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use pcpm_tests::BINARIES;

use crate::{packages, steps};

const PRIVILEGED: &str = "tests/tests";
/// What slots reach and what reaches them is the same whatever address they have inside: these run again with
/// the same one for all, and these settings.
const WITH_ONE_INNER_ADDRESS: [(&str, &str); 2] = [
    (
        "test -p pcpm-tests --test traffic --test ipv6 --test published_ports --test policy --test churn \
         --no-fail-fast --",
        "address_mode = \"clone\"",
    ),
    // The slot has inside what it has by default, for the sake of its twin.
    (
        "test -p pcpm-tests --test differential --no-fail-fast --",
        "address_mode = \"clone\"\npool_cidr = \"10.99.0.0/16\"\npool_cidr6 = \"fd00:99::/64\"\n\
         [clone]\ninner = \"10.213.0.0\"\ninner6 = \"fd00:7063:706d::\"",
    ),
];

#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Run only tests whose name contains this.
    filter: Option<String>,
}

impl TestArguments {
    pub(crate) fn all() -> Self {
        Self { filter: None }
    }
}

/// What the test harnesses said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Harnesses that ended badly: a test that did not compile, or crashed.
    broken: u64,
}

pub(crate) fn run(arguments: &TestArguments) -> Result<()> {
    let root = steps::as_root(Path::new("true")).is_some();
    if root {
        packages::install_missing()?;
    }
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let unit = "test --workspace --exclude pcpm-tests --no-fail-fast --";
    let mut counts = count(steps::cargo(unit).arg(filter))?;
    steps::run(&mut steps::cargo("build --workspace --bins"))?;
    if !root {
        return not_all(counts);
    }
    // Unit tests that take root are marked ignored; their turn is now.
    counts.ignored = 0;
    for line in [
        "test --workspace --exclude pcpm-tests --bins --tests --no-fail-fast -- --ignored",
        "test -p pcpm-tests --no-fail-fast --",
    ] {
        counts.add(count(privileged(line)?.arg(filter))?);
    }
    for (line, settings) in WITH_ONE_INNER_ADDRESS {
        let mut again = privileged(line)?;
        again.env("PCPM_TEST_SETTINGS", settings);
        counts.add(count(again.arg(filter))?);
    }
    conclude(counts)
}

/// Privileged tests: built as whoever calls, run as root.
fn privileged(line: &str) -> Result<Command> {
    let mut command = steps::cargo(line);
    // An error of a test is its own words; where it came from is in them.
    command
        .env(BINARIES, steps::target()?.join("debug"))
        .env("RUST_LIB_BACKTRACE", "0");
    if !steps::is_root() {
        command.env(runner_variable(), steps::SUDO.join(" "));
    }
    Ok(command)
}

/// `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER` on most machines.
fn runner_variable() -> OsString {
    let target = format!("{}_unknown_linux_gnu", std::env::consts::ARCH);
    format!("CARGO_TARGET_{}_RUNNER", target.to_uppercase()).into()
}

fn not_all(counts: Counts) -> Result<()> {
    let files = std::fs::read_dir(steps::workspace().join(PRIVILEGED))?;
    let names = files.filter_map(|file| file.ok()?.path().file_stem()?.to_str().map(str::to_owned));
    let names: Vec<_> = names.collect();
    println!("unit tests: {counts}");
    bail!(
        "the privileged tests in {PRIVILEGED} ({}) were not run: they need root, and sudo is not \
         installed. Run `cargo xtask test` as root",
        names.join(", ")
    );
}

fn conclude(counts: Counts) -> Result<()> {
    println!("\n{counts}");
    if counts.failed + counts.broken + counts.ignored > 0 || counts.passed == 0 {
        bail!("not all tests passed");
    }
    Ok(())
}

/// Runs `command`, passing on all it prints, and counts what its test harnesses say.
fn count(command: &mut Command) -> Result<Counts> {
    let line = steps::line(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{line}`"))?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        counts.add(Counts::of(&line));
    }
    if !child.wait()?.success() && counts.failed == 0 {
        counts.broken += 1;
    }
    Ok(counts)
}

impl Counts {
    /// Of a line of output; only a harness's last line counts anything.
    fn of(line: &str) -> Self {
        let Some(result) = line.strip_prefix("test result: ") else {
            return Self::default();
        };
        let number = |what: &str| {
            let part = result
                .split(['.', ';'])
                .find(|part| part.trim_end().ends_with(what));
            let digits = part.and_then(|part| part.split_whitespace().next());
            digits
                .and_then(|digits| digits.parse().ok())
                .unwrap_or_default()
        };
        Self {
            passed: number(" passed"),
            failed: number(" failed"),
            ignored: number(" ignored"),
            broken: 0,
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.broken += other.broken;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.ignored
        )?;
        match self.broken {
            0 => Ok(()),
            broken => write!(f, ", {broken} not finished"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harness_is_counted_by_its_last_line() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; \
                    finished in 0.16s";
        let counts = Counts {
            passed: 12,
            failed: 3,
            ignored: 1,
            broken: 0,
        };
        assert_eq!(Counts::of(line), counts);
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["test pings_pass ... ok", "running 3 tests", ""] {
            assert_eq!(Counts::of(line), Counts::default(), "{line}");
        }
    }
}
