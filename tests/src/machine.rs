//! A machine of its own: systemd as its first process, on the network of a [`World`]'s host. Its files are this
//! machine's, and what is changed there changes nothing here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::PATIENCE;
use crate::place::{Namespaces, Place, Tool};
use crate::process::Process;
use crate::world::World;

/// What the first process does before it is systemd. Kernel settings that are not the network's stay this machine's:
/// they are not to be changed.
const BOOT: &str = r"
set -e
mkdir -p /run/machine
mount -t tmpfs -o mode=755 tmpfs /run/machine
cd /run/machine
mkdir changed work root
mount -t overlay -o lowerdir=/,upperdir=changed,workdir=work overlay root
cd root
mount -t proc proc proc
mount --bind proc/sys/net proc/sys/net
mount --bind -o ro proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do cp -a /dev/$device dev; done
mkdir dev/pts dev/shm
mknod dev/console c 1 3
: > etc/fstab
rm -rf etc/systemd/system etc/systemd/network usr/sbin/policy-rc.d etc/pcpm
mkdir -p etc/systemd/system
for unit in systemd-modules-load systemd-sysctl systemd-timesyncd systemd-udevd; do
    ln -s /dev/null etc/systemd/system/$unit.service
done
cat > etc/systemd/system/machine.target <<END
[Unit]
Requires=sysinit.target
After=sysinit.target
END
mkdir -p media/changes mnt
mount --bind ../changed media/changes
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec env -i container=pcpm PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=machine.target --log-target=journal
";

/// See the module. Dropped, it is gone with all its processes and changes.
#[derive(Debug)]
pub struct Machine {
    systemd: Process,
    place: Place,
    group: PathBuf,
    world: World,
}

impl Machine {
    /// Starts it and waits until all that belongs to its start runs.
    ///
    /// # Errors
    /// Without root, without systemd or an overlay file system, and when something does not start.
    pub fn boot() -> Result<Self> {
        let world = World::new()?;
        let group = control_group()?;
        let script = "echo $$ > $0/cgroup.procs && exec unshare --mount --propagation private --uts --ipc \
                      --cgroup --pid --fork --kill-child sh -c \"$1\"";
        let group_text = group.to_str().context("the control group has no name")?;
        let boot = world.command("sh", ["-c", script, group_text, BOOT]);
        let boot = boot.with(|sh| {
            sh.stdout(Stdio::null());
        });
        let systemd = boot.spawn()?;
        let place = Place::host(namespaces_of_child(systemd.pid())?.into());
        let machine = Self {
            systemd,
            place,
            group,
            world,
        };
        machine.wait_until_started()?;
        Ok(machine)
    }

    fn wait_until_started(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.tool("systemctl is-system-running --wait").run() {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let units = self.tool("systemctl --failed --no-pager").run();
                    bail!("the machine does not start: {error:#}\n{units:?}");
                }
                // systemd does not answer yet.
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Where its programs run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A command on it, as one line.
    pub fn tool(&self, line: &str) -> Tool {
        self.place.tool(line)
    }

    /// The world in whose host's place it is.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The files that it has and this machine has not, or has otherwise.
    ///
    /// # Errors
    /// When it is gone.
    pub fn changed_files(&self) -> Result<Vec<String>> {
        // A character device stands for a file of this machine that is gone there.
        let find = "find /media/changes -not -type d -not -type c -printf /%P\\n";
        let text = self.tool(find).run()?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.systemd.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = self.systemd.wait(PATIENCE);
        // The kernel empties the control group a moment after its last process.
        let deadline = Instant::now() + Duration::from_secs(5);
        while remove_groups(&self.group).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A new control group below the root of the second version's hierarchy, as a path outside of the world.
fn control_group() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let mut mounts = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let root = mounts.find(|words| words.get(2) == Some(&"cgroup2"));
    let root = root.context("there is no cgroup2")?[1].to_owned();
    let unique = tempfile::Builder::new()
        .prefix("pcpm-machine-")
        .tempdir_in(root);
    Ok(unique.context("make a control group")?.keep())
}

/// Removes a control group with those in it.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn namespaces_of_child(parent: u32) -> Result<Namespaces> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        if let Some(child) = children.split_whitespace().next() {
            return Namespaces::of(child.parse().context("the number of a process")?);
        }
        if Instant::now() > deadline {
            bail!("the first process of a machine does not start");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
