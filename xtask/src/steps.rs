//! Running other programs: cargo above all.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

/// How to become root, keeping what tests and installers need to find their way.
pub(crate) const SUDO: [&str; 2] = [
    "sudo",
    "--preserve-env=PATH,PCPM_BIN_DIR,HTTP_PROXY,HTTPS_PROXY,http_proxy,https_proxy,PIP_INDEX_URL",
];

/// The top directory of the repository.
pub(crate) fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Where cargo puts what it builds: our own place is a directory of it.
pub(crate) fn target() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("no target directory")?;
    Ok(target.to_owned())
}

/// `cargo` with `line` as arguments, in the workspace, reading nothing.
pub(crate) fn cargo(line: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(line.split_whitespace())
        .current_dir(workspace())
        .stdin(Stdio::null());
    command
}

/// Runs `command`, which must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs `command`, which must succeed, and returns what it prints.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    command.stderr(Stdio::inherit());
    let output = command.output();
    let output = output.with_context(|| format!("start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs `command` to its end.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("start `{}`", line(command)))
}

/// `command` as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or_default().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    words.join(" ")
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether `program` is on the path.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let mut directories = std::env::split_paths(&path).chain(system);
    directories.any(|directory| directory.join(program).is_file())
}

/// `program` as root: directly, or through sudo. `None` when there is no way.
pub(crate) fn as_root(program: &Path) -> Option<Command> {
    if is_root() {
        return Some(Command::new(program));
    }
    exists("sudo").then(|| {
        let [sudo, keep] = SUDO;
        let mut command = Command::new(sudo);
        command.arg(keep).arg(program);
        command
    })
}
