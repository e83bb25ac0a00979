//! podman, with files of its own. Networks out of the pool come through `pcpm-runtime`, or through CNI and `pcpm-cni`.

use anyhow::{Result, bail};

use super::{
    ARCHIVE, Engine, FIND_WAY_OUT, Network, ROOTFS, RUN_ON, documented, install_plugins,
    make_archive, make_rootfs, run_detached, write,
};
use crate::binary;
use crate::place::Tool;
use crate::world::World;

const SETTINGS: &str = "/run/engine/podman/containers.conf";
const STORAGE: &str = "/run/engine/podman/storage.conf";
/// Where it keeps what, and how: on any file system.
const OWN_STORAGE: &str = "\
[storage]
driver = 'vfs'
graphroot = '/run/engine/podman/root'
runroot = '/run/engine/podman/run'
";
/// For every way: limits that any machine allows, locks that no other podman of the machine has.
const COMMON: &str = "\
[containers]
default_ulimits = ['nofile=1024:1024', 'nproc=1024:1024']
[engine]
cgroup_manager = 'cgroupfs'
events_logger = 'none'
lock_type = 'file'
tmp_dir = '/run/engine/podman/tmp'
runtime = 'runc'
";
const OWN: &str =
    "[network]\nnetwork_backend = 'netavark'\nnetwork_config_dir = '/run/engine/podman/networks'\n";
const THROUGH_CNI: &str = "\
[network]
network_backend = 'cni'
cni_plugin_dirs = ['/run/engine/cni/bin']
network_config_dir = '/run/engine/podman/net.d'
";

/// podman, in a world.
#[derive(Debug)]
pub struct Podman<'w> {
    world: &'w World,
    through_cni: bool,
}

impl<'w> Podman<'w> {
    /// As it comes, with `pcpm-runtime` for networks out of the pool.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(world: &'w World) -> Result<Self> {
        Self::configured(world, OWN, false)
    }

    /// With the network `pcpm` of `docs/engines.md`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn through_cni(world: &'w World) -> Result<Self> {
        install_plugins(world)?;
        let network = documented("podman, through CNI", "json")?;
        write(world, "/run/engine/podman/net.d/10-pcpm.conflist", network)?;
        Self::configured(world, THROUGH_CNI, true)
    }

    fn configured(world: &'w World, network: &str, through_cni: bool) -> Result<Self> {
        write(world, SETTINGS, &format!("{network}{COMMON}"))?;
        write(world, STORAGE, OWN_STORAGE)?;
        make_rootfs(world)?;
        Ok(Self { world, through_cni })
    }

    /// A command line of podman.
    pub fn tool(&self, line: &str) -> Tool {
        Self::with_its_files(self.world.tool(&format!("podman {line}")))
    }

    /// `tool`, which finds the files of this podman if it is one or starts one.
    #[must_use]
    pub fn with_its_files(tool: Tool) -> Tool {
        tool.env("CONTAINERS_CONF", SETTINGS)
            .env("CONTAINERS_STORAGE_CONF", STORAGE)
    }

    /// Takes the image `busybox` in.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn load_image(&self) -> Result<()> {
        make_archive(self.world)?;
        self.tool(&format!("load -q -i {ARCHIVE}")).run().map(drop)
    }

    /// A command line of podman that leaves a container running.
    ///
    /// # Errors
    /// When it fails, with what it wrote.
    pub fn detached(&self, line: &str) -> Result<()> {
        run_detached(self.world, self.tool(line))
    }

    /// The options of `podman run` for a container with `network`.
    ///
    /// # Errors
    /// When there is no such network.
    pub fn run_options(&self, network: Network) -> Result<&'static str> {
        match (network, self.through_cni) {
            (Network::Pooled, true) => Ok("--network pcpm"),
            // What `pcpm-runtime` finds is a network without a path.
            (Network::Pooled | Network::None, false) => Ok("--network none"),
            (Network::Bridge, false) => Ok("--network podman"),
            (_, true) => bail!("this podman has one network"),
        }
    }

    /// The options in front of every verb, for a container that has or is to have `network`.
    ///
    /// # Errors
    /// When `pcpm-runtime` was not built.
    pub fn globals(&self, network: Network) -> Result<String> {
        if network == Network::Pooled && !self.through_cni {
            return Ok(format!("--runtime {}", binary("pcpm-runtime")?.display()));
        }
        Ok(String::new())
    }
}

impl Engine for Podman<'_> {
    fn start(&self, network: Network, name: &str) -> Result<()> {
        let (globals, options) = (self.globals(network)?, self.run_options(network)?);
        self.detached(&format!(
            "{globals} run -d --name {name} {options} --rootfs {ROOTFS} {RUN_ON}"
        ))
    }

    fn exec(&self, name: &str, command: &str) -> Result<String> {
        self.tool(&format!("exec {name} {command}")).run()
    }

    fn remove(&self, name: &str) -> Result<()> {
        // The container says itself which runtime it has.
        self.detached(&format!("rm -f -t 0 {name}"))
    }

    fn pass(&self, name: &str) -> Result<()> {
        let (globals, options) = (
            self.globals(Network::Pooled)?,
            self.run_options(Network::Pooled)?,
        );
        let line =
            format!("{globals} run --rm --name {name} {options} --rootfs {ROOTFS} {FIND_WAY_OUT}");
        self.tool(&line).run().map(drop)
    }
}
