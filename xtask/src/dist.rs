//! `cargo xtask dist`: a Debian package and a tarball with their checksums, the same bytes from the same commit.

mod binaries;
mod package;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::steps;

/// Until somebody releases in a name of their own (`--maintainer`).
const MAINTAINER: &str = "PCPM developers <pcpm@example.org>";

#[derive(Debug, Args)]
pub(crate) struct DistArguments {
    /// Where the files go.
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    out: PathBuf,
    /// Another version than the workspace's.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Who answers for the package.
    #[arg(long, value_name = "NAME <MAIL>", default_value = MAINTAINER)]
    maintainer: String,
    /// Package the binaries in this directory instead of building the release.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

/// What is released.
struct Release {
    version: String,
    maintainer: String,
    /// When the commit was made, in seconds since the epoch: the time of every file.
    time: String,
    /// What compression may take, 1 to 9.
    effort: u8,
}

pub(crate) fn run(arguments: &DistArguments) -> Result<()> {
    let release = Release {
        version: arguments.version.clone(),
        maintainer: arguments.maintainer.clone(),
        time: commit_time()?,
        effort: if arguments.binaries.is_some() { 1 } else { 9 },
    };
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("create {}", arguments.out.display()))?;
    let out = arguments.out.canonicalize()?;
    let binaries = match &arguments.binaries {
        Some(given) => binaries::given(given),
        None => binaries::build(&release)?,
    };
    let staging = tempfile::tempdir().context("make a directory for the files")?;
    let root = staging.path().join(format!("pcpm-{}", release.version));
    tree::lay_out(&binaries, &release, &root)?;
    let files = [
        package::tarball(&root, &release, &out)?,
        package::debian(&root, &release, &out)?,
    ];
    checksums(&files, &out)?;
    for file in files {
        println!("{}", file.display());
    }
    Ok(())
}

/// `SOURCE_DATE_EPOCH`, or the time of the commit.
fn commit_time() -> Result<String> {
    if let Ok(time) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(time);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]);
    let time = steps::output(git.current_dir(steps::workspace()))?;
    Ok(String::from_utf8(time)?.trim().to_owned())
}

fn checksums(files: &[PathBuf], out: &Path) -> Result<()> {
    let lines = files.iter().map(|file| {
        let content = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().display();
        Ok(format!("{:x}  {name}\n", Sha256::digest(&content)))
    });
    let lines: String = lines.collect::<Result<_>>()?;
    fs::write(out.join("SHA256SUMS"), lines).context("write SHA256SUMS")
}
