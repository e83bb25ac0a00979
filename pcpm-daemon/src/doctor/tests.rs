//! The checks against hosts that never were.

use std::cell::RefCell;
use std::path::PathBuf;

use pcpm_api::types::{Check, CheckStatus};

use super::*;
use crate::config::{AddressMode, Config, Egress, Inner, UplinkSetting};

/// A host where everything is well; each test spoils one thing.
struct FakeHost {
    release: Fact<String>,
    missing: Vec<&'static str>,
    probed: RefCell<usize>,
    jit: Option<bool>,
    capabilities: u64,
    open_files: Limit,
    namespaces: Fact<u64>,
    ephemeral: PortRange,
    reserved: Vec<PortRange>,
    places: Vec<(PathBuf, Fact<Place>)>,
    bpf_file_system: bool,
    control_groups: Option<PathBuf>,
    lock: LockState,
    socket: SocketUse,
    uplinks: UplinkFacts,
    conflict: Fact<Option<String>>,
    conflict6: Option<String>,
    has_ipv6: bool,
    egress: Option<EgressFacts>,
}

fn good() -> FakeHost {
    FakeHost {
        release: Ok("6.12.4-arch1".to_owned()),
        missing: Vec::new(),
        probed: RefCell::new(0),
        jit: Some(true),
        capabilities: u64::MAX,
        open_files: Limit {
            soft: 1_024,
            hard: 20_000,
        },
        namespaces: Ok(10_000),
        ephemeral: PortRange {
            first: 32_768,
            last: 60_999,
        },
        reserved: Vec::new(),
        places: vec![
            ("/run/pcpm".into(), Ok(place("/run/pcpm", "tmpfs"))),
            ("/sys/fs/bpf/pcpm".into(), Ok(place("/sys/fs/bpf", "bpf"))),
        ],
        bpf_file_system: true,
        control_groups: Some("/sys/fs/cgroup".into()),
        lock: LockState::Free,
        socket: SocketUse::Free,
        uplinks: uplinks(&["eth0"], &[]),
        conflict: Ok(None),
        conflict6: None,
        has_ipv6: true,
        egress: None,
    }
}

fn uplinks(usable: &[&str], refused: &[&str]) -> UplinkFacts {
    let usable = usable.iter().map(|name| types::Uplink {
        interface: (*name).to_owned(),
        address: "192.0.2.7".to_owned(),
        address6: None,
        mtu: 1500,
    });
    UplinkFacts {
        usable: usable.collect(),
        refused: refused.iter().map(ToString::to_string).collect(),
    }
}

fn place(found: &str, file_system: &str) -> Place {
    let file_system = file_system.to_owned();
    Place {
        found: found.into(),
        file_system,
        writable: true,
        mode: 0o755,
    }
}

impl HostFacts for FakeHost {
    fn kernel_release(&self) -> Fact<String> {
        self.release.clone()
    }
    fn supports(&self, feature: Feature) -> Fact<bool> {
        *self.probed.borrow_mut() += 1;
        Ok(!self.missing.contains(&feature.name))
    }
    fn jit(&self) -> Option<bool> {
        self.jit
    }
    fn capabilities(&self) -> Fact<u64> {
        Ok(self.capabilities)
    }
    fn open_files(&self) -> Fact<Limit> {
        Ok(self.open_files)
    }
    fn most_net_namespaces(&self) -> Fact<u64> {
        self.namespaces.clone()
    }
    fn ephemeral_ports(&self) -> Fact<PortRange> {
        Ok(self.ephemeral)
    }
    fn reserved_ports(&self) -> Fact<Vec<PortRange>> {
        Ok(self.reserved.clone())
    }
    fn place(&self, path: &Path) -> Fact<Place> {
        let known = self.places.iter().find(|(known, _)| known == path);
        known.map_or_else(|| Ok(place("/", "ext4")), |(_, place)| place.clone())
    }
    fn has_file_system(&self, name: &str) -> Fact<bool> {
        Ok(name == "bpf" && self.bpf_file_system)
    }
    fn control_groups(&self) -> Fact<Option<PathBuf>> {
        Ok(self.control_groups.clone())
    }
    fn lock(&self, _: &Path) -> Fact<LockState> {
        Ok(self.lock.clone())
    }
    fn socket(&self, _: &Path) -> Fact<SocketUse> {
        Ok(self.socket.clone())
    }
    fn uplinks(&self) -> Fact<UplinkFacts> {
        Ok(self.uplinks.clone())
    }
    fn egress(&self) -> Option<EgressFacts> {
        self.egress.clone()
    }
    fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }
    fn conflict(&self) -> Fact<Option<String>> {
        self.conflict.clone()
    }

    fn conflict6(&self) -> Fact<Option<String>> {
        Ok(self.conflict6.clone())
    }
}

/// The one check that is not ok.
#[track_caller]
fn complaint(config: &Config, host: &FakeHost) -> Check {
    let mut bad = checks(config, host);
    bad.retain(|check| check.status != CheckStatus::Ok);
    assert_eq!(bad.len(), 1, "{bad:#?}");
    bad.remove(0)
}

#[track_caller]
fn assert_complaint(host: &FakeHost, status: CheckStatus, name: &str, words: &[&str]) {
    assert_complaint_with(&Config::default(), host, status, name, words);
}

#[track_caller]
fn assert_complaint_with(
    config: &Config,
    host: &FakeHost,
    status: CheckStatus,
    name: &str,
    words: &[&str],
) {
    let check = complaint(config, host);
    assert_eq!(
        (check.status, check.name.as_str()),
        (status, name),
        "{check:?}"
    );
    let text = format!("{} -> {}", check.detail, check.advice.unwrap());
    for word in words {
        assert!(text.contains(word), "no '{word}' in: {text}");
    }
}

#[test]
fn a_good_host_passes_every_check_without_advice() {
    for check in checks(&Config::default(), &good()) {
        assert_eq!(
            (check.status, check.advice.as_deref()),
            (CheckStatus::Ok, None),
            "{}",
            check.name
        );
    }
}

#[test]
fn names_are_words_of_kebab_case_and_no_two_are_the_same() {
    let checks = checks(&Config::default(), &good());
    let mut names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
    assert!(names.iter().all(|n| {
        n.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), checks.len());
}

#[test]
fn a_host_that_is_to_send_slots_packets_needs_nftables_and_forwarding() {
    let config = Config {
        egress: Egress::Host,
        ..Config::default()
    };
    let of = |table: Result<(), String>, forwards_ipv6| FakeHost {
        egress: Some(EgressFacts {
            table,
            forwards_ipv6,
        }),
        ..good()
    };
    let missing = of(Err("there is no program nft".to_owned()), true);
    let words = ["there is no program nft", "install nftables"];
    assert_complaint_with(&config, &missing, CheckStatus::Failed, "egress", &words);
    let words = ["IPv6", "net.ipv6.conf.all.forwarding=1", "accept_ra=2"];
    let old = of(Ok(()), false);
    assert_complaint_with(&config, &old, CheckStatus::Warning, "egress", &words);
    assert_eq!(failures(&checks(&config, &of(Ok(()), true))), [""; 0]);
}

#[test]
fn an_old_kernel_fails_and_an_unreadable_version_is_warned_of() {
    for (release, status) in [
        ("4.19.0-27-amd64", CheckStatus::Failed),
        ("5.15.0", CheckStatus::Failed),
        ("6.5.13-1", CheckStatus::Failed),
        ("what", CheckStatus::Warning),
    ] {
        let host = FakeHost {
            release: Ok(release.to_owned()),
            ..good()
        };
        assert_complaint(&host, status, "kernel-version", &[release]);
    }
    for release in ["6.6.0", "6.18.44-fc", "7.0-rc1"] {
        let host = FakeHost {
            release: Ok(release.to_owned()),
            ..good()
        };
        assert_eq!(
            failures(&checks(&Config::default(), &host)),
            [""; 0],
            "{release}"
        );
    }
}

#[test]
fn missing_capabilities_are_named_and_nothing_is_probed_without_them() {
    let host = FakeHost {
        capabilities: 1 << 12,
        ..good()
    };
    let failures = failures(&checks(&Config::default(), &host));
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].starts_with("privileges: CAP_SYS_ADMIN missing"),
        "{failures:?}"
    );
    assert_eq!(*host.probed.borrow(), 0);
}

#[test]
fn missing_parts_of_bpf_are_named() {
    let host = FakeHost {
        missing: vec!["bpf_redirect_peer", "BPF_MAP_TYPE_LRU_HASH"],
        ..good()
    };
    let words = ["missing: BPF_MAP_TYPE_LRU_HASH, bpf_redirect_peer"];
    assert_complaint(&host, CheckStatus::Failed, "bpf-features", &words);
}

#[test]
fn an_interpreter_is_warned_of() {
    let host = FakeHost {
        jit: Some(false),
        ..good()
    };
    assert_complaint(
        &host,
        CheckStatus::Warning,
        "bpf-jit",
        &["net.core.bpf_jit_enable=1"],
    );
}

#[test]
fn a_host_without_unified_control_groups_is_warned_of() {
    let host = FakeHost {
        control_groups: None,
        ..good()
    };
    let words = ["do not reach published ports", "mount -t cgroup2"];
    assert_complaint(&host, CheckStatus::Warning, "control-groups", &words);
}

#[test]
fn a_bpf_file_system_is_there_or_can_be_mounted() {
    let unmounted = || {
        vec![
            ("/run/pcpm".into(), Ok(place("/run/pcpm", "tmpfs"))),
            ("/sys/fs/bpf/pcpm".into(), Ok(place("/sys/fs/bpf", "sysfs"))),
        ]
    };
    let mountable = FakeHost {
        places: unmounted(),
        ..good()
    };
    assert_eq!(failures(&checks(&Config::default(), &mountable)), [""; 0]);
    let host = FakeHost {
        bpf_file_system: false,
        ..mountable
    };
    assert_complaint(
        &host,
        CheckStatus::Failed,
        "bpffs",
        &["no bpf file system", "CONFIG_BPF_SYSCALL"],
    );
}

#[test]
fn a_limit_of_open_files_below_the_need_fails_with_the_numbers() {
    let mut config = Config {
        capacity: 1_000,
        ..Config::default()
    };
    config.api.max_clients = 500;
    let enough = FakeHost {
        open_files: Limit {
            soft: 10,
            hard: 6_852,
        },
        ..good()
    };
    assert_eq!(failures(&checks(&config, &enough)), [""; 0]);
    let host = FakeHost {
        open_files: Limit {
            soft: 10,
            hard: 2_755,
        },
        ..good()
    };
    let words = [
        "2756 needed",
        "1000 slots",
        "500 clients",
        "up to 2755",
        "LimitNOFILE=7852",
    ];
    assert_complaint_with(&config, &host, CheckStatus::Failed, "open-files", &words);
    let few_ports = FakeHost {
        open_files: Limit {
            soft: 10,
            hard: 2_856,
        },
        ..good()
    };
    let words = [
        "up to 2856",
        "room for 100 published ports and leases of processes",
        "7852",
    ];
    assert_complaint_with(
        &config,
        &few_ports,
        CheckStatus::Warning,
        "open-files",
        &words,
    );
}

#[test]
fn too_few_network_namespaces_fail_with_the_numbers() {
    let host = FakeHost {
        namespaces: Ok(63),
        ..good()
    };
    let words = ["64 slots", "up to 63", "user.max_net_namespaces="];
    assert_complaint(&host, CheckStatus::Failed, "net-namespaces", &words);
}

#[test]
fn an_overlap_names_the_other_side() {
    let conflict = Ok(Some("route 10.213.4.0/24 dev docker0".to_owned()));
    let host = FakeHost { conflict, ..good() };
    let words = [
        "10.213.0.0/16 overlaps route 10.213.4.0/24 dev docker0",
        "--pool-cidr",
    ];
    assert_complaint(&host, CheckStatus::Failed, "pool-cidr", &words);
}

#[test]
fn a_pool_of_public_addresses_is_warned_of() {
    let config = Config {
        pool_cidr: "8.8.0.0/16".parse().unwrap(),
        ..Config::default()
    };
    let words = ["8.8.0.0/16", "public internet"];
    assert_complaint_with(&config, &good(), CheckStatus::Warning, "pool-cidr", &words);
}

#[test]
fn a_host_without_a_way_out_is_warned_of_unless_one_was_named() {
    let host = FakeHost {
        uplinks: UplinkFacts::default(),
        ..good()
    };
    let words = ["slots reach each other and the host only"];
    assert_complaint(&host, CheckStatus::Warning, "uplink", &words);

    let named = Config {
        uplink: UplinkSetting::Interfaces(vec!["wan0".to_owned()]),
        ..Config::default()
    };
    let host = FakeHost {
        uplinks: uplinks(&[], &["use wan0 as uplink: there is no such interface"]),
        ..good()
    };
    let words = ["use wan0 as uplink: there is no such interface"];
    assert_complaint_with(&named, &host, CheckStatus::Failed, "uplink", &words);
    assert_complaint(&host, CheckStatus::Warning, "uplink", &words);
}

#[test]
fn one_usable_uplink_is_enough_and_the_others_are_warned_of() {
    let host = FakeHost {
        uplinks: uplinks(
            &["eth0"],
            &["use tun0 as uplink: it is not an Ethernet interface"],
        ),
        ..good()
    };
    let words = ["eth0 192.0.2.7", "tun0"];
    assert_complaint(&host, CheckStatus::Warning, "uplink", &words);
}

#[test]
fn ports_that_the_host_may_take_fail_unless_they_are_reserved() {
    let range = |first, last| PortRange { first, last };
    let host = FakeHost {
        ephemeral: range(32_767, 60_999),
        ..good()
    };
    let words = [
        "16384-32767 overlaps 32767-60999",
        "ip_local_reserved_ports=16384-32767",
    ];
    assert_complaint(&host, CheckStatus::Failed, "nat-ports", &words);

    let reserved = vec![range(16_384, 20_000), range(20_001, 32_767)];
    let host = FakeHost {
        ephemeral: range(1_024, 65_535),
        reserved,
        ..good()
    };
    assert_eq!(failures(&checks(&Config::default(), &host)), [""; 0]);
    let host = FakeHost {
        reserved: vec![range(16_384, 32_766)],
        ..host
    };
    assert_complaint(&host, CheckStatus::Failed, "nat-ports", &words[1..]);
}

#[test]
fn the_state_directory_must_be_ours_alone_and_should_be_on_a_tmpfs() {
    let with = |state: Place| FakeHost {
        places: vec![
            ("/run/pcpm".into(), Ok(state)),
            ("/sys/fs/bpf/pcpm".into(), Ok(place("/sys/fs/bpf", "bpf"))),
        ],
        ..good()
    };
    let name = "state-directory";
    let host = with(Place {
        writable: false,
        ..place("/run", "tmpfs")
    });
    assert_complaint(&host, CheckStatus::Failed, name, &["/run is not writable"]);
    let host = with(Place {
        mode: 0o777,
        ..place("/run/pcpm", "tmpfs")
    });
    assert_complaint(
        &host,
        CheckStatus::Failed,
        name,
        &["mode 0777", "chmod 755 /run/pcpm"],
    );
    let host = with(place("/run/pcpm", "ext4"));
    assert_complaint(&host, CheckStatus::Warning, name, &["on ext4"]);
    let to_be_made = with(Place {
        mode: 0o1777,
        ..place("/run", "tmpfs")
    });
    assert_eq!(failures(&checks(&Config::default(), &to_be_made)), [""; 0]);
}

#[test]
fn another_daemon_is_named() {
    let holder = Holder {
        pid: Some(1234),
        command: Some("pcpmd".to_owned()),
    };
    let host = FakeHost {
        lock: LockState::Held(holder),
        ..good()
    };
    let words = ["state directory /run/pcpm is in use by pcpmd (pid 1234)"];
    assert_complaint(&host, CheckStatus::Failed, "state-lock", &words);
}

#[test]
fn a_socket_in_use_fails_and_a_stale_one_does_not() {
    let holder = Holder {
        pid: Some(7),
        command: Some("nginx".to_owned()),
    };
    let host = FakeHost {
        socket: SocketUse::Served(holder),
        ..good()
    };
    let words = ["/run/pcpm/pcpm.sock is served by nginx (pid 7)", "--socket"];
    assert_complaint(&host, CheckStatus::Failed, "socket", &words);
    let host = FakeHost {
        socket: SocketUse::NotASocket,
        ..good()
    };
    assert_complaint(&host, CheckStatus::Failed, "socket", &["not a socket"]);
    let host = FakeHost {
        socket: SocketUse::Stale,
        ..good()
    };
    assert_eq!(failures(&checks(&Config::default(), &host)), [""; 0]);
}

#[test]
fn a_socket_needs_its_directory_unless_it_is_the_state_directory() {
    let config = Config {
        socket: "/srv/pcpm/sock".into(),
        ..Config::default()
    };
    let words = ["no directory /srv/pcpm", "mkdir -p /srv/pcpm"];
    assert_complaint_with(&config, &good(), CheckStatus::Failed, "socket", &words);
}

#[test]
fn a_running_daemon_does_not_complain_of_itself() {
    let host = FakeHost {
        lock: LockState::Own,
        socket: SocketUse::Own,
        ..good()
    };
    assert_eq!(failures(&checks(&Config::default(), &host)), [""; 0]);
}

#[test]
fn what_cannot_be_found_out_is_a_warning() {
    let host = FakeHost {
        namespaces: Err("read x: permission denied".to_owned()),
        ..good()
    };
    assert_complaint(
        &host,
        CheckStatus::Warning,
        "net-namespaces",
        &["permission denied"],
    );
}

#[test]
fn the_report_has_a_line_for_each_check_and_the_advice_below() {
    let host = FakeHost {
        uplinks: UplinkFacts::default(),
        ..good()
    };
    let checks = checks(&Config::default(), &host);
    let report = report(&checks);
    assert_eq!(report.lines().count(), checks.len() + 1);
    let lines: Vec<_> = report.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("warning  uplink "))
        .unwrap();
    assert!(
        lines[at + 1]
            .trim_start()
            .starts_with("-> add a default route"),
        "{report}"
    );
}

#[test]
fn a_route_in_the_way_of_ipv6_slots_is_warned_of() {
    let host = FakeHost {
        conflict6: Some("route fd00:7063:706d::/48 on eth1".to_owned()),
        ..good()
    };
    let words = [
        "fd00:7063:706d::/64",
        "overlaps route fd00:7063:706d::/48 on eth1",
    ];
    assert_complaint(&host, CheckStatus::Warning, "pool-cidr6", &words);
}

#[test]
fn an_inner_address_that_an_uplink_has_is_refused() {
    let clone = |v4: [u8; 4]| {
        let v6 = "fd00::2".parse().unwrap();
        let inner = Inner { v4: v4.into(), v6 };
        Config {
            address_mode: AddressMode::Clone(inner),
            ..Config::default()
        }
    };
    let found = checks(&clone([10, 0, 0, 2]), &good());
    assert_eq!(failures(&found), [""; 0]);
    let words = ["192.0.2.7 is the address of eth0", "clone.inner"];
    let (config, failed) = (clone([192, 0, 2, 7]), CheckStatus::Failed);
    assert_complaint_with(&config, &good(), failed, "inner-addresses", &words);
}
