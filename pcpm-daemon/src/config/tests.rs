//! The settings as an operator meets them: what is accepted, what is refused and with which words.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use clap::Parser;
use proptest::{prelude::*, sample};

use pcpm_api::types::{AttachRequest, SharedNamespace, TargetMode};

use super::validate::{DEFAULT_INNER, whole_hubs};
use super::*;
use crate::pool::{Adaptive, Quota};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::from_layer(Layer::parse(text, Path::new("pcpmd.toml"))?)
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn from_options(options: &[&str]) -> Result<Config, ConfigError> {
    let args = Args::try_parse_from(["pcpmd"].iter().chain(options)).unwrap();
    Config::from_layer(args.layer())
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn the_sample_file_is_what_print_config_prints_for_the_defaults() {
    let sample = include_str!("../../../contrib/pcpmd.toml");
    assert_eq!(
        sample,
        Config::default().to_toml(),
        "update contrib/pcpmd.toml"
    );
}

#[test]
fn every_key_is_described_in_the_documentation() {
    let documentation = include_str!("../../../docs/configuration.md");
    for line in Config::default().to_toml().lines() {
        let assignment = line.trim_start_matches('#');
        if let Some((key, value)) = assignment
            .split_once(" = ")
            .filter(|_| !line.starts_with("# "))
        {
            // Keys of different tables may have the same name.
            let mut rows = documentation
                .lines()
                .filter(|l| l.starts_with(&format!("| `{key}` |")));
            let default = format!("`{}`", value.trim_matches('"'));
            assert!(
                rows.any(|row| row.contains(&default)),
                "docs/configuration.md has no row for {key} with the default {default}"
            );
        }
    }
}

#[test]
fn options_override_the_file_which_overrides_the_defaults() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "capacity = 10\nready = 5\n[refill]\nworkers = 3\n").unwrap();
    let path = file.path().to_str().unwrap();
    let args = Args::parse_from(["pcpmd", "--config", path, "--ready", "7"]);
    let config = Config::load(&args).unwrap();
    assert_eq!((config.capacity, config.ready, config.workers), (10, 7, 3));
    assert_eq!(config.nat, Config::default().nat);
}

#[test]
fn roles_and_quotas_are_read() {
    let text = r#"
        [access]
        group = "pcpm"
        users = ["alice", "@sandbox", "1000"]
        [quota.tenant]
        attachments = 10
        [quota.tenants."shop/eu"]
        attach_rate = 5
    "#;
    let config = parse(text).unwrap();
    let names = config.access.users.iter();
    let users: Vec<_> = names.filter(|p| matches!(p, Principal::User(_))).collect();
    assert_eq!((config.access.users.len(), users.len()), (3, 2));
    assert_eq!(config.quotas.tenant.attachments, Some(10));
    assert_eq!(config.quotas.tenants["shop/eu"].attach_rate, Some(5));
}

#[test]
fn a_role_or_quota_that_cannot_be_is_refused_with_its_place() {
    for (text, reason) in [
        (
            "[access]\nusers = [\"a b\"]",
            "pcpmd.toml:2: access.users: \"a b\" is not the name or number of a user, or of a group behind '@'",
        ),
        (
            "[access]\nusers = [\n7]",
            "pcpmd.toml:3: access.users: must be a list of strings, found integer in it",
        ),
        (
            "[access]\nuser = []",
            "pcpmd.toml:2: access.user: unknown key, did you mean 'access.users'?",
        ),
        (
            "[quota.tenants.shop]\nattachment = 1",
            "pcpmd.toml:2: quota.tenants.shop.attachment: unknown key, did you mean 'quota.tenants.shop.attachments'?",
        ),
        (
            "[quota.tenants]\nshop = 4",
            "pcpmd.toml:2: quota.tenants.shop: must be a table, found integer",
        ),
        (
            "[quota.tenants.\" \"]\nattachments = 4",
            "pcpmd.toml:1: quota.tenants. : tenant: character ' ' is not allowed (letters, digits and . _ - : / @ + are)",
        ),
        (
            "[quota.user]\nattach_rate = -1",
            "pcpmd.toml:2: quota.user.attach_rate: -1 is not between 0 and 1000000",
        ),
    ] {
        assert_eq!(refused(text), reason);
    }
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let args = Args::parse_from(["pcpmd", "--config", "/nonexistent/pcpmd.toml"]);
    let error = Config::load(&args).unwrap_err().to_string();
    assert_eq!(error, "read configuration file /nonexistent/pcpmd.toml");
}

#[test]
fn a_slots_share_of_the_flow_table_follows_its_size() {
    let nat = parse("[nat]\nflows = 4000").unwrap().nat;
    assert_eq!(nat.flows_per_slot, 1000);
    let nat = parse("[nat]\nflows = 4000\nflows_per_slot = 4000")
        .unwrap()
        .nat;
    assert_eq!(nat.flows_per_slot, 4000);
}

#[test]
fn ready_follows_the_capacity_and_the_socket_follows_the_state_directory() {
    let config = from_options(&["--capacity", "9", "--state-dir", "/tmp/x"]).unwrap();
    assert_eq!(config.ready, 9);
    assert_eq!(config.socket, Path::new("/tmp/x/pcpm.sock"));
}

#[test]
fn values_are_refused_with_file_line_key_and_reason() {
    for (text, expected) in [
        (
            "\n\ncapacity = 0",
            "pcpmd.toml:3: capacity: 0 is not between 1 and 65536",
        ),
        (
            "capacity = 65537",
            "pcpmd.toml:1: capacity: 65537 is not between 1 and 65536",
        ),
        (
            "capacity = -1",
            "pcpmd.toml:1: capacity: -1 is not between 1 and 65536",
        ),
        (
            "capacity = 1.5",
            "pcpmd.toml:1: capacity: must be an integer, found float",
        ),
        (
            "capacity = \"64\"",
            "pcpmd.toml:1: capacity: must be an integer, found string",
        ),
        (
            "capacity = 4\nready = 5",
            "pcpmd.toml:2: ready: 5 is more than the capacity, 4",
        ),
        (
            "ready = -1",
            "pcpmd.toml:1: ready: -1 is not between 0 and the capacity, 64",
        ),
        (
            "[refill]\nworkers = 17",
            "pcpmd.toml:2: refill.workers: 17 is not between 1 and 16",
        ),
        (
            "[refill]\nmax_rtnl_wait = \"2\"",
            "pcpmd.toml:2: refill.max_rtnl_wait: '2' is neither 'off' nor a time such as 2ms or 500us",
        ),
        (
            "[refill]\nmax_rtnl_wait = \"11s\"",
            "pcpmd.toml:2: refill.max_rtnl_wait: 11s is not between 50us and 10s",
        ),
        (
            "refill = 2",
            "pcpmd.toml:1: refill: must be a table, found integer",
        ),
        (
            "[nat]\nflows = 10",
            "pcpmd.toml:2: nat.flows: 10 is not between 1024 and 16777216",
        ),
        (
            "[nat]\nflows = 2000\nflows_per_slot = 2001",
            "pcpmd.toml:3: nat.flows_per_slot: 2001 is not between 16 and 2000",
        ),
        (
            "[nat]\nports = \"9-8\"",
            "pcpmd.toml:2: nat.ports: 9-8 ends before it begins",
        ),
        (
            "[nat]\nports = \"80-90\"",
            "pcpmd.toml:2: nat.ports: 80-90 begins below 1024",
        ),
        (
            "[nat]\nports = \"2000-70000\"",
            "pcpmd.toml:2: nat.ports: '2000-70000' is not a range of ports, such as 16384-32767",
        ),
        (
            "state_dir = \"run\"",
            "pcpmd.toml:1: state_dir: 'run' must be an absolute path",
        ),
        (
            "state_dir = \"\"",
            "pcpmd.toml:1: state_dir: '' must be an absolute path",
        ),
        (
            "bpffs = \"/\"",
            "pcpmd.toml:1: bpffs: the root directory cannot be used",
        ),
        (
            "socket = \"/a\\nb\"",
            "pcpmd.toml:1: socket: character '\\n' in a path",
        ),
    ] {
        assert_eq!(refused(text), expected, "{text:?}");
    }
}

#[test]
fn pools_are_refused_with_the_reason() {
    for (cidr, reason) in [
        (
            "10.213.0.5/16",
            "10.213.0.5/16 is an address in a network, the network is 10.213.0.0/16",
        ),
        (
            "10.213.0.0",
            "'10.213.0.0' is not an IPv4 network in CIDR notation, such as 10.213.0.0/16",
        ),
        (
            "fd00::/64",
            "'fd00::/64' is not an IPv4 network in CIDR notation, such as 10.213.0.0/16",
        ),
        (
            "10.213.0.0/33",
            "'10.213.0.0/33' is not an IPv4 network in CIDR notation, such as 10.213.0.0/16",
        ),
        (
            "8.0.0.0/7",
            "8.0.0.0/7: the prefix length is not between 8 and 30",
        ),
        (
            "10.213.0.0/31",
            "10.213.0.0/31: the prefix length is not between 8 and 30",
        ),
        (
            "127.1.0.0/16",
            "127.1.0.0/16 overlaps 127.0.0.0/8 (loopback)",
        ),
        (
            "224.0.0.0/24",
            "224.0.0.0/24 overlaps 224.0.0.0/4 (multicast)",
        ),
        (
            "0.1.0.0/16",
            "0.1.0.0/16 overlaps 0.0.0.0/8 (\"this network\")",
        ),
        (
            "10.213.0.0/27",
            "10.213.0.0/27 has 32 addresses, too few for a capacity of 64",
        ),
        (
            "169.0.0.0/8",
            "169.0.0.0/8 overlaps 169.254.0.0/16 (link-local, and holds the gateway of the slots)",
        ),
    ] {
        let error = from_options(&["--pool-cidr", cidr])
            .unwrap_err()
            .to_string();
        assert_eq!(error, format!("--pool-cidr: pool_cidr: {reason}"));
    }
}

#[test]
fn a_pool_may_have_exactly_as_many_addresses_as_slots() {
    let config = from_options(&["--pool-cidr", "10.213.0.0/26"]).unwrap();
    assert_eq!(config.capacity, 64);
}

#[test]
fn interface_names_are_checked() {
    let long = "x".repeat(16);
    for name in ["", "a b", "a/b", "..", "a:1", &long] {
        let error = from_options(&["--uplink", name]).unwrap_err().to_string();
        assert!(
            error.starts_with("--uplink: uplink: ") && error.contains("'auto'"),
            "{error}"
        );
    }
    let config = from_options(&["--uplink", "enp0s31f6"]).unwrap();
    assert_eq!(config.uplink, interfaces(&["enp0s31f6"]));
}

fn interfaces(names: &[&str]) -> UplinkSetting {
    UplinkSetting::Interfaces(names.iter().map(ToString::to_string).collect())
}

#[test]
fn several_uplinks_are_a_list_in_the_file_and_commas_or_repetition_on_the_command_line() {
    let both = interfaces(&["eth0", "wlan0"]);
    let written = parse("uplink = [\"eth0\", \"wlan0\"]").unwrap();
    let commas = from_options(&["--uplink", "eth0,wlan0"]).unwrap();
    let repeated = from_options(&["--uplink", "eth0", "--uplink", "wlan0"]).unwrap();
    for config in [written, commas, repeated] {
        assert_eq!(config.uplink, both);
    }
    assert_eq!(
        parse("uplink = \"auto\"").unwrap().uplink,
        UplinkSetting::Auto
    );
}

#[test]
fn a_list_of_uplinks_that_makes_no_sense_is_refused() {
    let cases = [
        ("uplink = []", "names no interface"),
        ("uplink = [\"auto\", \"eth0\"]", "'auto' stands alone"),
        ("uplink = [\"eth0\", 1]", "must be a list of strings"),
        ("uplink = 7", "must be a list of strings"),
    ];
    for (text, reason) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn a_path_too_long_for_a_socket_is_refused_wherever_it_comes_from() {
    let fits = format!("/{}", "x".repeat(106));
    assert!(from_options(&["--socket", &fits]).is_ok());
    let error = from_options(&["--socket", &format!("{fits}x")])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--socket: socket: ") && error.contains("108 bytes"),
        "{error}"
    );

    let error = from_options(&["--state-dir", &fits])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--state-dir: state_dir: the socket "),
        "{error}"
    );
    assert!(from_options(&["--state-dir", &fits, "--socket", "/run/s"]).is_ok());
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    for (text, expected) in [
        (
            "\ncapcity = 1",
            "pcpmd.toml:2: capcity: unknown key, did you mean 'capacity'?",
        ),
        (
            "state-dir = \"/x\"",
            "pcpmd.toml:1: state-dir: unknown key, did you mean 'state_dir'?",
        ),
        (
            "[nat]\nport = \"1\"",
            "pcpmd.toml:2: nat.port: unknown key, did you mean 'nat.ports'?",
        ),
        (
            "[refills]\nworkers = 1",
            "pcpmd.toml:1: refills: unknown key, did you mean 'refill'?",
        ),
        ("colour = \"red\"", "pcpmd.toml:1: colour: unknown key"),
        (
            "[api]\n\ncapacity = 1",
            "pcpmd.toml:3: api.capacity: unknown key",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn broken_files_are_refused_with_file_and_line() {
    for (text, line) in [
        ("capacity = 1\nready = = 2\n", 2),
        ("a = 1\n\na = 2", 3),
        ("[nat", 1),
    ] {
        let error = refused(text);
        assert!(
            error.starts_with(&format!("pcpmd.toml:{line}: ")),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn check_and_print_config_exclude_each_other_and_json_needs_check() {
    assert!(Args::try_parse_from(["pcpmd", "--check", "--print-config"]).is_err());
    assert!(Args::try_parse_from(["pcpmd", "--json"]).is_err());
    assert!(Args::try_parse_from(["pcpmd", "--check", "--json"]).is_ok());
}

#[test]
fn an_interval_is_a_number_with_its_unit() {
    let interval =
        |text| parse(&format!("[reaper]\ninterval = \"{text}\"")).map(|c| c.reaper.interval);
    assert_eq!(interval("90s").unwrap(), Duration::from_secs(90));
    assert_eq!(interval("5m").unwrap(), Duration::from_mins(5));
    assert_eq!(interval("1h").unwrap(), Duration::from_hours(1));
    for (text, reason) in [
        ("0s", "0s is not between 1s and 1h"),
        ("61m", "61m is not between 1s and 1h"),
        ("10", "'10' is not a time, such as 10s, 5m or 1h"),
        ("-1s", "'-1s' is not a time, such as 10s, 5m or 1h"),
    ] {
        let error = interval(text).unwrap_err().to_string();
        assert_eq!(error, format!("pcpmd.toml:2: reaper.interval: {reason}"));
    }
}

#[test]
fn the_log_level_comes_from_the_option_the_environment_or_the_file() {
    let filter = |options: &[&str], rust_log: &str| {
        let args = Args::parse_from(["pcpmd"].iter().chain(options));
        let file = Layer::parse("[log]\nlevel = \"debug\"", Path::new("pcpmd.toml")).unwrap();
        let config = Config::from_layer(file.overridden_by(args.layer())).unwrap();
        let filter = config.log_filter(&args, Some(rust_log.to_owned()));
        filter.map(|filter| filter.to_string())
    };
    let passes = |filter: &str| Ok(filter.to_owned());
    assert_eq!(filter(&["--log-level", "warn"], "trace"), passes("warn"));
    assert_eq!(filter(&[], "pcpmd=trace"), passes("pcpmd=trace"));
    assert_eq!(
        filter(&[], "info, pcpmd::events=debug,"),
        passes("pcpmd::events=debug,info")
    );
    assert_eq!(filter(&[], ""), passes("debug"));
    let refused = filter(&[], "pcpmd=loud").unwrap_err();
    assert!(refused.starts_with("RUST_LOG: 'pcpmd=loud': "), "{refused}");
    assert_eq!(
        from_options(&["--log-level", "loud"])
            .unwrap_err()
            .to_string(),
        "--log-level: log.level: 'loud' is none of 'error', 'warn', 'info', 'debug', 'trace'"
    );
}

prop_compose! {
    fn any_pool()(address in 0x0a00_0000_u32..0x0b00_0000, prefix in 8_u8..=30) -> Ipv4Net {
        Ipv4Net::new(address.into(), prefix).unwrap().trunc()
    }
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    "/[a-zA-Z0-9 .\"'\\\\#=äß_-]{1,40}x".prop_map(PathBuf::from)
}

fn any_uplink() -> impl Strategy<Value = UplinkSetting> {
    let name = "[b-z\"'\\\\][a-z0-9.@-]{0,14}";
    let names = proptest::collection::btree_set(name, 1..4);
    prop_oneof![
        Just(UplinkSetting::Auto),
        names.prop_map(|names| UplinkSetting::Interfaces(names.into_iter().collect())),
    ]
}

fn any_ipv6() -> impl Strategy<Value = (PoolV6, Ipv6Egress)> {
    let pool = |first: u128, prefix: Option<(u128, u8)>| PoolV6 {
        prefix: prefix.map(|(bits, length)| {
            let address = (first << 120 | bits >> 8).into();
            Ipv6Net::new_assert(address, length).trunc()
        }),
        is_asked_for: true,
    };
    let prefix = || (any::<u128>(), 8_u8..=96);
    prop_oneof![
        Just((Config::default().pool_cidr6, Ipv6Egress::Nat)),
        proptest::option::of(prefix()).prop_map(move |net| (pool(0xfd, net), Ipv6Egress::Nat)),
        prefix().prop_map(move |net| (pool(0x20, Some(net)), Ipv6Egress::Routed)),
    ]
}

fn any_inner() -> impl Strategy<Value = Option<Inner>> {
    // Outside of all pools and of what cannot be used.
    let inner = (any::<u16>(), any::<u64>()).prop_map(|(low, low6)| Inner {
        v4: Ipv4Addr::from_bits(0xc000_0000 | u32::from(low)),
        v6: Ipv6Addr::from_bits(0xfc << 120 | u128::from(low6)),
    });
    proptest::option::of(inner)
}

/// The same where it can be used beside these pools.
fn within_pool(inner: Option<Inner>, pool: Ipv4Net, pool6: PoolV6) -> AddressMode {
    match inner {
        Some(inner) if !pool.contains(&inner.v4) => AddressMode::Clone(Inner {
            v6: match pool6.prefix {
                Some(_) => inner.v6,
                None => DEFAULT_INNER.v6,
            },
            ..inner
        }),
        _ => AddressMode::Unique,
    }
}

#[test]
fn all_slots_have_one_inner_address_if_somebody_wants_it() {
    assert_eq!(parse("").unwrap().address_mode, AddressMode::Unique);
    let clone = "address_mode = \"clone\"\n";
    let mode = parse(clone).unwrap().address_mode;
    assert_eq!(mode, AddressMode::Clone(DEFAULT_INNER));
    let given = "[clone]\ninner = \"10.0.0.2\"\ninner6 = \"fd00:1::2\"";
    let inner = Inner {
        v4: [10, 0, 0, 2].into(),
        v6: "fd00:1::2".parse().unwrap(),
    };
    let mode = parse(&format!("{clone}{given}")).unwrap().address_mode;
    assert_eq!(mode, AddressMode::Clone(inner));
}

#[test]
fn an_inner_address_is_one_that_means_nothing_else() {
    let cases = [
        (
            "inner = \"10.213.0.2\"",
            "clone.inner: 10.213.0.2 is within pool_cidr",
        ),
        (
            "inner = \"169.254.1.1\"",
            "clone.inner: 169.254.1.1 is within 169.254.0.0/16 (link-local",
        ),
        (
            "inner = \"127.0.0.2\"",
            "clone.inner: 127.0.0.2 is within 127.0.0.0/8 (loopback)",
        ),
        (
            "inner = \"0.0.0.0\"",
            "clone.inner: 0.0.0.0 is within 0.0.0.0/8",
        ),
        (
            "inner = \"224.0.0.1\"",
            "clone.inner: 224.0.0.1 is within 224.0.0.0/4 (multicast)",
        ),
        (
            "inner = \"10.0.0.2/24\"",
            "clone.inner: '10.0.0.2/24' is not an IPv4 address",
        ),
        (
            "inner6 = \"fd00:7063:706d::2\"",
            "clone.inner6: fd00:7063:706d::2 is within pool_cidr6",
        ),
        (
            "inner6 = \"fe80::1\"",
            "clone.inner6: fe80::1 is neither within fc00::/7",
        ),
        (
            "inner6 = \"::1\"",
            "clone.inner6: ::1 is neither within fc00::/7",
        ),
        (
            "inner6 = \"::ffff:10.0.0.2\"",
            "clone.inner6: ::ffff:10.0.0.2 is neither within",
        ),
        (
            "inner6 = \"10.0.0.2\"",
            "clone.inner6: '10.0.0.2' is not an IPv6 address",
        ),
        ("inner7 = \"10.0.0.2\"", "clone.inner7"),
    ];
    for (line, reason) in cases {
        let told = refused(&format!("address_mode = \"clone\"\n[clone]\n{line}"));
        assert!(told.contains(reason), "{line}: {told}");
    }
    let off = "address_mode = \"clone\"\npool_cidr6 = \"off\"\n[clone]\ninner6 = \"fd00::2\"";
    assert!(refused(off).contains("clone.inner6: slots have no IPv6"));
    for line in ["inner = \"10.0.0.2\"", "inner6 = \"fd00::2\""] {
        let told = refused(&format!("[clone]\n{line}"));
        assert!(
            told.contains("with address_mode = \"clone\" only"),
            "{told}"
        );
    }
    let told = refused("address_mode = \"twin\"");
    assert!(
        told.contains("address_mode: 'twin' is neither 'unique' nor 'clone'"),
        "{told}"
    );
}

#[test]
fn ipv6_is_routed_with_a_prefix_that_somebody_asked_for() {
    let routed = "pool_cidr6 = \"2001:db8:7::/64\"\n[ipv6]\negress = \"routed\"";
    let config = parse(routed).unwrap();
    assert_eq!(config.ipv6.egress, Ipv6Egress::Routed);
    let cases = [
        ("[ipv6]\negress = \"routed\"", "needs pool_cidr6"),
        (
            "pool_cidr6 = \"off\"\n[ipv6]\negress = \"routed\"",
            "needs pool_cidr6",
        ),
        ("pool_cidr6 = \"2001:db8:7::/64\"", "not within fc00::/7"),
        (
            "pool_cidr6 = \"fe80::/64\"\n[ipv6]\negress = \"routed\"",
            "not within",
        ),
        ("[ipv6]\negress = \"bridged\"", "neither 'nat' nor 'routed'"),
    ];
    for (text, reason) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn the_host_sends_what_slots_send_if_it_is_asked_to() {
    assert_eq!(parse("").unwrap().egress, Egress::Ebpf);
    assert_eq!(parse("egress = \"host\"").unwrap().egress, Egress::Host);
    let error = parse("egress = \"nat\"").unwrap_err().to_string();
    assert!(error.contains("'nat' is neither"), "{error}");
}

fn any_principals() -> impl Strategy<Value = Vec<Principal>> {
    let name = "[a-z0-9_.-]{1,12}";
    let principal = prop_oneof![
        name.prop_map(Principal::User),
        name.prop_map(Principal::Group),
    ];
    prop::collection::vec(principal, 0..3)
}

fn any_access() -> impl Strategy<Value = Access> {
    let group = proptest::option::of("[a-z]{1,8}");
    let members = (any_principals(), any_principals(), any_principals());
    (group, members).prop_map(|(group, (viewers, users, administrators))| Access {
        group,
        viewers,
        users,
        administrators,
    })
}

fn any_quota() -> impl Strategy<Value = Quota> {
    let limit = || proptest::option::of(1_u32..=1000);
    (limit(), limit()).prop_map(|(attachments, attach_rate)| Quota {
        attachments,
        attach_rate,
    })
}

fn any_quotas() -> impl Strategy<Value = Quotas> {
    let tenants = prop::collection::btree_map("[a-z][a-z.:@/+_-]{0,8}", any_quota(), 0..3);
    (any_quota(), tenants, any_quota()).prop_map(|(tenant, tenants, user)| Quotas {
        tenant,
        tenants,
        user,
    })
}

const RECYCLE: [Recycle; 3] = [Recycle::Never, Recycle::SameTenant, Recycle::Verified];

prop_compose! {
    fn any_class()(
        name in "[a-c][a-z0-9.:@/+_-]{0,8}",
        (capacity, ready) in (1_u32..9, any::<u32>()),
        mtu in proptest::option::of(1280_u32..=65_535),
        refill in any_refill(),
        default in proptest::option::of(any_default()),
        template in any_template(),
        share in any_share(),
    ) -> Class {
        Class {
            name,
            capacity,
            ready: ready % (capacity + 1),
            addresses: None,
            mtu,
            share: where_allowed(share, refill),
            refill: within(refill, capacity),
            default,
            template,
        }
    }
}

fn any_share() -> impl Strategy<Value = Share> {
    let kinds = sample::subsequence(SharedNamespace::ALL.to_vec(), 0..=2);
    kinds.prop_map(|kinds| kinds.into_iter().collect())
}

/// Slots that are used again share nothing.
fn where_allowed(share: Share, refill: Refill) -> Share {
    if refill.recycle == Recycle::Never {
        share
    } else {
        Share::default()
    }
}

fn any_default() -> impl Strategy<Value = DefaultPolicy> {
    sample::select(DefaultPolicy::ALL)
}

fn any_template() -> impl Strategy<Value = Options> {
    let rules = |all: [&'static str; 2]| sample::subsequence(all.to_vec(), 0..=all.len());
    let denied = rules(["192.0.2.0/24", "[2001:db8::/32]:80-90/tcp"]);
    let allowed = rules(["host:53", "10.0.0.0/8"]);
    let rate = || proptest::option::of(8_000_u64..=1_000_000_000_000);
    (denied, allowed, rate(), rate()).prop_map(|(deny, allow, up, down)| {
        let texts = |rules: Vec<&str>| Some(rules.into_iter().map(str::to_owned).collect());
        let request = AttachRequest {
            allow: texts(allow),
            deny: texts(deny),
            rate_up: up,
            rate_down_packets: down,
            ..AttachRequest::default()
        };
        Options::of(&request).unwrap()
    })
}

/// As many of the classes as the pool has addresses for.
fn fitting(classes: Vec<Class>, mut free: u32) -> Vec<Class> {
    let mut fitting: Vec<Class> = classes
        .into_iter()
        .take_while(|class| {
            let left = free.checked_sub(class.capacity);
            free = left.unwrap_or_default();
            left.is_some()
        })
        .collect();
    fitting.sort_by(|a, b| a.name.cmp(&b.name));
    fitting.dedup_by(|a, b| a.name == b.name);
    fitting
}

/// One slot of each class that has more is held back for somebody.
fn any_reserves(classes: &[Class]) -> Vec<Reserve> {
    let large = classes.iter().filter(|class| class.capacity > 1);
    let reserves = large.map(|class| Reserve {
        name: format!("for-{}", class.name),
        class: class.name.clone(),
        tenants: vec!["shop-*".parse().unwrap(), "b".parse().unwrap()],
        warm: 1,
    });
    let mut reserves: Vec<_> = reserves.collect();
    reserves.sort_by(|a, b| a.name.cmp(&b.name));
    reserves
}

prop_compose! {
    /// Its bounds are for a pool of any size yet.
    fn any_refill()(
        (adaptive, recycle) in (any::<bool>(), sample::select(&RECYCLE)),
        (floor, ceiling) in (any::<u32>(), any::<u32>()),
        (one_in, window_s) in (10_u32..=1_000_000, 10_u32..=86_400),
    ) -> Refill {
        let target = if adaptive { TargetMode::Adaptive } else { TargetMode::Fixed };
        Refill { target, floor, ceiling, one_in, window_s, recycle }
    }
}

/// The same with bounds for a pool of `capacity`.
fn within(refill: Refill, capacity: u32) -> Refill {
    let ceiling = refill.ceiling % (capacity + 1);
    let floor = refill.floor % (ceiling + 1);
    Refill {
        floor,
        ceiling,
        ..refill
    }
}

fn any_endpoint() -> impl Strategy<Value = Option<Endpoint>> {
    let endpoint = prop_oneof![
        (any::<u8>(), 1_u16..).prop_map(|(last, port)| {
            Endpoint::Tcp((Ipv4Addr::new(127, 0, 0, last), port).into())
        }),
        (1_u16..).prop_map(|port| Endpoint::Tcp((Ipv6Addr::LOCALHOST, port).into())),
        any_path().prop_map(Endpoint::Unix),
    ];
    proptest::option::of(endpoint)
}

#[test]
fn monitoring_asks_on_the_host_only() {
    let read = |listen: &str| parse(&format!("[metrics]\nlisten = '{listen}'"));
    for listen in [
        "127.0.0.1:9464",
        "[::1]:9464",
        "unix:/run/pcpm/metrics.sock",
    ] {
        let metrics = read(listen).unwrap().metrics.unwrap();
        assert_eq!(metrics.to_string(), listen);
    }
    for listen in [
        "0.0.0.0:9464",
        "192.0.2.1:9464",
        "[::]:1",
        "9464",
        "127.0.0.1",
        "unix:",
        "unix:x",
        "127.0.0.1:0",
    ] {
        let error = read(listen).unwrap_err().to_string();
        assert!(error.contains("metrics.listen"), "{error}");
    }
}

prop_compose! {
    fn any_config()(
        (state_dir, socket, bpffs) in (any_path(), proptest::option::of(any_path()), any_path()),
        (pool_cidr, slots, warm) in (any_pool(), any::<u32>(), any::<u32>()),
        (pool_cidr6, egress) in any_ipv6(),
        inner in any_inner(),
        uplink in any_uplink(),
        ports in (1024_u16.., 1024_u16..),
        (refill, flows, share) in (any_refill(), 1024_u32..=16_777_216, any::<u32>()),
        (published, policy) in (1_u32..=65_536, (any_default(), any_template())),
        (max_clients, workers) in (1_u32..=65_536, 1_u32..=16),
        (mtu, shared) in (proptest::option::of(1280_u32..=65_535), any_share()),
        classes in prop::collection::vec(any_class(), 0..4),
        (keep, through_host) in any::<(bool, bool)>(),
        host_mounts in sample::select(&[None, Some(HostMounts::Attached), Some(HostMounts::All)]),
        (access, quotas) in (any_access(), any_quotas()),
        (enabled, long_wait_ms) in (any::<bool>(), 1_u64..=60_000),
        interval_s in 1_u64..=3600,
        max_rtnl_wait in proptest::option::of((50_u64..=10_000_000).prop_map(Duration::from_micros)),
        metrics in any_endpoint(),
        (format, level) in (sample::select(&LogFormat::ALL), sample::select(&LogLevel::ALL)),
    ) -> Config {
        let addresses = 1 << (32 - pool_cidr.prefix_len()).min(16);
        let capacity = 1 + slots % addresses;
        let classes = fitting(classes, addresses - capacity);
        let all = capacity + classes.iter().map(|class| class.capacity).sum::<u32>();
        Config {
            socket: socket.unwrap_or_else(|| state_dir.join("pcpm.sock")),
            state_dir,
            bpffs,
            on_exit: if keep { OnExit::Keep } else { OnExit::Remove },
            host_mounts,
            capacity,
            max_capacity: whole_hubs(all, pool_cidr),
            ready: warm % (capacity + 1),
            pool_cidr,
            pool_cidr6,
            address_mode: within_pool(inner, pool_cidr, pool_cidr6),
            egress: if through_host { Egress::Host } else { Egress::Ebpf },
            ipv6: Ipv6 { egress },
            uplink,
            workers,
            max_rtnl_wait,
            refill: within(refill, capacity),
            mtu,
            share: where_allowed(shared, refill),
            reserves: any_reserves(&classes),
            classes,
            nat: Nat {
                ports: PortRange { first: ports.0.min(ports.1), last: ports.0.max(ports.1) },
                flows,
                flows_per_slot: 16 + share % (flows - 15),
            },
            publish: Publish { max_ports: published },
            policy: Policy { default: policy.0, template: policy.1 },
            api: Api { max_clients },
            access,
            locks: Locks { enabled, long_wait: Duration::from_millis(long_wait_ms) },
            quotas,
            reaper: Reaper { interval: Duration::from_secs(interval_s) },
            metrics,
            log: Log { format: format.0, level: level.0 },
        }
    }
}

#[test]
fn a_class_is_like_the_top_level_where_it_says_nothing() {
    let config = parse(
        "capacity = 100\nmtu = 1400\n[refill]\nrecycle = \"verified\"\n\
         [class.big]\ncapacity = 20\nmtu = 9000\nrefill.target = \"adaptive\"\n",
    )
    .unwrap();
    let [default, big] = &config.class_specs()[..] else {
        panic!("two classes");
    };
    assert_eq!((default.mtu, big.mtu), (Some(1400), Some(9000)));
    assert_eq!(
        (big.pool.capacity, big.pool.recycle),
        (20, Recycle::Verified)
    );
    assert!(matches!(
        big.pool.target,
        Target::Adaptive(Adaptive {
            floor: 8,
            ceiling: 20,
            ..
        })
    ));
    assert_eq!((config.slots(), config.room()), (120, 512));
}

#[test]
fn a_class_has_the_rules_and_limits_of_the_top_level_where_it_says_nothing() {
    let config = parse(
        "[policy]\nallow = [\"host:53\"]\ndeny = [\"10.0.0.0/8\"]\nrate_up = \"10M\"\n\
         [class.big]\ncapacity = 2\npolicy.default = \"closed\"\npolicy.deny = []\npolicy.rate_up = \"0\"\n\
         policy.rate_down_packets = \"5k\"\n[class.like]\ncapacity = 2\n",
    )
    .unwrap();
    let terms: Vec<_> = config
        .class_specs()
        .into_iter()
        .map(|class| class.terms.unwrap())
        .collect();
    let [default, big, like] = &terms[..] else {
        panic!("three classes");
    };
    assert_eq!(like, default);
    assert_eq!(
        (default.world, big.world),
        (None, Some(DefaultPolicy::Closed))
    );
    assert_eq!(default.options.up.bits, Some(10_000_000));
    assert_eq!(
        (big.options.up.bits, big.options.down.packets),
        (None, Some(5_000))
    );
    assert_eq!(big.options.rules.allow(), default.options.rules.allow());
    assert!(big.options.rules.deny().is_empty() && default.options.rules.deny().len() == 1);
}

#[test]
fn a_class_shares_what_the_top_level_does_where_it_says_nothing() {
    let config = parse(
        "share = [\"uts\", \"ipc\"]\n[class.a]\ncapacity = 1\nshare = [\"ipc\"]\n\
         [class.b]\ncapacity = 1\n[class.c]\ncapacity = 1\nshare = []\n",
    )
    .unwrap();
    let specs = config.class_specs();
    let shares = specs.iter().map(|class| {
        class
            .share
            .kinds()
            .map(SharedNamespace::as_str)
            .collect::<Vec<_>>()
    });
    assert_eq!(
        shares.collect::<Vec<_>>(),
        [vec!["ipc", "uts"], vec!["ipc"], vec!["ipc", "uts"], vec![]]
    );
    assert_eq!(config.shares(), config.share);
}

#[test]
fn what_slots_share_that_are_used_again_is_refused() {
    let cases = [
        (
            "share = [\"ipc\"]\nrefill.recycle = \"verified\"\n",
            "pcpmd.toml:1: share: refill.recycle is verified, and what is left",
        ),
        (
            "share = [\"ipc\"]\n[class.a]\ncapacity = 1\nrefill.recycle = \"same-tenant\"\n",
            "pcpmd.toml:2: class.a.share: refill.recycle is same-tenant, and",
        ),
        (
            "refill.recycle = \"verified\"\n[class.a]\ncapacity = 1\nshare = [\"uts\"]\n",
            "pcpmd.toml:4: class.a.share: refill.recycle is verified, and",
        ),
        (
            "share = [\"pid\"]\n",
            "pcpmd.toml:1: share: 'pid' is not one of ipc, uts",
        ),
    ];
    for (text, expected) in cases {
        let told = refused(text);
        assert!(told.contains(expected), "{text}: {told}");
    }
    parse("refill.recycle = \"verified\"\n[class.a]\ncapacity = 1\nshare = [\"ipc\"]\nrefill.recycle = \"never\"\n").unwrap();
}

#[test]
fn rules_and_limits_that_cannot_be_are_refused_with_the_place() {
    let many: Vec<_> = (1..18).map(|port| format!("\"10.0.0.1:{port}\"")).collect();
    let many = many.join(", ");
    let cases = [
        (
            "[policy]\nallow = [\"10.0.0.1/8\"]\n",
            "pcpmd.toml:2: policy.allow: \"10.0.0.1/8\": 10.0.0.1/8 is an address in a network",
        ),
        (
            "[policy]\nrate_up = \"10Mbit\"\n",
            "pcpmd.toml:2: policy.rate_up: not a rate: write 500k",
        ),
        (
            "[policy]\nrate_up = \"1\"\n",
            "policy.rate_up: 1 is not between 8000 and",
        ),
        (
            "[class.a]\ncapacity = 1\npolicy.default = \"shut\"\n",
            "pcpmd.toml:3: class.a.policy.default: 'shut' is not one of open, closed",
        ),
        (
            "[policy]\nallow = [\"10.0.0.0/8\"]\n[class.a]\ncapacity = 1\npolicy.deny = [\"10.0.0.0/8\"]\n",
            "pcpmd.toml:5: class.a.policy.deny: 10.0.0.0/8 is allowed and denied",
        ),
        (
            "[policy]\ndeny = [\"example.org\"]\n",
            "policy.deny: example.org: names can be allowed, not denied",
        ),
        (
            &format!("[policy]\nallow = [{many}]\n"),
            "pcpmd.toml:2: policy: 10.0.0.1/32: more than 16 rules count for the same addresses",
        ),
        (
            &format!("[class.a]\ncapacity = 1\npolicy.deny = [{many}]\n"),
            "pcpmd.toml:3: class.a.policy: 10.0.0.1/32: more than 16 rules count",
        ),
        (
            "[class.a]\ncapacity = 1\npolicy.allows = []\n",
            "class.a.policy.allows: unknown key, did you mean 'class.a.policy.allow'?",
        ),
    ];
    for (text, expected) in cases {
        let told = refused(text);
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn a_class_may_have_addresses_of_its_own() {
    let config = parse("[class.far]\ncapacity = 8\naddresses = \"10.213.16.0/24\"\n").unwrap();
    assert_eq!(config.class_specs()[1].pool.indexes, Some(4096..4352));
    assert_eq!((config.max_capacity, config.room()), (512, 4352));
}

#[test]
fn classes_and_reservations_that_cannot_be_are_refused_with_the_place() {
    let two = "[class.a]\ncapacity = 8\naddresses = \"10.213.16.0/24\"\n[class.b]\ncapacity = 8\n";
    let cases = [
        (
            "[class.a]\n",
            "pcpmd.toml:1: class.a.capacity: must be given",
        ),
        (
            "[class.default]\ncapacity = 1\n",
            "class.default: the class default is what the settings",
        ),
        (
            "[class.a]\ncapacity = 1\ncolour = 1\n",
            "class.a.colour: unknown key",
        ),
        (
            "[class.a]\ncapacity = 1\nmtu = 900\n",
            "class.a.mtu: 900 is not between 1280 and 65535",
        ),
        (
            "[class.a]\ncapacity = 9\nready = 10\n",
            "class.a.ready: 10 is more than the capacity, 9",
        ),
        (
            "[class.a]\ncapacity = 9\nrefill.ceiling = 10\n",
            "class.a.refill.ceiling: 10 is not between 0 and 9",
        ),
        (
            "[class.a]\ncapacity = 9\naddresses = \"10.9.0.0/24\"\n",
            "is not a part of pool_cidr, 10.213.0.0/16",
        ),
        (
            "[class.a]\ncapacity = 9\naddresses = \"10.213.16.0/29\"\n",
            "has 8 addresses, too few for a capacity of 9",
        ),
        (
            "[class.a]\ncapacity = 9\naddresses = \"10.213.1.0/24\"\n",
            "overlaps the first 512 addresses of pool_cidr",
        ),
        (
            &format!("{two}addresses = \"10.213.16.128/25\"\n"),
            "pcpmd.toml:6: class.b.addresses: 10.213.16.128/25 overlaps that of class a",
        ),
        (
            "[reserve.r]\nwarm = 1\n",
            "reserve.r.tenants: must be given",
        ),
        (
            "[reserve.r]\ntenants = [\"a*b\"]\nwarm = 1\n",
            "reserve.r.tenants: ",
        ),
        (
            "[reserve.r]\ntenants = [\"a\"]\nwarm = 1\nclass = \"x\"\n",
            "reserve.r: there is no class 'x'",
        ),
        (
            "capacity = 9\n[reserve.r]\ntenants = [\"a\"]\nwarm = 9\n",
            "none would be left for others",
        ),
        (
            "[reserve.q]\ntenants = [\"a\"]\nwarm = 1\n[reserve.r]\ntenants = [\"b\", \"a\"]\nwarm = 1\n",
            "reserve.r: a has reservation q already",
        ),
    ];
    for (text, expected) in cases {
        let told = refused(text);
        assert!(told.contains(expected), "{text}: {told}");
    }
}

proptest! {
    #[test]
    fn printed_settings_read_back_as_the_same(config in any_config()) {
        prop_assert_eq!(parse(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn no_file_makes_the_parser_panic(text in "([a-z_]{0,9}[ =\\[\\]\"0-9\n.-]{0,6}){0,12}") {
        let _ = parse(&text);
    }
}
