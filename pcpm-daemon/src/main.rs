//! `pcpmd`: keeps a pool of ready network namespaces and hands them to starting containers.

mod api;
mod bpf;
mod config;
mod doctor;
mod engine;
mod found;
mod host_world;
mod journal;
mod lock_file;
mod locks;
mod memory;
mod net;
mod open_files;
mod policy;
mod pool;
mod process;
mod reservation;
mod serve;
mod uplink;

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Parser;
use pcpm_api::types::{CheckStatus, DoctorReply};

use config::{Args, Config};
use lock_file::LockFile;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            for cause in error.chain() {
                eprintln!("pcpmd: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args)?;
    if args.print_config {
        print!("{}", config.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    if args.check {
        return check(&config, args.json);
    }
    start_log(args);
    daemon(&config)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the checks of the host.
fn check(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let checks = host_world::checks(config)?;
    let failed = checks
        .iter()
        .any(|check| check.status == CheckStatus::Failed);
    if json {
        println!("{}", serde_json::to_string_pretty(&DoctorReply { checks })?);
    } else {
        print!("{}", doctor::report(&checks));
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Runs the daemon until it is told to stop. Whatever it made is gone when this returns.
fn daemon(config: &Config) -> anyhow::Result<()> {
    let lock = LockFile::acquire(&config.state_dir)?;
    let done = locked_daemon(config);
    let released = lock.release();
    done?;
    Ok(released?)
}

fn locked_daemon(config: &Config) -> anyhow::Result<()> {
    let stop = serve::StopSignals::listen()?;
    let room_for_ports = open_files::room_for_ports(config, open_files::raise_limit());
    let mut host = net::Host::open(&config.state_dir)?;
    let netns = net::HostKernel::netns_cookie(&mut host)?;
    let journal = journal::Journal::of_host(&config.state_dir, netns)?;
    let swept = net::HostKernel::sweep(&mut host);
    if swept.links + swept.mounts > 0 {
        let (links, mounts) = (swept.links, swept.mounts);
        tracing::info!(links, mounts, "removed what a killed daemon left");
    }
    for error in swept.errors {
        tracing::warn!("remove what a killed daemon left: {error}");
    }
    let failures = doctor::failures(&host_world::checks(config)?);
    if !failures.is_empty() {
        bail!(
            "this host cannot run the pool:\n  {}",
            failures.join("\n  ")
        );
    }
    let mut world = host_world::HostWorld::new(host);
    let served = world
        .build(config)
        .and_then(|built| serve::until_stopped(config, room_for_ports, built, journal, stop));
    let errors = world.remove();
    journal::remove(&config.state_dir).context("remove the journal")?;
    served?;
    if !errors.is_empty() {
        bail!("something was left behind:\n  {}", errors.join("\n  "));
    }
    Ok(())
}

/// Logs to stderr; without time where the service manager adds its own.
fn start_log(args: &Args) {
    let filter = args.log_filter(std::env::var("RUST_LOG").ok());
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}
