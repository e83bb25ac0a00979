//! `cargo xtask ebpf setup`: installs what the build of the kernel programs needs and is missing.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::manifest::Manifest;
use super::toolchain::{self, LLVM_TOOLS, Toolchain};
use crate::steps;

/// Debian's packages, and a file of each.
const PACKAGES: &[(&str, &str)] = &[
    ("rustc-web", "/usr/bin/rustc"),
    ("cargo-web", "/usr/bin/cargo"),
    (
        "rust-web-src",
        "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
    ),
    ("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config"),
    ("llvm-22", "/usr/lib/llvm-22/bin/llvm-strip"),
];
const LINKER: &str = "bpf-linker 0.13.0";
const LINKER_VERSION: &str = "0.13.0";
const LINKER_FEATURE: &str = "llvm-22";

pub(super) fn run() -> Result<()> {
    let manifest = Manifest::read(&steps::workspace()).ok();
    let suits = |toolchain: &Toolchain| {
        let named = manifest.as_ref().map(Manifest::toolchain);
        named.is_none_or(|named| named == toolchain.versions())
    };
    if Toolchain::find(manifest.as_ref()).is_ok_and(|toolchain| suits(&toolchain)) {
        println!("everything to build the kernel programs is here");
        return Ok(());
    }
    install_packages()?;
    install_linker()?;
    Toolchain::find(manifest.as_ref()).map(drop)
}

fn install_packages() -> Result<()> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !steps::exists("apt-get") {
        bail!(
            "this is no Debian, where the packages {list} would be installed; install a nightly \
             Rust with its sources (`rustup toolchain install nightly --component rust-src`), \
             LLVM 22 and {LINKER}"
        );
    }
    println!("installing {list}");
    apt(&["update", "-q"])?;
    let install = ["install", "-y", "-q", "--no-install-recommends"];
    apt(&[&install, missing.as_slice()].concat())
        .with_context(|| format!("install the packages {list}"))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let Some(mut apt) = steps::as_root(Path::new("apt-get")) else {
        bail!("`apt-get {}` needs root", arguments.join(" "));
    };
    apt.args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    steps::run(&mut apt)
}

fn install_linker() -> Result<()> {
    if let Ok(linker) = toolchain::find_program("bpf-linker")
        && toolchain::first_line(Command::new(linker).arg("--version"))? == LINKER
    {
        return Ok(());
    }
    println!("installing {LINKER}");
    let mut install = steps::cargo("install bpf-linker --locked --force --no-default-features");
    install
        .args(["--version", LINKER_VERSION, "--features", LINKER_FEATURE])
        .env("PATH", path_with_llvm()?)
        // Its own build settings: ours are for other crates.
        .env_remove("CARGO_TARGET_DIR")
        .current_dir("/");
    steps::run(&mut install)
}

/// The linker's build asks the first `llvm-config` on the path.
fn path_with_llvm() -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(LLVM_TOOLS.into()).chain(env::split_paths(&path));
    env::join_paths(all).context("compose PATH")
}
