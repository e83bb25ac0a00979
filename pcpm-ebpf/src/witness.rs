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
    /// Run by the daemon: who holds the network namespace that it is run in.
    pub const REFERENCES: &str = "references";
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

const _: () = assert!(size_of::<KernelLayout>() == 40);
