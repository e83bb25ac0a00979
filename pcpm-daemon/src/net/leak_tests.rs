//! The leak matrix: what a tenant can leave in a slot, one thing at a time, and what becomes of the slot.
//! Needs root, and the tools of a tenant: ip, tc, nft, iptables.
#![expect(unsafe_code, reason = "a tenant uses raw sockets and ioctl")]

use std::fs::{self, File};
use std::io::IoSlice;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, sendmsg, socket,
    socketpair,
};

use super::tests::{host_with, in_private_world, slot_spec};
use super::*;

/// One slot with a golden copy, and the worker that made it.
struct Lab<'a> {
    state_dir: &'a Path,
    worker: Box<dyn SlotKernel>,
    recycler: Box<dyn SlotRecycler>,
    slot: Option<UsedSlot>,
}

const INDEX: u32 = 7;

impl<'a> Lab<'a> {
    fn new(state_dir: &'a Path) -> Self {
        Self::with_watch(state_dir, true)
    }

    /// Where nobody hears what a tenant changes, only its traces tell.
    fn deaf(state_dir: &'a Path) -> Self {
        Self::with_watch(state_dir, false)
    }

    fn with_watch(state_dir: &'a Path, hears: bool) -> Self {
        let _once = tracing_subscriber::fmt().with_test_writer().try_init();
        let witness = crate::bpf::witness(1).unwrap();
        let (mut host, hubs) = host_with(state_dir, 1);
        let watched = if hears { &hubs[..] } else { &[] };
        let watch = Arc::new(host.watch_slots(watched).unwrap());
        let worker = host.worker(hubs);
        let recycler = host.recycler(witness, watch);
        let mut lab = Self {
            state_dir,
            worker,
            recycler,
            slot: None,
        };
        lab.make_slot();
        lab
    }

    fn make_slot(&mut self) {
        let new = self.worker.create_slot(&slot_spec(INDEX)).unwrap();
        // The kernel sets up IPv6 on a new link in its own time.
        thread::sleep(Duration::from_millis(100));
        let fresh = FreshSlot {
            index: INDEX,
            epoch: 0,
            netns: new.netns.try_clone().unwrap(),
        };
        self.slot = Some(UsedSlot {
            index: INDEX,
            netns: new.netns,
            golden: self.recycler.portray(&fresh).unwrap(),
            scrutiny: Scrutiny::Everything,
        });
    }

    /// The slot is to go back to the tenant that has it.
    fn keep_for_tenant(&mut self) {
        self.slot.as_mut().unwrap().scrutiny = Scrutiny::Holders;
    }

    /// Runs a command line in the slot.
    fn sh(&self, script: &str) {
        let status = self.command(script).status().unwrap();
        assert!(status.success(), "{script}: {status}");
    }

    fn command(&self, script: &str) -> Command {
        let path = slot_path(self.state_dir, INDEX);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path.display()));
        command.args(["sh", "-ec", script]);
        command
    }

    /// Does something in a thread that is in the slot.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns();
        namespace::in_thread(|| {
            namespace::enter(netns).unwrap();
            work()
        })
    }

    fn netns(&self) -> &OwnedFd {
        &self.slot.as_ref().unwrap().netns
    }

    /// Has the slot judged. What is unclean is named.
    fn recycle(&mut self) -> Result<(), Unclean> {
        let slot = self.slot.take().unwrap();
        let mut recycled = self.recycler.recycle(vec![slot]);
        let Recycled { slot, outcome } = recycled.pop().unwrap();
        self.slot = Some(slot);
        outcome
    }

    /// Has the slot judged once nobody is in it any more: the kernel lets go of sockets that are closed in its own time.
    fn recycle_when_left(&mut self) -> Result<(), Unclean> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            match self.recycle() {
                Err(unclean) if unclean.what == "holders" && Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }

    /// The slot is destroyed, and there is a new one.
    fn replace_slot(&mut self) {
        let used = self.slot.take().unwrap();
        let retired = RetiredSlot {
            index: INDEX,
            netns: Some(used.netns),
        };
        let outcomes = self.worker.destroy_slots(vec![retired]);
        assert!(outcomes[0].1.is_ok(), "{outcomes:?}");
        self.make_slot();
    }

    fn assert_unclean(&mut self, what: &str, because: &str) {
        let unclean = self.recycle().expect_err(because);
        assert_eq!(unclean.what, what, "{because}: {}", unclean.why);
    }
}

/// What a tenant with `CAP_NET_ADMIN` leaves, and where the difference is found.
const LEFT: &[(&str, &str)] = &[
    ("ip link add left type veth peer name right", "links"),
    ("ip link add left type bridge", "links"),
    ("ip link add left type vxlan id 5 dstport 4789", "links"),
    ("ip link add left link eth0 type macvlan", "links"),
    ("ip tuntap add dev left mode tun", "links"),
    ("ip link set eth0 alias left", "links"),
    ("ip link property add dev eth0 altname left", "links"),
    ("ip link set eth0 address 02:00:00:00:00:07", "links"),
    ("ip link set eth0 mtu 1399", "links"),
    ("ip link set eth0 txqueuelen 7", "links"),
    ("ip link set eth0 promisc on", "links"),
    ("ip link set eth0 allmulticast on", "links"),
    ("ip link set eth0 arp off", "links"),
    ("ip link set eth0 group 7", "links"),
    ("ip link set eth0 gso_max_size 2000", "links"),
    ("ip link set lo down", "links"),
    ("ip link set lo alias left", "links"),
    ("ip link set eth0 addrgenmode random", "links"),
    ("ip link set eth0 down; ip link set eth0 up", "links"),
    ("ip address add 10.9.9.9/32 dev eth0", "addresses"),
    ("ip address add 10.9.9.9/32 dev lo", "addresses"),
    ("ip address add fd00::9/128 dev eth0 nodad", "addresses"),
    (
        "ip route add 10.9.0.0/16 via 169.254.1.1 dev eth0 onlink",
        "routes",
    ),
    ("ip route add blackhole 10.9.0.0/16 table 77", "routes"),
    (
        "ip route replace default via 169.254.1.1 dev eth0 onlink mtu 1300",
        "routes",
    ),
    (
        "ip -6 route add fd99::/64 via fe80::1 dev eth0 table 77",
        "routes",
    ),
    ("ip rule add from 10.9.0.0/16 table 77", "rules"),
    ("ip -6 rule add from fd99::/64 table 77", "rules"),
    ("ip nexthop add id 7 blackhole", "nexthops"),
    (
        "ip neighbour add 10.9.9.9 lladdr 02:00:00:00:00:09 dev eth0",
        "neighbours",
    ),
    (
        "ip neighbour add 224.0.0.9 lladdr 02:00:00:00:00:09 nud noarp dev eth0",
        "neighbours",
    ),
    (
        "ip neighbour replace 169.254.1.1 lladdr 02:00:00:00:00:09 dev eth0",
        "neighbours",
    ),
    (
        "ip neighbour add proxy 10.9.9.9 dev eth0",
        "proxy neighbours",
    ),
    ("bridge fdb add 02:00:00:00:00:09 dev eth0 self", "links"),
    (
        "ip maddress add 33:33:00:00:00:09 dev eth0",
        "forwarding entries",
    ),
    (
        "ip ntable change name arp_cache dev eth0 queue 7",
        "neighbour tables",
    ),
    (
        "ip ntable change name ndisc_cache dev lo queue 7",
        "neighbour tables",
    ),
    (
        "ip neighbour add 127.9.9.9 lladdr 02:00:00:00:00:09 dev lo",
        "neighbours",
    ),
    (
        "for n in 1 2 3 4 5 6 7 8; do ip neighbour add fd99::$n lladdr 02:00:00:00:00:09 dev eth0; done",
        "neighbours",
    ),
    (
        "tc qdisc add dev eth0 root tbf rate 1mbit burst 9k limit 9k",
        "links",
    ),
    ("tc qdisc add dev eth0 ingress", "qdiscs"),
    ("tc qdisc add dev lo clsact", "qdiscs"),
    (
        "ip addrlabel add prefix fd99::/64 label 77",
        "address labels",
    ),
    (
        "mkdir -p /run/netns; n=world$$; touch /run/netns/$n; mount --bind /proc/$PPID/ns/net /run/netns/$n; ip netns set $n 77; umount /run/netns/$n; rm /run/netns/$n",
        "namespace numbers",
    ),
    ("nft add table inet left", "nftables changes"),
    (
        "nft add table inet left; nft delete table inet left",
        "nftables changes",
    ),
    ("iptables-legacy -w -A INPUT -j DROP", "iptables"),
    ("iptables-legacy -w -L >/dev/null", "iptables"),
    ("ip6tables-legacy -w -L >/dev/null", "ip6tables"),
    (
        "ip xfrm state allocspi src 10.9.9.9 dst 10.9.9.8 proto esp >/dev/null",
        "xfrm states",
    ),
    (
        "ip xfrm policy add src 10.9.9.9 dst 10.9.9.8 dir out",
        "xfrm policies",
    ),
    ("ip xfrm policy setdefault in block", "xfrm defaults"),
    ("ip mptcp endpoint add 10.9.9.9 signal", "mptcp endpoints"),
    ("ip mptcp limits set subflow 7", "mptcp limits"),
    ("ip sr tunsrc set fd99::1", "segment routing"),
    ("ip ioam namespace add 7", "ioam namespaces"),
    ("echo 1 >/proc/sys/net/ipv4/ip_forward", "sysctls"),
    (
        "cat /proc/sys/net/core/somaxconn >/proc/sys/net/core/somaxconn",
        "sysctls",
    ),
    ("echo 9 >/proc/sys/net/ipv6/conf/eth0/hop_limit", "sysctls"),
    (
        "echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct",
        "sysctls",
    ),
];

/// Of these the kernel tells nobody.
const UNHEARD: &[&str] = &[
    "address labels",
    "forwarding entries",
    "gso_max_size",
    "ioam namespaces",
    "ip6tables",
    "iptables",
    "mptcp endpoints",
    "mptcp limits",
    "neighbour tables",
    "proxy neighbours",
    "segment routing",
    "sysctls",
    "xfrm defaults",
    "xfrm states",
];

fn is_unheard(script: &str, what: &str) -> bool {
    UNHEARD
        .iter()
        .any(|unheard| *unheard == what || script.contains(unheard))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_tenant_changed_leaves_traces() {
    in_private_world(|state_dir| {
        let mut lab = Lab::deaf(state_dir);
        let mut wrong = Vec::new();
        for (script, what) in LEFT {
            lab.sh(script);
            match lab.recycle_when_left() {
                Err(unclean) if unclean.what == *what => {}
                other => wrong.push(format!("{script}: {other:?}, not {what}")),
            }
            lab.replace_slot();
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_tenant_changes_is_heard() {
    in_private_world(|state_dir| {
        let mut lab = Lab::new(state_dir);
        let mut wrong = Vec::new();
        for (script, what) in LEFT {
            lab.sh(script);
            match lab.recycle_when_left() {
                Err(unclean) if unclean.what == "tampered" => {}
                Err(unclean) if unclean.what == *what && is_unheard(script, what) => {}
                other => wrong.push(format!("{script}: {other:?}")),
            }
            lab.replace_slot();
        }
        lab.sh("ip address add 10.9.9.9/32 dev lo; ip address del 10.9.9.9/32 dev lo");
        lab.assert_unclean("tampered", "a change that was undone");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_that_nobody_touched_is_clean_now_and_later() {
    in_private_world(|state_dir| {
        let mut lab = Lab::new(state_dir);
        assert_eq!(lab.recycle(), Ok(()));
        assert_eq!(lab.recycle(), Ok(()));
        // Long enough for whatever the kernel does to a new link by itself.
        thread::sleep(Duration::from_secs(3));
        assert_eq!(lab.recycle(), Ok(()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_for_the_same_tenant_may_hold_what_it_left_but_nobody() {
    in_private_world(|state_dir| {
        let mut lab = Lab::new(state_dir);
        lab.keep_for_tenant();
        lab.sh("ip ntable change name arp_cache dev eth0 queue 7");
        assert_eq!(lab.recycle(), Ok(()));
        let socket = lab.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        lab.assert_unclean("holders", "a socket that is still there");
        drop(socket);
        lab.sh("echo 7 >/proc/sys/net/ipv4/tcp_retries1");
        lab.assert_unclean("sysctls", "a setting that was changed");
        lab.replace_slot();
        lab.keep_for_tenant();
        lab.sh("ip address del $(ip -4 -o address show eth0 | awk '{print $4}') dev eth0");
        lab.assert_unclean("tampered", "a slot that does not work any more");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_honest_use_leaves_behind_is_cleaned_away() {
    in_private_world(|state_dir| {
        let mut lab = Lab::new(state_dir);
        let before = lab.inside(usage);
        lab.inside(|| {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let (accepted, _) = server.accept().unwrap();
            drop(client);
            drop(accepted);
            let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
            let groups = [Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::new(239, 1, 2, 4)];
            for group in groups {
                let eth0 = Ipv4Addr::from_bits(0x0ad5_0000 + INDEX);
                datagrams.join_multicast_v4(&group, &eth0).unwrap();
            }
            datagrams.send_to(b"unanswered", "10.99.99.99:9").unwrap();
        });
        let used = lab.inside(usage);
        assert_eq!(used.time_wait, before.time_wait + 1);
        lab.sh("ip tcp_metrics show | grep -q 127.0.0.1");
        assert_eq!(lab.recycle(), Ok(()));
        let after = lab.inside(usage);
        assert_eq!(after.time_wait, 0);
        lab.sh("! ip tcp_metrics show | grep 127.0.0.1");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_with_a_process_or_a_socket_is_not_handed_on() {
    in_private_world(|state_dir| {
        let mut lab = Lab::new(state_dir);
        let mut sleeper = lab.command("exec sleep 1000").spawn().unwrap();
        wait_until_inside(&sleeper, &lab);
        lab.assert_unclean("holders", "a process");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let kinds = [
            (AddressFamily::Inet, SockType::Stream, None),
            (AddressFamily::Inet, SockType::Datagram, None),
            (AddressFamily::Inet6, SockType::Datagram, None),
            (AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Raw)),
            (AddressFamily::Packet, SockType::Raw, None),
            (AddressFamily::Unix, SockType::Stream, None),
            (
                AddressFamily::Netlink,
                SockType::Raw,
                Some(SockProtocol::NetlinkRoute),
            ),
            (
                AddressFamily::Netlink,
                SockType::Raw,
                Some(SockProtocol::NetlinkNetFilter),
            ),
        ];
        for (family, kind, protocol) in kinds {
            let left = lab.inside(|| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol));
            let left = left.unwrap();
            lab.assert_unclean("holders", &format!("{family:?} {kind:?}"));
            drop(left);
        }
        let tun = lab.inside(|| File::open("/dev/net/tun").unwrap());
        lab.assert_unclean("holders", "an open /dev/net/tun");
        drop(tun);
        assert_eq!(lab.recycle(), Ok(()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_that_somebody_holds_open_is_not_handed_on() {
    in_private_world(|state_dir| {
        let mut lab = Lab::new(state_dir);
        let path = slot_path(state_dir, INDEX);
        let handle = File::open(&path).unwrap();
        lab.assert_unclean("handles", "an open file of the namespace");
        let (one, other) = socketpair(
            AddressFamily::Unix,
            SockType::Datagram,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let passed = [handle.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&passed)];
        let empty = [IoSlice::new(b"x")];
        sendmsg::<()>(one.as_raw_fd(), &empty, &message, MsgFlags::empty(), None).unwrap();
        drop(handle);
        lab.assert_unclean(
            "handles",
            "a file of the namespace on its way through a socket",
        );
        drop((one, other));
        let table = lab.inside(|| File::open("/proc/thread-self/net/tcp").unwrap());
        lab.assert_unclean("holders", "an open table of connections");
        drop(table);
        let elsewhere = state_dir.join("elsewhere");
        File::create(&elsewhere).unwrap();
        bind(&path, &elsewhere);
        lab.assert_unclean("handles", "a mount elsewhere");
        namespace::unmount(&elsewhere).unwrap();
        let sysfs = state_dir.join("sysfs");
        fs::create_dir(&sysfs).unwrap();
        lab.inside(|| mount_sysfs(&sysfs));
        lab.assert_unclean("holders", "a sysfs that shows it");
        namespace::detach(&sysfs).unwrap();
        assert_eq!(lab.recycle(), Ok(()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_sysctl_written_to_from_another_namespace_is_found() {
    in_private_world(|state_dir| {
        let mut lab = Lab::deaf(state_dir);
        let sysctl = "/proc/sys/net/ipv4/ip_forward";
        let open = || fs::OpenOptions::new().write(true).open(sysctl).unwrap();
        let mut left_open = lab.inside(open);
        assert_eq!(lab.recycle(), Ok(()));
        std::io::Write::write_all(&mut left_open, b"1").unwrap();
        lab.assert_unclean("sysctls", "a sysctl that was left open");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_no_tool_leaves_is_found() {
    in_private_world(|state_dir| {
        let mut lab = Lab::deaf(state_dir);
        lab.inside(send_first_fragment);
        lab.assert_unclean("sockets", "a fragment that waits for the others");
        lab.replace_slot();
        lab.inside(learn_path_mtu);
        lab.assert_unclean("routes", "a path MTU");
        lab.replace_slot();
        lab.inside(|| switch_off_segmentation("eth0"));
        lab.assert_unclean("offloads", "an offload");
        lab.replace_slot();
        lab.inside(create_ip_set);
        lab.assert_unclean("IP sets", "an IP set");
        lab.replace_slot();
        let mut programs = aya::Ebpf::load(pcpm_ebpf::STEER_OBJECT).unwrap();
        lab.inside(|| attach_tcx(&mut programs));
        lab.assert_unclean("bpf", "a program");
    });
}

fn usage() -> golden::Usage {
    golden::Usage::read(&golden::Tables::open().unwrap()).unwrap()
}

fn wait_until_inside(child: &Child, lab: &Lab<'_>) {
    let link = format!("/proc/{}/ns/net", child.id());
    let inside = lab.inside(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    while fs::read_link(&link).unwrap() != inside {
        thread::yield_now();
    }
}

fn bind(from: &Path, to: &Path) {
    let none = None::<&str>;
    nix::mount::mount(Some(from), to, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
}

fn mount_sysfs(at: &Path) {
    let none = None::<&str>;
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(none, at, Some("sysfs"), flags, none).unwrap();
}

fn raw_socket(protocol: i32) -> OwnedFd {
    use std::os::fd::FromRawFd as _;
    // SAFETY: takes numbers; the descriptor is new and nobody else's.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn send_raw(socket: &OwnedFd, packet: &[u8], to: Ipv4Addr) {
    let to = nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    let sent = nix::sys::socket::sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty());
    assert_eq!(sent, Ok(packet.len()));
}

/// Half a datagram, to the slot itself.
fn send_first_fragment() {
    let mut packet = [0_u8; 28];
    let home = Ipv4Addr::LOCALHOST;
    packet[0] = 0x45;
    packet[4..6].copy_from_slice(&[7, 7]);
    packet[6] = 0x20;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&home.octets());
    packet[16..20].copy_from_slice(&home.octets());
    send_raw(&raw_socket(libc::IPPROTO_RAW), &packet, home);
}

/// An ICMP error that a router could send, about a datagram of ours.
fn learn_path_mtu() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("10.99.99.99:9").unwrap();
    socket.send(b"x").unwrap();
    let (home, port) = match socket.local_addr().unwrap() {
        std::net::SocketAddr::V4(address) => (*address.ip(), address.port()),
        std::net::SocketAddr::V6(_) => unreachable!("bound to IPv4"),
    };
    let mut packet = vec![3, 4, 0, 0, 0, 0, 0x04, 0x4c];
    packet.extend([0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(home.octets());
    packet.extend([10, 99, 99, 99]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 9, 0, 9, 0, 0]);
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    send_raw(&raw_socket(libc::IPPROTO_ICMP), &packet, home);
}

fn switch_off_segmentation(link: &str) {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        value: *mut [u32; 2],
        rest: [usize; 2],
    }
    const ETHTOOL_STSO: u32 = 0x1f;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut value = [ETHTOOL_STSO, 0];
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value: &raw mut value,
        rest: [0; 2],
    };
    request.name[..link.len()].copy_from_slice(link.as_bytes());
    // SAFETY: a `struct ifreq` with a `struct ethtool_value`.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), 0x8946, &raw mut request) };
    assert_eq!(status, 0);
}

fn create_ip_set() {
    use super::raw::{Ask, RawNetlink, push_attribute};
    let mut message = vec![2, 0, 0, 0];
    push_attribute(&mut message, 1, &[7]);
    push_attribute(&mut message, 2, b"left\0");
    push_attribute(&mut message, 3, b"hash:ip\0");
    push_attribute(&mut message, 4, &[0]);
    push_attribute(&mut message, 5, &[2]);
    push_attribute(&mut message, 7 | 0x8000, &[]);
    let mut socket = RawNetlink::open(netlink_sys::protocols::NETLINK_NETFILTER).unwrap();
    let created = socket.ask(Ask::Do, 6 << 8 | 2, &message, || (), |(), _, _| ());
    created.unwrap();
}

fn attach_tcx(programs: &mut aya::Ebpf) {
    use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
    let program = programs
        .program_mut(pcpm_ebpf::abi::names::FROM_SLOT)
        .unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    program.load().unwrap();
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    program
        .attach_with_options("eth0", TcAttachType::Ingress, order)
        .unwrap();
}
