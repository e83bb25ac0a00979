//! `pcpm`, the operator's command line: parses the words ([`cli`]), does them ([`commands`]) and says
//! what went wrong ([`failure`]). Everything it knows comes from `pcpmd` over its socket.

mod cli;
mod commands;
mod failure;
mod manual;
mod namespace;
mod parse;
mod render;
mod signals;
mod top;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    commands::run(&cli).unwrap_or_else(|error| failure::report(&error))
}
