//! podman, with files of its own. Networks out of the pool come through `pcpm-runtime`, or through CNI and `pcpm-cni`.

use anyhow::{Result, bail};

use super::{
    Engine, FIND_WAY_OUT, Network, ROOTFS, RUN_ON, documented_conflist, install_plugins,
    make_rootfs, run_detached, write,
};
use crate::binary;
use crate::place::Tool;
use crate::world::World;

const SETTINGS: &str = "/run/engine/podman/containers.conf";
/// For every way: limits that any machine allows, locks that no other podman of the machine has.
const COMMON: &str = "\
[containers]
default_ulimits = ['nofile=1024:1024', 'nproc=1024:1024']
[engine]
cgroup_manager = 'cgroupfs'
events_logger = 'none'
lock_type = 'file'
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
        write(world, SETTINGS, &format!("{OWN}{COMMON}"))?;
        make_rootfs(world)?;
        Ok(Self {
            world,
            through_cni: false,
        })
    }

    /// With the network `pcpm` of `docs/cni.md`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn through_cni(world: &'w World) -> Result<Self> {
        install_plugins(world)?;
        let mut network = documented_conflist()?;
        // As the page says of podman.
        network["plugins"][0]["reservePorts"] = false.into();
        network["plugins"][0]["capabilities"] = serde_json::json!({"portMappings": true});
        write(
            world,
            "/run/engine/podman/net.d/10-pcpm.conflist",
            &network.to_string(),
        )?;
        write(world, SETTINGS, &format!("{THROUGH_CNI}{COMMON}"))?;
        make_rootfs(world)?;
        Ok(Self {
            world,
            through_cni: true,
        })
    }

    /// A command line of podman.
    pub fn tool(&self, line: &str) -> Tool {
        let own = "podman --root /run/engine/podman/root --runroot /run/engine/podman/run --tmpdir /run/engine/podman/tmp";
        let tool = self.world.tool(&format!("{own} {line}"));
        tool.env("CONTAINERS_CONF", SETTINGS)
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
