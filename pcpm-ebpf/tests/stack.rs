//! How much of a program's 512 bytes of stack its deepest chain of calls takes, as the verifier of the
//! oldest kernel counts (`check_max_stack_depth` before Linux 6.8): each function rounded up to 32 bytes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};
use pcpm_ebpf::{STEER_OBJECT, abi::names};

const STACK: u32 = 512;
/// What is left for whoever adds a feature.
const HEADROOM: u32 = 64;
const ROUNDING: u32 = 32;

const FRAME_POINTER: u8 = 10;
const LOAD_DOUBLE_WORD: u8 = 0x18;
const CALL: u8 = 0x85;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
const FUNCTION_OF_THIS_PROGRAM: u8 = 1;

#[test]
fn every_program_leaves_stack_for_what_comes() -> Result<()> {
    let functions = functions(STEER_OBJECT)?;
    let tc_programs = [
        names::FROM_SLOT,
        names::FROM_HOST,
        names::FROM_HUB,
        names::TO_HUB,
        names::FROM_UPLINK,
    ];
    for program in tc_programs.into_iter().chain(names::SOCKET_PROGRAMS) {
        let place = functions
            .iter()
            .find_map(|(place, function)| (function.name == program).then_some(*place));
        let chain = deepest_chain(&functions, place.with_context(|| format!("no {program}"))?);
        let depth: u32 = chain.iter().map(|function| function.rounded()).sum();
        let chain: Vec<_> = chain.iter().map(|f| (&f.name, f.stack)).collect();
        assert!(
            depth <= STACK - HEADROOM,
            "{program} takes {depth} of {STACK} bytes of stack, and should leave {HEADROOM}: make one \
             of these functions smaller (what it keeps in the workspace takes none, see \"The stack\" in \
             ARCHITECTURE.md): {chain:?}"
        );
    }
    Ok(())
}

/// A section of the object and an offset in it.
type Place = (usize, u64);

struct Function {
    name: String,
    stack: u32,
    calls: Vec<Place>,
}

impl Function {
    fn rounded(&self) -> u32 {
        self.stack.max(1).next_multiple_of(ROUNDING)
    }
}

fn deepest_chain(functions: &BTreeMap<Place, Function>, place: Place) -> Vec<&Function> {
    let Some(function) = functions.get(&place) else {
        return Vec::new();
    };
    let below = function
        .calls
        .iter()
        .map(|callee| deepest_chain(functions, *callee))
        .max_by_key(|chain| chain.iter().map(|function| function.rounded()).sum::<u32>());
    [function]
        .into_iter()
        .chain(below.unwrap_or_default())
        .collect()
}

/// The functions of an object, by where they are.
fn functions(object: &[u8]) -> Result<BTreeMap<Place, Function>> {
    let object = object::File::parse(object).context("read the object")?;
    let mut functions = BTreeMap::new();
    for symbol in object.symbols().filter(|s| s.kind() == SymbolKind::Text) {
        let index = symbol.section_index().context("a function is somewhere")?;
        let section = object.section_by_index(index)?;
        let targets = relocations(&object, &section)?;
        let code = section
            .data_range(symbol.address(), symbol.size())?
            .with_context(|| format!("{} has no code", symbol.name().unwrap_or_default()))?;
        let code = Code {
            place: (index.0, symbol.address()),
            instructions: code.chunks_exact(8).map(Instruction::read).collect(),
            targets: &targets,
        };
        let function = Function {
            name: symbol.name()?.to_owned(),
            stack: code.stack(),
            calls: code.calls(),
        };
        functions.insert(code.place, function);
    }
    Ok(functions)
}

/// Where the instructions at these offsets of `section` lead to, before what they carry is added.
fn relocations(
    object: &object::File<'_>,
    section: &object::Section<'_, '_>,
) -> Result<BTreeMap<u64, Place>> {
    let mut targets = BTreeMap::new();
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(index) = relocation.target() else {
            continue;
        };
        let symbol = object.symbol_by_index(index)?;
        let is_code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Section);
        if let (true, Some(section)) = (is_code, symbol.section_index()) {
            targets.insert(offset, (section.0, symbol.address()));
        }
    }
    Ok(targets)
}

struct Instruction {
    operation: u8,
    destination: u8,
    source: u8,
    offset: i16,
    number: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        Self {
            operation: bytes[0],
            destination: bytes[1] & 0x0f,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            number: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    /// Whether it changes its destination: arithmetic, or a load.
    fn writes_register(&self) -> bool {
        matches!(self.operation & 7, 0 | 1 | 4 | 7)
    }

    /// The base register of an access to memory.
    fn base(&self) -> Option<u8> {
        match self.operation & 7 {
            // Loads, except those of constants.
            1 => Some(self.source),
            // Stores.
            2 | 3 => Some(self.destination),
            _ => None,
        }
    }
}

struct Code<'a> {
    place: Place,
    instructions: Vec<Instruction>,
    targets: &'a BTreeMap<u64, Place>,
}

impl Code<'_> {
    /// The lowest byte below the frame pointer that is accessed, or whose address is taken.
    fn stack(&self) -> u32 {
        let accessed = self
            .instructions
            .iter()
            .filter(|instruction| instruction.base() == Some(FRAME_POINTER))
            .map(|instruction| i32::from(instruction.offset));
        let lowest = accessed.chain(self.addresses()).min().unwrap_or(0);
        lowest.min(0).unsigned_abs()
    }

    /// What is added to copies of the frame pointer. Branches do not matter: the compiler does both in
    /// one block.
    fn addresses(&self) -> Vec<i32> {
        let mut copies = BTreeSet::new();
        let mut added = Vec::new();
        for instruction in &self.instructions {
            let register = instruction.destination;
            match instruction.operation {
                MOVE if instruction.source == FRAME_POINTER => _ = copies.insert(register),
                ADD if copies.remove(&register) => added.push(instruction.number),
                _ if instruction.writes_register() => _ = copies.remove(&register),
                _ => {}
            }
        }
        added
    }

    /// The functions that are called, or whose address is given to a helper that calls them.
    fn calls(&self) -> Vec<Place> {
        let instructions = self.instructions.iter().zip(0..);
        instructions
            .filter_map(|(instruction, index)| self.called_by(instruction, index))
            .collect()
    }

    fn called_by(&self, instruction: &Instruction, index: u64) -> Option<Place> {
        let (section, start) = self.place;
        let at = start + index * 8;
        let target = self.targets.get(&at);
        let number = i64::from(instruction.number);
        match (instruction.operation, target) {
            (CALL, Some((section, address))) => {
                Some((*section, address.wrapping_add_signed((number + 1) * 8)))
            }
            (CALL, None) if instruction.source == FUNCTION_OF_THIS_PROGRAM => {
                Some((section, at.wrapping_add_signed((number + 1) * 8)))
            }
            (LOAD_DOUBLE_WORD, Some((section, address))) => {
                Some((*section, address.wrapping_add_signed(number)))
            }
            _ => None,
        }
    }
}
