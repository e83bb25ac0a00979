//! Where the running kernel has the fields of its own types, read from its description of them (BTF,
//! Documentation/bpf/btf.rst). Only as much of the format as that takes; the library that loads programs keeps what it
//! knows of it to itself.

use std::{collections::HashMap, fs, io};

use pcpm_ebpf::witness::{KernelLayout, PARAMETER_WORDS};

use super::BpfError;

const DESCRIPTION: &str = "/sys/kernel/btf/vmlinux";
const UNKNOWN_FORMAT: &str = "it is not in the format that is known";

/// Offsets of what the witness programs read. A kernel that has one of them not, or under another
/// name, is none that they can be asked on.
pub(super) fn layout() -> Result<KernelLayout, BpfError> {
    let bytes = fs::read(DESCRIPTION).map_err(|e| failed(&e))?;
    layout_in(&bytes).map_err(|cause| failed(&io::Error::other(cause)))
}

/// Where a task has what the lock tracer tells of tasks, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskLayout {
    pub(crate) pid: u32,
    pub(crate) tgid: u32,
    pub(crate) comm: u32,
    pub(crate) flags: u32,
}

/// Offsets in the running kernel's `struct task_struct`.
pub(crate) fn task_layout() -> Result<TaskLayout, BpfError> {
    let bytes = fs::read(DESCRIPTION).map_err(|e| failed(&e))?;
    let types = Types::parse(&bytes);
    let layout = types
        .ok_or_else(|| UNKNOWN_FORMAT.to_owned())
        .and_then(|types| {
            let of = |member: &str| types.offset_of_one("task_struct", &[&[member]]);
            Ok(TaskLayout {
                pid: of("pid")?,
                tgid: of("tgid")?,
                comm: of("comm")?,
                flags: of("flags")?,
            })
        });
    layout.map_err(|cause| failed(&io::Error::other(cause)))
}

fn failed(error: &io::Error) -> BpfError {
    BpfError::new(format!("read {DESCRIPTION}"), error)
}

fn layout_in(bytes: &[u8]) -> Result<KernelLayout, String> {
    let types = Types::parse(bytes).ok_or(UNKNOWN_FORMAT)?;
    let of = |structure: &str, paths: &[&[&str]]| types.offset_of_one(structure, paths);
    let link = |member: &str| of("net_device", &[&[member]]);
    let neighbour = |member: &str| of("neighbour", &[&[member]]);
    Ok(KernelLayout {
        task_nsproxy: of("task_struct", &[&["nsproxy"]])?,
        nsproxy_net: of("nsproxy", &[&["net_ns"]])?,
        // Before 6.18 it was called `count`.
        net_references: of("net", &[&["ns", "__ns_ref"], &["ns", "count"]])?,
        net_stashed: of("net", &[&["ns", "stashed"]])?,
        net_passive: of("net", &[&["passive"]])?,
        net_cookie: of("net", &[&["net_cookie"]])?,
        net_sysctls: of("net", &[&["sysctls"]])?,
        dentry_references: of("dentry", &[&["d_lockref", "count"]])?,
        access_header: of("bpf_sysctl_kern", &[&["head"]])?,
        header_set: of("ctl_table_header", &[&["set"]])?,
        net_links: of("net", &[&["dev_base_head"]])?,
        link_entry: link("dev_list")?,
        link_index: link("ifindex")?,
        link_features: link("features")?,
        link_hardware_features: link("hw_features")?,
        link_wanted_features: link("wanted_features")?,
        link_receive_queues: link("real_num_rx_queues")?,
        link_send_queues: link("real_num_tx_queues")?,
        link_tcx_ingress: link("tcx_ingress")?,
        link_tcx_egress: link("tcx_egress")?,
        link_ipv4: link("ip_ptr")?,
        link_ipv6: link("ip6_ptr")?,
        // Since 6.13, both of them.
        link_neighbours: link("neighbours").unwrap_or(0),
        neighbour_entry: neighbour("dev_list").unwrap_or(0),
        ipv4_parameters: of("in_device", &[&["arp_parms"]])?,
        ipv6_parameters: of("inet6_dev", &[&["nd_parms"]])?,
        parameters: parameters_of_neighbours(&types)?,
        neighbour_key: neighbour("primary_key")?,
        neighbour_hardware: neighbour("ha")?,
        neighbour_state: neighbour("nud_state")?,
        neighbour_kind: neighbour("type")?,
        neighbour_protocol: neighbour("protocol")?,
        neighbour_flags: neighbour("flags")?,
    })
}

/// Where the settings of neighbours are, which have to be as long as is known.
fn parameters_of_neighbours(types: &Types<'_>) -> Result<u32, String> {
    let of = |member: &str| types.offset_of_one("neigh_parms", &[&[member]]);
    let begin = of("data")?;
    let end = of("data_state")? + 8;
    if (end - begin) as usize != 8 * PARAMETER_WORDS {
        return Err("struct neigh_parms is not as long as is known".to_owned());
    }
    Ok(begin)
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// How deep anonymous members and qualifiers are followed.
const DEPTH: u32 = 8;

/// The types of a kernel.
struct Types<'a> {
    /// One behind the other, as `struct btf_type`.
    all: &'a [u8],
    names: &'a [u8],
    /// Where each type stands, by number; number 0 is `void`.
    places: Vec<usize>,
    structures: HashMap<&'a [u8], u32>,
}

#[derive(Clone, Copy)]
struct Member {
    name: u32,
    kind: u32,
    /// In bytes.
    offset: u32,
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header_len = word(bytes, 4)? as usize;
        let part = |at: usize| {
            let start = header_len + word(bytes, at)? as usize;
            bytes.get(start..start + word(bytes, at + 4)? as usize)
        };
        let mut types = Self {
            all: part(8)?,
            names: part(16)?,
            places: vec![0],
            structures: HashMap::new(),
        };
        types.find_places()?;
        Some(types)
    }

    fn find_places(&mut self) -> Option<()> {
        let mut at = 0;
        while at < self.all.len() {
            let info = word(self.all, at + 4)?;
            if kind_of(info) == STRUCT {
                let number = u32::try_from(self.places.len()).ok()?;
                let name = self.name(word(self.all, at)?)?;
                self.structures.entry(name).or_insert(number);
            }
            self.places.push(at);
            at += 12 + tail_len(info)?;
        }
        Some(())
    }

    fn name(&self, at: u32) -> Option<&'a [u8]> {
        self.names.get(at as usize..)?.split(|b| *b == 0).next()
    }

    /// The offset of the first of these members that there is.
    fn offset_of_one(&self, structure: &str, paths: &[&[&str]]) -> Result<u32, String> {
        let mut found = paths.iter().filter_map(|path| self.offset(structure, path));
        let named = || format!("struct {structure} has no {}", paths[0].join("."));
        found.next().ok_or_else(named)
    }

    fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let mut number = *self.structures.get(structure.as_bytes())?;
        let mut offset = 0;
        for name in path {
            let member = self.member(number, name.as_bytes(), DEPTH)?;
            offset += member.offset;
            number = member.kind;
        }
        Some(offset)
    }

    /// A member by name, also inside members without one; its offset counts from `number`'s start.
    fn member(&self, number: u32, name: &[u8], depth: u32) -> Option<Member> {
        let depth = depth.checked_sub(1)?;
        self.members(number)?.find_map(|member| {
            let found = self.name(member.name)?;
            if found == name {
                return Some(member);
            }
            let inner = found
                .is_empty()
                .then(|| self.member(member.kind, name, depth))??;
            let offset = member.offset + inner.offset;
            Some(Member { offset, ..inner })
        })
    }

    fn members(&self, number: u32) -> Option<impl Iterator<Item = Member>> {
        let at = *self.places.get(number as usize)?;
        let info = word(self.all, at + 4)?;
        if !matches!(kind_of(info), STRUCT | UNION) {
            return None;
        }
        // With bit fields the upper 8 bits of an offset are the field's width.
        let mask = if info >> 31 == 1 {
            0x00ff_ffff
        } else {
            u32::MAX
        };
        let types = self.all;
        Some((0..info as usize & 0xffff).filter_map(move |index| {
            let at = at + 12 + 12 * index;
            Some(Member {
                name: word(types, at)?,
                kind: word(types, at + 4)?,
                offset: (word(types, at + 8)? & mask) / 8,
            })
        }))
    }
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 31
}

/// How many bytes follow the 12 that all types have.
fn tail_len(info: u32) -> Option<usize> {
    let count = info as usize & 0xffff;
    Some(match kind_of(info) {
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, enumerations of 64 bits.
        STRUCT | UNION | 15 | 19 => 12 * count,
        // Enumerations, prototypes.
        6 | 13 => 8 * count,
        // Pointers, declarations, typedefs, qualifiers, functions, floats, tags of types.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, type and offset in bytes.
    type Members<'a> = &'a [(&'a str, u32, u32)];

    /// A description with types of these kinds and names.
    fn description(types: &[(u32, &str, Members<'_>)]) -> Vec<u8> {
        let mut names = vec![0];
        let mut name = |text: &str| {
            if text.is_empty() {
                return 0;
            }
            let at = u32::try_from(names.len()).unwrap();
            names.extend(text.bytes().chain([0]));
            at
        };
        let mut words = Vec::new();
        for (kind, title, members) in types {
            let count = u32::try_from(members.len()).unwrap();
            words.extend([name(title), kind << 24 | count, 0]);
            for (title, kind, offset) in *members {
                words.extend([name(title), *kind, offset * 8]);
            }
        }
        let types_len = u32::try_from(words.len() * 4).unwrap();
        let names_len = u32::try_from(names.len()).unwrap();
        let header = [0x0001_eb9f, 24, 0, types_len, types_len, names_len];
        let all = header.into_iter().chain(words);
        let mut bytes: Vec<u8> = all.flat_map(u32::to_ne_bytes).collect();
        bytes.extend(names);
        bytes
    }

    #[test]
    fn a_field_is_found_through_structures_and_members_without_a_name() {
        let bytes = description(&[
            (STRUCT, "outer", &[("first", 0, 0), ("inner", 2, 16)]),
            (STRUCT, "inner", &[("", 3, 8)]),
            (UNION, "", &[("whole", 0, 0), ("", 4, 0)]),
            (STRUCT, "", &[("lock", 0, 0), ("count", 0, 4)]),
        ]);
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.offset("outer", &["inner", "count"]), Some(28));
        assert_eq!(types.offset("outer", &["inner", "none"]), None);
        assert_eq!(types.offset("none", &["inner"]), None);
    }

    #[test]
    fn a_description_that_ends_too_early_is_none() {
        let bytes = description(&[(STRUCT, "outer", &[("first", 0, 0)])]);
        assert!(Types::parse(&bytes[..20]).is_none());
        assert!(layout_in(&bytes[..bytes.len() - 30]).is_err());
    }

    #[test]
    fn this_kernel_s_tasks_are_described() {
        let layout = task_layout().unwrap();
        assert_eq!(layout.tgid, layout.pid + 4);
        assert!(layout.comm > 0 && layout.flags > 0, "{layout:?}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let bytes = description(&[(STRUCT, "task_struct", &[("other", 0, 0)])]);
        let told = layout_in(&bytes).unwrap_err();
        assert_eq!(told, "struct task_struct has no nsproxy");
    }
}
