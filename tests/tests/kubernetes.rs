//! The manifests for Kubernetes: their fields are the API's, and what they hand to others is what those take.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use nix::sys::signal::Signal;
use pcpm_tests::{PATIENCE, World, binary, wait_for_path};
use serde::Deserialize as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn contrib(name: &str) -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.join("../contrib/kubernetes").join(name)
}

/// All objects of the manifest.
fn objects() -> Result<Vec<Value>> {
    let text = fs::read_to_string(contrib("pcpm.yaml"))?;
    let documents = serde_norway::Deserializer::from_str(&text);
    let objects = documents.map(|document| Ok(Value::deserialize(document)?));
    objects.collect()
}

/// The object of this kind, which has no field that the API does not have.
fn object<T: Serialize + DeserializeOwned>(kind: &str) -> Result<T> {
    let mut objects = objects()?.into_iter();
    let found = objects.find(|object| object["kind"] == kind);
    let found = found.with_context(|| format!("no {kind}"))?;
    let typed: T = serde_json::from_value(found.clone()).with_context(|| kind.to_owned())?;
    let known = serde_json::to_value(&typed)?;
    assert_eq!(known, found, "{kind} has fields that the API has not");
    Ok(typed)
}

fn pod() -> Result<PodSpec> {
    let set: DaemonSet = object("DaemonSet")?;
    let spec = set.spec;
    let labels = spec.template.metadata.context("no metadata")?.labels;
    assert_eq!(spec.selector.match_labels, labels);
    spec.template.spec.context("no pod")
}

/// The file of the configuration that is called so.
fn setting(name: &str) -> Result<String> {
    let map: ConfigMap = object("ConfigMap")?;
    let mut files = map.data.context("no files")?;
    files.remove(name).with_context(|| format!("no {name}"))
}

#[test]
fn every_object_is_one_of_the_api() -> Result<()> {
    let kinds: Vec<_> = objects()?
        .iter()
        .map(|object| object["kind"].clone())
        .collect();
    assert_eq!(
        kinds,
        ["Namespace", "RuntimeClass", "ConfigMap", "DaemonSet"]
    );
    let namespace: Namespace = object("Namespace")?;
    let map: ConfigMap = object("ConfigMap")?;
    let set: DaemonSet = object("DaemonSet")?;
    assert_eq!(map.metadata.namespace, namespace.metadata.name);
    assert_eq!(set.metadata.namespace, namespace.metadata.name);
    let class: RuntimeClass = object("RuntimeClass")?;
    let scheduling = class.scheduling.context("no scheduling")?;
    assert_eq!(scheduling.node_selector, pod()?.node_selector);
    Ok(())
}

#[test]
fn what_the_daemon_mounts_spreads_to_the_host() -> Result<()> {
    let pod = pod()?;
    assert_eq!((pod.host_network, pod.host_pid), (Some(true), Some(true)));
    let [daemon] = &pod.containers[..] else {
        panic!("one container");
    };
    let security = daemon.security_context.as_ref().context("no context")?;
    assert_eq!(security.privileged, Some(true), "Bidirectional needs it");
    let mounts = daemon.volume_mounts.iter().flatten();
    let spread = mounts.filter(|mount| mount.mount_propagation.as_deref() == Some("Bidirectional"));
    let spread: BTreeSet<_> = spread.map(|mount| mount.mount_path.as_str()).collect();
    assert_eq!(spread, BTreeSet::from(["/run/pcpm", "/sys/fs/bpf"]));
    for path in ["/run/pcpm", "/sys/fs/bpf", "/sys/fs/cgroup"] {
        assert_eq!(host_path(&pod, daemon, path)?, path);
    }
    Ok(())
}

/// What of the host a container has at `path`.
fn host_path(pod: &PodSpec, container: &Container, path: &str) -> Result<String> {
    let mut mounts = container.volume_mounts.iter().flatten();
    let mount = mounts.find(|mount| mount.mount_path == path);
    let name = &mount.with_context(|| format!("nothing at {path}"))?.name;
    let mut volumes = pod.volumes.iter().flatten();
    let volume = volumes.find(|volume| volume.name == *name);
    let volume = volume.with_context(|| format!("no volume {name}"))?;
    let host = volume.host_path.as_ref();
    Ok(host
        .with_context(|| format!("{name} is not the host's"))?
        .path
        .clone())
}

#[test]
fn every_volume_is_mounted_and_every_mount_has_one() -> Result<()> {
    let pod = pod()?;
    let volumes = pod.volumes.iter().flatten().map(|volume| &volume.name);
    let containers = pod
        .containers
        .iter()
        .chain(pod.init_containers.iter().flatten());
    let mounts = containers.flat_map(|container| container.volume_mounts.iter().flatten());
    let mounted: BTreeSet<_> = mounts.map(|mount| &mount.name).collect();
    assert_eq!(volumes.collect::<BTreeSet<_>>(), mounted);
    Ok(())
}

#[test]
fn daemon_and_plugin_take_their_settings() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("pcpmd.toml");
    fs::write(&file, setting("pcpmd.toml")?)?;
    let mut daemon = Command::new(binary("pcpmd")?);
    let printed = daemon
        .arg("--print-config")
        .arg("--config")
        .arg(&file)
        .output()?;
    let errors = String::from_utf8_lossy(&printed.stderr);
    ensure!(printed.status.success(), "{errors}");
    assert!(String::from_utf8_lossy(&printed.stdout).contains("egress = \"host\""));

    // Without a daemon the plugin has to get as far as to miss it: 50, and not 6 or 7 for what it cannot read.
    let world = World::without_uplink()?;
    let list: Value = serde_json::from_str(&setting("10-pcpm.conflist")?)?;
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = "1.1.0".into();
    plugin["name"] = list["name"].clone();
    let status = world
        .host()
        .command(binary("pcpm-cni")?, [""; 0])
        .env("CNI_COMMAND", "STATUS")
        .env("CNI_PATH", "/opt/cni/bin")
        .input(plugin.to_string());
    let said: Value = serde_json::from_slice(&status.output()?.stdout)?;
    assert_eq!(said["code"], 50, "{said}");
    Ok(())
}

#[test]
fn containerd_knows_the_handler_and_its_directory() -> Result<()> {
    let class: RuntimeClass = object("RuntimeClass")?;
    let pod = pod()?;
    let installer = pod.init_containers.as_ref().context("no installer")?;
    let directory = host_path(&pod, &installer[0], "/host/cni-conf")?;
    let file = contrib("containerd.toml");
    let file = file.to_str().context("no text")?;
    let world = World::without_uplink()?;
    let dump = world.command("containerd", ["-c", file, "config", "dump"]);
    let dump = dump.run()?;
    let handler = format!("runtimes.{}]", class.handler);
    let (_, mine) = dump.split_once(&handler).context(dump.clone())?;
    assert!(
        mine.contains(&format!("cni_conf_dir = \"{directory}\"")),
        "{mine}"
    );
    Ok(())
}

/// The daemon's mounts, as a container engine makes them of what the manifest says.
fn mounts(pod: &PodSpec, daemon: &Container) -> Vec<Value> {
    let own = |kind: &str, at: &str| json!({"destination": at, "type": kind, "source": kind});
    let mut all = vec![
        own("proc", "/proc"),
        own("sysfs", "/sys"),
        own("tmpfs", "/run"),
    ];
    for mount in daemon.volume_mounts.iter().flatten() {
        let at = &mount.mount_path;
        let from = host_path(pod, daemon, at).unwrap_or_else(|_| "/run/config".to_owned());
        let spreads = mount.mount_propagation.as_deref() == Some("Bidirectional");
        let propagation = if spreads { "rshared" } else { "rprivate" };
        let access = if mount.read_only == Some(true) {
            "ro"
        } else {
            "rw"
        };
        let options = ["rbind", propagation, access];
        all.push(json!({"destination": at, "type": "bind", "source": from, "options": options}));
    }
    all
}

#[test]
fn a_container_like_the_daemon_sets_serves_the_host_and_leaves_slots_to_the_next() -> Result<()> {
    let world = World::new()?;
    for line in [
        "mount -t bpf bpf /sys/fs/bpf",
        "mount --make-rshared /",
        "mkdir -p /run/bundle/rootfs /run/config /run/pcpm /run/changed /run/work",
        // The engine makes what it mounts on: not in this machine's files.
        "mount -t overlay -o lowerdir=/,upperdir=/run/changed,workdir=/run/work overlay /run/bundle/rootfs",
        "mount --make-private /run/bundle/rootfs",
        "runc spec --bundle /run/bundle",
    ] {
        world.tool(line).run()?;
    }
    let small = setting("pcpmd.toml")?.replace("capacity = 256", "capacity = 4");
    fs::write(world.path("/run/config/pcpmd.toml"), small)?;
    fs::copy(binary("pcpmd")?, world.path("/run/config/pcpmd"))?;
    let pod = pod()?;
    let daemon = &pod.containers[0];
    let file = world.path("/run/bundle/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let capabilities = [
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_NET_BROADCAST",
        "CAP_NET_BIND_SERVICE",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_SYSLOG",
        "CAP_CHOWN",
        "CAP_SETPCAP",
        "CAP_MKNOD",
    ];
    let variables = daemon.env.iter().flatten();
    let variables =
        variables.map(|set| format!("{}={}", set.name, set.value.as_deref().unwrap_or_default()));
    config["process"] = json!({
        "cwd": "/",
        "args": ["/etc/pcpm/pcpmd"],
        "env": variables.collect::<Vec<_>>(),
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
    });
    config["root"]["readonly"] = false.into();
    config["mounts"] = mounts(&pod, daemon).into();
    // Bidirectional makes the root so, in containerd and CRI-O alike; network and processes are the host's.
    config["linux"] = json!({
        "rootfsPropagation": "rshared",
        "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}],
    });
    fs::write(&file, config.to_string())?;
    let runc = "runc --root /run/runc";
    let mut container = world
        .tool(&format!("{runc} run --bundle /run/bundle pcpmd"))
        .spawn()?;
    wait_for_path(&world.path("/run/pcpm/pcpm.sock"), &container)?;
    let retry = "for i in $(seq 100); do \"$0\" \"$@\" && exit; sleep 0.1; done; exit 1";
    let pcpm = binary("pcpm")?;
    let pcpm = pcpm.to_str().context("no text")?;
    let attach = [
        "-c",
        retry,
        pcpm,
        "--json",
        "attach",
        "web",
        "--publish",
        "8080:80",
    ];
    let attached = world.command("sh", attach).json()?;
    let slot = world.slot(attached["netns"].as_str().context("no path")?);
    slot.tool("ip link show eth0").run()?;
    world.tool(&format!("{runc} kill pcpmd TERM")).run()?;
    ensure!(container.wait(PATIENCE)?.success());
    slot.tool("ip link show eth0").run()?;
    // The next one need not be a container.
    let next = world.spawn_daemon(&["--config", "/run/config/pcpmd.toml"])?;
    let slot = next.get("web")?.attachment.slot;
    assert_eq!(attached["slot"], slot.as_str());
    next.signal(Signal::SIGKILL)
}
