//! containerd, by its own command line (`ctr`) and by the interface that a kubelet speaks to it ([`Cri`]). Pods of the handler
//! `pcpm` are as `contrib/kubernetes/containerd.toml` and `docs/cni.md` have them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::cri::{Cri, Pod};
use super::{
    ARCHIVE, Engine, FIND_WAY_OUT, IMAGE, Network, PLUGINS, ROOTFS, RUN_ON, bridge_conflist,
    documented_network, install_plugins, make_archive, run_detached, spawn_logged,
    wait_until_serving, write,
};
use crate::event::wait_for_path;
use crate::place::Tool;
use crate::process::Process;
use crate::world::World;
use crate::{PATIENCE, binary};

const SETTINGS: &str = "/run/engine/containerd.toml";
const SOCKET: &str = "/run/engine/socket";
const POOLED: &str = "/run/engine/cni/pcpm.d";
const BRIDGE: &str = "/run/engine/cni/bridge.d";
const EMPTY: &str = "/run/engine/cni/empty.d";

/// A plugin that makes nothing and says what containerd wants to hear.
const EMPTY_PLUGIN: &str = r#"#!/bin/busybox sh
echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/"}],
       "ips": [{"address": "192.0.2.77/32", "interface": 0}]}'
"#;

/// How pods are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// By runc, with `pcpm-cni`.
    Pooled,
    /// By `pcpm-runtime`, with `pcpm-cni`.
    PooledThroughRuntime,
    /// By runc, with a bridge.
    Bridge,
    /// By runc, in a namespace that nothing is put into.
    Empty,
}

impl Handler {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pooled => "pcpm",
            Self::PooledThroughRuntime => "pcpm-runtime",
            Self::Bridge => "bridge",
            Self::Empty => "empty",
        }
    }
}

/// containerd, in a world. Dropping it kills it.
#[derive(Debug)]
pub struct Containerd<'w> {
    world: &'w World,
    service: (Process, PathBuf),
}

impl<'w> Containerd<'w> {
    /// Starts it, with the image that all containers are of.
    ///
    /// # Errors
    /// When it does not serve; with what it wrote.
    pub fn start(world: &'w World) -> Result<Self> {
        configure(world)?;
        let mut containerd = Self {
            world,
            service: spawn(world)?,
        };
        containerd.wait()?;
        make_archive(world)?;
        for namespace in ["default", "k8s.io"] {
            let import = format!("-n {namespace} images import {ARCHIVE}");
            containerd.ctr(&import).run()?;
        }
        let cri = containerd.cri();
        let imported = || cri.has_image()?.then_some(()).context("no image");
        wait_until_serving(imported, &mut containerd.service)?;
        Ok(containerd)
    }

    /// Kills it and starts it again. Its containers go on.
    ///
    /// # Errors
    /// When it does not serve again.
    pub fn restart(&mut self) -> Result<()> {
        self.service.0.signal(Signal::SIGKILL)?;
        self.service.0.wait(PATIENCE)?;
        self.service = spawn(self.world)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        wait_for_path(&self.world.path(SOCKET), &self.service.0)?;
        let cri = self.cri();
        wait_until_serving(|| cri.version(), &mut self.service)
            .map(drop)
            .context("start containerd")
    }

    /// A command line of `ctr`.
    pub fn ctr(&self, line: &str) -> Tool {
        Self::told_to_clients(self.world.tool(&format!("ctr {line}")))
    }

    /// `tool`, which finds this containerd if it is a client or starts one.
    #[must_use]
    pub fn told_to_clients(tool: Tool) -> Tool {
        tool.env("CONTAINERD_ADDRESS", SOCKET)
    }

    /// A command line of `ctr` that leaves a container running.
    ///
    /// # Errors
    /// When it fails, with what it wrote.
    pub fn ctr_detached(&self, line: &str) -> Result<()> {
        run_detached(self.world, self.ctr(line))
    }

    /// What a kubelet speaks to it.
    pub fn cri(&self) -> Cri {
        Cri::new(self.world.path(SOCKET))
    }
}

fn spawn(world: &World) -> Result<(Process, PathBuf)> {
    spawn_logged(world, world.tool(&format!("containerd -c {SETTINGS}")))
}

fn configure(world: &World) -> Result<()> {
    install_plugins(world)?;
    let pooled = documented_network()?;
    let bridge = bridge_conflist();
    write(
        world,
        &format!("{POOLED}/10-pcpm.conflist"),
        &pooled.to_string(),
    )?;
    write(
        world,
        &format!("{BRIDGE}/10-bridge.conflist"),
        &bridge.to_string(),
    )?;
    let empty = json!({"cniVersion": "1.0.0", "name": "empty", "plugins": [{"type": "empty"}]});
    write(
        world,
        &format!("{EMPTY}/10-empty.conflist"),
        &empty.to_string(),
    )?;
    write(world, &format!("{PLUGINS}/empty"), EMPTY_PLUGIN)?;
    world.tool(&format!("chmod 755 {PLUGINS}/empty")).run()?;
    let handler = include_str!("../../../contrib/kubernetes/containerd.toml");
    let handler = handler
        .replace("version = 2\n", "")
        .replace("/etc/cni/pcpm.d", POOLED);
    let cri = "plugins.'io.containerd.grpc.v1.cri'";
    let settings = format!(
        "version = 2\nroot = '/run/engine/root'\nstate = '/run/engine/state'\n\
         [grpc]\naddress = '{SOCKET}'\n\
         [plugins.'io.containerd.internal.v1.opt']\npath = '/run/engine/opt'\n\
         [{cri}]\nrestrict_oom_score_adj = true\nsandbox_image = '{IMAGE}'\n\
         [{cri}.cni]\nbin_dir = '{PLUGINS}'\nconf_dir = '{BRIDGE}'\n\
         [{cri}.containerd]\ndefault_runtime_name = 'bridge'\n\
         [{cri}.containerd.runtimes.bridge]\nruntime_type = 'io.containerd.runc.v2'\n\
         [{cri}.containerd.runtimes.empty]\nruntime_type = 'io.containerd.runc.v2'\n\
         cni_conf_dir = '{EMPTY}'\ncni_max_conf_num = 1\n\
         [{cri}.containerd.runtimes.pcpm-runtime]\nruntime_type = 'io.containerd.runc.v2'\n\
         cni_conf_dir = '{POOLED}'\ncni_max_conf_num = 1\n\
         [{cri}.containerd.runtimes.pcpm-runtime.options]\nBinaryName = '{}'\n{handler}",
        binary("pcpm-runtime")?.display()
    );
    write(world, SETTINGS, &settings)
}

/// Containers by containerd's own command line.
#[derive(Clone, Copy, Debug)]
pub struct Ctr<'c, 'w>(pub &'c Containerd<'w>);

impl Ctr<'_, '_> {
    /// The options of `ctr run` for a container with `network`.
    ///
    /// # Errors
    /// When there is no such network.
    pub fn run_options(network: Network) -> Result<String> {
        let runtime = binary("pcpm-runtime")?;
        match network {
            Network::Pooled => Ok(format!(
                "--runc-binary {} --rootfs {ROOTFS}",
                runtime.display()
            )),
            Network::None => Ok(format!("--rootfs {ROOTFS}")),
            Network::Bridge => bail!("ctr gives plugins a namespace that cannot be replaced"),
        }
    }
}

impl Engine for Ctr<'_, '_> {
    fn start(&self, network: Network, name: &str) -> Result<()> {
        let options = Self::run_options(network)?;
        self.0
            .ctr_detached(&format!("run -d {options} {name} {RUN_ON}"))
    }

    fn exec(&self, name: &str, command: &str) -> Result<String> {
        // `ctr` loses what a process wrote that ends before `ctr` has opened the pipes to it: this one ends once it was heard.
        let line = format!("task exec --exec-id exec {name} /bin/busybox sh -c");
        let script = format!("{command} && read heard");
        let tool = self.0.ctr(&line).with(|process| {
            process.arg(script);
            process.stdin(Stdio::piped()).stdout(Stdio::piped());
        });
        let mut process = tool.spawn()?;
        let pipes = (process.child().stdin.take(), process.child().stdout.take());
        let (Some(mut input), Some(output)) = pipes else {
            bail!("no pipes to ctr");
        };
        let mut shown = String::new();
        BufReader::new(output).read_line(&mut shown)?;
        if !shown.is_empty() {
            input.write_all(b"heard\n")?;
        }
        let ended = process.wait(PATIENCE)?;
        ensure!(ended.success(), "`{command}` in {name}: {ended}");
        Ok(shown)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.0.ctr(&format!("task rm -f {name}")).run()?;
        self.0.ctr(&format!("container rm {name}")).run().map(drop)
    }

    fn pass(&self, name: &str) -> Result<()> {
        let options = Self::run_options(Network::Pooled)?;
        let line = format!("run --rm {options} {name} {FIND_WAY_OUT}");
        self.0.ctr(&line).run().map(drop)
    }
}

/// Pods of one container each, by the Container Runtime Interface.
#[derive(Debug)]
pub struct Pods {
    cri: Cri,
    /// Sandbox and container of each name.
    started: Mutex<BTreeMap<String, (String, String)>>,
}

impl Pods {
    /// Of an engine.
    pub fn of(cri: Cri) -> Self {
        Self {
            cri,
            started: Mutex::default(),
        }
    }

    fn pod(network: Network, name: &str) -> Pod {
        let handler = match network {
            Network::Pooled => Handler::Pooled,
            Network::Bridge => Handler::Bridge,
            Network::None => Handler::Empty,
        };
        Pod::new(name, handler.name())
    }

    fn started(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (String, String)>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Pods {
    fn start(&self, network: Network, name: &str) -> Result<()> {
        let pod = Self::pod(network, name);
        let sandbox = self.cri.run_pod(&pod)?;
        let container = self.cri.create_container(&sandbox, &pod, "main", RUN_ON)?;
        self.cri.start_container(&container)?;
        self.started().insert(name.into(), (sandbox, container));
        Ok(())
    }

    fn exec(&self, name: &str, command: &str) -> Result<String> {
        let known = self.started().get(name).cloned();
        let (_, container) = known.with_context(|| format!("no pod {name}"))?;
        Ok(self.cri.exec_sync(&container, command)?.output)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let known = self.started().remove(name);
        let (sandbox, _) = known.with_context(|| format!("no pod {name}"))?;
        self.cri.stop_pod(&sandbox)?;
        self.cri.remove_pod(&sandbox)
    }

    fn pass(&self, name: &str) -> Result<()> {
        let sandbox = self.cri.run_pod(&Self::pod(Network::Pooled, name))?;
        let status = self.cri.pod_status(&sandbox)?;
        self.cri.stop_pod(&sandbox)?;
        self.cri.remove_pod(&sandbox)?;
        ensure!(!status.address.is_empty(), "pod {name} has no address");
        Ok(())
    }
}
