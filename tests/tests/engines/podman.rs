//! podman: through the runtime, through CNI, and into a slot that somebody attached.

use anyhow::{Context, Result};
use pcpm_tests::binary;
use pcpm_tests::engines::{Engine, Network, Podman, ROOTFS, SHOW_ADDRESS};

use crate::{Host, ONE_AFTER_THE_OTHER, SERVER};

#[test]
fn containers_are_started_through_the_runtime() -> Result<()> {
    let host = Host::new()?;
    let podman = Podman::new(&host.world)?;
    podman.pass("first")?;
    host.expect_nothing_left()?;

    let (globals, options) = (
        podman.globals(Network::Pooled)?,
        podman.run_options(Network::Pooled)?,
    );
    let annotations = "--annotation io.pcpm.tenant=shop --annotation io.pcpm.publish=8080:80";
    podman.detached(&format!(
        "{globals} run -d --name web {annotations} {options} --rootfs {ROOTFS} {SERVER}"
    ))?;
    let served = || host.fetch("http://127.0.0.1:8080/");
    served()?;
    assert!(podman.exec("web", SHOW_ADDRESS)?.contains(&host.address()?));
    podman.detached("restart -t 0 web")?;
    served()?;
    for verb in ["pause", "unpause", "inspect", "logs", "kill", "start"] {
        podman.detached(&format!("{verb} web")).context(verb)?;
    }
    served()?;
    host.kill_behind_its_back(SERVER)?;
    host.expect_nothing_left().context("killed by somebody")?;
    for verb in ["start", "stop -t 0", "rm -f -t 0"] {
        podman.detached(&format!("{verb} web")).context(verb)?;
    }
    host.expect_nothing_left()
}

#[test]
fn a_slot_is_joined_by_its_path() -> Result<()> {
    let host = Host::new()?;
    let podman = Podman::new(&host.world)?;
    let attachment = host.daemon.attach("web", "shop")?.attachment;
    let run = format!(
        "run --rm --network ns:{} --rootfs {ROOTFS} {SHOW_ADDRESS}",
        attachment.netns
    );
    let runtime = binary("pcpm-runtime")?;
    for runtime in ["runc", &runtime.to_string_lossy()] {
        let said = podman.tool(&format!("--runtime {runtime} {run}")).run()?;
        assert!(said.contains(&attachment.addresses[0]), "{runtime}: {said}");
    }
    host.daemon.detach("web")?;
    host.expect_nothing_left()
}

#[test]
fn containers_are_started_through_cni() -> Result<()> {
    let host = Host::new()?;
    let podman = Podman::through_cni(&host.world)?;
    let options = podman.run_options(Network::Pooled)?;
    podman.detached(&format!(
        "run -d --name web -p 8080:80 {options} --rootfs {ROOTFS} {SERVER}"
    ))?;
    let address = host.address()?;
    assert!(podman.exec("web", SHOW_ADDRESS)?.contains(&address));
    host.fetch("http://127.0.0.1:8080/")?;
    for verb in ONE_AFTER_THE_OTHER {
        podman.detached(&format!("{verb} web")).context(verb)?;
    }
    host.fetch(&format!("http://{}/", host.address()?))?;
    host.kill_behind_its_back(SERVER)?;
    host.expect_nothing_left().context("killed by somebody")?;
    for verb in ["start", "stop -t 0", "rm -f -t 0"] {
        podman.detached(&format!("{verb} web")).context(verb)?;
    }
    host.expect_nothing_left()
}

#[test]
fn many_containers_have_slots_of_their_own() -> Result<()> {
    let host = Host::new()?;
    host.expect_to_serve_many(&Podman::new(&host.world)?)
}

#[test]
fn many_containers_have_slots_of_their_own_through_cni() -> Result<()> {
    let host = Host::new()?;
    host.expect_to_serve_many(&Podman::through_cni(&host.world)?)
}
