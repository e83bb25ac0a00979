//! runc by itself, with `pcpm-runtime` in its place.

use anyhow::Result;
use pcpm_tests::engines::{Engine, Network, RUN_ON, Runc, SHOW_ADDRESS};

use crate::Host;

#[test]
fn a_container_keeps_its_slot_until_it_is_deleted() -> Result<()> {
    let host = Host::new()?;
    let runc = Runc::new(&host.world)?;
    runc.start(Network::Pooled, "web")?;
    let address = host.address()?;
    for line in [
        "pause web",
        "resume web",
        "state web",
        "list",
        "events --stats web",
    ] {
        runc.runtime(line)?.run()?;
    }
    assert!(runc.exec("web", SHOW_ADDRESS)?.contains(&address));

    host.kill_behind_its_back(RUN_ON)?;
    assert_eq!(
        host.address()?,
        address,
        "its network is its until it is deleted"
    );
    runc.remove("web")?;
    host.expect_nothing_left()
}

#[test]
fn many_containers_have_slots_of_their_own() -> Result<()> {
    let host = Host::new()?;
    host.expect_to_serve_many(&Runc::new(&host.world)?)
}
