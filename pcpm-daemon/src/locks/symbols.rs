//! Names of addresses in the kernel's text, from `/proc/kallsyms`. The table takes some megabytes and a
//! few tens of milliseconds, so it is read when an address is met that is not known yet, and forgotten
//! when there was none for a while.

use std::{
    collections::HashMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use pcpm_ebpf::locks::TextRange;

use crate::memory;

/// How long the table is kept without being needed.
const KEPT: Duration = Duration::from_secs(30);

/// Names kept of addresses that were asked for. More are resolved again.
const NAMES: usize = 4096;

/// The symbols of the kernel's text and its modules', by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    /// Address, and where the name ends in `names`; sorted.
    entries: Vec<(u64, u32)>,
    names: String,
}

impl Symbols {
    /// The running kernel's; none where it does not show them (`kernel.kptr_restrict`).
    pub(crate) fn read() -> Self {
        fs::read_to_string("/proc/kallsyms")
            .map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut lines: Vec<_> = text.lines().filter_map(line).collect();
        lines.sort_by_key(|&(address, _)| address);
        let mut symbols = Self::default();
        for (address, name) in lines {
            symbols.names.push_str(name);
            let end = u32::try_from(symbols.names.len()).unwrap_or(u32::MAX);
            symbols.entries.push((address, end));
        }
        symbols
    }

    /// The function that an address is in.
    fn name_of(&self, address: u64) -> Option<&str> {
        let behind = self.entries.partition_point(|&(start, _)| start <= address);
        self.name(behind.checked_sub(1)?)
    }

    fn name(&self, index: usize) -> Option<&str> {
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.entries[before].1);
        let end = self.entries.get(index)?.1;
        self.names.get(start as usize..end as usize)
    }

    /// Where a function is, or from one symbol to another.
    pub(crate) fn range(&self, first: &str, end: Option<&str>) -> Option<TextRange> {
        let index = self.index(first)?;
        let start = self.entries[index].0;
        let end = if let Some(end) = end {
            self.entries[self.index(end)?].0
        } else {
            let mut behind = self.entries[index..].iter().map(|&(address, _)| address);
            behind.find(|&address| address > start)?
        };
        Some(TextRange { start, end })
    }

    fn index(&self, name: &str) -> Option<usize> {
        (0..self.entries.len()).find(|&index| self.name(index) == Some(name))
    }

    /// The address of a symbol, also of data where the kernel shows it.
    pub(crate) fn address(&self, name: &str) -> Option<u64> {
        self.index(name).map(|index| self.entries[index].0)
    }
}

/// Address and name of a line, without what compilers append to names. Data is left out but for the lock
/// that everything is about.
fn line(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16)
        .ok()
        .filter(|&a| a != 0)?;
    let is_text = matches!(words.next()?, "t" | "T" | "w" | "W");
    let name = words.next()?;
    (is_text || name == "rtnl_mutex").then(|| (address, name.split('.').next().unwrap_or(name)))
}

/// Names addresses, and remembers them.
#[derive(Debug)]
pub(crate) struct Resolver {
    known: HashMap<u64, Arc<str>>,
    symbols: Option<Symbols>,
    needed: Instant,
    /// Addresses without a name so far.
    nameless: u64,
}

impl Resolver {
    /// One that has `symbols` already.
    pub(crate) fn new(symbols: Symbols) -> Self {
        Self {
            known: HashMap::new(),
            symbols: Some(symbols),
            needed: Instant::now(),
            nameless: 0,
        }
    }

    /// The function that an address is in; a number where it has no name, since addresses are nobody's business, and
    /// `?` for none.
    pub(crate) fn name(&mut self, address: u64) -> Arc<str> {
        if address == 0 {
            return "?".into();
        }
        if let Some(name) = self.known.get(&address) {
            return name.clone();
        }
        self.needed = Instant::now();
        let symbols = self.symbols.get_or_insert_with(Symbols::read);
        let name: Arc<str> = if let Some(name) = symbols.name_of(address) {
            name.into()
        } else {
            self.nameless += 1;
            format!("?{}", self.nameless).into()
        };
        if self.known.len() >= NAMES {
            self.known.clear();
        }
        self.known.insert(address, name.clone());
        name
    }

    /// Forgets the table if nobody needed it lately.
    pub(crate) fn rest(&mut self) {
        if self.needed.elapsed() > KEPT && self.symbols.take().is_some() {
            memory::give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
ffffffff81000200 T rtnl_lock
ffffffff81000100 t first.constprop.0
ffffffff81000300 T rtnl_unlock
ffffffff81000300 T rtnl_unlock_alias
ffffffff82000000 D jiffies
ffffffff82000040 d rtnl_mutex
ffffffffc0001000 t in_module\t[veth]
0000000000000000 T hidden
";

    #[test]
    fn an_address_is_in_the_function_that_begins_before_it() {
        let symbols = Symbols::parse(TABLE);
        for (address, name) in [
            (0xffff_ffff_8100_00ff, None),
            (0xffff_ffff_8100_0100, Some("first")),
            (0xffff_ffff_8100_02ff, Some("rtnl_lock")),
            (0xffff_ffff_c000_1234, Some("in_module")),
        ] {
            assert_eq!(symbols.name_of(address), name);
        }
        assert_eq!(symbols.address("rtnl_mutex"), Some(0xffff_ffff_8200_0040));
        assert_eq!(symbols.address("jiffies"), None);
    }

    #[test]
    fn a_range_ends_with_the_next_function_or_where_it_is_told_to() {
        let symbols = Symbols::parse(TABLE);
        let range = |end| symbols.range("rtnl_lock", end).map(|r| (r.start, r.end));
        let start = 0xffff_ffff_8100_0200;
        assert_eq!(range(None), Some((start, 0xffff_ffff_8100_0300)));
        assert_eq!(
            range(Some("in_module")),
            Some((start, 0xffff_ffff_c000_1000))
        );
        assert_eq!(range(Some("nobody")), None);
    }

    #[test]
    fn what_has_no_name_gets_a_number_and_keeps_it() {
        let mut resolver = Resolver::new(Symbols::default());
        for (address, name) in [(0xabc, "?1"), (0xdef, "?2"), (0xabc, "?1")] {
            assert_eq!(&*resolver.name(address), name);
        }
        assert_eq!(&*resolver.name(0), "?");
    }

    #[test]
    fn this_kernel_knows_where_its_own_locks_are() {
        let symbols = Symbols::read();
        assert!(symbols.range("rtnl_lock", None).is_some());
        let slow_paths = symbols.range("__sched_text_start", Some("__sched_text_end"));
        assert!(
            slow_paths.is_some(),
            "the range of functions that sleep for locks"
        );
    }
}
