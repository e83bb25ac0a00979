//! Containers of runc: bundles, and what is done with them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use pcpm_tests::binary;
use serde_json::{Value, json};

use super::Method;
use super::network::{Network, host_port};

const BUNDLES: &str = "/run/cold";
const ROOT: &str = "/run/cold-runc";
/// Where the program is in a container.
const PROGRAM: &str = "/action";
/// Where a function without a network listens.
const SOCKET: &str = "/run/action.sock";
/// What the program needs of this machine.
const LIBRARIES: [&str; 3] = ["usr", "lib", "lib64"];

/// What a container is made of: a directory.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The container's id.
    pub(super) id: String,
    directory: PathBuf,
    runtime: PathBuf,
    config: Value,
}

/// A container that was created.
#[derive(Debug)]
pub(super) struct Container<'a> {
    bundle: &'a Bundle,
    output: ChildStdout,
}

impl Bundle {
    /// Prepares the container of function `index`.
    pub(super) fn function(method: Method, index: u32) -> Result<Self> {
        let mut arguments = vec![PROGRAM, "inside", "action"];
        if method == Method::None {
            arguments.extend(["--unix", SOCKET]);
        }
        let mut bundle = Self::prepare("function", index, &arguments)?;
        if method == Method::PooledRuntime {
            bundle.runtime = binary("pcpm-runtime")?;
            bundle.config["annotations"] =
                json!({"io.pcpm.publish": format!("{}:8080", host_port(index))});
        }
        Ok(bundle)
    }

    /// Prepares a container that does nothing.
    pub(super) fn idle(purpose: &str, index: u32) -> Result<Self> {
        Self::prepare(purpose, index, &[PROGRAM, "inside", "pause"])
    }

    fn prepare(purpose: &str, index: u32, arguments: &[&str]) -> Result<Self> {
        // Control groups are the machine's: so are their names.
        let id = format!("pcpm-cold-{}-{purpose}-{index}", std::process::id());
        let directory = Path::new(BUNDLES).join(&id);
        let root = directory.join("rootfs");
        for inside in ["proc", "dev", "sys", "run", "etc"] {
            fs::create_dir_all(root.join(inside)).context("make a root directory")?;
        }
        fs::write(root.join(&PROGRAM[1..]), "").context("make a place for the program")?;
        let mut config = specification(&directory)?;
        config["process"]["terminal"] = false.into();
        config["process"]["rlimits"] = json!([]);
        config["process"]["args"] = json!(arguments);
        config["root"]["readonly"] = false.into();
        let mounts = config["mounts"].as_array_mut().context("no mounts")?;
        mounts.push(bind(&std::env::current_exe()?, PROGRAM));
        mounts.extend(libraries(&root)?);
        Ok(Self {
            id,
            directory,
            runtime: "runc".into(),
            config,
        })
    }

    /// Where a function without a network is found from outside.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("rootfs").join(&SOCKET[1..])
    }

    /// Creates the container in `network`; in none at all without one, unless the runtime asks for it.
    pub(super) fn create(&self, network: Option<&Network>) -> Result<Container<'_>> {
        let mut config = self.config.clone();
        let namespaces = config["linux"]["namespaces"].as_array_mut();
        let namespaces = namespaces.context("no namespaces")?;
        match network {
            Some(network) => namespaces
                .iter_mut()
                .filter(|namespace| namespace["type"] == "network")
                .for_each(|namespace| namespace["path"] = json!(network.netns)),
            None if self.asks_for_a_network() => {}
            None => namespaces.retain(|namespace| namespace["type"] != "network"),
        }
        let path = self.directory.join("config.json");
        fs::write(path, config.to_string()).context("write config.json")?;
        let mut create = self.command("create");
        create.arg("--bundle").arg(&self.directory);
        create.arg("--pid-file").arg(self.pid_file()).arg(&self.id);
        let mut child = create.stdout(Stdio::piped()).spawn().context("create")?;
        let output = child.stdout.take().context("no output")?;
        let status = child.wait()?;
        ensure!(status.success(), "create: {status}: {}", self.log());
        Ok(Container {
            bundle: self,
            output,
        })
    }

    /// The process of the container.
    pub(super) fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.pid_file()).context("read the pid")?;
        Ok(text.trim().parse()?)
    }

    /// Ends the container, if there is one, and removes what the runtime made.
    pub(super) fn delete(&self) -> Result<()> {
        self.call(&["delete", "--force"])
    }

    fn asks_for_a_network(&self) -> bool {
        self.config["annotations"].is_object()
    }

    fn call(&self, words: &[&str]) -> Result<()> {
        let mut command = self.command(words[0]);
        command.args(&words[1..]).arg(&self.id);
        let status = command.stdout(Stdio::null()).status()?;
        if !status.success() {
            bail!("{}: {status}: {}", words[0], self.log());
        }
        Ok(())
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.runtime);
        command.args(["--root", ROOT, "--log"]).arg(self.log_file());
        command.arg(verb).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }
}

impl Container<'_> {
    pub(super) fn start(&self) -> Result<()> {
        self.bundle.call(&["start"])
    }

    /// Waits until the function says so.
    pub(super) fn wait_until_it_listens(self) -> Result<()> {
        let mut line = String::new();
        BufReader::new(self.output).read_line(&mut line)?;
        ensure!(line == "ready\n", "the function did not start");
        Ok(())
    }
}

/// What runc makes of a container that nothing is known of.
fn specification(directory: &Path) -> Result<Value> {
    let mut spec = Command::new("runc");
    let status = spec.arg("spec").arg("--bundle").arg(directory).status()?;
    ensure!(status.success(), "runc spec: {status}");
    let text = fs::read(directory.join("config.json")).context("read config.json")?;
    Ok(serde_json::from_slice(&text)?)
}

/// This machine's libraries, as links where they are links, else as mounts.
fn libraries(root: &Path) -> Result<Vec<Value>> {
    let mut mounts = Vec::new();
    for name in LIBRARIES {
        let (here, inside) = (Path::new("/").join(name), root.join(name));
        if let Ok(target) = fs::read_link(&here) {
            symlink(target, inside).context("make a link")?;
        } else if here.is_dir() {
            fs::create_dir(&inside).context("make a mount point")?;
            mounts.push(bind(&here, &format!("/{name}")));
        }
    }
    Ok(mounts)
}

fn bind(source: &Path, destination: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "ro"]})
}
