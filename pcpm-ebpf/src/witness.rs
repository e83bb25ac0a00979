//! What the kernel itself knows of a network namespace: who holds it, and whether its sysctls were
//! written to. Shared by the witness programs and the daemon.

/// Names of maps and programs, as they stand in the object.
pub mod names {
    /// `BPF_MAP_TYPE_ARRAY` with one [`super::KernelLayout`].
    pub const KERNEL_LAYOUT: &str = "KERNEL_LAYOUT";
    /// `BPF_MAP_TYPE_LRU_HASH`: cookie of a slot's namespace to `u64` writes to its sysctls.
    pub const SYSCTL_WRITES: &str = "SYSCTL_WRITES";

    /// The root control group: writes to sysctls of slots.
    pub const SYSCTL_ACCESSED: &str = "sysctl_accessed";
    /// `BPF_MAP_TYPE_ARRAY` of [`super::LINKS`] [`super::LinkState`]: what [`SEEN_LINKS`] saw last.
    pub const LINK_STATES: &str = "LINK_STATES";

    /// Run by the daemon: who holds the network namespace that it is run in.
    pub const REFERENCES: &str = "references";
    /// Run by the daemon: looks at the links of the network namespace that it is run in, and returns how
    /// many it saw; 0 where it could not see all of them.
    pub const SEEN_LINKS: &str = "seen_links";
}

/// Where the running kernel has what the witness programs read: offsets in bytes. The daemon takes
/// them from the kernel's own description of its types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelLayout {
    /// `nsproxy` in `task_struct`.
    pub task_nsproxy: u32,
    /// `net_ns` in `nsproxy`.
    pub nsproxy_net: u32,
    /// The reference count in `net`.
    pub net_references: u32,
    /// The entry that all files and mounts of the namespace share, in `net`.
    pub net_stashed: u32,
    /// `passive` in `net`.
    pub net_passive: u32,
    /// `net_cookie` in `net`.
    pub net_cookie: u32,
    /// `sysctls` in `net`.
    pub net_sysctls: u32,
    /// The reference count in `dentry`.
    pub dentry_references: u32,
    /// `head` in `bpf_sysctl_kern`, the context of a sysctl program.
    pub access_header: u32,
    /// `set` in `ctl_table_header`.
    pub header_set: u32,
    /// `dev_base_head` in `net`.
    pub net_links: u32,
    /// `dev_list` in `net_device`: the entry in that list.
    pub link_entry: u32,
    /// `ifindex` in `net_device`.
    pub link_index: u32,
    /// `features` in `net_device`.
    pub link_features: u32,
    /// `hw_features` in `net_device`.
    pub link_hardware_features: u32,
    /// `wanted_features` in `net_device`.
    pub link_wanted_features: u32,
    /// `real_num_rx_queues` in `net_device`.
    pub link_receive_queues: u32,
    /// `real_num_tx_queues` in `net_device`.
    pub link_send_queues: u32,
    /// `tcx_ingress` in `net_device`.
    pub link_tcx_ingress: u32,
    /// `tcx_egress` in `net_device`.
    pub link_tcx_egress: u32,
    /// `ip_ptr` in `net_device`.
    pub link_ipv4: u32,
    /// `ip6_ptr` in `net_device`.
    pub link_ipv6: u32,
    /// `neighbours` in `net_device`, since 6.13; 0 where there is none.
    pub link_neighbours: u32,
    /// `arp_parms` in `in_device`.
    pub ipv4_parameters: u32,
    /// `nd_parms` in `inet6_dev`.
    pub ipv6_parameters: u32,
    /// `data` in `neigh_parms`.
    pub parameters: u32,
    /// `dev_list` in `neighbour`: the entry in its link's list; 0 where there is none.
    pub neighbour_entry: u32,
    /// `primary_key` in `neighbour`.
    pub neighbour_key: u32,
    /// `ha` in `neighbour`.
    pub neighbour_hardware: u32,
    /// `nud_state` in `neighbour`.
    pub neighbour_state: u32,
    /// `type` in `neighbour`.
    pub neighbour_kind: u32,
    /// `protocol` in `neighbour`.
    pub neighbour_protocol: u32,
    /// `flags` in `neighbour`.
    pub neighbour_flags: u32,
}

/// Who holds a network namespace, by the kernel's own counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Sets of namespaces that threads live in, sockets, open files of `/proc/net`, and one for all
    /// files and mounts of the namespace together.
    pub namespace: u32,
    /// Files and mounts of the namespace.
    pub files: u32,
    /// What keeps its memory only: file systems of type sysfs that show it, sockets of the kernel.
    pub passive: u32,
}

const BITS: u32 = 10;

impl References {
    /// The highest count that can be told. It stands for all above.
    pub const MANY: u32 = (1 << BITS) - 1;

    /// As one number, which is what a program can return. Never 0 for a namespace that is there.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        saturated(self.namespace)
            | saturated(self.files) << BITS
            | saturated(self.passive) << (2 * BITS)
    }

    /// `None` where the program could not read them.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits == 0 {
            return None;
        }
        Some(Self {
            namespace: bits & Self::MANY,
            files: bits >> BITS & Self::MANY,
            passive: bits >> (2 * BITS) & Self::MANY,
        })
    }
}

const fn saturated(count: u32) -> u32 {
    if count > References::MANY {
        References::MANY
    } else {
        count
    }
}

/// Links of a namespace that are looked at: one that has more is not as it was made.
pub const LINKS: usize = 4;

/// Neighbours of one link and version of IP that are told.
pub const NEIGHBOURS: usize = 4;

/// Words of the settings of neighbours, with what says which of them was set.
pub const PARAMETER_WORDS: usize = 8;

/// What a link has that netlink tells only after a walk over all namespaces, or under the rtnl lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LinkState {
    /// Its interface index.
    pub index: u32,
    /// Programs (tcx): bit 0 at ingress, bit 1 at egress.
    pub programs: u32,
    /// Queues in use, for what comes in and for what goes out.
    pub queues: [u32; 2],
    /// Offloads that are on.
    pub features: u64,
    /// Offloads that can be switched.
    pub hardware_features: u64,
    /// Offloads that somebody wants.
    pub wanted_features: u64,
    /// By version of IP.
    pub neighbours: [Neighbours; 2],
}

/// Neighbours of a link, and how they are dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Neighbours {
    /// Settings that `ip ntable` changes.
    pub parameters: [u64; PARAMETER_WORDS],
    /// How many there are but for those [of the kernel](Neighbour::is_of_the_kernel).
    pub count: u32,
    /// Whether there may be more.
    pub is_cut_off: u32,
    /// The first of them; what is behind their number means nothing.
    pub first: [Neighbour; NEIGHBOURS],
}

impl Neighbours {
    /// Those that are told.
    #[must_use]
    pub fn told(&self) -> &[Neighbour] {
        let told = self.first.len().min(self.count as usize);
        &self.first[..told]
    }
}

/// A neighbour as the kernel knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Neighbour {
    /// An IPv4 address takes the first four bytes.
    pub address: [u8; 16],
    /// Its hardware address.
    pub hardware: [u8; 6],
    /// `NUD_*` of linux/neighbour.h.
    pub state: u8,
    /// `RTN_*` of linux/rtnetlink.h.
    pub kind: u8,
    /// `NTF_*` of linux/neighbour.h, both words of them.
    pub flags: u32,
    /// Who made it (`RTPROT_*`).
    pub protocol: u32,
}

impl Neighbour {
    /// Whether the kernel makes it by itself and takes it away when it likes: those of groups, whose hardware
    /// address follows from the group (`arp_mc_map`, `ndisc_mc_map`), and those of `lo`, which have none. One
    /// with another hardware address is not of the kernel.
    #[must_use]
    pub const fn is_of_the_kernel(&self, link: u32, is_v6: bool) -> bool {
        const NUD_NOARP: u8 = 0x40;
        const LO: u32 = 1;
        let to = &self.address;
        let hardware = self.hardware;
        let hardware = u64::from_ne_bytes([
            hardware[0],
            hardware[1],
            hardware[2],
            hardware[3],
            hardware[4],
            hardware[5],
            0,
            0,
        ]);
        let expected = if link == LO {
            [0; 8]
        } else if is_v6 && to[0] == 0xff {
            [0x33, 0x33, to[12], to[13], to[14], to[15], 0, 0]
        } else if !is_v6 && to[0] >> 4 == 0xe {
            [0x01, 0, 0x5e, to[1] & 0x7f, to[2], to[3], 0, 0]
        } else {
            return false;
        };
        self.state == NUD_NOARP && hardware == u64::from_ne_bytes(expected)
    }
}

const _: () = assert!(size_of::<KernelLayout>() == 132);
const _: () = assert!(size_of::<Neighbour>() == 32);
const _: () = assert!(size_of::<Neighbours>() == 200);
const _: () = assert!(size_of::<LinkState>() == 440);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_that_the_kernel_makes_by_itself_are_its_own() {
        let group = [0x01, 0, 0x5e, 0, 0, 22];
        let of = |link, state, address: &[u8], hardware| {
            let mut all = [0; 16];
            all[..address.len()].copy_from_slice(address);
            let neighbour = Neighbour {
                address: all,
                hardware,
                state,
                ..Neighbour::default()
            };
            neighbour.is_of_the_kernel(link, address.len() == 16)
        };
        let group6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
        let hardware6 = [0x33, 0x33, 0, 0, 0, 0x16];
        let host6 = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
        assert!(of(2, 0x40, &[224, 0, 0, 22], group));
        assert!(of(2, 0x40, &[224, 128, 0, 22], group));
        assert!(!of(2, 0x80, &[224, 0, 0, 22], group));
        assert!(!of(2, 0x40, &[224, 0, 0, 23], group));
        assert!(of(2, 0x40, &group6, hardware6));
        assert!(!of(2, 0x40, &host6, hardware6));
        assert!(!of(2, 0x40, &[10, 0, 0, 1], [0; 6]));
        assert!(of(1, 0x40, &[10, 0, 0, 1], [0; 6]));
        assert!(!of(1, 0x40, &[10, 0, 0, 1], [2; 6]));
    }
}
