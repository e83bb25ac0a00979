//! Which files are installed where. Modes are set, whatever the umask of whoever builds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Release;
use super::binaries::Binaries;
use crate::{manual, steps};

const PROGRAM: u32 = 0o755;
const FILE: u32 = 0o644;
const DOCUMENTATION: &str = "usr/share/doc/pcpm";

/// Files of the repository, and where they go.
const FILES: [(&str, &str); 15] = [
    ("contrib/pcpmd.toml", "etc/pcpm/pcpmd.toml"),
    (
        "contrib/systemd/pcpmd.service",
        "usr/lib/systemd/system/pcpmd.service",
    ),
    (
        "contrib/systemd/pcpmd.socket",
        "usr/lib/systemd/system/pcpmd.socket",
    ),
    (
        "contrib/sysusers.d/pcpm.conf",
        "usr/lib/sysusers.d/pcpm.conf",
    ),
    (
        "contrib/tmpfiles.d/pcpm.conf",
        "usr/lib/tmpfiles.d/pcpm.conf",
    ),
    ("contrib/debian/copyright", "usr/share/doc/pcpm/copyright"),
    ("LICENSE-APACHE", "usr/share/doc/pcpm/LICENSE-APACHE"),
    ("LICENSE-MIT", "usr/share/doc/pcpm/LICENSE-MIT"),
    ("README.md", "usr/share/doc/pcpm/README.md"),
    ("ARCHITECTURE.md", "usr/share/doc/pcpm/ARCHITECTURE.md"),
    ("CHANGELOG.md", "usr/share/doc/pcpm/CHANGELOG.md"),
    (
        "pcpm-api/io.pcpm.Pool.varlink",
        "usr/share/doc/pcpm/io.pcpm.Pool.varlink",
    ),
    (
        "contrib/pcpmd.toml",
        "usr/share/doc/pcpm/examples/pcpmd.toml",
    ),
    (
        "contrib/grafana/pcpm.json",
        "usr/share/doc/pcpm/examples/grafana/pcpm.json",
    ),
    (
        "contrib/prometheus/pcpm-alerts.yml",
        "usr/share/doc/pcpm/examples/prometheus/pcpm-alerts.yml",
    ),
];

/// Directories whose files go where; those within them are named by themselves.
const DIRECTORIES: [(&str, &str); 3] = [
    ("docs", DOCUMENTATION),
    ("docs/benchmarks", "usr/share/doc/pcpm/benchmarks"),
    (
        "contrib/kubernetes",
        "usr/share/doc/pcpm/examples/kubernetes",
    ),
];

/// Scripts of shells that complete, and of whom.
const COMPLETIONS: [(&str, &str, &str); 6] = [
    ("pcpm", "bash", "usr/share/bash-completion/completions/pcpm"),
    ("pcpm", "zsh", "usr/share/zsh/vendor-completions/_pcpm"),
    (
        "pcpm",
        "fish",
        "usr/share/fish/vendor_completions.d/pcpm.fish",
    ),
    (
        "pcpmd",
        "bash",
        "usr/share/bash-completion/completions/pcpmd",
    ),
    ("pcpmd", "zsh", "usr/share/zsh/vendor-completions/_pcpmd"),
    (
        "pcpmd",
        "fish",
        "usr/share/fish/vendor_completions.d/pcpmd.fish",
    ),
];

/// Puts everything below `root` as it lies below `/` when it is installed.
pub(super) fn lay_out(binaries: &Binaries, release: &Release, root: &Path) -> Result<()> {
    for (from, name, to) in [
        (&binaries.programs, "pcpmd", "usr/bin/pcpmd"),
        (&binaries.programs, "pcpm", "usr/bin/pcpm"),
        (&binaries.shims, "pcpm-runtime", "usr/bin/pcpm-runtime"),
        (&binaries.shims, "pcpm-cni", "usr/lib/cni/pcpm-cni"),
    ] {
        copy(&from.join(name), &root.join(to), PROGRAM)?;
        steps::run(Command::new("strip").arg(root.join(to)))?;
    }
    for (from, to) in FILES {
        copy(&steps::workspace().join(from), &root.join(to), FILE)?;
    }
    for (from, to) in DIRECTORIES {
        let from = steps::workspace().join(from);
        let files = fs::read_dir(&from).with_context(|| format!("list {}", from.display()))?;
        for file in files {
            let file = file?;
            if file.file_type()?.is_dir() {
                continue;
            }
            copy(&file.path(), &root.join(to).join(file.file_name()), FILE)?;
        }
    }
    for (program, shell, to) in COMPLETIONS {
        let mut command = Command::new(binaries.programs.join(program));
        let option = if program == "pcpm" {
            "completions"
        } else {
            "--completions"
        };
        let script = steps::output(command.args([option, shell]))?;
        write(&root.join(to), &script, FILE)?;
    }
    let libraries = root.join(DOCUMENTATION).join("libraries");
    write(&libraries, libraries_used()?.as_bytes(), FILE)?;
    lay_out_manual(binaries, root)?;
    let changelog = root.join(DOCUMENTATION).join("changelog");
    write(&changelog, debian_changelog(release)?.as_bytes(), FILE)?;
    steps::run(Command::new("gzip").arg("-9n").arg(changelog))
}

/// In the form that Debian's tools read; what there is to be read is in `CHANGELOG.md`.
fn debian_changelog(release: &Release) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email"]);
    let date = steps::output(
        date.arg(format!("--date=@{}", release.time))
            .env("LC_ALL", "C"),
    )?;
    Ok(format!(
        "pcpm ({}) unstable; urgency=medium\n\n  * See /usr/share/doc/pcpm/CHANGELOG.md.\n\n -- {}  {}\n",
        release.version,
        release.maintainer,
        String::from_utf8(date)?.trim()
    ))
}

fn lay_out_manual(binaries: &Binaries, root: &Path) -> Result<()> {
    let pages = tempfile::tempdir()?;
    manual::write(&binaries.programs, pages.path())?;
    for entry in fs::read_dir(pages.path())? {
        let page = entry?.path();
        let section = page
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let name = page.file_name().context("a page has no name")?;
        let to = root.join(format!("usr/share/man/man{section}")).join(name);
        copy(&page, &to, FILE)?;
        steps::run(Command::new("gzip").arg("-9n").arg(&to))?;
    }
    Ok(())
}

/// A line for each library that is in the programs: name, version, license.
fn libraries_used() -> Result<String> {
    let mut tree = steps::cargo(
        "tree --locked --quiet --edges normal --prefix none --format {p}|{l} -p pcpm-daemon -p pcpm-tui -p pcpm-shim",
    );
    let text = String::from_utf8(steps::output(&mut tree)?)?;
    let lines = text.lines().filter_map(|line| line.split_once('|'));
    // Our own have their path behind the version, others may have a mark.
    let lines = lines.filter(|(package, _)| !package.contains("(/"));
    let lines: BTreeSet<_> = lines
        .map(|(package, license)| {
            let mut words = package.split(' ');
            let (name, version) = (
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            );
            format!("{name} {version}: {}\n", license.trim_end_matches(" (*)"))
        })
        .collect();
    Ok(lines.into_iter().collect())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    write(to, &content, mode)
}

/// Writes a file with exactly this mode.
pub(super) fn write(to: &Path, content: &[u8], mode: u32) -> Result<()> {
    let what = || format!("write {}", to.display());
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(what)?;
    }
    fs::write(to, content).with_context(what)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(what)
}
