//! The CNI plugins that engines use for a bridge with masquerading and published ports.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub(super) const NAMESPACES: &str = "/run/cni-netns";
const PLUGINS: &str = "/usr/lib/cni";

/// Has the plugins make the network of `container` in `netns`, published at `port`; its address.
pub(super) fn add(container: &str, netns: &Path, port: u32) -> Result<Ipv4Addr> {
    let bridge = json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": "/run/cni-addresses",
            "ranges": [[{"subnet": "10.216.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let made = call(&bridge, container, netns)?;
    let portmap = json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "portmap", "prevResult": made,
        "runtimeConfig": {
            "portMappings": [{"hostPort": port, "containerPort": 8080, "protocol": "tcp"}],
        },
    });
    call(&portmap, container, netns)?;
    let address = made["ips"][0]["address"].as_str().context("no address")?;
    let (address, _) = address.split_once('/').context("no prefix length")?;
    Ok(address.parse()?)
}

/// Calls the plugin that `configuration` is for.
fn call(configuration: &Value, container: &str, netns: &Path) -> Result<Value> {
    let plugin = configuration["type"].as_str().context("no type")?;
    let mut child = Command::new(Path::new(PLUGINS).join(plugin))
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {plugin}"))?;
    let mut stdin = child.stdin.take().context("no input")?;
    stdin.write_all(configuration.to_string().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{plugin}: {text}");
    serde_json::from_str(&text).with_context(|| format!("{plugin} printed {text}"))
}
