//! The steering programs on single packets: a lab without traffic, where `BPF_PROG_TEST_RUN` hands
//! a program one packet and shows what became of it.
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::{TestRun as _, TestRunOptions};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use pcpm_ebpf::abi::{
    Config, DEAD_FLOWS_OFFSET, DeadFlow, HUB_UPLINK_INDEX, LINK_INDEX_BASE, Uplink, names,
};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::packet::Family;
use pcpm_tests::PATIENCE;

use crate::families::{Net, V4, V6};
use crate::packet::{POOL, POOL6, Packet};
use crate::programs::{CAPACITY, Programs};

/// Ports that stand for those of slots.
pub(crate) const LAB_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

const HUB_LINK: u32 = 50;
pub(crate) const UPLINK: u32 = 60;
/// A link beside the uplink.
pub(crate) const OTHER: u32 = 70;
/// The uplink's hardware address.
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x60];

/// IPv6 addresses of the lab's links.
const OWN_ADDRESSES6: [&str; 3] = ["fe80::1", "2001:db8:1::1", "2001:db8:3::1"];
/// Of a kernel with HZ=100.
const LONGEST_JIFFY: Duration = Duration::from_millis(10);

/// The lab's links, in one namespace: a program only asks for the index. Slots 0 to 4 have theirs.
const LINKS: &str = "\
link add up0 index 2 address 02:50:43:ff:ff:ff type bridge
link add pcpm0 index 50 address 02:50:43:ff:ff:ff type bridge
link add other index 70 type veth peer name other-end
link add wan0 index 60 address 02:00:00:00:00:60 type veth peer name wan-end
link add s0000 index 1000 address 02:50:43:ff:ff:ff type bridge
link add s0001 index 1001 address 02:50:43:ff:ff:ff type bridge
link add s0002 index 1002 address 02:50:43:ff:ff:ff type bridge
link add s0003 index 1003 address 02:50:43:ff:ff:ff type bridge
link add s0004 index 1004 address 02:50:43:ff:ff:ff type bridge
addr add 169.254.1.1/32 dev pcpm0
addr add fe80::1/64 dev pcpm0 nodad
addr add 192.0.2.1/24 dev wan0
addr add 2001:db8:1::1/64 dev wan0 nodad
addr add 203.0.113.1/24 dev other
addr add 2001:db8:3::1/64 dev other nodad
link set lo up
link set pcpm0 up
link set wan-end up
link set wan0 up
link set other-end up
link set other up
route add default via 192.0.2.254 dev wan0
route add blackhole 198.18.0.0/15
route add default via 2001:db8:1::fe dev wan0
route add blackhole 2001:db8:f::/48
";

/// Which program a packet meets, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// The link of this slot in its hub.
    FromSlot(u32),
    /// `up0`, with the mark that the packet carries.
    FromHost {
        /// 0 for a packet of the host's own stack.
        mark: u32,
    },
    /// The hub's link in the host, with the mark that the packet carries.
    FromHub {
        /// The epoch it was authorised for.
        mark: u32,
    },
    /// On its way out of the host to a hub; the link it came from, 0 for the host's own.
    ToHub {
        /// 0 for a packet of the host's own stack.
        ingress: u32,
    },
    /// The uplink.
    FromUplink,
}

impl Hook {
    fn program(self) -> &'static str {
        match self {
            Self::FromSlot(_) => names::FROM_SLOT,
            Self::FromHost { .. } => names::FROM_HOST,
            Self::FromHub { .. } => names::FROM_HUB,
            Self::ToHub { .. } => names::TO_HUB,
            Self::FromUplink => names::FROM_UPLINK,
        }
    }

    fn context(self) -> SkbContext {
        let (ifindex, mark, ingress_ifindex) = match self {
            Self::FromSlot(slot) => (LINK_INDEX_BASE + slot, 0, 0),
            Self::FromHost { mark } => (HUB_UPLINK_INDEX, mark, 0),
            Self::FromHub { mark } => (HUB_LINK, mark, 0),
            Self::ToHub { ingress } => (HUB_LINK, 0, ingress),
            Self::FromUplink => (UPLINK, 0, 0),
        };
        SkbContext {
            ifindex,
            mark,
            ingress_ifindex,
            segments: 0,
        }
    }
}

/// What a program may be told of a packet beside its bytes.
#[derive(Clone, Copy, Debug)]
struct SkbContext {
    ifindex: u32,
    mark: u32,
    ingress_ifindex: u32,
    segments: u32,
}

impl SkbContext {
    /// Size of `struct __sk_buff`, and where its fields are (include/uapi/linux/bpf.h).
    const SIZE: usize = 192;
    const MARK: usize = 8;
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    const GSO_SEGS: usize = 164;

    fn bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (offset, value) in [
            (Self::MARK, self.mark),
            (Self::INGRESS_IFINDEX, self.ingress_ifindex),
            (Self::IFINDEX, self.ifindex),
            (Self::GSO_SEGS, self.segments),
        ] {
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Dropped, with the reason that was counted.
    Dropped(DropReason),
    /// Into the stack of this namespace.
    Passed,
    /// Into the stack of this namespace to be refused, with the reason that was counted.
    Refused(DropReason),
    /// Left to whatever else is on the link.
    Left,
    /// Redirected, with these bytes and this mark.
    Redirected {
        /// The frame as it goes on.
        bytes: Vec<u8>,
        /// The mark it carries.
        mark: u32,
    },
}

/// The programs, and the links they ask for.
#[derive(Debug)]
pub(crate) struct Lab {
    /// There until the lab is dropped.
    programs: Option<Programs>,
}

/// Programs of labs that are gone: the verifier takes seconds over new ones.
static SPARE: Mutex<Vec<Programs>> = Mutex::new(Vec::new());

impl Deref for Lab {
    type Target = Programs;

    fn deref(&self) -> &Programs {
        self.programs.as_ref().expect("not dropped yet")
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Programs {
        self.programs.as_mut().expect("not dropped yet")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.extend(self.programs.take());
    }
}

impl Lab {
    /// A lab in a new network namespace, which the calling thread is moved to: it ends with the
    /// thread, as tests do.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses the programs.
    pub(crate) fn new() -> Result<Self> {
        if !geteuid().is_root() {
            bail!("this needs root to load kernel programs: run `sudo -E cargo xtask test`");
        }
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        ip(&[], LINKS)?;
        ["wan0", "other"]
            .into_iter()
            .try_for_each(ask_whether_it_carries)?;
        wait_for_own_addresses()?;
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/pcpm0/forwarding");
            std::fs::write(&path, "1").with_context(|| format!("write {path}"))?;
        }
        let mut programs = programs()?;
        programs.set_uplink(UPLINK, &both_addresses())?;
        for hub in 0..=1 {
            programs.set_hub(hub, HUB_LINK)?;
        }
        Ok(Self {
            programs: Some(programs),
        })
    }

    /// Changes the lab's links, and routes of one version of IP; `batch` is what `ip -batch` takes.
    ///
    /// # Errors
    /// When `ip` refuses a change.
    #[expect(clippy::unused_self, reason = "there is a lab in this namespace")]
    pub(crate) fn ip(&self, family: Family, batch: &str) -> Result<()> {
        match family {
            Family::V4 => ip(&["-4"], batch)?,
            Family::V6 => ip(&["-6"], batch)?,
        }
        // The programs ask for each route once a jiffy.
        thread::sleep(2 * LONGEST_JIFFY);
        Ok(())
    }

    /// Hands `packet` to the program at `hook`.
    ///
    /// # Errors
    /// When the program cannot be run, or does what no caller expects.
    pub(crate) fn send(&mut self, hook: Hook, packet: &Packet) -> Result<Fate> {
        self.send_bytes(hook, &packet.bytes())
    }

    /// Hands a frame to the program at `hook`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn send_bytes(&mut self, hook: Hook, frame: &[u8]) -> Result<Fate> {
        self.run(hook.program(), hook.context(), frame)
    }

    /// As [`send_bytes`](Self::send_bytes), with the frame as the program left it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn send_and_see(&mut self, hook: Hook, frame: &[u8]) -> Result<(Fate, Vec<u8>)> {
        self.run_and_see(hook.program(), hook.context(), frame)
    }

    /// Hands `packet` to the program at `hook` as one of `segments` packets in one.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn send_segments(
        &mut self,
        hook: Hook,
        packet: &Packet,
        segments: u32,
    ) -> Result<Fate> {
        let context = SkbContext {
            segments,
            ..hook.context()
        };
        self.run(hook.program(), context, &packet.bytes())
    }

    /// Has what is told of `dead` collected, and says which of it was: a bit for each.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub(crate) fn collect(&mut self, dead: &[DeadFlow]) -> Result<u32> {
        let mut packet = vec![0; DEAD_FLOWS_OFFSET as usize];
        for dead in dead {
            packet.extend_from_slice(&dead_flow_bytes(dead));
        }
        let options = TestRunOptions {
            data_in: Some(&packet),
            ..TestRunOptions::new()
        };
        let result = self.program(names::COLLECT)?.test_run(options)?;
        Ok(result.return_value)
    }

    fn run(&mut self, program: &str, context: SkbContext, frame: &[u8]) -> Result<Fate> {
        let (fate, _) = self.run_and_see(program, context, frame)?;
        Ok(fate)
    }

    fn run_and_see(
        &mut self,
        program: &str,
        context: SkbContext,
        frame: &[u8],
    ) -> Result<(Fate, Vec<u8>)> {
        let before = self.drops()?;
        let (action, bytes, mark) = self.test_run(program, context, frame)?;
        let dropped = difference(&before, &self.drops()?);
        let fate = match (action, dropped.as_slice()) {
            (TC_ACT_SHOT, [reason]) => Fate::Dropped(*reason),
            (TC_ACT_OK, []) => Fate::Passed,
            (TC_ACT_OK, [reason]) => Fate::Refused(*reason),
            (TC_ACT_UNSPEC, []) => Fate::Left,
            (TC_ACT_REDIRECT, []) => Fate::Redirected {
                bytes: bytes.clone(),
                mark,
            },
            other => bail!("{program} returned and counted {other:?}"),
        };
        Ok((fate, bytes))
    }

    fn test_run(
        &mut self,
        program: &str,
        context: SkbContext,
        frame: &[u8],
    ) -> Result<(i32, Vec<u8>, u32)> {
        let mut bytes = vec![0; frame.len() + 64];
        let mut after = [0; SkbContext::SIZE];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut bytes),
            ctx_in: Some(&context.bytes()),
            ctx_out: Some(&mut after),
            ..TestRunOptions::new()
        };
        let result = self
            .program(program)?
            .test_run(options)
            .with_context(|| format!("hand a packet to {program}"))?;
        bytes.truncate(usize::try_from(result.data_size_out)?);
        let mark = after[SkbContext::MARK..].first_chunk().copied();
        let mark = u32::from_ne_bytes(mark.context("the context has a mark")?);
        Ok((result.return_value.cast_signed(), bytes, mark))
    }
}

/// A dead flow as it lies in memory.
fn dead_flow_bytes(dead: &DeadFlow) -> Vec<u8> {
    let DeadFlow {
        key,
        seal,
        last_seen_ns,
    } = dead;
    let addresses = [key.local.0, key.remote.0].concat();
    let mut bytes: Vec<u8> = addresses.into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes.extend(
        [key.local_port, key.remote_port]
            .map(u16::to_ne_bytes)
            .concat(),
    );
    bytes.extend([key.protocol, key.kind, 0, 0]);
    bytes.extend([*seal, *last_seen_ns].map(u64::to_ne_bytes).concat());
    bytes
}

/// Those of a lab that is gone, as new, or new ones.
fn programs() -> Result<Programs> {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    match spare {
        Some(mut programs) => {
            programs.reset(config()).context("clear the maps")?;
            Ok(programs)
        }
        None => Programs::load(config()),
    }
}

fn config() -> Config {
    Config {
        pool_base: POOL.to_bits(),
        pool_mask: 0xffff_0000,
        capacity: CAPACITY,
        pool6: POOL6.into(),
        pool6_mask: Address([u32::MAX, u32::MAX, 0, 0]),
        nat_port_first: *LAB_PORTS.start(),
        nat_port_last: *LAB_PORTS.end(),
        world_is_closed: 0,
        ipv6_is_routed: 0,
        host_forwards: 0,
        padding: 0,
        slots_are_clones: 0,
        inner: Address::ANY,
        inner6: Address::ANY,
        abi_version: pcpm_ebpf::abi::ABI_VERSION,
        host_netns: 0,
    }
}

/// What stands for slots on the uplink.
fn both_addresses() -> Uplink {
    Uplink {
        v4: V4.uplink.into(),
        v6: V6.uplink.into(),
    }
}

/// The uplink's address of one version of IP alone.
pub(crate) fn uplink_with(net: &Net, address: Option<IpAddr>) -> Uplink {
    let address = address.map_or(Address::ANY, Address::from);
    match net.family {
        Family::V4 => Uplink {
            v4: address,
            ..both_addresses()
        },
        Family::V6 => Uplink {
            v6: address,
            ..both_addresses()
        },
    }
}

const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

fn difference(before: &[u64], after: &[u64]) -> Vec<DropReason> {
    let grown = DropReason::ALL.iter().zip(before.iter().zip(after));
    grown
        .filter(|(_, (before, after))| before != after)
        .map(|(reason, _)| *reason)
        .collect()
}

/// IPv6 routes nothing to the addresses of a link before the kernel has said that it carries, which it says some
/// time after it was set up, or when somebody asks (`linkwatch_sync_dev`).
fn ask_whether_it_carries(link: &str) -> Result<()> {
    let asked = Command::new("ethtool").arg(link).output();
    let asked = asked.context("start ethtool")?;
    ensure!(
        String::from_utf8_lossy(&asked.stdout).contains("Link detected: yes"),
        "{link} does not carry: {asked:?}"
    );
    Ok(())
}

/// The host's IPv6 addresses are its own when the kernel's workers have had time for them.
fn wait_for_own_addresses() -> Result<()> {
    let own = || -> Result<bool> {
        let routes = Command::new("ip")
            .args(["-6", "route", "show", "table", "local"])
            .output()
            .context("start ip")?;
        let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
        Ok(OWN_ADDRESSES6
            .iter()
            .all(|address| routes.contains(&format!("local {address} "))))
    };
    let deadline = Instant::now() + PATIENCE;
    while !own()? {
        ensure!(
            Instant::now() < deadline,
            "the lab's addresses are not its own"
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn ip(options: &[&str], batch: &str) -> Result<()> {
    use std::io::Write as _;
    let mut ip = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .context("start ip")?;
    let mut input = ip.stdin.take().context("ip has no input")?;
    input.write_all(batch.as_bytes()).context("write to ip")?;
    drop(input);
    let status = ip.wait().context("wait for ip")?;
    ensure!(status.success(), "ip made not all links: {status}");
    Ok(())
}
