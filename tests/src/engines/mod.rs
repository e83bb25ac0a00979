//! The container engines that people run, each in a world: how it is configured for networks out of the pool, for networks that
//! it makes itself, and for none. What is expected of them stands in tests, how long they take in benchmarks.

mod cni;
mod containerd;
mod cri;
mod docker;
mod grpc;
mod podman;
mod runc;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::place::Tool;
use crate::process::Process;
use crate::world::World;
use crate::{PATIENCE, binary};

pub use cni::{Chain, Sandbox};
pub use containerd::{Containerd, Ctr, Handler, Pods};
pub use cri::{ContainerState, Cri, Executed, Pod, PodStatus};
pub use docker::Docker;
pub use podman::Podman;
pub use runc::Runc;

/// What engines keep, in every world.
pub const FILES: &str = "/run/engine";
/// A root file system with busybox and nothing else, in every world with engines.
pub const ROOTFS: &str = "/run/engine/rootfs";
/// The same as an image, for engines that want one.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:latest";
const ARCHIVE: &str = "/run/engine/box.tar";
/// CNI plugins: the project's, and the reference ones of Debian's `containernetworking-plugins`.
const PLUGINS: &str = "/run/engine/cni/bin";
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";
/// What every container can show of its network: its address, and nothing else.
pub const SHOW_ADDRESS: &str = "/bin/busybox ip -o -4 address show eth0";
/// What ends well only with a way out. Its exit code is told by every engine; the output of what ends so soon is not (`ctr`).
const FIND_WAY_OUT: &str = "/bin/busybox ip route get 198.51.100.1";
/// A command that runs until it is killed.
pub const RUN_ON: &str = "/bin/busybox sleep 100000";

/// Whose network a container is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A slot of the pool.
    Pooled,
    /// The engine's own bridge.
    Bridge,
    /// A namespace that nothing is put into.
    None,
}

/// What starts and removes containers.
pub trait Engine: Sync {
    /// Starts container `name`, which runs on, and returns as soon as it runs.
    ///
    /// # Errors
    /// When the engine refuses, or has no such network.
    fn start(&self, network: Network, name: &str) -> Result<()>;

    /// Runs `command` in container `name` and returns what it wrote.
    ///
    /// # Errors
    /// When the engine refuses, or the command fails.
    fn exec(&self, name: &str, command: &str) -> Result<String>;

    /// Removes container `name`, whatever it does.
    ///
    /// # Errors
    /// When the engine refuses.
    fn remove(&self, name: &str) -> Result<()>;

    /// Runs container `name` to its end, with a slot of the pool for its network.
    ///
    /// # Errors
    /// When the engine refuses, or the container finds no way out.
    fn pass(&self, name: &str) -> Result<()>;
}

/// Calls `work` for 0 up to `count`, all at once, and returns what came of it in this order.
///
/// # Errors
/// The first of `work`.
pub fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = (0..count)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        let ended = started
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("it panicked")).flatten());
        // All have ended before one of them fails.
        let ended: Vec<_> = ended.collect();
        ended.into_iter().collect()
    })
}

/// Makes [`ROOTFS`] in `world`, unless it is there.
///
/// # Errors
/// Without busybox.
pub fn make_rootfs(world: &World) -> Result<()> {
    let rootfs = world.path(ROOTFS);
    if rootfs.exists() {
        return Ok(());
    }
    for directory in ["bin", "proc", "sys", "dev", "etc", "tmp", "run"] {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    let busybox = rootfs.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).context("copy busybox")?;
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755))?;
    for name in ["sh", "ip", "httpd"] {
        symlink("busybox", rootfs.join("bin").join(name))?;
    }
    Ok(())
}

/// Makes [`ARCHIVE`] in `world`: [`IMAGE`] as `docker save` writes it, which all engines load.
fn make_archive(world: &World) -> Result<()> {
    make_rootfs(world)?;
    write(world, "/run/engine/box/manifest.json", "")?;
    let layer = format!("tar -C {ROOTFS} -cf /run/engine/box/layer.tar .");
    world.tool(&layer).run()?;
    let digest = world.tool("sha256sum /run/engine/box/layer.tar").run()?;
    let digest = digest.split_whitespace().next().context("no digest")?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Cmd": RUN_ON.split(' ').collect::<Vec<_>>()},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    write(world, "/run/engine/box/config.json", &config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    write(
        world,
        "/run/engine/box/manifest.json",
        &manifest.to_string(),
    )?;
    let all = format!("tar -C /run/engine/box -cf {ARCHIVE} manifest.json config.json layer.tar");
    world.tool(&all).run().map(drop)
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Puts the CNI plugins where engines look for them: [`PLUGINS`].
fn install_plugins(world: &World) -> Result<()> {
    let directory = world.path(PLUGINS);
    if directory.exists() {
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    for plugin in fs::read_dir(REFERENCE_PLUGINS).context("list the reference plugins")? {
        let plugin = plugin?;
        symlink(plugin.path(), directory.join(plugin.file_name()))?;
    }
    fs::copy(binary("pcpm-cni")?, directory.join("pcpm-cni"))?;
    // Engines note there what plugins said, wherever else their files are.
    world.tool("mkdir -p /var/lib/cni").run()?;
    let own = "mount -t tmpfs tmpfs /var/lib/cni";
    world.tool(own).run().map(drop)
}

/// The network that `docs/cni.md` shows: what people copy is what is tested.
fn documented_network() -> Result<Value> {
    let page = include_str!("../../../docs/cni.md");
    let block = fenced(page, "json").context("docs/cni.md shows no configuration")?;
    serde_json::from_str(block).context("read the configuration of docs/cni.md")
}

/// What section `section` of `docs/engines.md` shows in a block of this language.
///
/// # Errors
/// When there is none.
pub fn documented(section: &str, language: &str) -> Result<&'static str> {
    let page = include_str!("../../../docs/engines.md");
    let mut sections = page.split("\n## ");
    let its = sections.find_map(|text| text.strip_prefix(section)?.strip_prefix('\n'));
    let block = its.and_then(|its| fenced(its, language));
    block.with_context(|| format!("docs/engines.md shows no {language} for {section}"))
}

fn fenced<'t>(text: &'t str, language: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("```{language}\n"))?;
    Some(rest.split_once("```")?.0)
}

/// A bridge as the plugins' own documentation has it.
fn bridge_conflist() -> Value {
    json!({"cniVersion": "1.0.0", "name": "bridge", "plugins": [
        {
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "ipam": {
                "type": "host-local", "dataDir": "/run/engine/cni/networks",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

/// Writes a file of `world`.
fn write(world: &World, path: &str, text: &str) -> Result<()> {
    let path = world.path(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Runs `tool`, which may leave processes behind that keep its streams: they are a file.
fn run_detached(world: &World, tool: Tool) -> Result<()> {
    let (mut process, log) = spawn_logged(world, tool)?;
    let ended = process.wait(PATIENCE)?;
    ensure!(ended.success(), "{ended}: {}", fs::read_to_string(log)?);
    Ok(fs::remove_file(log)?)
}

/// Starts `tool`, which writes into a file.
fn spawn_logged(world: &World, tool: Tool) -> Result<(Process, PathBuf)> {
    let (log, file) = world.log_file("engine")?;
    let errors = file.try_clone()?;
    let tool = tool.with(|command| {
        command.stdout(file).stderr(errors);
    });
    Ok((tool.spawn()?, log))
}

/// Asks `question` until `service` answers it.
fn wait_until_serving<T>(
    question: impl Fn() -> Result<T>,
    (service, log): &mut (Process, PathBuf),
) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match question() {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                let ended = service.ended()?;
                let goes_on = ended.is_none() && Instant::now() < deadline;
                ensure!(goes_on, "{error:#}; it wrote: {}", fs::read_to_string(log)?);
            }
        }
    }
}
