//! Demo and benchmarks measure release builds, of the product and of themselves, and need root.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pcpm_tests::BINARIES;

use crate::{packages, steps};

/// Returns as root, with all programs there; builds the release first, unless [`BINARIES`] says what is to be measured.
///
/// # Errors
/// When something cannot be built, there is no way to become root, or this is not an optimized build itself.
pub(crate) fn enter() -> Result<()> {
    if cfg!(debug_assertions) {
        bail!(
            "what is measured beside the product would be slow in a debug build: run `cargo xtask`"
        );
    }
    if std::env::var_os(BINARIES).is_none() {
        prepare()?;
        return again_as_root();
    }
    if !steps::is_root() {
        bail!("this needs root to make namespaces: run it with `sudo`");
    }
    raise_file_limit()
}

/// Builds the product and installs what it is measured with.
fn prepare() -> Result<()> {
    eprintln!("building the release");
    // One waits for processors, the other for the network.
    let installing = std::thread::spawn(packages::install_missing);
    // No packages are named, here and in the alias: whichever are built together share features, and so what is built.
    let built = steps::run(&mut steps::cargo(
        "build --release --bin pcpmd --bin pcpm --bin pcpm-cni --bin pcpm-runtime",
    ));
    // Packages are not left half installed, whatever became of the build.
    let installed = installing.join();
    built?;
    installed.map_err(|_| anyhow!("installing packages panicked"))?
}

/// The hard limit on open files, for thousands of clients.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit on open files")
}

/// Replaces the process with the same one as root, for the release. Returns only if it cannot.
fn again_as_root() -> Result<()> {
    let own = std::env::current_exe()?;
    let Some(mut command) = steps::as_root(&own) else {
        bail!(
            "this needs root to make namespaces, and sudo is not installed: run `cargo xtask {}` as root",
            std::env::args().skip(1).collect::<Vec<_>>().join(" ")
        );
    };
    command
        .args(std::env::args_os().skip(1))
        .env(BINARIES, steps::target()?.join("release"));
    Err(command.exec()).with_context(|| format!("start {}", own.display()))
}
