//! Demo and benchmarks measure release builds, of the product and of themselves, and need root.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{packages, steps};

/// Returns in a release build that runs as root, with all programs there; replaces the process with
/// one if it is not.
///
/// # Errors
/// When something cannot be built or there is no way to become root.
pub(crate) fn enter() -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("building the release");
        // One waits for processors, the other for the network.
        let installing = std::thread::spawn(packages::install_missing);
        let built = steps::run(&mut steps::cargo(
            "build --release -p pcpm-daemon -p pcpm-tui -p pcpm-shim -p xtask",
        ));
        // Packages are not left half installed, whatever became of the build.
        let installed = installing.join();
        built?;
        installed.map_err(|_| anyhow!("installing packages panicked"))??;
        return Err(replace_with(&release_executable()?));
    }
    if !steps::is_root() {
        bail!("this needs root to make namespaces: run it with `sudo`");
    }
    raise_file_limit()
}

/// The hard limit on open files, for thousands of clients.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit on open files")
}

/// `target/debug/xtask` to `target/release/xtask`.
fn release_executable() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("no target directory")?;
    Ok(target.join("release/xtask"))
}

fn replace_with(executable: &Path) -> anyhow::Error {
    let Some(mut command) = steps::as_root(executable) else {
        return anyhow::anyhow!(
            "this needs root to make namespaces, and sudo is not installed: run `{} {}` as root",
            executable.display(),
            std::env::args().skip(1).collect::<Vec<_>>().join(" ")
        );
    };
    let error = command.args(std::env::args_os().skip(1)).exec();
    anyhow::Error::from(error).context(format!("start {}", executable.display()))
}
