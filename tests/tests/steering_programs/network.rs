//! Slots, hubs, host and internet, made by `ip` and `tc` around the programs: the topology that the
//! daemon makes, without the daemon.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use pcpm_ebpf::abi::{AttachmentWord, Config, LINK_INDEX_BASE, Uplink, slot_mac};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::decision::hub_of;
use pcpm_tests::{HOST_ADDRESS, Place, UPLINK, World};

use crate::packet::Packet;
use crate::programs::{CAPACITY, Programs};

/// The slots: two in one hub, one in another, one of another tenant, one that nobody holds.
pub(crate) const NEAR: u32 = 0;
pub(crate) const NEXT: u32 = 1;
pub(crate) const STRANGER: u32 = 2;
pub(crate) const UNHELD: u32 = 3;
pub(crate) const FAR: u32 = 515;

const PINS: &str = "/sys/fs/bpf";
const MAC: &str = "02:50:43:ff:ff:ff";

/// A world with slots in it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) world: World,
    pub(crate) programs: Programs,
}

impl Network {
    pub(crate) fn new() -> Result<Self> {
        let world = World::new()?;
        let programs = world.host().within(pinned)?;
        let mut network = Self { world, programs };
        network.add_hub(0, "10.213.0.0/23")?;
        network.add_hub(1, "10.213.2.0/23")?;
        network.command(&format!("tc qdisc add dev {UPLINK} clsact"))?;
        filter(
            network.world.host(),
            &format!("dev {UPLINK} ingress"),
            "from_uplink",
        )?;
        for (slot, tenant) in [(NEAR, 1), (NEXT, 1), (FAR, 1), (STRANGER, 2), (UNHELD, 0)] {
            network.add_slot(slot)?;
            let holder = AttachmentWord::attached(slot + 1, tenant);
            network.programs.publish(slot, holder)?;
        }
        Ok(network)
    }

    /// The inside of a slot.
    pub(crate) fn slot(&self, slot: u32) -> Place {
        self.world.slot(format!("/run/netns/{}", name(slot)))
    }

    fn hub(&self, hub: u32) -> Place {
        self.world.slot(format!("/run/netns/hub{hub}"))
    }

    fn command(&self, line: &str) -> Result<()> {
        self.world.tool(line).run().map(drop)
    }

    fn add_hub(&mut self, hub: u32, addresses: &str) -> Result<()> {
        let mut links = format!(
            "netns add hub{hub}\n\
             link add pcpm{hub} index {} type veth peer name up0 index 2 address {MAC} netns hub{hub}\n",
            50 + hub
        );
        if hub == 0 {
            links += "addr add 169.254.1.1/32 dev pcpm0\n";
        }
        let _ = write!(
            links,
            "link set pcpm{hub} up\n\
             neigh add 169.254.1.2 lladdr {MAC} dev pcpm{hub} nud permanent\n\
             route add {addresses} via 169.254.1.2 dev pcpm{hub} onlink src 169.254.1.1\n"
        );
        batch(self.world.host(), &links)?;
        self.command(&format!("sysctl -qw net.ipv4.conf.pcpm{hub}.forwarding=1"))?;
        self.programs.set_hub(hub, 50 + hub)?;
        let place = self.hub(hub);
        place
            .tool("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
            .run()?;
        place.tool("ip link set up0 up").run()?;
        place
            .tool("tc qdisc add dev lo ingress_block 1 ingress")
            .run()?;
        filter(&place, "block 1 ingress", "from_slot")?;
        place.tool("tc qdisc add dev up0 ingress").run()?;
        filter(&place, "dev up0 ingress", "from_host")?;
        self.command(&format!("tc qdisc add dev pcpm{hub} clsact"))?;
        filter(
            self.world.host(),
            &format!("dev pcpm{hub} ingress"),
            "from_hub",
        )?;
        filter(
            self.world.host(),
            &format!("dev pcpm{hub} egress"),
            "to_hub",
        )
    }

    fn add_slot(&self, slot: u32) -> Result<()> {
        let name = name(slot);
        self.command(&format!("ip netns add {name}"))?;
        let inside = self.slot(slot);
        inside
            .tool("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
            .run()?;
        let hub = self.hub(hub_of(slot));
        let (index, mac) = (LINK_INDEX_BASE + slot, text(slot_mac(slot)));
        let links = format!(
            "link add {name} index {index} address {MAC} type veth \
             peer name eth0 index 2 address {mac} netns {name}\n\
             link set {name} up\n"
        );
        batch(&hub, &links)?;
        hub.tool(&format!("tc qdisc add dev {name} ingress_block 1 ingress"))
            .run()?;
        let address = Packet::address_of(slot);
        let settings = format!(
            "link set lo up\nlink set eth0 up\naddr add {address}/32 dev eth0\n\
             route add default via 169.254.1.1 dev eth0 onlink\n\
             neigh add 169.254.1.1 lladdr {MAC} dev eth0 nud permanent\n"
        );
        batch(&inside, &settings)
    }
}

fn filter(place: &Place, at: &str, program: &str) -> Result<()> {
    let filter = format!("tc filter add {at} bpf da object-pinned {PINS}/{program}");
    place.tool(&filter).run().map(drop)
}

fn batch(place: &Place, lines: &str) -> Result<()> {
    place.tool("ip -batch -").input(lines).run().map(drop)
}

fn name(slot: u32) -> String {
    format!("s{slot:04}")
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Called on the host: loads the programs and pins them, where `tc` finds them.
fn pinned() -> Result<Programs> {
    let index = fs::read_to_string(format!("/sys/class/net/{UPLINK}/ifindex"))?;
    let config = Config {
        pool_base: Packet::address_of(0).to_bits(),
        pool_mask: 0xffff_0000,
        capacity: CAPACITY,
        pool6: Address::ANY,
        pool6_mask: Address::ANY,
        nat_port_first: 16_384,
        nat_port_last: 32_767,
        world_is_closed: 0,
        ipv6_is_routed: 0,
        host_forwards: 0,
        padding: 0,
        slots_are_clones: 0,
        inner: Address::ANY,
        inner6: Address::ANY,
        abi_version: pcpm_ebpf::abi::ABI_VERSION,
        host_netns: 0,
    };
    let nothing: Option<&str> = None;
    mount(Some("bpf"), PINS, Some("bpf"), MsFlags::empty(), nothing).context("mount bpffs")?;
    let mut programs = Programs::load(config)?;
    let addresses = Uplink {
        v4: HOST_ADDRESS.parse::<Ipv4Addr>()?.into(),
        v6: Address::ANY,
    };
    programs.set_uplink(index.trim().parse()?, &addresses)?;
    programs.pin(Path::new(PINS))?;
    Ok(programs)
}
