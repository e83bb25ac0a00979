//! A place in a world: a network namespace, seen from the world's mounts and processes. Anything
//! that runs there is a process of the world and dies with it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::{Process, shell_code};

/// The namespaces that make up a world, held open.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) mount: File,
    pub(crate) process: File,
    pub(crate) network: File,
}

impl Namespaces {
    /// Those of a process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            File::open(&path).with_context(|| format!("open {path}"))
        };
        Ok(Self {
            mount: open("mnt")?,
            process: open("pid")?,
            network: open("net")?,
        })
    }
}

/// Where commands run.
#[derive(Clone, Debug)]
pub struct Place {
    world: Arc<Namespaces>,
    /// Path of the network namespace inside the world; `None` for the world's host.
    netns: Option<PathBuf>,
}

impl Place {
    pub(crate) fn host(world: Arc<Namespaces>) -> Self {
        Self { world, netns: None }
    }

    /// The network namespace at `netns`, a path inside the world.
    #[must_use]
    pub fn at(&self, netns: impl AsRef<Path>) -> Self {
        Self {
            world: Arc::clone(&self.world),
            netns: Some(netns.as_ref().to_owned()),
        }
    }

    /// A command to run here.
    pub fn command<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Tool {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        Tool {
            command,
            place: self.clone(),
            input: None,
        }
    }

    /// The words of `line`, separated by spaces, as a command to run here.
    pub fn tool(&self, line: &str) -> Tool {
        let mut words = line.split_whitespace();
        self.command(words.next().unwrap_or_default(), words)
    }

    /// Calls `work` on a thread of its own that is here; what it opens belongs to this place.
    ///
    /// # Errors
    /// Those of `work`, and when the place is gone.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let visit = scope.spawn(|| {
                self.enter()?;
                work()
            });
            visit
                .join()
                .map_err(|_| anyhow!("the visit of a place panicked"))?
        })
    }

    /// Moves the calling thread here. It cannot start threads afterwards, but processes.
    fn enter(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_FS).context("unshare the file system context")?;
        setns(&self.world.process, CloneFlags::CLONE_NEWPID).context("enter the pid namespace")?;
        setns(&self.world.mount, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
        setns(&self.world.network, CloneFlags::CLONE_NEWNET).context("enter the network")?;
        let Some(path) = &self.netns else {
            return Ok(());
        };
        let netns = File::open(path).with_context(|| format!("open {}", path.display()))?;
        setns(&netns, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the network namespace {}", path.display()))
    }
}

/// A command that will run in a [`Place`].
#[derive(Debug)]
pub struct Tool {
    command: Command,
    place: Place,
    input: Option<Vec<u8>>,
}

impl Tool {
    /// What the command reads from its standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(input.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The command, to change what is not covered here.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Starts the command and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut self) -> Result<Process> {
        let name = self.name();
        let Self { command, place, .. } = &mut self;
        let child = place
            .within(|| command.spawn().map_err(Into::into))
            .with_context(|| format!("start {name}"))?;
        Process::new(name, child)
    }

    /// Runs the command to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(mut self) -> Result<Output> {
        let name = self.name();
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let Self {
            command,
            place,
            input,
        } = &mut self;
        place
            .within(|| {
                let mut child = command.spawn()?;
                if let (Some(input), Some(mut stdin)) = (input.as_ref(), child.stdin.take()) {
                    // It may end before it has read all. Whatever happens, it is waited for: no world ends before.
                    let _ = stdin.write_all(input);
                }
                Ok(child.wait_with_output()?)
            })
            .with_context(|| format!("run {name}"))
    }

    /// Runs the command, which must succeed, and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the error carries all it wrote.
    pub fn run(self) -> Result<String> {
        let name = self.name();
        let output = self.output()?;
        if !output.status.success() {
            bail!("`{name}` failed ({}): {}", output.status, both(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the command, which must succeed, with nobody to read what it writes. Returns how long it took: getting to the place
    /// is not in it.
    ///
    /// # Errors
    /// When it fails.
    pub fn time(mut self) -> Result<Duration> {
        let name = self.name();
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let Self { command, place, .. } = &mut self;
        let (status, took) = place
            .within(|| {
                let begun = Instant::now();
                let status = command.status()?;
                Ok((status, begun.elapsed()))
            })
            .with_context(|| format!("run {name}"))?;
        ensure!(status.success(), "`{name}` failed ({status})");
        Ok(took)
    }

    /// Runs the command, a `traceroute -n -q1` that must succeed, and returns who answered, hop by hop.
    ///
    /// # Errors
    /// When it fails.
    pub fn hops(self) -> Result<Vec<String>> {
        let report = self.run()?;
        let hops = report.lines().skip(1);
        let hops = hops.filter_map(|line| line.split_whitespace().nth(1));
        Ok(hops.map(str::to_owned).collect())
    }

    /// Runs the command, which must fail, and returns its exit code and its standard error.
    ///
    /// # Errors
    /// When it succeeds; the error carries all it wrote.
    pub fn fails(self) -> Result<(i32, String)> {
        let name = self.name();
        let output = self.output()?;
        if output.status.success() {
            bail!("`{name}` succeeded and should not: {}", both(&output));
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((shell_code(output.status), text))
    }

    /// Runs the command, which must succeed, and parses the JSON it prints.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(self) -> Result<serde_json::Value> {
        let name = self.name();
        let text = self.run()?;
        serde_json::from_str(&text).with_context(|| format!("`{name}` printed no JSON: {text}"))
    }

    fn name(&self) -> String {
        let program = Path::new(self.command.get_program());
        let mut words = vec![program.file_name().unwrap_or_default().to_string_lossy()];
        words.extend(self.command.get_args().map(OsStr::to_string_lossy));
        words.join(" ")
    }
}

fn both(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{stdout}{stderr}").trim().to_owned()
}
