//! A network's plugins, called as engines call them: one after the other with what the one before said, and backwards to undo it.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{PLUGINS, bridge_conflist, documented_network, install_plugins};
use crate::world::World;

/// The plugins of one network, as a configuration lists them.
#[derive(Debug)]
pub struct Chain {
    version: Value,
    name: Value,
    plugins: Vec<Map<String, Value>>,
}

/// A container, as far as plugins know it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// The path of its network namespace.
    pub netns: String,
    /// A TCP port of the host that leads to one of it.
    pub port: Option<(u16, u16)>,
}

impl Chain {
    /// `pcpm-cni` as `docs/cni.md` has it. The plugins are installed in `world`.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn pooled(world: &World) -> Result<Self> {
        install_plugins(world)?;
        Self::of(&documented_network()?)
    }

    /// `bridge` with `host-local` and `portmap`. The plugins are installed in `world`.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn bridge(world: &World) -> Result<Self> {
        install_plugins(world)?;
        Self::of(&bridge_conflist())
    }

    fn of(list: &Value) -> Result<Self> {
        let plugins = list["plugins"].as_array().context("no plugins")?.iter();
        let plugins = plugins.map(|plugin| plugin.as_object().cloned().context("no plugin"));
        Ok(Self {
            version: list["cniVersion"].clone(),
            name: list["name"].clone(),
            plugins: plugins.collect::<Result<_>>()?,
        })
    }

    /// Adds `sandbox` to the network, and returns what the last plugin said. Plugins start where the calling thread is.
    ///
    /// # Errors
    /// When one of them fails, with what it said.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Value> {
        let mut result = None;
        for plugin in &self.plugins {
            let said = self.call("ADD", plugin, sandbox, result.as_ref())?;
            result = Some(serde_json::from_str(&said).context("read a result")?);
        }
        result.context("no plugins")
    }

    /// Takes `sandbox`, which was added with this result, off the network again.
    ///
    /// # Errors
    /// When a plugin fails, with what it said.
    pub fn delete(&self, sandbox: &Sandbox, result: &Value) -> Result<()> {
        let mut plugins = self.plugins.iter().rev();
        plugins.try_for_each(|plugin| self.call("DEL", plugin, sandbox, Some(result)).map(drop))
    }

    fn call(
        &self,
        verb: &str,
        plugin: &Map<String, Value>,
        sandbox: &Sandbox,
        result: Option<&Value>,
    ) -> Result<String> {
        let name = plugin.get("type").and_then(Value::as_str);
        let name = name.context("a plugin without a type")?;
        let mut child = Command::new(format!("{PLUGINS}/{name}"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let config = self.config(plugin, sandbox, result).to_string();
        { input }.write_all(config.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{name} {verb}: {said}");
        Ok(said)
    }

    fn config(
        &self,
        plugin: &Map<String, Value>,
        sandbox: &Sandbox,
        result: Option<&Value>,
    ) -> Value {
        let mut config = Value::Object(plugin.clone());
        config["cniVersion"] = self.version.clone();
        config["name"] = self.name.clone();
        if let Some(result) = result {
            config["prevResult"] = result.clone();
        }
        let maps_ports = plugin
            .get("capabilities")
            .is_some_and(|capabilities| capabilities["portMappings"] == true);
        if let (Some((host, inside)), true) = (sandbox.port, maps_ports) {
            let mapping = json!({"hostPort": host, "containerPort": inside, "protocol": "tcp"});
            config["runtimeConfig"] = json!({"portMappings": [mapping]});
        }
        config
    }
}
