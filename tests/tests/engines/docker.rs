//! docker, with `pcpm-runtime` as one of its runtimes, beside its own bridge and its rules.

use anyhow::{Context, Result};
use pcpm_tests::engines::{Docker, Engine, Network, SHOW_ADDRESS};

use crate::{Host, ONE_AFTER_THE_OTHER, SERVER};

#[test]
fn containers_are_started_through_the_runtime() -> Result<()> {
    let host = Host::new()?;
    let mut docker = Docker::start_with_live_restore(&host.world)?;
    docker.pass("first")?;
    host.expect_nothing_left()?;

    let options = Docker::run_options(Network::Pooled);
    let run = format!("run -d --name web {options} {SERVER}");
    docker.tool(&run).run()?;
    let served = || host.fetch(&format!("http://{}/", host.address()?));
    served()?;
    assert!(docker.exec("web", SHOW_ADDRESS)?.contains(&host.address()?));
    for verb in ONE_AFTER_THE_OTHER {
        let line = format!("{verb} web");
        docker.tool(&line).run().context(verb)?;
    }
    served()?;

    let address = host.address()?;
    docker.restart()?;
    assert_eq!(
        host.address()?,
        address,
        "docker was away, its containers were not"
    );
    assert!(docker.exec("web", SHOW_ADDRESS)?.contains(&address));

    host.kill_behind_its_back(SERVER)?;
    host.expect_nothing_left().context("killed by somebody")?;
    docker.tool("start web").run()?;
    served()?;
    docker.tool("stop -t 0 web").run()?;
    host.expect_nothing_left().context("stopped")?;
    docker.tool("start web").run()?;
    docker.tool("rm -f web").run()?;
    host.expect_nothing_left()
}

#[test]
fn containers_that_end_with_their_engine_give_their_slots_back() -> Result<()> {
    let host = Host::new()?;
    let mut docker = Docker::start(&host.world)?;
    for name in ["one", "two"] {
        docker.start(Network::Pooled, name)?;
    }
    assert_eq!(host.addresses()?.len(), 2);
    docker.restart()?;
    host.expect_nothing_left()?;
    docker.tool("start one").run()?;
    assert!(docker.exec("one", SHOW_ADDRESS)?.contains(&host.address()?));
    docker.tool("rm -f one two").run()?;
    host.expect_nothing_left()
}

#[test]
fn many_containers_have_slots_of_their_own() -> Result<()> {
    let host = Host::new()?;
    host.expect_to_serve_many(&Docker::start(&host.world)?)
}
