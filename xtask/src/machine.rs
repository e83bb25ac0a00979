//! What figures were measured on, and by which command.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

const GOVERNOR: &str = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// How to measure the same again.
    command: String,
    /// The commit, with `-dirty` if the sources were changed since; none without git.
    commit: Option<String>,
    kernel: String,
    processor: String,
    cpus: usize,
    memory_kib: u64,
    /// How the processor chooses its speed; none where that is not seen, as in most virtual machines.
    governor: Option<String>,
    /// When this was read, in UTC.
    date: Option<String>,
    /// Of the minute before: what else ran.
    load_before: String,
}

impl Machine {
    /// This one, now.
    ///
    /// # Errors
    /// When procfs cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let processors = read("/proc/cpuinfo")?;
        let memory = read("/proc/meminfo")?;
        let memory = value(&memory, "MemTotal").and_then(|text| text.split(' ').next());
        let load = read("/proc/loadavg")?;
        Ok(Self {
            command: command(),
            commit: commit(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: value(&processors, "model name").unwrap_or("?").to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            memory_kib: memory.context("no MemTotal")?.parse()?,
            governor: fs::read_to_string(GOVERNOR)
                .ok()
                .map(|text| text.trim().to_owned()),
            date: said(Command::new("date").args(["--utc", "+%F %H:%M"])),
            load_before: load.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        writeln!(f, "- command: `{}`", self.command)?;
        let (date, commit) = (unknown(&self.date), unknown(&self.commit));
        writeln!(f, "- date: {date} UTC, commit {commit}")?;
        writeln!(
            f,
            "- machine: Linux {}, {} CPUs ({}), governor {}, {} MiB, load average before {}",
            self.kernel,
            self.cpus,
            self.processor,
            unknown(&self.governor),
            self.memory_kib / 1024,
            self.load_before
        )
    }
}

fn command() -> String {
    let arguments = std::env::args().skip(1);
    let words = ["cargo".to_owned(), "xtask".to_owned()];
    words
        .into_iter()
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn commit() -> Option<String> {
    let describe = ["describe", "--always", "--dirty", "--abbrev=12"];
    said(Command::new("git").args(describe))
}

/// What a command prints, if it succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// What stands behind `name` and a colon in one of the lines.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = values.filter(|(key, _)| key.trim() == name);
    values.next().map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "MemTotal:   16310 kB\nMemTotalHigh: 1 kB\nmodel name\t: A CPU\n";
        assert_eq!(value(text, "MemTotal"), Some("16310 kB"));
        assert_eq!(value(text, "model name"), Some("A CPU"));
        assert_eq!(value(text, "model"), None);
    }
}
