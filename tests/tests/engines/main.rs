//! The container engines that people run, with networks out of the pool, as `docs/runtime.md` and `docs/cni.md` say:
//! each is started in a world of its own, used as its users do, and must leave nothing attached.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use pcpm_tests::{Daemon, PATIENCE, Process, Tool, World, binary};

/// What every container of these tests shows of its network.
const ADDRESS: &str = "/bin/busybox ip -o -4 address show eth0";
const SERVER: &str = "/bin/busybox httpd -f -p 80";
/// A root file system with busybox and nothing else.
const ROOTFS: &str = "/run/rootfs";
/// The machine allows no higher limits than it has.
const LIMITS: &str = "--ulimit nofile=20000:20000 --ulimit nproc=32768:32768";
const PARALLEL: usize = 8;

/// A host with a pool. Fields are dropped in order: what runs in the world ends before it.
struct Host {
    daemon: Daemon,
    world: World,
}

impl Host {
    fn new() -> Result<Self> {
        let world = World::new()?;
        let daemon = world.pool_of(16)?;
        let host = Self { daemon, world };
        host.make_rootfs()?;
        Ok(host)
    }

    fn make_rootfs(&self) -> Result<()> {
        let rootfs = self.world.path(ROOTFS);
        for directory in ["bin", "proc", "sys", "dev", "etc", "tmp", "run"] {
            fs::create_dir_all(rootfs.join(directory))?;
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox"))?;
        fs::set_permissions(
            rootfs.join("bin/busybox"),
            fs::Permissions::from_mode(0o755),
        )?;
        Ok(symlink("busybox", rootfs.join("bin/sh"))?)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.world.path(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        Ok(fs::write(path, text)?)
    }

    /// The address of the one attachment there is.
    fn address(&self) -> Result<String> {
        let attachments = self.world.pcpm(["--json", "ls"])?.json()?;
        let attachments = attachments.as_array().context("no list")?;
        ensure!(attachments.len() == 1, "{attachments:?}");
        let address = attachments[0]["addresses"][0].as_str();
        Ok(address.context("no address")?.to_owned())
    }

    /// Whether a container serves at `url`, as soon as it does.
    fn fetch(&self, url: &str) -> Result<()> {
        // busybox has nothing to show, and says so: the connection is what counts.
        let line = format!(
            "curl -sS -o /dev/null --retry 20 --retry-delay 1 --retry-connrefused --max-time 60 {url}"
        );
        self.world.tool(&line).run().map(drop)
    }

    fn expect_nothing_left(&self) -> Result<()> {
        self.daemon
            .wait_until("nothing is attached", |slots| slots.attached == 0)?;
        self.daemon.wait_until_ready(16)
    }
}

/// Ends with nobody to read what it says: containers that live on keep their streams.
fn quietly(tool: Tool) -> Result<()> {
    let tool = tool.with(|command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    });
    let ended = tool.spawn()?.wait(PATIENCE)?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

/// A service that is asked with `question` until it answers.
fn wait_until_serving(question: impl Fn() -> Tool, service: &mut Process) -> Result<()> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match question().run() {
            Ok(_) => return Ok(()),
            Err(error) => {
                let ended = service.ended()?;
                ensure!(ended.is_none(), "it ended: {ended:?}");
                ensure!(std::time::Instant::now() < deadline, "{error:#}");
            }
        }
    }
}

fn podman(host: &Host, line: &str) -> Tool {
    let own = "--root /run/podman/root --runroot /run/podman/run --tmpdir /run/podman/tmp \
               --cgroup-manager cgroupfs --events-backend none";
    host.world.tool(&format!("podman {own} {line}"))
}

#[test]
fn podman_starts_containers_through_the_runtime() -> Result<()> {
    let host = Host::new()?;
    let runtime = format!("--runtime {}", binary("pcpm-runtime")?.display());
    let pooled = format!("{LIMITS} --network none --rootfs {ROOTFS}");
    let said = podman(&host, &format!("{runtime} run --rm {pooled} {ADDRESS}")).run()?;
    assert!(said.contains(" 10.213."), "{said}");
    host.expect_nothing_left()?;

    let annotations = "--annotation io.pcpm.tenant=shop --annotation io.pcpm.publish=8080:80";
    let run = format!("{runtime} run -d --name web {annotations} {pooled} {SERVER}");
    quietly(podman(&host, &run))?;
    host.fetch("http://127.0.0.1:8080/")?;
    let said = podman(&host, &format!("{runtime} exec web {ADDRESS}")).run()?;
    assert!(said.contains(&host.address()?), "{said}");
    quietly(podman(&host, &format!("{runtime} restart -t 0 web")))?;
    host.fetch("http://127.0.0.1:8080/")?;
    for verb in [
        "pause",
        "unpause",
        "kill",
        "start",
        "stop -t 0",
        "rm -f -t 0",
    ] {
        quietly(podman(&host, &format!("{runtime} {verb} web"))).context(verb)?;
    }
    host.expect_nothing_left()
}

#[test]
fn podman_joins_a_slot_by_its_path() -> Result<()> {
    let host = Host::new()?;
    let attachment = host.daemon.attach("web", "shop")?.attachment;
    let by_path = format!("--network ns:{} --rootfs {ROOTFS}", attachment.netns);
    let said = podman(
        &host,
        &format!("--runtime runc run --rm {LIMITS} {by_path} {ADDRESS}"),
    )
    .run()?;
    assert!(said.contains(&attachment.addresses[0]), "{said}");
    let runtime = binary("pcpm-runtime")?;
    let run = format!(
        "--runtime {} run --rm {LIMITS} {by_path} {ADDRESS}",
        runtime.display()
    );
    let said = podman(&host, &run).run()?;
    assert!(
        said.contains(&attachment.addresses[0]),
        "the slot that was asked for: {said}"
    );
    host.daemon.detach("web")?;
    host.expect_nothing_left()
}

#[test]
fn podman_starts_containers_through_cni() -> Result<()> {
    let host = Host::new()?;
    let plugins = host.world.path("/run/cni/bin");
    fs::create_dir_all(&plugins)?;
    fs::copy(binary("pcpm-cni")?, plugins.join("pcpm-cni"))?;
    host.write(
        "/run/cni/net.d/10-pcpm.conflist",
        r#"{"cniVersion": "0.4.0", "name": "pcpm", "plugins": [
            {"type": "pcpm-cni", "reservePorts": false, "capabilities": {"portMappings": true}}]}"#,
    )?;
    host.write(
        "/run/containers.conf",
        "[network]\nnetwork_backend = 'cni'\ncni_plugin_dirs = ['/run/cni/bin']\n\
         network_config_dir = '/run/cni/net.d'\n[engine]\nruntime = 'runc'\n",
    )?;
    let cni = |line: &str| podman(&host, line).env("CONTAINERS_CONF", "/run/containers.conf");
    let run =
        format!("run -d --name web {LIMITS} --network pcpm -p 8080:80 --rootfs {ROOTFS} {SERVER}");
    quietly(cni(&run))?;
    let address = host.address()?;
    let said = cni(&format!("exec web {ADDRESS}")).run()?;
    assert!(said.contains(&address), "{said}");
    host.fetch("http://127.0.0.1:8080/")?;
    quietly(cni("restart -t 0 web"))?;
    host.fetch(&format!("http://{}/", host.address()?))?;
    quietly(cni("rm -f -t 0 web"))?;
    host.expect_nothing_left()
}

const DOCKER: &str = "unix:///run/docker/socket";

fn docker(host: &Host, line: &str) -> Tool {
    host.world
        .tool(&format!("docker {line}"))
        .env("DOCKER_HOST", DOCKER)
}

#[test]
fn docker_starts_containers_through_the_runtime() -> Result<()> {
    let host = Host::new()?;
    let runtime = binary("pcpm-runtime")?;
    let line = format!(
        "dockerd --data-root /run/docker/data --exec-root /run/docker/exec --pidfile /run/docker/pid \
         -H {DOCKER} --storage-driver vfs --bridge=none --iptables=false --ip6tables=false \
         --ip-forward=false --add-runtime pcpm={}",
        runtime.display()
    );
    fs::create_dir_all(host.world.path("/run/docker"))?;
    let mut dockerd = spawn_quietly(host.world.tool(&line))?;
    wait_until_serving(|| docker(&host, "info"), &mut dockerd)?;
    let import = format!("tar -C {ROOTFS} -c . | docker import - box");
    let import = host.world.command("sh", ["-c", &import]);
    import.env("DOCKER_HOST", DOCKER).run()?;

    let pooled = "--runtime pcpm --network none";
    let said = docker(&host, &format!("run --rm {pooled} box {ADDRESS}")).run()?;
    assert!(said.contains(" 10.213."), "{said}");
    host.expect_nothing_left()?;

    docker(&host, &format!("run -d --name web {pooled} box {SERVER}")).run()?;
    let address = host.address()?;
    host.fetch(&format!("http://{address}/"))?;
    let said = docker(&host, &format!("exec web {ADDRESS}")).run()?;
    assert!(said.contains(&address), "{said}");
    for verb in [
        "restart -t 0",
        "pause",
        "unpause",
        "inspect",
        "logs",
        "kill",
        "start",
    ] {
        docker(&host, &format!("{verb} web")).run().context(verb)?;
    }
    host.fetch(&format!("http://{}/", host.address()?))?;
    docker(&host, "rm -f web").run()?;
    host.expect_nothing_left()?;

    start_at_once(|index| {
        docker(
            &host,
            &format!("run -d --name p{index} {pooled} box {SERVER}"),
        )
        .run()
    })?;
    assert_eq!(host.daemon.status()?.slots.attached as usize, PARALLEL);
    let all: Vec<_> = (0..PARALLEL).map(|index| format!("p{index}")).collect();
    docker(&host, &format!("rm -f {}", all.join(" "))).run()?;
    host.expect_nothing_left()?;
    end(dockerd)
}

#[test]
fn containerd_starts_containers_through_the_runtime() -> Result<()> {
    let host = Host::new()?;
    host.write(
        "/run/containerd.toml",
        "version = 2\nroot = '/run/ctd/root'\nstate = '/run/ctd/state'\n\
         disabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '/run/ctd/socket'\n",
    )?;
    let mut containerd = spawn_quietly(host.world.tool("containerd -c /run/containerd.toml"))?;
    let ctr = |line: &str| host.world.tool(&format!("ctr -a /run/ctd/socket {line}"));
    wait_until_serving(|| ctr("version"), &mut containerd)?;

    let runtime = format!("--runc-binary {}", binary("pcpm-runtime")?.display());
    let said = ctr(&format!(
        "run --rm {runtime} --rootfs {ROOTFS} c1 {ADDRESS}"
    ))
    .run()?;
    assert!(said.contains(" 10.213."), "{said}");
    host.expect_nothing_left()?;

    let shop = "--annotation io.pcpm.tenant=shop";
    quietly(ctr(&format!(
        "run -d {runtime} {shop} --rootfs {ROOTFS} c2 {SERVER}"
    )))?;
    assert_eq!(host.daemon.get("c2")?.attachment.tenant, "shop");
    host.fetch(&format!("http://{}/", host.address()?))?;
    let said = ctr(&format!("task exec --exec-id x c2 {ADDRESS}")).run()?;
    assert!(said.contains(&host.address()?), "{said}");
    // A container that is killed goes when its engine notices.
    ctr("task kill -s KILL c2").run()?;
    ctr("task rm -f c2").output()?;
    ctr("container rm c2").run()?;
    host.expect_nothing_left()?;
    end(containerd)
}

fn start_at_once(start: impl Fn(usize) -> Result<String> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let start = &start;
        let started: Vec<_> = (0..PARALLEL)
            .map(|index| scope.spawn(move || start(index)))
            .collect();
        started.into_iter().try_for_each(|start| {
            let result = start.join().map_err(|_| anyhow!("a start panicked"))?;
            result.map(drop)
        })
    })
}

fn spawn_quietly(tool: Tool) -> Result<Process> {
    tool.with(|command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    })
    .spawn()
}

fn end(mut service: Process) -> Result<()> {
    service.signal(nix::sys::signal::Signal::SIGTERM)?;
    service.wait(PATIENCE).map(drop)
}
