//! `pcpm-cni` as engines start it: environment, configuration on standard input, JSON on standard output, and the
//! namespace that was mounted at the engine's path.

use anyhow::{Context, Result, ensure};
use pcpm_tests::{Daemon, HOST_ADDRESS, HttpServer, INTERNET_ADDRESS, Tool, World, binary};
use serde_json::{Value, json};

/// An engine in a world with a pool. The daemon comes first, so that it ends before the world that it is in.
struct Engine {
    daemon: Daemon,
    world: World,
}

/// Codes of the CNI specification.
const INCOMPATIBLE_VERSION: i64 = 1;
const UNSUPPORTED_FIELD: i64 = 2;
const UNKNOWN_CONTAINER: i64 = 3;
const INVALID_ENVIRONMENT: i64 = 4;
const TRY_AGAIN_LATER: i64 = 11;
const NOT_AVAILABLE: i64 = 50;
const NOT_AVAILABLE_AND_LIMITED: i64 = 51;

impl Engine {
    fn new(slots: u32) -> Result<Self> {
        let world = World::new()?;
        let daemon = world.pool_of(slots)?;
        Ok(Self { daemon, world })
    }

    /// Makes the namespace of a container, as engines do.
    fn sandbox(&self, container: &str) -> Result<String> {
        self.world
            .tool(&format!("ip netns add {container}"))
            .run()?;
        Ok(format!("/run/netns/{container}"))
    }

    fn plugin(&self, command: &str, container: &str, netns: &str, network: &Value) -> Result<Tool> {
        let no_arguments: [&str; 0] = [];
        let plugin = self.world.host().command(binary("pcpm-cni")?, no_arguments);
        Ok(plugin
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .input(network.to_string()))
    }

    fn add(&self, container: &str, network: &Value) -> Result<Value> {
        let netns = self.sandbox(container)?;
        self.plugin("ADD", container, &netns, network)?.json()
    }

    fn call(&self, command: &str, container: &str, network: &Value) -> Result<()> {
        let netns = format!("/run/netns/{container}");
        let said = self.plugin(command, container, &netns, network)?.run()?;
        ensure!(said.is_empty(), "{command} said {said}");
        Ok(())
    }

    fn attached(&self) -> Result<u32> {
        Ok(self.daemon.status()?.slots.attached)
    }
}

/// The code of the error that `plugin` must end with.
fn refusal(plugin: Tool) -> Result<(i64, Value)> {
    let output = plugin.output()?;
    ensure!(!output.status.success(), "it succeeded");
    let error: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(error["cniVersion"].is_string(), "{error}");
    ensure!(error["msg"].is_string(), "{error}");
    Ok((error["code"].as_i64().context("no code")?, error))
}

fn network() -> Value {
    json!({"cniVersion": "1.1.0", "name": "pool", "type": "pcpm-cni"})
}

fn network_with(more: Value) -> Value {
    let mut network = network();
    if let (Some(network), Value::Object(more)) = (network.as_object_mut(), more) {
        network.extend(more);
    }
    network
}

#[test]
fn a_container_gets_a_pooled_network() -> Result<()> {
    let engine = Engine::new(2)?;
    let result = engine.add("c1", &network())?;
    let address = result["ips"][0]["address"].as_str().context("no address")?;
    assert!(address.starts_with("10.213.") && address.ends_with("/32"));
    assert_eq!(result["interfaces"][0]["sandbox"], "/run/netns/c1");
    assert_eq!(
        result["routes"][0],
        json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"})
    );

    let inside = engine.world.host().at("/run/netns/c1");
    let shown = inside.tool("ip -o -4 address show eth0").run()?;
    assert!(shown.contains(address), "{shown}");
    inside
        .tool(&format!("ping -c 1 -W 5 {INTERNET_ADDRESS}"))
        .run()?;

    let network = network_with(json!({"prevResult": result}));
    engine.call("CHECK", "c1", &network)?;
    engine.call("DEL", "c1", &network)?;
    assert_eq!(engine.attached()?, 0);
    engine.call("DEL", "c1", &network)?;
    let gone = engine.plugin("DEL", "c1", "", &network)?.run()?;
    assert_eq!(gone, "");
    let (code, error) = refusal(engine.plugin("CHECK", "c1", "/run/netns/c1", &network)?)?;
    assert_eq!(code, UNKNOWN_CONTAINER, "{error}");

    engine.world.tool("ip netns del c1").run()?;
    engine.daemon.wait_until_ready(2)
}

#[test]
fn how_long_an_add_took_is_told() -> Result<()> {
    let engine = Engine::new(1)?;
    engine.add("c1", &network())?;
    // What is told is not waited for.
    let told = engine.daemon.watch_figures("the ADD is told", |figures| {
        (figures.starts.add.count > 0).then_some(figures.starts)
    })?;
    for (phase, latency) in [("attach", told.attach), ("mount", told.mount)] {
        assert_eq!(latency.count, 1, "{phase} of {told:?}");
        assert!(latency.max_us <= told.add.max_us, "{phase} of {told:?}");
    }
    assert_eq!(told.total.count, 0, "the runtime tells nothing: {told:?}");
    Ok(())
}

#[test]
fn results_are_of_the_version_that_was_asked_for() -> Result<()> {
    let engine = Engine::new(3)?;
    for (version, family, mtu) in [
        ("0.4.0", json!("4"), false),
        ("1.0.0", Value::Null, false),
        ("1.1.0", Value::Null, true),
    ] {
        let container = format!("c-{version}");
        let result = engine.add(&container, &network_with(json!({"cniVersion": version})))?;
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["version"], family);
        assert_eq!(result["interfaces"][0]["mtu"].is_number(), mtu);
    }
    let versions = engine
        .plugin("VERSION", "", "", &json!({"cniVersion": "0.4.0"}))?
        .json()?;
    let expected = json!({"cniVersion": "0.4.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]});
    assert_eq!(versions, expected);
    let old = network_with(json!({"cniVersion": "0.2.0"}));
    let (code, _) = refusal(engine.plugin("DEL", "c", "", &old)?)?;
    assert_eq!(code, INCOMPATIBLE_VERSION);
    Ok(())
}

#[test]
fn ports_and_rates_of_the_engine_are_carried_out() -> Result<()> {
    let engine = Engine::new(1)?;
    let network = network_with(json!({
        "tenantFrom": "K8S_POD_NAMESPACE",
        "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
            "bandwidth": {"ingressRate": 5_000_000, "ingressBurst": 1, "egressRate": 6_000_000, "egressBurst": 1},
        },
    }));
    let netns = engine.sandbox("c1")?;
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1";
    engine
        .plugin("ADD", "c1", &netns, &network)?
        .env("CNI_ARGS", args)
        .json()?;
    let attachment = engine.daemon.get("c1")?.attachment;
    assert_eq!(attachment.tenant, "shop");
    assert_eq!(
        (attachment.rate_down, attachment.rate_up),
        (Some(5_000_000), Some(6_000_000))
    );
    assert_eq!(attachment.labels["io.kubernetes.pod.name"], "web-1");

    let _server = HttpServer::start(&engine.world.host().at(&netns), "0.0.0.0:80")?;
    let page = format!("curl -sS --max-time 10 http://{HOST_ADDRESS}:8080/");
    engine.world.internet().tool(&page).run()?;

    let taken = engine.sandbox("c2")?;
    let (_, error) = refusal(
        engine
            .plugin("ADD", "c2", &taken, &network)?
            .env("CNI_ARGS", args),
    )?;
    assert!(error["details"].is_string(), "{error}");
    Ok(())
}

#[test]
fn what_cannot_be_done_is_refused_and_takes_no_slot() -> Result<()> {
    let engine = Engine::new(1)?;
    let netns = engine.sandbox("c1")?;
    let attempts = [
        (
            &*netns,
            json!({"ipam": {"type": "host-local"}}),
            UNSUPPORTED_FIELD,
        ),
        (
            &*netns,
            json!({"runtimeConfig": {"mac": "c2:11:22:33:44:55"}}),
            UNSUPPORTED_FIELD,
        ),
        ("/proc/1/ns/net", json!({}), INVALID_ENVIRONMENT),
        ("/etc/hostname", json!({}), INVALID_ENVIRONMENT),
        ("/run/netns/nowhere", json!({}), INVALID_ENVIRONMENT),
        ("", json!({}), INVALID_ENVIRONMENT),
        (
            &*netns,
            json!({"socket": "/run/nobody.sock"}),
            TRY_AGAIN_LATER,
        ),
    ];
    for (netns, more, expected) in attempts {
        let plugin = engine.plugin("ADD", "c1", netns, &network_with(more.clone()))?;
        let (code, error) = refusal(plugin)?;
        assert_eq!(code, expected, "{netns} {more}: {error}");
    }
    let other_name = engine
        .plugin("ADD", "c1", &netns, &network())?
        .env("CNI_IFNAME", "net1");
    let (code, error) = refusal(other_name)?;
    assert_eq!(code, INVALID_ENVIRONMENT, "{error}");
    assert_eq!(engine.attached()?, 0);
    Ok(())
}

#[test]
fn a_container_is_not_added_twice() -> Result<()> {
    let engine = Engine::new(2)?;
    engine.add("c1", &network())?;
    let (code, error) = refusal(engine.plugin("ADD", "c1", "/run/netns/c1", &network())?)?;
    assert_eq!(code, INVALID_ENVIRONMENT, "{error}");
    assert_eq!(engine.attached()?, 1, "the first one stays");
    Ok(())
}

#[test]
fn an_attachment_that_no_engine_made_is_not_ended_by_one() -> Result<()> {
    let engine = Engine::new(1)?;
    engine.daemon.attach("c1", "default")?;
    engine.call("DEL", "c1", &network())?;
    let nothing = network_with(json!({"cni.dev/valid-attachments": []}));
    engine.call("GC", "", &nothing)?;
    assert_eq!(engine.attached()?, 1);
    Ok(())
}

#[test]
fn garbage_is_what_the_engine_does_not_list() -> Result<()> {
    let engine = Engine::new(4)?;
    for container in ["c1", "c2", "c3"] {
        engine.add(container, &network())?;
    }
    engine.add("other", &network_with(json!({"name": "elsewhere"})))?;
    let valid =
        json!([{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c3", "ifname": "eth1"}]);
    engine.call(
        "GC",
        "",
        &network_with(json!({"cni.dev/valid-attachments": valid})),
    )?;
    let left = engine.world.pcpm(["--json", "ls"])?.json()?;
    let left = left.as_array().context("no list")?;
    let mut left: Vec<_> = left.iter().map(|a| a["owner"].as_str()).collect();
    // Listed by slot: which of them each got depends on which was ready first.
    left.sort_unstable();
    let left: Vec<_> = left.into_iter().flatten().collect();
    assert_eq!(left, ["c2", "other"]);
    Ok(())
}

#[test]
fn a_network_is_of_the_class_that_the_configuration_names() -> Result<()> {
    const BAD_CONFIGURATION: i64 = 7;
    let world = World::new()?;
    let settings = "capacity = 1\n[class.wide]\ncapacity = 1\nmtu = 9000\n";
    std::fs::write(world.path("/run/pcpmd.toml"), settings)?;
    let daemon = world.spawn_daemon(&["--config", "/run/pcpmd.toml"])?;
    daemon.wait_until_ready(2)?;
    let engine = Engine { daemon, world };
    let added = engine.add("c1", &network_with(json!({"class": "wide"})))?;
    assert_eq!(added["interfaces"][0]["mtu"], 9000, "{added}");
    let netns = engine.sandbox("c2")?;
    let unknown = network_with(json!({"class": "narrow"}));
    let (code, error) = refusal(engine.plugin("ADD", "c2", &netns, &unknown)?)?;
    assert_eq!(code, BAD_CONFIGURATION, "{error}");
    assert_eq!(engine.attached()?, 1);
    Ok(())
}

#[test]
fn a_pool_without_a_chance_says_so() -> Result<()> {
    let engine = Engine::new(1)?;
    engine.call("STATUS", "", &network())?;
    engine.add("c1", &network())?;
    let (code, error) = refusal(engine.plugin("STATUS", "", "", &network())?)?;
    assert_eq!(code, NOT_AVAILABLE, "{error}");
    let hasty = network_with(json!({"onEmpty": "fail"}));
    let netns = engine.sandbox("c2")?;
    let (code, error) = refusal(engine.plugin("ADD", "c2", &netns, &hasty)?)?;
    assert_eq!(code, TRY_AGAIN_LATER, "{error}");

    engine.world.tool("ip link set eth0 down").run()?;
    engine.daemon.watch_figures("the uplink went", |figures| {
        figures.uplinks.is_empty().then_some(())
    })?;
    let (code, error) = refusal(engine.plugin("STATUS", "", "", &network())?)?;
    assert_eq!(code, NOT_AVAILABLE_AND_LIMITED, "{error}");
    Ok(())
}

#[test]
fn whoever_opens_the_path_meanwhile_finds_a_namespace() -> Result<()> {
    let engine = Engine::new(1)?;
    let netns = engine.sandbox("c1")?;
    let script = format!(
        "touch /run/begun; until [ -e /run/stop ]; do nsenter --net={netns} true || exit 1; done"
    );
    let mut reader = engine.world.command("sh", ["-c", &script]).spawn()?;
    pcpm_tests::wait_for_path(&engine.world.path("/run/begun"), &reader)?;
    engine.plugin("ADD", "c1", &netns, &network())?.json()?;
    engine.world.tool("touch /run/stop").run()?;
    let ended = reader.wait(pcpm_tests::PATIENCE)?;
    assert!(ended.success(), "{ended}");
    Ok(())
}
