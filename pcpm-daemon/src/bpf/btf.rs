//! Where members of the kernel's structures are, from its own description of its types
//! (`/sys/kernel/btf/vmlinux`, `Documentation/bpf/btf.rst`). The library that loads programs keeps that
//! knowledge to itself.

/// What is wrong with a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a BTF description of types that is understood")]
pub(crate) struct NotBtf;

const MAGIC: u32 = 0xeb9f;
/// `BTF_KIND_*` of structures and unions.
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Bytes of a type without what belongs to its kind, and of a member of a structure.
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// How deep anonymous structures may lie within each other.
const DEPTH: u32 = 8;

/// A parsed description: where each type is.
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// By type id, from 1 on.
    starts: Vec<u32>,
}

impl<'a> Btf<'a> {
    /// Reads a description.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, NotBtf> {
        if word(bytes, 0)? & 0xffff != MAGIC {
            return Err(NotBtf);
        }
        let [header, types_at, types_len, strings_at, strings_len] =
            [4, 8, 12, 16, 20].map(|at| word(bytes, at).map(|n| n as usize));
        let header = header?;
        let section = |at: usize, len: usize| bytes.get(header + at..header + at + len);
        let types = section(types_at?, types_len?).ok_or(NotBtf)?;
        let strings = section(strings_at?, strings_len?).ok_or(NotBtf)?;
        let mut starts = Vec::new();
        let mut at = 0;
        while at < types.len() {
            starts.push(u32::try_from(at).map_err(|_| NotBtf)?);
            at += TYPE_BYTES + rest_of(word(types, at + 4)?)?;
        }
        Ok(Self {
            types,
            strings,
            starts,
        })
    }

    /// The offset of a member of a structure in bytes, also of one within an anonymous structure.
    pub(crate) fn offset_of(&self, structure: &str, member: &str) -> Option<u32> {
        let found = self.starts.iter().find(|&&start| {
            let kind = self.info(start).map(|info| info >> 24 & 0x1f);
            kind == Some(STRUCT) && self.name(start) == Some(structure.as_bytes())
        })?;
        self.bits_to(*found, member, DEPTH).map(|bits| bits / 8)
    }

    fn bits_to(&self, start: u32, member: &str, depth: u32) -> Option<u32> {
        let info = self.info(start)?;
        let is_compound = matches!(info >> 24 & 0x1f, STRUCT | UNION);
        if depth == 0 || !is_compound {
            return None;
        }
        let first = start as usize + TYPE_BYTES;
        (0..(info & 0xffff) as usize).find_map(|number| {
            let at = first + number * MEMBER_BYTES;
            let name = self.string(word(self.types, at).ok()?)?;
            // With the kind flag, the upper byte is the width of a bit field.
            let offset = word(self.types, at + 8).ok()?;
            let bits = if info >> 31 == 1 {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            if name == member.as_bytes() {
                return Some(bits);
            }
            let inner = word(self.types, at + 4).ok()?.checked_sub(1)?;
            let inner = *self.starts.get(inner as usize)?;
            let inside = name
                .is_empty()
                .then(|| self.bits_to(inner, member, depth - 1));
            Some(bits + inside.flatten()?)
        })
    }

    fn info(&self, start: u32) -> Option<u32> {
        word(self.types, start as usize + 4).ok()
    }

    fn name(&self, start: u32) -> Option<&[u8]> {
        self.string(word(self.types, start as usize).ok()?)
    }

    fn string(&self, at: u32) -> Option<&[u8]> {
        let rest = self.strings.get(at as usize..)?;
        rest.split(|&byte| byte == 0).next()
    }
}

/// Bytes that follow a type with this info word.
fn rest_of(info: u32) -> Result<usize, NotBtf> {
    let entries = (info & 0xffff) as usize;
    Ok(match info >> 24 & 0x1f {
        // Pointers, forward declarations, names and qualifiers of types, functions, floats.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        3 => 12,
        STRUCT | UNION | 15 | 19 => entries * 12,
        6 | 13 => entries * 8,
        _ => return Err(NotBtf),
    })
}

fn word(bytes: &[u8], at: usize) -> Result<u32, NotBtf> {
    let four = bytes.get(at..at + 4).ok_or(NotBtf)?;
    Ok(u32::from_ne_bytes(four.try_into().map_err(|_| NotBtf)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_this_kernel() -> Vec<u8> {
        std::fs::read("/sys/kernel/btf/vmlinux").expect("a kernel that describes its types")
    }

    #[test]
    fn members_of_this_kernel_s_tasks_are_found() {
        let bytes = of_this_kernel();
        let btf = Btf::parse(&bytes).unwrap();
        let pid = btf.offset_of("task_struct", "pid").unwrap();
        assert_eq!(btf.offset_of("task_struct", "tgid"), Some(pid + 4));
        assert!(btf.offset_of("task_struct", "comm").is_some());
        assert_eq!(btf.offset_of("list_head", "prev"), Some(8));
        assert_eq!(btf.offset_of("task_struct", "no_such_member"), None);
        assert_eq!(btf.offset_of("no_such_struct", "pid"), None);
    }

    #[test]
    fn what_is_cut_short_is_refused_or_knows_less() {
        let bytes = of_this_kernel();
        for len in [0, 4, 23, 24, 100] {
            assert!(Btf::parse(&bytes[..len]).is_err(), "{len}");
        }
        assert!(Btf::parse(&[0; 64]).is_err());
    }
}
