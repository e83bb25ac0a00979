//! runc by itself, and `pcpm-runtime` in its place: bundles, and what engines do with them.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Engine, FIND_WAY_OUT, Network, ROOTFS, RUN_ON, make_rootfs, run_detached, write};
use crate::binary;
use crate::place::Tool;
use crate::world::World;

const STATE: &str = "/run/engine/runc/state";
const BUNDLES: &str = "/run/engine/runc/bundles";
const SETTINGS: &str = "/run/engine/runc/runtime.toml";
/// Where it says what went wrong, as engines want it.
const LOG: &str = "/run/engine/runc/log.json";

/// runc, in a world.
#[derive(Debug)]
pub struct Runc<'w> {
    world: &'w World,
}

impl<'w> Runc<'w> {
    /// In `world`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(world: &'w World) -> Result<Self> {
        make_rootfs(world)?;
        write(world, SETTINGS, "")?;
        Ok(Self { world })
    }

    /// Has `pcpm-runtime` find `settings` in its file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, settings: &str) -> Result<()> {
        write(self.world, SETTINGS, settings)
    }

    /// `line` as an engine says it to `program`: `runc`, or what takes its place.
    fn say(&self, program: &str, line: &str) -> Tool {
        let globals = ["--root", STATE, "--log", LOG, "--log-format", "json"];
        let words = globals.into_iter().chain(line.split_whitespace());
        let tool = self.world.command(program, words);
        tool.env("PCPM_RUNTIME_CONFIG", SETTINGS)
    }

    /// `line`, said to runc.
    pub fn runc(&self, line: &str) -> Tool {
        self.say("runc", line)
    }

    /// `line`, said to `pcpm-runtime`.
    ///
    /// # Errors
    /// When it was not built.
    pub fn runtime(&self, line: &str) -> Result<Tool> {
        let program = binary("pcpm-runtime")?;
        Ok(self.say(&program.to_string_lossy(), line))
    }

    /// What was said of failures, one JSON object a line.
    pub fn log(&self) -> String {
        fs::read_to_string(self.world.path(LOG)).unwrap_or_default()
    }

    /// Makes bundle `name`, whose container runs `command` in [`ROOTFS`] and is otherwise as `runc spec` has it, but for what
    /// `change` does to it. Returns its path in the world.
    ///
    /// # Errors
    /// Without runc.
    pub fn bundle(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<String> {
        let bundle = format!("{BUNDLES}/{name}");
        let directory = self.world.path(&bundle);
        let file = directory.join("config.json");
        fs::create_dir_all(&directory)?;
        self.world
            .tool(&format!("runc spec --bundle {bundle}"))
            .run()?;
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        config["root"]["path"] = ROOTFS.into();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(command);
        config["process"]["rlimits"] = json!([]);
        // Control groups are the machine's: containers of one name in two worlds would share theirs.
        let group = format!("{}{name}", self.world.control_groups());
        config["linux"]["cgroupsPath"] = group.into();
        change(&mut config);
        fs::write(&file, config.to_string())?;
        Ok(bundle)
    }

    /// What engines do with a container up to its start: `program` is told to create it, and to start it.
    fn start_bundle(&self, network: Network, id: &str, bundle: &str) -> Result<()> {
        let line = format!("create --bundle {bundle} --pid-file {bundle}/pid {id}");
        let create = self.by(network, &line)?;
        run_detached(self.world, create)?;
        self.by(network, &format!("start {id}"))?.run().map(drop)
    }

    fn by(&self, network: Network, line: &str) -> Result<Tool> {
        match network {
            Network::Pooled => self.runtime(line),
            Network::None => Ok(self.runc(line)),
            Network::Bridge => bail!("runc makes no bridge"),
        }
    }

    /// Removes bundle `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_bundle(&self, name: &str) -> Result<()> {
        let path = self.world.path(format!("{BUNDLES}/{name}"));
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Creates and starts container `id` of `bundle` through `pcpm-runtime`.
    ///
    /// # Errors
    /// When it fails; the log says why.
    pub fn start_pooled(&self, id: &str, bundle: &str) -> Result<()> {
        self.start_bundle(Network::Pooled, id, bundle)
    }
}

impl Engine for Runc<'_> {
    fn start(&self, network: Network, name: &str) -> Result<()> {
        let command: Vec<_> = RUN_ON.split(' ').collect();
        let bundle = self.bundle(name, &command, |_| ())?;
        self.start_bundle(network, name, &bundle)
    }

    fn exec(&self, name: &str, command: &str) -> Result<String> {
        self.runtime(&format!("exec {name} {command}"))?.run()
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.runtime(&format!("delete --force {name}"))?.run()?;
        self.remove_bundle(name)
    }

    fn pass(&self, name: &str) -> Result<()> {
        let command: Vec<_> = FIND_WAY_OUT.split(' ').collect();
        let bundle = self.bundle(name, &command, |_| ())?;
        self.runtime(&format!("run --bundle {bundle} {name}"))?
            .run()?;
        self.remove_bundle(name)
    }
}
