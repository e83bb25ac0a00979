//! The Debian packages that privileged tests, demo and benchmarks use.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::steps;

/// A program, found in `PATH` unless it is a path, and the package it comes in.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ping", "iputils-ping"),
    ("tracepath", "iputils-tracepath"),
    ("traceroute", "traceroute"),
    ("nc", "netcat-openbsd"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("bpftrace", "bpftrace"),
    ("busybox", "busybox-static"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("podman", "podman"),
    ("dockerd", "docker.io"),
    ("containerd", "containerd"),
    // The networks that engines make themselves, and the plugins that they do not start without.
    ("/usr/lib/podman/netavark", "netavark"),
    ("/usr/lib/cni/loopback", "containernetworking-plugins"),
    ("promtool", "prometheus"),
    ("jq", "jq"),
    ("tmux", "tmux"),
    ("ps", "procps"),
    ("nsenter", "util-linux"),
    ("strace", "strace"),
    ("strip", "binutils"),
    ("man", "man-db"),
    ("systemd-analyze", "systemd"),
    ("python3", "python3"),
];
/// `python3 -m venv` wants this package, which brings no program.
const VENV: &str = "python3-venv";

/// Makes sure that all programs are there, installing what is missing.
///
/// # Errors
/// When something is missing and cannot be installed; the error says what.
pub(crate) fn install_missing() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let by_hand = format!("install these packages: {list}");
    if !steps::exists("apt-get") {
        bail!("this is no Debian; {by_hand}");
    }
    eprintln!("installing {list}");
    for line in ["update -q", "install -y -q --no-install-recommends"] {
        let Some(mut apt) = steps::as_root(Path::new("apt-get")) else {
            bail!("without root and sudo nothing can be installed; {by_hand}");
        };
        apt.args(line.split(' '))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        if line.starts_with("install") {
            apt.args(&missing);
        }
        apt.stdout(std::io::stderr());
        steps::run(&mut apt)?;
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    let programs = PROGRAMS
        .iter()
        .filter(|(program, _)| !steps::exists(program));
    let mut packages: Vec<_> = programs.map(|(_, package)| *package).collect();
    if !has_venv() {
        packages.push(VENV);
    }
    packages.dedup();
    packages
}

fn has_venv() -> bool {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import venv, ensurepip"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}
