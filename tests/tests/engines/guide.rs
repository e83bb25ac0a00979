//! `docs/engines.md`: what it shows is said as it stands there, to the engine of its section, and must show what the page shows.

use anyhow::{Context, Result};
use pcpm_tests::engines::{Containerd, Docker, FILES, Podman, Runc, documented};
use pcpm_tests::{Tool, binary};

use crate::Host;

/// A command, and what is shown of it.
struct Shown {
    command: &'static str,
    output: String,
}

/// What a section shows of a console.
fn shown(section: &str) -> Result<Vec<Shown>> {
    let mut all: Vec<Shown> = Vec::new();
    for line in documented(section, "console")?.lines() {
        if let Some(command) = line.strip_prefix("# ") {
            let output = String::new();
            all.push(Shown { command, output });
        } else {
            let last = all.last_mut().context("output of nothing")?;
            last.output.extend([line, "\n"]);
        }
    }
    Ok(all)
}

/// Which slot a container gets is the pool's to choose.
fn of_any_slot(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        if word.starts_with("10.213.") {
            "10.213.*"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

impl Host {
    /// Does as the section says. `prepare` is told of every shell.
    fn follow(&self, section: &str, prepare: impl Fn(Tool) -> Tool) -> Result<()> {
        let runtime = binary("pcpm-runtime")?;
        let directory = runtime.parent().context("no directory")?.to_string_lossy();
        for Shown { command, output } in shown(section)? {
            let here = command.replace("/usr/bin/pcpm-", &format!("{directory}/pcpm-"));
            let script = format!("cd {FILES} && PATH=$PATH:{directory} && {here}");
            let said = prepare(self.world.command("bash", ["-c", &script])).run()?;
            if !output.is_empty() {
                assert_eq!(of_any_slot(&said), of_any_slot(&output), "{command}");
            }
        }
        self.expect_nothing_left()
    }
}

#[test]
fn runc_is_used_as_the_guide_says() -> Result<()> {
    let host = Host::new()?;
    let command = ["/bin/ip", "route", "get", "198.51.100.1"];
    let bundle = Runc::new(&host.world)?.bundle("guide", &command, |_| ())?;
    host.world
        .tool(&format!("ln -s {bundle} {FILES}/bundle"))
        .run()?;
    host.follow("runc", |shell| shell)
}

#[test]
fn podman_is_used_as_the_guide_says() -> Result<()> {
    let host = Host::new()?;
    Podman::new(&host.world)?.load_image()?;
    host.follow("podman", Podman::with_its_files)?;
    host.follow("By path", Podman::with_its_files)
}

#[test]
fn podman_is_used_through_cni_as_the_guide_says() -> Result<()> {
    let host = Host::new()?;
    Podman::through_cni(&host.world)?.load_image()?;
    host.follow("podman, through CNI", Podman::with_its_files)
}

#[test]
fn docker_is_used_as_the_guide_says() -> Result<()> {
    let host = Host::new()?;
    let _docker = Docker::start(&host.world)?;
    host.follow("docker", Docker::told_to_clients)
}

#[test]
fn containerd_is_used_as_the_guide_says() -> Result<()> {
    let host = Host::new()?;
    let _containerd = Containerd::start(&host.world)?;
    host.follow("containerd", Containerd::told_to_clients)
}
