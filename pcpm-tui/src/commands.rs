//! What the verbs do: each asks the daemon, hands the answer to `render` and prints it. A file per
//! group of verbs.

mod attach;
mod doctor;
mod drops;
mod locks;
mod manage;
mod run;
mod show;
mod status;
mod watch;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use pcpm_api::client::{Client, ClientError};
use serde::Serialize;

use crate::cli::{Cli, Verb};
use crate::manual;
use crate::render::{Look, json};

/// Does what `cli` says.
pub(crate) fn run(cli: &Cli) -> Result<ExitCode> {
    let session = Session::new(cli);
    match &cli.verb {
        Verb::Attach(args) => attach::attach(&session, args),
        Verb::Detach { owners } => attach::detach(&session, owners),
        Verb::Update(args) => attach::update(&session, args),
        Verb::Ls => show::ls(&session),
        Verb::Show { owner } => show::show(&session, owner),
        Verb::Run(args) => run::run(&session, args),
        Verb::Exec { owner, command } => run::exec(&session, owner, command),
        Verb::Status => status::status(&session),
        Verb::Top(args) => crate::top::run(&session.socket, args, session.look.colour),
        Verb::Watch(args) => watch::watch(&session, args),
        Verb::Drops(args) => drops::drops(&session, args),
        Verb::Locks(args) => locks::locks(&session, args),
        Verb::Drain(args) => manage::drain(&session, args),
        Verb::Resize(args) => manage::resize(&session, args),
        Verb::Reload => manage::reload(&session),
        Verb::Doctor => doctor::doctor(&session),
        Verb::Completions { shell } => completions(*shell),
        Verb::Manual { directory } => {
            let written = manual::write(directory);
            written.with_context(|| format!("write the manual to {}", directory.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What all verbs share: where the daemon is and how to print.
struct Session {
    socket: PathBuf,
    json: bool,
    look: Look,
}

impl Session {
    fn new(cli: &Cli) -> Self {
        Self {
            socket: cli.socket.clone(),
            json: cli.json,
            look: Look::of_stdout(cli.color),
        }
    }

    fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket)
    }

    /// Prints `value` for a program, or what `human` makes of it for a person.
    fn print<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        if self.json {
            print_text(&json::document(value, self.look.aligned)?)
        } else {
            print_text(&human(value))
        }
    }
}

/// Writes to standard output at once; that nobody reads it is an error like any other.
pub(crate) fn print_text(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn completions(shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pcpm", &mut script);
    print_text(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
