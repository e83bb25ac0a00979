//! A server for iperf3, which every transfer that is measured or interrupted goes to.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::process::Process;

/// An iperf3 server in `place` for one client. It listens already, which one that makes itself a daemon
/// (`iperf3 -s -D`) does not promise.
///
/// # Errors
/// When iperf3 cannot be started, or ends before it listens.
pub fn serve_iperf(place: &Place) -> Result<Process> {
    let mut server = place
        .tool("iperf3 -s -1 --forceflush")
        .with(|command| {
            command.stdout(Stdio::piped());
        })
        .spawn()?;
    let output = server.child().stdout.take().context("no output")?;
    let mut lines = BufReader::new(output).lines();
    while !lines.next().context("iperf3 ended")??.contains("listening") {}
    // The rest of its output must have somewhere to go.
    thread::spawn(move || lines.count());
    Ok(server)
}
