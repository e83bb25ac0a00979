//! A tree of files as a tarball and as a Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Release, tree};
use crate::steps;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const CONFIGURATION: &str = "/etc/pcpm/pcpmd.toml\n";

/// `pcpm-VERSION-ARCH.tar.gz`, to be unpacked over `/` without its first directory.
pub(super) fn tarball(root: &Path, release: &Release, out: &Path) -> Result<PathBuf> {
    let architecture = std::env::consts::ARCH;
    let path = out.join(format!("pcpm-{}-{architecture}.tar.gz", release.version));
    let above = root.parent().context("the files have no directory")?;
    directories_for_all(root)?;
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--owner=root:0",
        "--group=root:0",
        "--format=gnu",
    ])
    .arg(format!("--mtime=@{}", release.time))
    .args(["-I", "gzip -9n", "-cf"])
    .arg(&path)
    .arg("-C")
    .arg(above)
    .arg(root.file_name().unwrap_or_default());
    steps::run(&mut tar)?;
    Ok(path)
}

/// `pcpm_VERSION_ARCH.deb`.
pub(super) fn debian(root: &Path, release: &Release, out: &Path) -> Result<PathBuf> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Debian package for {other}"),
    };
    let contrib = steps::workspace().join("contrib/debian");
    let control = fs::read_to_string(contrib.join("control")).context("read control")?;
    let control = control
        .replace("@VERSION@", &release.version)
        .replace("@MAINTAINER@", &release.maintainer)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@SIZE@", &kibibytes(root)?.to_string())
        .replace("@LIBC@", &needed_libc(root)?);
    let debian = root.join("DEBIAN");
    tree::write(&debian.join("control"), control.as_bytes(), 0o644)?;
    tree::write(&debian.join("conffiles"), CONFIGURATION.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        let text = fs::read(contrib.join(script)).with_context(|| format!("read {script}"))?;
        tree::write(&debian.join(script), &text, 0o755)?;
    }
    directories_for_all(root)?;
    let path = out.join(format!("pcpm_{}_{architecture}.deb", release.version));
    let mut build = Command::new("dpkg-deb");
    build
        .args(["--root-owner-group", "-Zxz", "--build"])
        .arg(format!("-z{}", release.effort))
        .arg(root)
        .arg(&path)
        .env("SOURCE_DATE_EPOCH", &release.time)
        .stdout(std::process::Stdio::null());
    // Times later than the commit's are taken back to it; none is earlier.
    steps::run(&mut build)?;
    Ok(path)
}

/// Directories that everybody may enter, whatever the umask of whoever builds.
fn directories_for_all(root: &Path) -> Result<()> {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() {
            directories_for_all(&path)?;
        }
    }
    Ok(())
}

fn kibibytes(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() {
            kibibytes(&entry.path())?
        } else {
            entry.metadata()?.len().div_ceil(1024)
        };
    }
    Ok(total)
}

/// The oldest libc that has all symbols the programs want: the newest version they name.
fn needed_libc(root: &Path) -> Result<String> {
    let mut newest = (2, 0);
    for name in ["pcpmd", "pcpm"] {
        let content = fs::read(root.join("usr/bin").join(name))?;
        for window in content
            .windows(11)
            .filter(|window| window.starts_with(b"GLIBC_2."))
        {
            let digits = window[8..].iter().take_while(|byte| byte.is_ascii_digit());
            let digits: String = digits.map(|&byte| char::from(byte)).collect();
            newest = newest.max((2, digits.parse::<u32>().unwrap_or_default()));
        }
    }
    Ok(format!("{}.{}", newest.0, newest.1))
}
