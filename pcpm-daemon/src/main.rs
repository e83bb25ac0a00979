//! `pcpmd`: keeps a pool of ready network namespaces and hands them to starting containers.

mod adoption;
mod api;
mod bpf;
mod collector;
mod config;
mod doctor;
mod duty;
mod engine;
mod found;
mod host_world;
mod journal;
mod lock_file;
mod locks;
mod log;
mod memory;
mod metrics;
mod net;
mod open_files;
mod pin_note;
mod policy;
use pcpm_pool as pool;
mod privileges;
mod process;
mod read_only;
mod reaper;
mod reload;
mod reservation;
mod serve;
mod supervisor;
mod unix_socket;
mod uplink;

use std::{fs, io, os::unix::fs::FileTypeExt as _, path::Path, process::ExitCode, rc::Rc};

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, Parser as _};
use pcpm_api::types::{CheckStatus, DoctorReply};

use bpf::Object;
use config::{Args, Config, OnExit};
use lock_file::LockFile;
use log::Log;
use net::HostMountNamespace;

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
    if args.manual {
        let page = clap_mangen::Man::new(Args::command());
        page.section("8").manual("PCPM").render(&mut io::stdout())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(shell) = args.completions {
        clap_complete::generate(shell, &mut Args::command(), "pcpmd", &mut io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(args)?;
    if args.print_config {
        print!("{}", config.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    if args.check {
        return check(&config, args.json);
    }
    let filter = config.log_filter(args, std::env::var("RUST_LOG").ok());
    let filter = filter.map_err(anyhow::Error::msg)?;
    let mounts = HostMountNamespace::of_thread()?;
    let kept = privileges::drop_unneeded().context("give up privileges")?;
    let protection = read_only::protect(&config).context("protect the host's files")?;
    let open_files = open_files::prepare(&config);
    let log = Rc::new(Log::start(config.log.format, filter)?);
    tracing::debug!(
        capabilities = kept.join(","),
        files = ?protection,
        "gave up all other privileges"
    );
    let done = if args.cleanup {
        clean_up(&config, mounts, &log)
    } else {
        daemon((args, &config, &log), mounts, open_files)
    };
    Ok(done.unwrap_or_else(|error| {
        error.chain().for_each(|cause| log.failure(cause));
        ExitCode::FAILURE
    }))
}

/// Prints the checks of the host.
fn check(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let mut checks = host_world::checks(config)?;
    checks.push(locks::probe(config.locks.enabled));
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
fn daemon(
    (args, config, log): (&Args, &Config, &Rc<Log>),
    mounts: HostMountNamespace,
    open_files: u64,
) -> anyhow::Result<ExitCode> {
    let object = args.steer_object.as_deref().map(Object::read).transpose()?;
    let object = object.unwrap_or_else(Object::built_in);
    // Before the first thing is made: a signal that came earlier would leave it.
    let stop = serve::StopSignals::listen()?;
    let lock = LockFile::acquire(&config.state_dir)?;
    let done = locked_daemon((args, config, log), mounts, open_files, &object, stop);
    let released = lock.release();
    done?;
    released?;
    Ok(ExitCode::SUCCESS)
}

fn locked_daemon(
    (args, config, log): (&Args, &Config, &Rc<Log>),
    mounts: HostMountNamespace,
    open_files: u64,
    object: &Object,
    stop: serve::StopSignals,
) -> anyhow::Result<()> {
    let mut host = net::Host::open_beside(&config.state_dir, mounts)?;
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
        serve::until_stopped((args, config, log), open_files, built, journal, stop)
    });
    if served.is_ok() && config.on_exit == OnExit::Keep {
        world.keep();
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
fn clean_up(config: &Config, mounts: HostMountNamespace, log: &Log) -> anyhow::Result<ExitCode> {
    let lock = LockFile::acquire(&config.state_dir)?;
    let world = host_world::HostWorld::new(net::Host::open_beside(&config.state_dir, mounts)?);
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
        log.failure(error);
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
