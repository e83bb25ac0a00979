//! `pcpmd`: keeps a pool of ready network namespaces and hands them to starting containers.

mod adoption;
mod api;
mod bpf;
mod collector;
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
mod pin_note;
mod policy;
mod pool;
mod process;
mod reaper;
mod reload;
mod reservation;
mod serve;
mod uplink;

use std::{fs, io::IsTerminal, os::unix::fs::FileTypeExt as _, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Parser;
use pcpm_api::types::{CheckStatus, DoctorReply};

use bpf::Object;
use config::{Args, Config, OnExit};
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
    if args.cleanup {
        return clean_up(&config);
    }
    let object = args.steer_object.as_deref().map(Object::read).transpose()?;
    daemon(args, &config, &object.unwrap_or_else(Object::built_in))?;
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

/// Runs the daemon until it is told to stop. Whatever it made is gone when this returns, or kept as a whole
/// for the next one.
fn daemon(args: &Args, config: &Config, object: &Object) -> anyhow::Result<()> {
    let lock = LockFile::acquire(&config.state_dir)?;
    let done = locked_daemon(args, config, object);
    let released = lock.release();
    done?;
    Ok(released?)
}

fn locked_daemon(args: &Args, config: &Config, object: &Object) -> anyhow::Result<()> {
    let stop = serve::StopSignals::listen()?;
    let room_for_ports = open_files::room_for_ports(config, open_files::raise_limit());
    let mut host = net::Host::open(&config.state_dir)?;
    let netns = net::HostKernel::netns_cookie(&mut host)?;
    let journal = journal::Journal::of_host(&config.state_dir, netns)?;
    let failures = doctor::failures(&host_world::checks(config)?);
    if !failures.is_empty() {
        bail!(
            "this host cannot run the pool:\n  {}",
            failures.join("\n  ")
        );
    }
    let mut world = host_world::HostWorld::new(host);
    let built = world.build(config, object);
    if built.is_err() && !world.is_first_life() {
        return built.map(drop);
    }
    let served = built.and_then(|built| {
        serve::until_stopped((args, config), room_for_ports, built, journal, stop)
    });
    if served.is_ok() && config.on_exit == OnExit::Keep {
        tracing::info!("slots, attachments and traffic are kept for the next start");
        return Ok(());
    }
    let removed = world.remove(config);
    journal::remove(&config.state_dir).context("remove the journal")?;
    served?;
    if !removed.errors.is_empty() {
        bail!(
            "something was left behind:\n  {}",
            removed.errors.join("\n  ")
        );
    }
    Ok(())
}

/// Removes all that an earlier life left, and says what it was.
fn clean_up(config: &Config) -> anyhow::Result<ExitCode> {
    let lock = LockFile::acquire(&config.state_dir)?;
    let world = host_world::HostWorld::new(net::Host::open(&config.state_dir)?);
    let mut removed = world.clean_up(config);
    if let Err(error) = journal::remove(&config.state_dir) {
        removed.errors.push(format!("remove the journal: {error}"));
    }
    removed.errors.extend(remove_socket(&config.socket).err());
    let released = lock.release_with_directory();
    println!(
        "removed {} links, {} mounted namespaces, {} pins",
        removed.links, removed.mounts, removed.pins
    );
    for error in &removed.errors {
        eprintln!("pcpmd: {error}");
    }
    released?;
    Ok(if removed.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Removes the socket of a killed daemon: nobody listens, or the lock would be taken.
fn remove_socket(path: &Path) -> Result<(), String> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    fs::remove_file(path).map_err(|e| format!("remove {}: {e}", path.display()))
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
