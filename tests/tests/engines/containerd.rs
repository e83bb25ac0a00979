//! containerd by its own command line, with `pcpm-runtime` in runc's place.

use anyhow::Result;
use pcpm_tests::engines::{Containerd, Ctr, Engine, Network, SHOW_ADDRESS};

use crate::{Host, SERVER};

#[test]
fn containers_are_started_through_the_runtime() -> Result<()> {
    let host = Host::new()?;
    let mut containerd = Containerd::start(&host.world)?;
    Ctr(&containerd).pass("c1")?;
    host.expect_nothing_left()?;

    let options = Ctr::run_options(Network::Pooled)?;
    let shop = "--annotation io.pcpm.tenant=shop";
    containerd.ctr_detached(&format!("run -d {shop} {options} web {SERVER}"))?;
    assert_eq!(host.daemon.get("web")?.attachment.tenant, "shop");
    let address = host.address()?;
    host.fetch(&format!("http://{address}/"))?;
    for line in ["task pause web", "task resume web", "container info web"] {
        containerd.ctr(line).run()?;
    }
    containerd.restart()?;
    assert_eq!(
        host.address()?,
        address,
        "containerd was away, its containers were not"
    );
    assert!(
        Ctr(&containerd)
            .exec("web", SHOW_ADDRESS)?
            .contains(&address)
    );

    // A container that is killed goes when its engine removes it.
    host.kill_behind_its_back(SERVER)?;
    containerd.ctr("task rm -f web").output()?;
    containerd.ctr("container rm web").run()?;
    host.expect_nothing_left()
}

#[test]
fn many_containers_have_slots_of_their_own() -> Result<()> {
    let host = Host::new()?;
    let containerd = Containerd::start(&host.world)?;
    host.expect_to_serve_many(&Ctr(&containerd))
}
