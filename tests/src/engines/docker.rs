//! dockerd with files of its own, `pcpm-runtime` as one of its runtimes, and its own bridge beside it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{
    ARCHIVE, Engine, FIND_WAY_OUT, IMAGE, Network, RUN_ON, documented, make_archive, spawn_logged,
    wait_until_serving, write,
};
use crate::place::Tool;
use crate::process::Process;
use crate::world::World;
use crate::{PATIENCE, binary};

const SETTINGS: &str = "/run/engine/docker.json";
const SOCKET: &str = "unix:///run/engine/docker.sock";
const DIRECTORIES: &str = "--data-root /run/engine/docker/data --exec-root /run/engine/docker/exec --pidfile /run/engine/docker.pid";

/// dockerd, in a world. Dropping it kills it.
#[derive(Debug)]
pub struct Docker<'w> {
    world: &'w World,
    service: (Process, PathBuf),
    live_restore: bool,
}

impl<'w> Docker<'w> {
    /// Starts it, with the image that all containers are of. Its containers end with it.
    ///
    /// # Errors
    /// When it does not serve; with what it wrote.
    pub fn start(world: &'w World) -> Result<Self> {
        Self::start_as(world, false)
    }

    /// Starts it with containers that go on without it (`--live-restore`).
    ///
    /// # Errors
    /// When it does not serve; with what it wrote.
    pub fn start_with_live_restore(world: &'w World) -> Result<Self> {
        Self::start_as(world, true)
    }

    fn start_as(world: &'w World, live_restore: bool) -> Result<Self> {
        let mut docker = Self {
            world,
            service: spawn(world, live_restore)?,
            live_restore,
        };
        docker.wait()?;
        make_archive(world)?;
        docker.tool(&format!("load -i {ARCHIVE}")).run()?;
        Ok(docker)
    }

    /// Kills it and starts it again.
    ///
    /// # Errors
    /// When it does not serve again.
    pub fn restart(&mut self) -> Result<()> {
        self.service.0.signal(Signal::SIGKILL)?;
        self.service.0.wait(PATIENCE)?;
        self.service = spawn(self.world, self.live_restore)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let world = self.world;
        wait_until_serving(|| tool(world, "info").run(), &mut self.service)
            .map(drop)
            .context("start dockerd")
    }

    /// `tool`, which finds this docker if it is a client or starts one.
    #[must_use]
    pub fn told_to_clients(tool: Tool) -> Tool {
        tool.env("DOCKER_HOST", SOCKET)
    }

    /// A command line of docker.
    pub fn tool(&self, line: &str) -> Tool {
        tool(self.world, line)
    }

    /// The options of `docker run` for a container with `network`, and the image.
    pub fn run_options(network: Network) -> String {
        let options = match network {
            Network::Pooled => "--runtime pcpm --network none",
            Network::Bridge => "--network bridge",
            Network::None => "--network none",
        };
        format!("{options} {IMAGE}")
    }
}

fn tool(world: &World, line: &str) -> Tool {
    Docker::told_to_clients(world.tool(&format!("docker {line}")))
}

fn spawn(world: &World, live_restore: bool) -> Result<(Process, PathBuf)> {
    let runtime = binary("pcpm-runtime")?;
    let settings = documented("docker", "json")?;
    let settings = settings.replace("/usr/bin/pcpm-runtime", &runtime.to_string_lossy());
    write(world, SETTINGS, &settings)?;
    let line = format!(
        "dockerd {DIRECTORIES} --config-file {SETTINGS} -H {SOCKET} --live-restore={live_restore}"
    );
    spawn_logged(world, world.tool(&line))
}

impl Engine for Docker<'_> {
    fn start(&self, network: Network, name: &str) -> Result<()> {
        let options = Self::run_options(network);
        let line = format!("run -d --name {name} {options} {RUN_ON}");
        self.tool(&line).run().map(drop)
    }

    fn exec(&self, name: &str, command: &str) -> Result<String> {
        self.tool(&format!("exec {name} {command}")).run()
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.tool(&format!("rm -f {name}")).run().map(drop)
    }

    fn pass(&self, name: &str) -> Result<()> {
        let options = Self::run_options(Network::Pooled);
        let line = format!("run --rm --name {name} {options} {FIND_WAY_OUT}");
        self.tool(&line).run().map(drop)
    }
}
