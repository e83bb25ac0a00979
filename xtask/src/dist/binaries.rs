//! The programs of a release: daemon and command line for this system's libc, the shims for engines static, so that
//! they start in no time and run wherever an engine does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Release;
use crate::steps;

/// Where they are.
pub(super) struct Binaries {
    /// `pcpmd` and `pcpm`.
    pub(super) programs: PathBuf,
    /// `pcpm-cni` and `pcpm-runtime`.
    pub(super) shims: PathBuf,
}

/// All in one directory.
pub(super) fn given(directory: &Path) -> Binaries {
    Binaries {
        programs: directory.to_owned(),
        shims: directory.to_owned(),
    }
}

/// Builds them; what they contain does not depend on where.
pub(super) fn build(release: &Release) -> Result<Binaries> {
    let target = steps::workspace().join("target/release-files");
    let cargo = |line: &str| {
        let mut command = steps::cargo("build --release --locked");
        command
            .args(line.split(' '))
            .arg("--target-dir")
            .arg(&target)
            .env("SOURCE_DATE_EPOCH", &release.time)
            .env("CARGO_ENCODED_RUSTFLAGS", remapped_paths());
        steps::run(&mut command)
    };
    cargo("-p pcpm-daemon -p pcpm-tui")?;
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    have_target(&musl)?;
    cargo(&format!("-p pcpm-shim --target {musl}"))?;
    Ok(Binaries {
        programs: target.join("release"),
        shims: target.join(musl).join("release"),
    })
}

/// Flags that keep the paths of this machine out of what panics say.
fn remapped_paths() -> String {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let places = [(Some(steps::workspace()), "/pcpm"), (home, "/cargo")];
    let flags = places
        .into_iter()
        .filter_map(|(from, to)| Some(format!("--remap-path-prefix={}={to}", from?.display())));
    flags.collect::<Vec<_>>().join("\x1f")
}

/// Makes sure that there is a standard library for `target`.
fn have_target(target: &str) -> Result<()> {
    let mut ask = Command::new("rustc");
    ask.args(["--print", "target-libdir", "--target", target]);
    let directory = String::from_utf8(steps::output(ask.current_dir(steps::workspace()))?)?;
    if Path::new(directory.trim()).is_dir() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", target]);
    steps::run(add.current_dir(steps::workspace()))
        .with_context(|| format!("static binaries need the standard library for {target}"))
}
