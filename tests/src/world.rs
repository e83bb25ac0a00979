//! The private world: its own network, mounts and processes, with a host and an internet.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::place::{Namespaces, Place, Tool};
use crate::process::Process;
use crate::{PATIENCE, binary};

/// The host's way out.
pub const UPLINK: &str = "eth0";
/// The host's address on the uplink.
pub const HOST_ADDRESS: &str = "192.0.2.2";
/// The host's IPv6 address on the uplink.
pub const HOST_ADDRESS6: &str = "2001:db8:1::2";
/// An IPv6 address in the internet, two hops away for a slot.
pub const INTERNET_ADDRESS6: &str = "2001:db8:2::1";
/// An address in the internet, two hops away for a slot.
pub const INTERNET_ADDRESS: &str = "198.51.100.1";

const INTERNET: &str = "/run/netns/internet";
const NOTHING: Option<&str> = None;

const LONELY_HOST: &str = "link set lo up\n";
/// The internet knows the host's address alone and has no route to any pool.
const HOST_WITH_UPLINK: &str = "\
netns add internet
link add eth0 mtu 1500 type veth peer name eth0 netns internet
addr add 192.0.2.2/24 dev eth0
addr add 2001:db8:1::2/64 dev eth0 nodad
link set eth0 up
route add default via 192.0.2.1 dev eth0
route add default via 2001:db8:1::1 dev eth0
";
const THE_INTERNET: &str = "\
link set lo up
addr add 198.51.100.1/32 dev lo
addr add 192.0.2.1/24 dev eth0
addr add 2001:db8:2::1/128 dev lo nodad
addr add 2001:db8:1::1/64 dev eth0 nodad
link set eth0 up
";

/// A host and an internet of its own, for one test. Nothing of it is visible outside; when the
/// value is dropped or its process dies, every process, mount and namespace in it goes away.
#[derive(Debug)]
pub struct World {
    host: Place,
    init: Process,
    logs: TempDir,
}

impl World {
    /// A world whose host has an uplink, [`UPLINK`], with [`HOST_ADDRESS`].
    ///
    /// # Errors
    /// Without root, and when a tool is missing.
    pub fn new() -> Result<Self> {
        let world = Self::without_uplink()?;
        world
            .command("ip", ["-batch", "-"])
            .input(HOST_WITH_UPLINK)
            .run()?;
        world
            .internet_command("ip", ["-batch", "-"])
            .input(THE_INTERNET)
            .run()?;
        for router in ["192.0.2.1", "2001:db8:1::1"] {
            world.wait_until_reached(router)?;
        }
        Ok(world)
    }

    /// Waits until the host reaches `address`. The kernel tells a new link's state behind the rtnl lock, for
    /// which it waits as everybody does; until then neighbours are not found, and `ping` gives up.
    fn wait_until_reached(&self, address: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let ping = format!("ping -n -q -c 1 -i 0.2 -w 10 {address}");
        loop {
            match self.tool(&ping).run() {
                Err(_) if Instant::now() < deadline => {}
                reached => return reached.map(drop),
            }
        }
    }

    /// A world whose host has no way out.
    ///
    /// # Errors
    /// Without root, and when a tool is missing.
    pub fn without_uplink() -> Result<Self> {
        require_root()?;
        let init = Process::new("the init of a world", start_init()?)?;
        let host = Place::host(Arc::new(Namespaces::of(init.pid())?));
        let logs = tempfile::tempdir().context("make a directory for logs")?;
        let world = Self { host, init, logs };
        world.tool("mount -t proc proc /proc").run()?;
        world.host().within(keep_addresses_still)?;
        world
            .command("ip", ["-batch", "-"])
            .input(LONELY_HOST)
            .run()?;
        Ok(world)
    }

    /// What the names of control groups begin with that are this world's: they are the machine's, and go with the world.
    pub(crate) fn control_groups(&self) -> String {
        format!("pcpm-{}-", self.init.pid())
    }

    /// The host.
    pub fn host(&self) -> &Place {
        &self.host
    }

    /// The machine at the other end of the uplink.
    pub fn internet(&self) -> Place {
        self.host.at(INTERNET)
    }

    /// A command on the host.
    pub fn command<'a>(&self, program: &str, args: impl IntoIterator<Item = &'a str>) -> Tool {
        self.host.command(program, args)
    }

    /// A command on the host, as one line.
    pub fn tool(&self, line: &str) -> Tool {
        self.host.tool(line)
    }

    /// A command in the internet.
    pub fn internet_command<'a>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Tool {
        self.internet().command(program, args)
    }

    /// The network namespace of a slot, by the path that an attachment names.
    pub fn slot(&self, netns: impl AsRef<Path>) -> Place {
        self.host.at(netns)
    }

    /// `pcpm` with `args`, on the host.
    ///
    /// # Errors
    /// When the binary was not built.
    pub fn pcpm<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Tool> {
        Ok(self.host.command(binary("pcpm")?, args))
    }

    /// Starts `pcpmd` on the host and waits until it serves its socket.
    ///
    /// # Errors
    /// When it ends before, with what it wrote.
    pub fn spawn_daemon(&self, args: &[&str]) -> Result<Daemon> {
        Daemon::spawn(self, &[], args, |tool| tool)
    }

    /// Like [`Self::spawn_daemon`], with the command changed before it starts.
    ///
    /// # Errors
    /// When it ends before, with what it wrote.
    pub fn spawn_daemon_with(
        &self,
        args: &[&str],
        change: impl FnOnce(Tool) -> Tool,
    ) -> Result<Daemon> {
        Daemon::spawn(self, &[], args, change)
    }

    /// Like [`Self::spawn_daemon_with`], behind the words of a program that becomes `pcpmd` in the end.
    ///
    /// # Errors
    /// When it ends before, with what it wrote.
    pub fn spawn_daemon_behind(
        &self,
        before: &[&str],
        args: &[&str],
        change: impl FnOnce(Tool) -> Tool,
    ) -> Result<Daemon> {
        Daemon::spawn(self, before, args, change)
    }

    /// Starts `pcpmd` on the host and waits until all of `slots` slots are ready.
    ///
    /// # Errors
    /// When it ends before, with what it wrote.
    pub fn pool_of(&self, slots: u32) -> Result<Daemon> {
        let daemon = self.spawn_daemon(&["--capacity", &slots.to_string()])?;
        daemon.wait_until_ready(slots)?;
        Ok(daemon)
    }

    /// A file of the world, as a path outside of it.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        PathBuf::from(format!("/proc/{}/root", self.init.pid())).join(relative)
    }

    /// A new file for what a process writes.
    pub(crate) fn log_file(&self, name: &str) -> Result<(PathBuf, File)> {
        let file = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .suffix(".log")
            .tempfile_in(self.logs.path())
            .with_context(|| format!("create a log of {name}"))?;
        let (file, path) = file.keep()?;
        Ok((path, file))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Its init dies, and the kernel kills everything else in the pid namespace. Waiting keeps
        // the next test from running beside the remains.
        let _ = self.init.signal(nix::sys::signal::Signal::SIGKILL);
        if self.init.wait(PATIENCE).is_err() {
            eprintln!("a world did not end: a process in it was not reaped");
        }
        remove_control_groups(Path::new("/sys/fs/cgroup"), &self.control_groups());
    }
}

/// Removes the control groups below `directory` whose names begin with `prefix`. Nobody is in them any more.
fn remove_control_groups(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_control_groups(&entry.path(), prefix);
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

fn require_root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("this needs root to make namespaces: run `sudo -E cargo xtask test`");
    }
    Ok(())
}

/// Starts the first process of new namespaces. It only waits for the end of its input, a pipe that
/// closes when this process dies, however it dies.
fn start_init() -> Result<Child> {
    let start = thread::spawn(|| {
        let all = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
        unshare(all).context("make the namespaces of a world")?;
        make_mounts()?;
        // Orphans that nobody waits for are gone when they end: the signal is ignored, which `cat` inherits
        // (from bash; dash takes it back).
        Command::new("bash")
            .args(["-c", "trap '' CHLD; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()
            .context("start the init of a world")
    });
    start
        .join()
        .map_err(|_| anyhow!("making a world panicked"))?
}

/// `/run` and `/sys` of its own, with the machine's control groups; the rest stays visible.
fn make_mounts() -> Result<()> {
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NOTHING,
    )
    .context("make the mounts private")?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("mount a tmpfs on /run")?;
    fs::create_dir("/run/netns").context("create /run/netns")?;
    set_aside("/sys/fs/cgroup", "/run/cgroup")?;
    umount2("/sys", MntFlags::MNT_DETACH).context("unmount /sys")?;
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        NOTHING,
    )
    .context("mount a sysfs on /sys")?;
    mount(
        Some("/run/cgroup"),
        "/sys/fs/cgroup",
        NOTHING,
        MsFlags::MS_MOVE,
        NOTHING,
    )
    .context("move the control groups to the new /sys")?;
    fs::remove_dir("/run/cgroup").context("remove /run/cgroup")
}

fn set_aside(from: &str, to: &str) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("create {to}"))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    mount(
        Some(from),
        to,
        NOTHING,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NOTHING,
    )
    .with_context(|| format!("bind {from} to {to}"))
}

/// Without duplicate address detection a link's IPv6 address does not change state by itself.
fn keep_addresses_still() -> Result<()> {
    for links in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{links}/accept_dad");
        fs::write(&path, "0").with_context(|| format!("write {path}"))?;
    }
    Ok(())
}
