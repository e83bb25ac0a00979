//! Every step of every operation fails once: a netlink request, which the kernel refuses, or a call about
//! namespaces, mounts and sysctls. What was made before is undone, nothing is there twice, and the operation
//! works when it is tried again. Needs root.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::faults::Plan;
use super::tests::{
    host_with, hub_spec, in_private_world, look, look_into, programs, run_in, sharing_spec,
    slot_spec,
};
use super::*;

/// More steps than any operation has.
const ENOUGH: i64 = 200;

const SLOT: u32 = 7;

/// Calls `attempt` for each step in turn, until it says that none was left to fail; returns how many there were.
fn at_each_step(attempt: impl FnMut(i64) -> bool) -> i64 {
    let steps = (0..ENOUGH)
        .map(attempt)
        .take_while(|failed| *failed)
        .count();
    let steps = i64::try_from(steps).unwrap();
    assert!(steps < ENOUGH, "the failure was met every time");
    steps
}

/// Does `work` with a failure at a step, and says whether that was met.
fn failing_at<T>(step: i64, work: impl FnOnce() -> T) -> (T, bool) {
    let plan = Plan::fail_after(step);
    let done = work();
    (done, plan.was_met())
}

/// What there is of ours: links of the host and of hubs, mounts, mount points.
fn objects(state_dir: &Path, hubs: &[Hub]) -> String {
    let (tables, mounts) = look(state_dir);
    let mut links: Vec<_> = tables.links.into_iter().map(|link| link.name).collect();
    for hub in hubs {
        let inside = look_into(&hub.netns, state_dir).links;
        links.extend(
            inside
                .into_iter()
                .map(|link| format!("{}/{}", hub.number, link.name)),
        );
    }
    links.sort();
    let files = ["netns", "ipc", "uts", "hubs"].map(|directory| {
        let mut files = namespace::files_below(&state_dir.join(directory));
        files.sort();
        files
    });
    format!("{links:?}\n{files:?}\n{mounts}")
}

fn destroy(worker: &mut dyn SlotKernel, netns: Option<OwnedFd>) -> Result<(), NetError> {
    let slot = RetiredSlot { index: SLOT, netns };
    worker.destroy_slots(vec![slot]).pop().unwrap().1
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_that_cannot_be_made_leaves_nothing() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let mut worker = host.worker(Arc::clone(&hubs));
        let before = objects(state_dir, &hubs);
        let spec = sharing_spec(SLOT);
        let steps = at_each_step(|step| {
            let (made, failed) = failing_at(step, || worker.create_slot(&spec));
            assert_eq!(made.is_err(), failed, "step {step}: {made:?}");
            if failed {
                assert_eq!(objects(state_dir, &hubs), before, "step {step}: {made:?}");
            }
            let slot = made.or_else(|_| worker.create_slot(&spec)).unwrap();
            destroy(&mut *worker, Some(slot.netns)).unwrap();
            assert_eq!(objects(state_dir, &hubs), before, "step {step}");
            failed
        });
        assert!(steps > 15, "{steps} steps");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_that_cannot_be_destroyed_is_told_and_goes_at_the_next_try() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let mut worker = host.worker(Arc::clone(&hubs));
        let before = objects(state_dir, &hubs);
        let steps = at_each_step(|step| {
            let slot = worker.create_slot(&sharing_spec(SLOT)).unwrap();
            let (gone, failed) = failing_at(step, || destroy(&mut *worker, Some(slot.netns)));
            assert_eq!(gone.is_err(), failed, "step {step}: {gone:?}");
            if failed {
                destroy(&mut *worker, None).unwrap();
            }
            assert_eq!(objects(state_dir, &hubs), before, "step {step}");
            failed
        });
        assert!(steps >= 4, "{steps} steps");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_hub_that_cannot_be_made_leaves_nothing() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let (programs, before) = (programs(), objects(state_dir, &hubs));
        let spec = hub_spec(1);
        let steps = at_each_step(|step| {
            let (made, failed) = failing_at(step, || host.create_hub(&spec, &programs));
            if made.is_err() {
                assert!(failed, "{made:?}");
                assert_eq!(objects(state_dir, &hubs), before, "step {step}: {made:?}");
                host.create_hub(&spec, &programs).unwrap();
            }
            let swept = host.sweep(&hubs);
            assert!(swept.errors.is_empty(), "{swept:?}");
            assert_eq!(objects(state_dir, &hubs), before, "step {step}");
            failed
        });
        assert!(steps > 15, "{steps} steps");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_hub_that_cannot_be_mended_is_at_the_next_try() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let (programs, spec) = (programs(), hub_spec(0));
        let before = objects(state_dir, &hubs);
        let mut hub = hubs[0].clone();
        let steps = at_each_step(|step| {
            run_in(&hub.netns, "link del up0\n");
            namespace::detach(&state_dir.join("hubs/0")).unwrap();
            let (mended, failed) = failing_at(step, || host.mend_hub(&mut hub, &spec, &programs));
            assert!(failed || mended.is_ok(), "{mended:?}");
            host.mend_hub(&mut hub, &spec, &programs).unwrap();
            let again = host.mend_hub(&mut hub, &spec, &programs).unwrap();
            assert_eq!(again, [""; 0], "step {step}: {mended:?}");
            assert_eq!(objects(state_dir, &hubs), before, "step {step}");
            failed
        });
        assert!(steps > 15, "{steps} steps");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_that_cannot_be_mended_is_at_the_next_try() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let mut worker = host.worker(Arc::clone(&hubs));
        let spec = slot_spec(SLOT);
        let slot = worker.create_slot(&spec).unwrap();
        host.names().show(SLOT).unwrap();
        let before = objects(state_dir, &hubs);
        let steps = at_each_step(|step| {
            run_in(&hubs[0].netns, &format!("link del {}\n", slot_name(SLOT)));
            for directory in ["netns", "attached", "live"] {
                let path = state_dir.join(directory).join(slot_name(SLOT));
                namespace::unmount(&path).unwrap();
            }
            let (mended, failed) = failing_at(step, || worker.mend_slot(&spec, &slot.netns));
            assert!(failed || mended.is_ok(), "{mended:?}");
            worker.mend_slot(&spec, &slot.netns).unwrap();
            assert_eq!(objects(state_dir, &hubs), before, "step {step}: {mended:?}");
            failed
        });
        assert!(steps > 10, "{steps} steps");
    });
}
