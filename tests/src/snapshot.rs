//! What a host looks like: everything a daemon might leave behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::world::UPLINK;

/// Each of these prints something that must not change.
const QUESTIONS: &[&str] = &[
    "ip -o link",
    "ip -o address",
    "ip netns",
    "ip route show table all",
    "ip rule",
    "ip neighbour show nud permanent",
    "nft list ruleset",
    "tc qdisc",
    "tc filter show dev eth0 ingress",
    "tc filter show dev eth0 egress",
    "bpftool net",
    "find /sys/fs/bpf",
    "find /run",
    "cat /proc/mounts",
    "ps -o comm= -e",
];

/// The answers to all questions about a host, and its network sysctls.
#[derive(Debug, PartialEq, Eq)]
pub struct HostState(BTreeMap<String, String>);

impl HostState {
    /// Looks at `host`.
    ///
    /// # Errors
    /// When a tool is missing.
    pub fn of(host: &Place) -> Result<Self> {
        let mut state = BTreeMap::new();
        for question in QUESTIONS
            .iter()
            .filter(|q| !q.contains(UPLINK) || has_uplink(host))
        {
            state.insert((*question).to_owned(), host.tool(question).run()?);
        }
        state.extend(host.within(network_sysctls)?);
        Ok(Self(state))
    }

    /// What differs in `self` from `before`, one entry a line; empty when nothing does.
    pub fn difference(&self, before: &Self) -> String {
        let mut lines = Vec::new();
        let names = self.0.keys().chain(before.0.keys());
        for name in names.collect::<std::collections::BTreeSet<_>>() {
            compare(name, before.0.get(name), self.0.get(name), &mut lines);
        }
        lines.join("\n")
    }
}

fn has_uplink(host: &Place) -> bool {
    let exists = || Ok(Path::new("/sys/class/net").join(UPLINK).exists());
    host.within(exists).unwrap_or_default()
}

fn compare(name: &str, before: Option<&String>, after: Option<&String>, lines: &mut Vec<String>) {
    let (before, after) = (lines_of(before), lines_of(after));
    let gone = before.iter().filter(|line| !after.contains(line));
    lines.extend(gone.map(|line| format!("{name}: - {line}")));
    let new = after.iter().filter(|line| !before.contains(line));
    lines.extend(new.map(|line| format!("{name}: + {line}")));
}

fn lines_of(text: Option<&String>) -> Vec<&str> {
    text.map(|text| text.lines().collect()).unwrap_or_default()
}

fn network_sysctls() -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    collect(Path::new("/proc/sys/net"), &mut values)?;
    Ok(values)
}

/// Adds every readable file below `directory`. Some are write-only, some come and go by the second.
fn collect(directory: &Path, values: &mut BTreeMap<String, String>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, values)?;
        } else if let Ok(value) = fs::read_to_string(&path) {
            let name = path.display().to_string();
            if !name.contains("nf_conntrack_count") {
                values.insert(name, value);
            }
        }
    }
    Ok(())
}
