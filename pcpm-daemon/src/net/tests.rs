//! The real thing, in a private network and mount namespace for each test. Needs root.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::programs::SchedClassifier;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pcpm_ebpf::abi::{LINK_INDEX_BASE, names};

use super::link::{self, End};
use super::netlink::{Batch, Netlink};
use super::tables::Tables;
use super::*;

const SOON: Duration = Duration::from_mins(1);

/// Runs a test in a thread with namespaces of its own, which die with it.
pub(super) fn in_private_world(test: impl FnOnce(&Path) + Send) {
    let state_dir = tempfile::tempdir().unwrap();
    namespace::in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(
            none,
            state_dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        test(state_dir.path());
    });
}

/// The programs that the daemon ships.
pub(super) fn programs() -> Programs {
    let object = aya::include_bytes_aligned!("../../../pcpm-ebpf/prebuilt/steer.o");
    let mut object = aya::Ebpf::load(object).unwrap();
    let mut load = |name: &str| -> Program {
        let program = object.program_mut(name).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.load().unwrap();
        let fd = program.fd().unwrap();
        Program {
            fd: fd.as_fd().try_clone_to_owned().unwrap(),
            id: program.info().unwrap().id(),
        }
    };
    Programs {
        from_slot: load(names::FROM_SLOT),
        from_host: load(names::FROM_HOST),
        from_hub: load(names::FROM_HUB),
        to_hub: load(names::TO_HUB),
    }
}

pub(super) fn hub_spec(number: u32) -> HubSpec {
    HubSpec {
        number,
        mtu: 1400,
        share: format!("10.213.{}.0/23", 2 * number).parse().unwrap(),
        share6: format!("fd00:7063:706d::{:x}00/119", 2 * number)
            .parse()
            .ok(),
    }
}

pub(super) fn slot_spec(index: u32) -> SlotSpec {
    SlotSpec {
        index,
        address: Ipv4Addr::from_bits(0x0ad5_0000 + index),
        address6: format!("fd00:7063:706d::{index:x}").parse().ok(),
        mac: pcpm_ebpf::abi::slot_mac(index),
        mtu: 1400,
        share: Share::default(),
    }
}

/// A slot with all namespaces that there may be.
pub(super) fn sharing_spec(index: u32) -> SlotSpec {
    SlotSpec {
        share: share::everything(),
        ..slot_spec(index)
    }
}

/// A host with `hubs` hubs.
pub(super) fn host_with(state_dir: &Path, hubs: u32) -> (Host, Arc<[Hub]>) {
    host_that_mounts(HostMounts::Attached, state_dir, hubs)
}

fn host_that_mounts(which: HostMounts, state_dir: &Path, hubs: u32) -> (Host, Arc<[Hub]>) {
    let mut host = Host::open(state_dir).unwrap();
    host.prepare(Some(which), share::everything()).unwrap();
    let programs = programs();
    let hubs = (0..hubs).map(|number| host.create_hub(&hub_spec(number), &programs).unwrap());
    let hubs = hubs.collect();
    (host, hubs)
}

/// What a look around shows.
pub(super) fn look(state_dir: &Path) -> (Tables, String) {
    let mut socket = Netlink::open().unwrap();
    let tables = Tables::read(&mut socket, &mark(state_dir)).unwrap();
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    (tables, mounts)
}

pub(super) fn look_into(netns: &OwnedFd, state_dir: &Path) -> Tables {
    namespace::in_thread(|| {
        namespace::enter(netns).unwrap();
        look(state_dir).0
    })
}

fn sysctl_in(netns: &OwnedFd, name: &str) -> String {
    let value = namespace::in_thread(|| {
        namespace::enter(netns).unwrap();
        fs::read_to_string(Path::new("/proc/sys/net").join(name))
    });
    value.unwrap().trim().to_owned()
}

fn ipv6_addresses_in(netns: &OwnedFd) -> String {
    namespace::in_thread(|| {
        namespace::enter(netns).unwrap();
        fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap()
    })
}

fn own_namespace() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").unwrap()
}

fn retired(index: u32, netns: OwnedFd) -> RetiredSlot {
    RetiredSlot {
        index,
        netns: Some(netns),
    }
}

/// Makes a link pair that is not ours in the caller's namespace.
fn make_foreign_pair(name: &str, index: u32) {
    let near = End {
        name,
        index,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        ..End::default()
    };
    let far = End {
        name: "foreign",
        mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        ..End::default()
    };
    let here = namespace::current().unwrap();
    let mut batch = Batch::default();
    let pair = link::create_pair(&near, &far, here.as_fd());
    batch.add("make a foreign link", link::CREATE, pair);
    Netlink::open().unwrap().run(batch).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_is_configured_as_ordered() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let mut worker = host.worker(hubs);
        let slot = worker.create_slot(&slot_spec(7)).unwrap();
        let inside = look_into(&slot.netns, state_dir);
        let links: Vec<_> = inside
            .links
            .iter()
            .map(|l| (l.name.as_str(), l.mtu))
            .collect();
        assert_eq!(links[1..], [("eth0", 1400)]);
        let eth0 = inside.addresses.iter().find(|address| address.is_primary);
        assert_eq!(eth0.unwrap().network.to_string(), "10.213.0.7/32");
        assert!(inside.routes[0].is_default() && inside.routes[0].is_main());
        let low_ports = sysctl_in(&slot.netns, "ipv4/ip_unprivileged_port_start");
        assert_eq!(low_ports, "0");
        let pingers = sysctl_in(&slot.netns, "ipv4/ping_group_range");
        assert_eq!(pingers, "0\t2147483647");
        // Its own and ::1, and none that the kernel made up.
        let addresses = ipv6_addresses_in(&slot.netns);
        assert!(
            addresses.contains("fd007063706d00000000000000000007"),
            "{addresses}"
        );
        assert_eq!(addresses.lines().count(), 2, "{addresses}");
        let ipv4_only = SlotSpec {
            address6: None,
            ..slot_spec(8)
        };
        let slot = worker.create_slot(&ipv4_only).unwrap();
        assert_eq!(sysctl_in(&slot.netns, "ipv6/conf/eth0/disable_ipv6"), "1");
        assert_eq!(ipv6_addresses_in(&slot.netns), "");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_worker_comes_home_from_every_slot() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let home = own_namespace();
        let mut worker = host.worker(hubs);
        worker.create_slot(&slot_spec(0)).unwrap();
        assert_eq!(own_namespace(), home);
        worker.create_slot(&slot_spec(0)).unwrap_err();
        assert_eq!(own_namespace(), home);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_destroyed_slots_index_is_free_while_its_namespace_is_held() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 2);
        let mut worker = host.worker(hubs);
        let indexes = [3, 4, 600];
        let mut create = |index| worker.create_slot(&slot_spec(index)).unwrap().netns;
        let slots: Vec<_> = indexes.map(|index| (index, create(index))).into();
        let held: Vec<_> = slots
            .iter()
            .map(|(_, fd)| fd.try_clone().unwrap())
            .collect();
        let slots = slots.into_iter().map(|(index, fd)| retired(index, fd));
        for (index, outcome) in worker.destroy_slots(slots.collect()) {
            outcome.unwrap();
            worker.create_slot(&slot_spec(index)).unwrap();
        }
        for netns in held {
            let left = look_into(&netns, state_dir);
            assert_eq!(left.link_named("eth0"), None);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn destroying_what_is_gone_already_succeeds() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let gone = RetiredSlot {
            index: 9,
            netns: None,
        };
        let outcomes = host.worker(hubs).destroy_slots(vec![gone]);
        assert!(matches!(outcomes[..], [(9, Ok(()))]), "{outcomes:?}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_failed_creation_names_its_step_and_leaves_nothing() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        namespace::in_thread(|| {
            namespace::enter(&hubs[0].netns).unwrap();
            make_foreign_pair("s0005", LINK_INDEX_BASE + 5);
        });
        let before = look(state_dir);
        let hub_before = look_into(&hubs[0].netns, state_dir);
        let mut worker = host.worker(Arc::clone(&hubs));
        let error = worker.create_slot(&slot_spec(5)).unwrap_err();
        let told = error.to_string();
        assert!(
            told.starts_with("create veth s0005 in hub 0: EEXIST"),
            "{told}"
        );
        assert!(error.also.is_empty(), "{told}");
        assert!(!slot_path(state_dir, 5).exists());
        assert_eq!(look(state_dir), before);
        assert_eq!(look_into(&hubs[0].netns, state_dir), hub_before);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_hub_whose_name_is_taken_is_refused_and_the_other_link_stays() {
    in_private_world(|state_dir| {
        make_foreign_pair("pcpm0", 0);
        let mut host = Host::open(state_dir).unwrap();
        host.prepare(None, Share::default()).unwrap();
        let before = look(state_dir);
        let refused = host.create_hub(&hub_spec(0), &programs());
        let told = refused.unwrap_err().to_string();
        assert!(told.contains("pcpm0"), "{told}");
        assert!(told.contains("not ours"), "{told}");
        assert_eq!(look(state_dir), before);
        let removed = host.remove_everything(SOON);
        assert!(removed.errors.is_empty(), "{removed:?}");
        assert_eq!(look(state_dir).0, before.0);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn removing_everything_leaves_the_host_as_it_was() {
    in_private_world(|state_dir| {
        let before = look(state_dir);
        let (mut host, hubs) = host_with(state_dir, 2);
        let mut worker = host.worker(hubs);
        let slots = [0, 1, 512].map(|index| worker.create_slot(&slot_spec(index)).unwrap());
        assert_ne!(look(state_dir), before);
        let removed = host.remove_everything(SOON);
        assert!(removed.errors.is_empty(), "{removed:?}");
        assert_eq!(look(state_dir), before);
        assert_eq!(fs::read_dir(state_dir).unwrap().count(), 0);
        drop(slots);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_is_mounted_in_the_host_once_and_shared_wherever_the_state_directory_is() {
    for (which, directory) in [
        (HostMounts::Attached, "attached"),
        (HostMounts::All, "netns"),
    ] {
        for sharing in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
            in_private_world(|state_dir| {
                let none = None::<&str>;
                mount(none, state_dir, none, sharing, none).unwrap();
                let (mut host, hubs) = host_that_mounts(which, state_dir, 1);
                host.worker(hubs).create_slot(&slot_spec(1)).unwrap();
                host.names().show(1).unwrap();
                let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                let path = format!(" {}/s0001 ", state_dir.join(directory).display());
                let here = mounts.lines().filter(|line| line.contains("/s0001 "));
                let here: Vec<_> = here.collect();
                assert_eq!(here.len(), 1, "{which:?}, {sharing:?}: {here:?}");
                assert!(
                    here[0].contains(" shared:") && here[0].contains(&path),
                    "{which:?}, {sharing:?}: {here:?}"
                );
            });
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_name_leads_to_the_slot_ready_or_shown_and_adds_no_mount_before() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let (_, before) = look(state_dir);
        let slot = host.worker(hubs).create_slot(&slot_spec(1)).unwrap();
        let name = slot_path(state_dir, 1);
        assert_eq!(look(state_dir).1, before);
        assert!(namespace::is_mounted(&slot.netns, &name));
        let mut names = host.names();
        names.show(1).unwrap();
        names.show(1).unwrap();
        assert!(namespace::is_mounted(&slot.netns, &name));
        assert!(namespace::is_mounted(
            &slot.netns,
            &state_dir.join("attached/s0001")
        ));
        // Of a slot that is gone nothing is shown.
        names.show(2).unwrap();
        assert!(slot_path(state_dir, 2).symlink_metadata().is_err());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn slots_outlive_who_made_them_and_no_other_mount_namespace_has_them() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let slot = host.worker(hubs).create_slot(&slot_spec(1)).unwrap();
        let identity = nix::sys::stat::fstat(&slot.netns).unwrap().st_ino;
        drop((host, slot));
        let found = |mut host: Host| {
            host.prepare(None, Share::default()).unwrap();
            let HubState::Sound(found) = host.survey(&[0]).pop().unwrap() else {
                panic!("no hub");
            };
            let netns = found.slots.into_iter().next()?.netns?;
            Some(nix::sys::stat::fstat(netns).unwrap().st_ino)
        };
        assert_eq!(found(Host::open(state_dir).unwrap()), Some(identity));
        // What starts a container copies everything but the one mount that keeps them.
        let copied = namespace::in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            fs::read_to_string("/proc/thread-self/mounts").unwrap()
        });
        assert!(!copied.contains("mounts/slots"), "{copied}");
        assert!(look(state_dir).1.contains("mounts/slots"));
        assert_eq!(found(Host::open(state_dir).unwrap()), Some(identity));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_of_a_life_that_mounted_elsewhere_is_doubted_and_can_be_mended() {
    let both = [HostMounts::All, HostMounts::Attached];
    for (before, now) in [(both[0], both[1]), (both[1], both[0])] {
        in_private_world(|state_dir| {
            let (mut host, hubs) = host_that_mounts(before, state_dir, 1);
            host.worker(hubs).create_slot(&slot_spec(1)).unwrap();
            host.names().show(1).unwrap();
            drop(host);
            let mut host = Host::open(state_dir).unwrap();
            host.prepare(Some(now), Share::default()).unwrap();
            let HubState::Sound(found) = host.survey(&[0]).pop().unwrap() else {
                panic!("no hub");
            };
            let slot = found.slots.into_iter().next().unwrap();
            let told = slot.doubt.unwrap();
            assert!(told.contains("not where it should be"), "{told}");
            let netns = slot.netns.unwrap();
            let mut worker = host.worker([found.hub].into());
            worker.mend_slot(&slot_spec(1), &netns).unwrap();
            assert_eq!(doubts(host.survey(&[0]).pop().unwrap()), [(1, None)]);
            assert!(namespace::is_mounted(&netns, &slot_path(state_dir, 1)));
            let retired = RetiredSlot {
                index: 1,
                netns: Some(netns),
            };
            worker.destroy_slots(vec![retired])[0].1.clone().unwrap();
            let swept = host.remove_everything(SOON);
            assert!(swept.errors.is_empty(), "{swept:?}");
            assert_eq!(fs::read_dir(state_dir).unwrap().count(), 0);
        });
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_sweep_removes_what_a_killed_daemon_left_and_only_that() {
    in_private_world(|state_dir| {
        make_foreign_pair("pcpm9", 0);
        let before = look(state_dir);
        let (mut host, hubs) = host_with(state_dir, 2);
        host.worker(hubs).create_slot(&slot_spec(513)).unwrap();
        drop(host);
        let swept = Host::open(state_dir).unwrap().remove_everything(SOON);
        assert!(swept.errors.is_empty(), "{swept:?}");
        assert_eq!((swept.links, swept.mounts), (2, 3));
        assert_eq!(look(state_dir), before);
    });
}

/// The slots that were found, with what is wrong with them.
fn doubts(state: HubState) -> Vec<(u32, Option<String>)> {
    let HubState::Sound(found) = state else {
        panic!("{state:?}");
    };
    let slots = found.slots.into_iter();
    let mut doubts: Vec<_> = slots.map(|slot| (slot.index, slot.doubt)).collect();
    doubts.sort();
    doubts
}

pub(super) fn run_in(netns: &OwnedFd, commands: &str) {
    namespace::in_thread(|| {
        namespace::enter(netns).unwrap();
        let mut ip = std::process::Command::new("ip")
            .args(["-batch", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut ip.stdin.take().unwrap(), commands.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success(), "{commands}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn slots_that_are_as_they_were_made_are_found_without_a_doubt() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 2);
        let mut worker = host.worker(hubs);
        for index in [0, 3, 512] {
            worker.create_slot(&slot_spec(index)).unwrap();
        }
        let mut host = Host::open(state_dir).unwrap();
        host.prepare(None, Share::default()).unwrap();
        let mut states = host.survey(&[0, 1, 2]).into_iter();
        assert_eq!(doubts(states.next().unwrap()), [(0, None), (3, None)]);
        assert_eq!(doubts(states.next().unwrap()), [(512, None)]);
        assert!(matches!(states.next(), Some(HubState::Missing)));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_that_is_not_as_it_was_made_is_doubted_with_the_reason() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let mut worker = host.worker(Arc::clone(&hubs));
        // The kernel removes the link of a namespace that nobody holds, some time.
        let indexes = [0, 1, 2, 3, 4, 5, 6, 7];
        let held = indexes.map(|index| worker.create_slot(&slot_spec(index)).unwrap());
        let path = |index| slot_path(state_dir, index);
        host.names().show(4).unwrap();
        run_in(
            &hubs[0].netns,
            "link set s0001 down\nlink del s0002\nlink set s0003 address 02:00:00:00:00:09\n",
        );
        namespace::detach(&state_dir.join("attached/s0004")).unwrap();
        fs::remove_file(path(5)).unwrap();
        fs::remove_file(state_dir.join("live/s0006")).unwrap();
        fs::remove_file(state_dir.join("live/s0007")).unwrap();
        fs::remove_file(path(7)).unwrap();
        let state = host.survey(&[0]).pop().unwrap();
        let told = |reason: &str| Some(reason.to_owned());
        let expected = [
            (0, None),
            (1, told("its link is down")),
            (2, told("its link is gone")),
            (3, told("its link has another hardware address")),
            (4, told("its namespace is not mounted in the host")),
            (5, told("its name leads elsewhere")),
            (6, told("its namespace is not mounted")),
            (7, told("it has a link and no mount")),
        ];
        assert_eq!(doubts(state), expected);
        drop(held);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_hub_without_its_link_or_mount_gets_them_back() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 3);
        let before = look(state_dir).0.links.len();
        run_in(&hubs[0].netns, "link del up0\n");
        run_in(&host.home_netns(), "link set pcpm1 alias other name mine\n");
        namespace::detach(&state_dir.join("hubs/2")).unwrap();
        let expected = [
            "make its link to the host",
            "rename mine to pcpm1",
            "mount its namespace",
        ];
        let states = host.survey(&[0, 1, 2]).into_iter();
        for ((state, made), told) in states.zip(&*hubs).zip(expected) {
            let mut hub = match state {
                HubState::Sound(found) => found.hub,
                HubState::Broken(reason) => {
                    assert_eq!(reason, "its namespace is not mounted");
                    made.clone()
                }
                HubState::Missing => panic!("hub {} is missing", made.number),
            };
            let spec = hub_spec(hub.number);
            let mended = host.mend_hub(&mut hub, &spec, &programs()).unwrap();
            assert_eq!(mended[0], told);
            let mended = host.mend_hub(&mut hub, &spec, &programs()).unwrap();
            assert_eq!(mended, [""; 0], "hub {}", hub.number);
        }
        assert_eq!(look(state_dir).0.links.len(), before);
        let sound = |state| matches!(state, HubState::Sound(_));
        assert!(host.survey(&[0, 1, 2]).into_iter().all(sound));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_hub_lost_is_given_back_and_named() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 1);
        let (mut hub, spec, programs) = (hubs[0].clone(), hub_spec(0), programs());
        assert_eq!(host.mend_hub(&mut hub, &spec, &programs).unwrap(), [""; 0]);
        let before = look(state_dir);
        run_in(
            &host.home_netns(),
            "addr del 169.254.1.1/32 dev pcpm0\nlink set pcpm0 mtu 1300\n",
        );
        run_in(&hub.netns, "link set up0 down\n");
        let mended = host.mend_hub(&mut hub, &spec, &programs).unwrap();
        let expected = [
            "set up up0",
            "set the MTU of pcpm0 to 1400",
            "add the gateway's address to pcpm0",
            "add a neighbour entry to pcpm0",
            "add route 10.213.0.0/23 via pcpm0",
        ];
        assert_eq!(mended, expected);
        let sorted = |mut tables: Tables| {
            tables
                .addresses
                .sort_by_key(|address| address.network.addr());
            tables
        };
        assert_eq!(sorted(look(state_dir).0), sorted(before.0));
        assert_eq!(host.mend_hub(&mut hub, &spec, &programs).unwrap(), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_sweep_spares_the_hubs_that_are_gone_on_with() {
    in_private_world(|state_dir| {
        let (mut host, hubs) = host_with(state_dir, 2);
        let mut worker = host.worker(Arc::clone(&hubs));
        for index in [7, 600] {
            worker.create_slot(&slot_spec(index)).unwrap();
        }
        let swept = host.sweep(&hubs[..1]);
        assert!(swept.errors.is_empty(), "{swept:?}");
        assert_eq!((swept.links, swept.mounts), (1, 2));
        let mut states = host.survey(&[0, 1]).into_iter();
        assert_eq!(doubts(states.next().unwrap()), [(7, None)]);
        assert!(matches!(states.next(), Some(HubState::Missing)));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn our_own_routes_are_not_in_the_way_of_the_pool() {
    in_private_world(|state_dir| {
        let (mut host, _hubs) = host_with(state_dir, 1);
        let pool = "10.213.0.0/16".parse().unwrap();
        assert_eq!(host.conflict(pool).unwrap(), None);
        let mut other = Host::open(Path::new("/elsewhere")).unwrap();
        let conflict = other.conflict(pool).unwrap().unwrap();
        assert_eq!(conflict.0, "address 169.254.1.1/32 on pcpm0");
    });
}

/// The limit on network namespaces counts for each user namespace, so a test that may not change the machine's
/// makes one of its own. No programs can be loaded there: the hub is a bare namespace.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_a_namespace_to_be_had_a_slot_fails_and_leaves_nothing() {
    const INSIDE: &str = "PCPM_TEST_IN_USER_NAMESPACE";
    const LIMIT: &str = "/proc/sys/user/max_net_namespaces";
    if std::env::var_os(INSIDE).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "net::tests::without_a_namespace_to_be_had_a_slot_fails_and_leaves_nothing";
        let output = std::process::Command::new("unshare")
            .args(["-U", "-r", "-n", "-m", "-p", "-f", "--mount-proc"])
            .arg(this)
            .args(["--ignored", "--exact", name])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let state_dir = tempfile::tempdir().unwrap();
    let mut host = Host::open(state_dir.path()).unwrap();
    fs::create_dir(state_dir.path().join("netns")).unwrap();
    let netns = namespace::in_thread(|| {
        namespace::enter_new().unwrap();
        namespace::current().unwrap()
    });
    let hub = Hub {
        number: 0,
        host_ifindex: 0,
        netns: Arc::new(netns),
    };
    let mut worker = host.worker(Arc::new([hub]));
    fs::write(LIMIT, "1").unwrap();
    let failure = worker.create_slot(&slot_spec(0)).unwrap_err();
    assert_eq!(failure.errno, Some(Errno::ENOSPC), "{failure}");
    assert!(failure.to_string().contains("create a network namespace"));
    fs::write(LIMIT, "100").unwrap();
    // Now there is one, in which a user namespace may not do all that a slot wants.
    let failure = worker.create_slot(&slot_spec(0)).unwrap_err();
    assert_eq!(failure.errno, Some(Errno::EINVAL), "{failure}");
    let left = namespace::files_below(&state_dir.path().join("netns"));
    assert!(left.is_empty(), "{left:?}");
}
