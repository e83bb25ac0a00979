//! A running `pcpmd` in a world.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pcpm_api::types::{AttachReply, GetReply, SlotCounts, Status, WatchFrame};
use serde_json::{Value, json};

use crate::event::wait_for_path;
use crate::place::{Place, Tool};
use crate::process::Process;
use crate::wire::Wire;
use crate::world::World;
use crate::{PATIENCE, binary};

const STATE_DIRECTORY: &str = "/run/pcpm";
/// Has the settings of daemons whose tests give them no file: so tests run again in another mode.
const SETTINGS: &str = "PCPM_TEST_SETTINGS";
/// Where they are put.
const SETTINGS_FILE: &str = "/run/pcpmd-settings.toml";

/// A `pcpmd` that serves its socket. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    host: Place,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// `before` are words in front of the command: of a program that becomes the daemon in the end.
    pub(crate) fn spawn(
        world: &World,
        before: &[&str],
        args: &[&str],
        change: impl FnOnce(Tool) -> Tool,
    ) -> Result<Self> {
        let (log, file) = world.log_file("pcpmd")?;
        let socket = world.path(STATE_DIRECTORY).join("pcpm.sock");
        let settings = settings(world, args)?;
        let pcpmd = binary("pcpmd")?;
        let pcpmd = pcpmd.to_str().context("the path of pcpmd is no text")?;
        let words = before.iter().copied().chain([pcpmd]);
        let mut words = words.chain(args.iter().copied()).chain(settings);
        let program = words.next().unwrap_or(pcpmd);
        let command = world.host().command(program, words);
        let command = command.with(|command| {
            command.stdout(std::process::Stdio::null()).stderr(file);
        });
        let process = change(command).spawn()?;
        let mut daemon = Self {
            process,
            host: world.host().clone(),
            socket,
            log,
        };
        daemon.wait_until_serving()?;
        Ok(daemon)
    }

    /// Its socket, as a path outside of the world.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The thread that serves the socket.
    pub fn main_thread(&self) -> Pid {
        self.process.main_thread()
    }

    /// All it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The numbers of the programs that it has on raw tracepoints.
    ///
    /// # Errors
    /// When it cannot be looked into.
    pub fn tracing_programs(&self) -> Result<Vec<String>> {
        let mut programs = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.process.pid()))? {
            // Descriptors come and go.
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let is_link = text.contains("link_type:\traw_tracepoint");
            let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
            programs.extend(id.filter(|_| is_link).map(|id| id.trim().to_owned()));
        }
        Ok(programs)
    }

    /// Sends it `signal`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let ended = self.process.wait(patience);
        ended.with_context(|| format!("pcpmd wrote:\n{}", self.log()))
    }

    /// Asks it to stop and waits for its end, which must be a good one.
    ///
    /// # Errors
    /// When it fails or takes longer than `patience`; with what it wrote.
    pub fn stop(&mut self, patience: Duration) -> Result<Duration> {
        let asked = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(patience)?;
        if !status.success() {
            bail!("pcpmd stopped with {status} and wrote:\n{}", self.log());
        }
        Ok(asked.elapsed())
    }

    /// Waits until the name of an attached slot is good without the daemon, too, which is soon after it was attached.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`].
    pub fn wait_until_shown(&self, held: &AttachReply) -> Result<()> {
        let name = &held.attachment.netns;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads_to = self.host.within(|| Ok(fs::read_link(name)?))?;
            if leads_to.starts_with("../attached") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{name} leads to {}", leads_to.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A bare connection to it.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn connect(&self) -> Result<Wire> {
        Wire::connect(&self.socket)
    }

    /// Its status now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.connect()?.call("Status", &json!({}))
    }

    /// Attaches `owner` for `tenant`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn attach(&self, owner: &str, tenant: &str) -> Result<AttachReply> {
        self.attach_with(&json!({"owner": owner, "tenant": tenant}))
    }

    /// Attaches with all parameters given.
    ///
    /// # Errors
    /// When it is refused.
    pub fn attach_with(&self, parameters: &Value) -> Result<AttachReply> {
        self.connect()?.call("Attach", parameters)
    }

    /// The attachment of `owner`, with its traffic.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, owner: &str) -> Result<GetReply> {
        self.connect()?.call("Get", &json!({"owner": owner}))
    }

    /// Detaches `owner`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn detach(&self, owner: &str) -> Result<()> {
        self.connect()?
            .call::<Value>("Detach", &json!({"owner": owner}))
            .map(drop)
    }

    /// The place of an attachment: its network namespace.
    pub fn place(&self, attachment: &AttachReply) -> Place {
        self.host.at(&attachment.attachment.netns)
    }

    /// How many packets were dropped for `reason` so far.
    ///
    /// # Errors
    /// When the daemon knows no such reason.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        let drops = self.status()?.drops;
        let known = drops.iter().find(|drop| drop.reason == reason);
        Ok(known
            .with_context(|| format!("no drop reason '{reason}' in {drops:?}"))?
            .packets)
    }

    /// Waits until `slots` slots are ready.
    ///
    /// # Errors
    /// When they are not within [`PATIENCE`].
    pub fn wait_until_ready(&self, slots: u32) -> Result<()> {
        self.wait_until(&format!("{slots} slots are ready"), |counts| {
            counts.ready == slots
        })
    }

    /// Waits until the pool's counts are as wanted. `what` is said when they never are.
    ///
    /// # Errors
    /// When they are not within [`PATIENCE`].
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&SlotCounts) -> bool) -> Result<()> {
        self.watch(what, |frame| wanted(&frame.counts).then_some(()))
    }

    /// Follows the pool until `seen` returns something. `what` is said when it never does.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub fn watch<T>(&self, what: &str, seen: impl FnMut(&WatchFrame) -> Option<T>) -> Result<T> {
        self.follow(&json!({"interval_ms": 20}), what, seen)
    }

    /// Follows the figures until `seen` returns something. `what` is said when it never does.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub fn watch_figures<T>(
        &self,
        what: &str,
        mut seen: impl FnMut(&Status) -> Option<T>,
    ) -> Result<T> {
        let parameters = json!({"interval_ms": 20, "figures": true});
        self.follow(&parameters, what, |frame| {
            frame.figures.as_ref().and_then(&mut seen)
        })
    }

    fn follow<T>(
        &self,
        parameters: &Value,
        what: &str,
        mut seen: impl FnMut(&WatchFrame) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut wire = self.connect()?;
        wire.stream("Watch", parameters)?;
        loop {
            let frame: WatchFrame = wire.next_reply().map_err(|e| self.blame(what, &e))?;
            if let Some(result) = seen(&frame) {
                return Ok(result);
            }
            if Instant::now() > deadline {
                let counts = frame.counts;
                return Err(self.blame(what, &anyhow!("the counts are {counts:?}")));
            }
        }
    }

    fn blame(&self, what: &str, error: &anyhow::Error) -> anyhow::Error {
        anyhow!(
            "waiting until {what}: {error:#}; pcpmd wrote:\n{}",
            self.log()
        )
    }

    /// The socket exists, and somebody listens.
    fn wait_until_serving(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.connect().is_err() {
            if let Some(status) = self.process.ended()? {
                bail!("pcpmd ended with {status} and wrote:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("pcpmd does not serve its socket; it wrote:\n{}", self.log());
            }
            wait_for_path(&self.socket, &self.process)?;
        }
        Ok(())
    }
}

/// Options for the settings that tests are to run with, if `args` name no file.
fn settings(world: &World, args: &[&str]) -> Result<Vec<&'static str>> {
    let Ok(text) = std::env::var(SETTINGS) else {
        return Ok(Vec::new());
    };
    if args.contains(&"--config") {
        return Ok(Vec::new());
    }
    fs::write(world.path(SETTINGS_FILE), text).context("write the settings")?;
    Ok(vec!["--config", SETTINGS_FILE])
}
