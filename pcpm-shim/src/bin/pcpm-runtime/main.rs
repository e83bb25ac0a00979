//! Takes the place of an OCI runtime: containers that are to have a network of their own get one out of the pool.
//! Everything else is the real runtime's, with the arguments, files and exit codes as they are.

mod bundle;
mod command_line;
mod container;
mod real;
mod settings;
mod wishes;

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::command_line::{CommandLine, Verb};
use crate::real::Runtime;
use crate::settings::Settings;

/// As runc ends when it fails.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let line = CommandLine::read(&arguments);
    match run(&line, arguments) {
        Ok(code) => code,
        Err(error) => {
            complain(&line, &format!("{error:#}"));
            FAILED.into()
        }
    }
}

fn run(line: &CommandLine, arguments: Vec<OsString>) -> Result<ExitCode> {
    let settings = Settings::load()?;
    let runtime = Runtime::new(&settings, arguments);
    match &line.verb {
        Verb::Create(creation) => container::create(line, creation, &settings, &runtime),
        Verb::Run(creation) => container::run(line, creation, &settings, &runtime),
        Verb::Start { id } => container::start(id, &settings, &runtime),
        Verb::Delete { id } => container::delete(line, id, &settings, &runtime),
        Verb::Other => Err(runtime.become_it()),
    }
}

/// Says what went wrong where people and engines look for it: on standard error, and in the log that the engine
/// named.
fn complain(line: &CommandLine, message: &str) {
    eprintln!("pcpm-runtime: {message}");
    let Some(log) = &line.log else { return };
    let text = format!("pcpm-runtime: {message}");
    let entry = if line.log_is_json {
        json!({ "level": "error", "msg": text }).to_string()
    } else {
        format!("level=error msg={text:?}")
    };
    // Where there is no log, standard error has it.
    if let Ok(mut log) = OpenOptions::new().create(true).append(true).open(log) {
        let _ = writeln!(log, "{entry}");
    }
}
