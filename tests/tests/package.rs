//! What is released: the Debian package on a machine with systemd, from installing it to purging it, with attachments
//! alive all the time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pcpm_tests::{HOST_ADDRESS, Machine, PATIENCE, Place, binary};
use tempfile::TempDir;

/// The release of the binaries that are tested.
fn release(version: &str) -> Result<TempDir> {
    let out = tempfile::tempdir()?;
    let xtask = binary("xtask")?;
    let mut dist = Command::new(&xtask);
    dist.args(["dist", "--version", version, "--binaries"])
        .arg(xtask.parent().context("no directory")?)
        .arg("--out")
        .arg(out.path());
    let output = dist.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    Ok(out)
}

fn run(program: &str, args: &[&str], directory: &Path) -> Result<String> {
    let mut command = Command::new(program);
    let output = command.args(args).current_dir(directory).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

fn only(directory: &Path, extension: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let found = files.find(|file| file.extension().is_some_and(|found| found == extension));
    found.with_context(|| format!("no .{extension}"))
}

#[test]
fn two_builds_are_the_same_bytes_and_the_checksums_are_theirs() -> Result<()> {
    let (one, other) = (release("0.1.0")?, release("0.1.0")?);
    let mut names = Vec::new();
    for entry in fs::read_dir(&one)? {
        let entry = entry?;
        let name = entry.file_name();
        let same = fs::read(entry.path())? == fs::read(other.path().join(&name))?;
        assert!(same, "{}", name.display());
        names.push(name);
    }
    assert_eq!(names.len(), 3, "{names:?}");
    run("sha256sum", &["--check", "SHA256SUMS"], one.path())?;
    // The tarball has what the package has.
    let deb = only(one.path(), "deb")?;
    let tarball = only(one.path(), "gz")?;
    let (from_deb, from_tarball) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let deb = deb.to_str().context("no text")?;
    let tarball = tarball.to_str().context("no text")?;
    run("dpkg-deb", &["-x", deb, "."], from_deb.path())?;
    let tar = ["-xzf", tarball, "--strip-components=1"];
    run("tar", &tar, from_tarball.path())?;
    let other = from_tarball.path().to_str().context("no text")?;
    run("diff", &["-r", ".", other], from_deb.path())?;
    every_manual_page_is_well_formed(from_deb.path())
}

fn every_manual_page_is_well_formed(root: &Path) -> Result<()> {
    let pages = run("find", &["usr/share/man", "-type", "f"], root)?;
    for page in pages.lines() {
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page])
            .env("LC_ALL", "C.UTF-8")
            .current_dir(root);
        let output = man.output().context("start man")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && errors.is_empty(),
            "{page}: {errors}"
        );
    }
    for expected in [
        "man1/pcpm.1.gz",
        "man1/pcpm-attach.1.gz",
        "man5/pcpmd.toml.5.gz",
    ] {
        assert!(pages.contains(expected), "{pages}");
    }
    for expected in ["pcpmd", "pcpm-cni", "pcpm-runtime"] {
        assert!(pages.contains(&format!("man8/{expected}.8.gz")), "{pages}");
    }
    Ok(())
}

/// A connection to a server in a slot that says the same again.
struct Conversation(TcpStream);

impl Conversation {
    fn begin(server: &Place, client: &Place) -> Result<Self> {
        let listener = server.within(|| Ok(TcpListener::bind("0.0.0.0:80")?))?;
        thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut word = [0; 4];
            loop {
                stream.read_exact(&mut word)?;
                stream.write_all(&word)?;
            }
        });
        let stream = client.within(|| Ok(TcpStream::connect((HOST_ADDRESS, 8080))?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut begun = Self(stream);
        begun.go_on()?;
        Ok(begun)
    }

    fn go_on(&mut self) -> Result<()> {
        let mut word = *b"word";
        self.0.write_all(&word)?;
        self.0.read_exact(&mut word)?;
        ensure!(word == *b"word");
        Ok(())
    }
}

/// The properties of the service.
fn service(machine: &Machine) -> Result<BTreeMap<String, String>> {
    let show = "systemctl show pcpmd.service -p MainPID,ActiveState,NRestarts,StatusText,Result";
    let text = machine.tool(show).run()?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// What became of the service.
fn log(machine: &Machine) -> Result<String> {
    let lines = machine.tool("journalctl --no-pager -u pcpmd").run()?;
    Ok(format!("{:?}\n{lines}", service(machine)?))
}

fn install(machine: &Machine, release: &TempDir, name: &str) -> Result<()> {
    let deb = fs::read(only(release.path(), "deb")?)?;
    let path = format!("/root/{name}.deb");
    machine.place().within(|| Ok(fs::write(&path, deb)?))?;
    // What it depends on is there, whoever put it there.
    machine
        .tool(&format!(
            "dpkg --install --force-depends --force-confold {path}"
        ))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()?;
    machine.tool(&format!("rm {path}")).run().map(drop)
}

#[test]
fn a_machine_installs_upgrades_and_purges_it_while_an_attachment_lives() -> Result<()> {
    let (first, second) = (release("0.1.0")?, release("0.1.1")?);
    let machine = Machine::boot()?;
    install(&machine, &first, "first")?;
    let started = service(&machine)?;
    assert_eq!(started["ActiveState"], "active", "{}", log(&machine)?);
    let enabled = machine
        .tool("systemctl is-enabled pcpmd.service pcpmd.socket")
        .run()?;
    assert_eq!(enabled, "enabled\nenabled\n");
    let socket = machine.tool("stat -c %a:%G /run/pcpm/pcpm.sock").run()?;
    assert_eq!(socket, "660:pcpm\n");

    // Slots are seen outside of the service; inside, the files are read-only.
    let attached = machine
        .tool("pcpm --json attach web --publish 8080:80")
        .json()?;
    let netns = attached["netns"].as_str().context("no path")?;
    let slot = machine.place().at(netns);
    let mut conversation = Conversation::begin(&slot, &machine.world().internet())?;
    let pid = &started["MainPID"];
    let (_, refused) = machine
        .tool(&format!("nsenter -t {pid} -m touch /etc/pcpm/x"))
        .fails()?;
    assert!(refused.contains("Read-only file system"), "{refused}");
    let status = machine.tool(&format!("cat /proc/{pid}/status")).run()?;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }

    // The configuration is the administrator's.
    let configure = [
        "-i",
        "s/^capacity = 64/capacity = 32/",
        "/etc/pcpm/pcpmd.toml",
    ];
    machine.place().command("sed", configure).run()?;
    machine.tool("systemctl reload pcpmd").run()?;
    wait_until(&machine, "the reload is done", || {
        let status = machine.tool("pcpm --json status").json()?;
        Ok(status["slots"]["capacity"] == 32)
    })?;
    assert_eq!(service(&machine)?["ActiveState"], "active");

    // One that is stuck is replaced.
    let drop_in = "/etc/systemd/system/pcpmd.service.d";
    machine.tool(&format!("mkdir {drop_in}")).run()?;
    machine.place().within(|| {
        let text = "[Service]\nWatchdogSec=3s\nTimeoutAbortSec=1s\n";
        Ok(fs::write(format!("{drop_in}/soon.conf"), text)?)
    })?;
    machine.tool("systemctl daemon-reload").run()?;
    machine.tool("systemctl restart pcpmd.service").run()?;
    conversation.go_on()?;
    machine
        .tool("systemctl kill --kill-whom=main --signal=STOP pcpmd")
        .run()?;
    wait_until(&machine, "systemd replaced it", || {
        let now = service(&machine)?;
        Ok(now["NRestarts"] != "0" && now["ActiveState"] == "active")
    })?;
    conversation.go_on()?;
    machine.tool(&format!("rm -r {drop_in}")).run()?;

    let before = service(&machine)?;
    install(&machine, &second, "second")?;
    let version = machine.tool("dpkg-query -W -f ${Version} pcpm").run()?;
    assert_eq!(version, "0.1.1");
    let upgraded = service(&machine)?;
    assert_eq!(upgraded["ActiveState"], "active", "{}", log(&machine)?);
    assert_ne!(upgraded["MainPID"], before["MainPID"]);
    conversation.go_on()?;
    let shown = machine.tool("pcpm --json show web").json()?;
    assert_eq!(shown["slot"], attached["slot"]);
    let status = machine.tool("pcpm --json status").json()?;
    assert_eq!(status["slots"]["capacity"], 32);

    // Stopped, it is started by whoever calls.
    machine.tool("systemctl stop pcpmd.service").run()?;
    conversation.go_on()?;
    machine.tool("pcpm show web").run()?;

    machine.tool("dpkg --remove pcpm").run()?;
    let links = machine.tool("ip -o link").run()?;
    assert!(!links.contains("pcpm"), "{links}");
    let mounts = machine.tool("cat /proc/mounts").run()?;
    assert!(!mounts.contains("pcpm"), "{mounts}");
    machine.tool("test -e /etc/pcpm/pcpmd.toml").run()?;
    machine.tool("dpkg --purge pcpm").run()?;
    nothing_is_left(&machine)
}

fn wait_until(machine: &Machine, what: &str, seen: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !matches!(seen(), Ok(true)) {
        if Instant::now() > deadline {
            ensure!(false, "waiting until {what}: {}", log(machine)?);
        }
        thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(())
}

fn nothing_is_left(machine: &Machine) -> Result<()> {
    let files = machine.changed_files()?;
    // dpkg's own notes, and those of others about what they did.
    let of_others = ["/var/lib/dpkg/", "/var/log/", "/var/cache/"];
    let left = files.iter().filter(|file| file.contains("pcpm"));
    let left: Vec<_> = left
        .filter(|file| !of_others.iter().any(|theirs| file.starts_with(theirs)))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    for gone in [
        "/run/pcpm",
        "/etc/pcpm",
        "/usr/bin/pcpmd",
        "/sys/fs/bpf/pcpm",
    ] {
        machine
            .tool(&format!("test ! -e {gone}"))
            .run()
            .context(gone)?;
    }
    for file in ["/etc/group", "/etc/gshadow"] {
        let (_, none) = machine.tool(&format!("grep pcpm {file}")).fails()?;
        assert_eq!(none, "");
    }
    let units = machine
        .tool("systemctl list-units --all --no-legend --plain pcpm*")
        .run()?;
    assert_eq!(units, "");
    Ok(())
}
