//! A CNI plugin (specification 1.1.0) that gives a container a network out of the pool: it has the path of the
//! engine's namespace be a pooled namespace.

mod commands;
mod config;
mod error;
mod invocation;
mod namespace;
mod result;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcpm_shim::phases::Stopwatch;
use serde_json::{Value, json};

use crate::config::{NEWEST, Network, VERSIONS};
use crate::error::{Code, Error};
use crate::invocation::Command;

/// The largest configuration that is read. Engines put results of other plugins in it.
const LONGEST_CONFIG: usize = 1 << 20;
/// How long to wait for each part of it, in milliseconds.
const STDIN_PATIENCE_MS: u16 = 10_000;
/// The same where it may be left out.
const VERSION_PATIENCE_MS: u16 = 1_000;

fn main() -> ExitCode {
    let mut version = NEWEST.to_owned();
    match run(&mut version) {
        Ok(output) => {
            // An engine that does not listen any more cannot be told so.
            let _ = write!(io::stdout(), "{output}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stdout(), "{}", error.report(&version));
            ExitCode::FAILURE
        }
    }
}

/// What is to be printed. `version` becomes that of the configuration as soon as it is known.
fn run(version: &mut String) -> Result<String, Error> {
    let watch = Stopwatch::start();
    let Some(command) = Command::from_env()? else {
        eprintln!("{}", about());
        return Ok(String::new());
    };
    if command == Command::Version {
        return Ok(shown(&supported(&asked_version())));
    }
    let text = read_config(STDIN_PATIENCE_MS)?;
    let wanted = config::version_of(&text)?;
    if VERSIONS.contains(&wanted.as_str()) {
        *version = wanted;
    }
    let network = Network::read(&text)?;
    check_since(&command, &network)?;
    match command {
        Command::Add(container, netns) => {
            return commands::add(&network, &container, netns, watch).map(|result| shown(&result));
        }
        Command::Del(container) => commands::del(&network, &container)?,
        Command::Check(container, netns) => commands::check(&network, &container, netns)?,
        Command::Gc => commands::gc(&network)?,
        Command::Status => commands::status(&network)?,
        Command::Version => {}
    }
    Ok(String::new())
}

/// For people.
fn about() -> String {
    format!(
        "CNI plugin pcpm-cni v{}: networks out of a pool. It is started by container engines; docs/cni.md \
         tells how to configure it.\nCNI protocol versions supported: {}",
        env!("CARGO_PKG_VERSION"),
        VERSIONS.join(", ")
    )
}

fn supported(version: &str) -> Value {
    json!({ "cniVersion": version, "supportedVersions": VERSIONS })
}

/// The version in the configuration, which who asks for versions need not give.
fn asked_version() -> String {
    let asked = if io::stdin().is_terminal() {
        None
    } else {
        let text = read_config(VERSION_PATIENCE_MS).ok();
        text.and_then(|text| config::version_of(&text).ok())
    };
    asked
        .filter(|version| !version.is_empty())
        .unwrap_or_else(|| NEWEST.to_owned())
}

/// GC and STATUS came with version 1.1.0.
fn check_since(command: &Command, network: &Network) -> Result<(), Error> {
    let new = matches!(command, Command::Gc | Command::Status);
    if !new || network.cni_version == NEWEST {
        return Ok(());
    }
    let msg = format!(
        "cniVersion {} does not have {}",
        network.cni_version,
        command.name()
    );
    Err(Error::new(Code::IncompatibleVersion, msg))
}

fn shown(value: &Value) -> String {
    format!("{value:#}\n")
}

/// All of standard input; an engine that holds it open and says nothing is not waited for for ever.
fn read_config(patience_ms: u16) -> Result<Vec<u8>, Error> {
    let failed = |reason: &str| Error::new(Code::Io, format!("standard input: {reason}"));
    let stdin = io::stdin();
    let mut text = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(patience_ms));
        if ready.map_err(|errno| failed("cannot be waited for").with(errno))? == 0 {
            return Err(failed("no configuration came in time"));
        }
        let read = nix::unistd::read(&stdin, &mut part);
        match read.map_err(|errno| failed("cannot be read").with(errno))? {
            0 => return Ok(text),
            length => text.extend_from_slice(&part[..length]),
        }
        if text.len() > LONGEST_CONFIG {
            return Err(failed(&format!("more than {LONGEST_CONFIG} bytes")));
        }
    }
}
