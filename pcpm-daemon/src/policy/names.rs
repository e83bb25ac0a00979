//! Numbers for domain names. A name has the same number in all rule sets, so that what was learned for
//! it counts on after a change of rules that keeps the name. No number is used twice.

use std::collections::HashMap;

use pcpm_api::rules::DomainName;
use pcpm_ebpf::abi::{Name, NameKey};

#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<DomainName, Numbered>,
    last: u32,
    /// What the kernel's table says of an earlier life, while that is being restored.
    earlier: HashMap<(u32, Name), u32>,
}

#[derive(Debug)]
struct Numbered {
    number: u32,
    rule_sets: u32,
}

impl Names {
    /// Numbers up to `last` were used in an earlier life, some of them for what `table` has.
    pub(super) fn go_on_after(&mut self, last: u32, table: &[(NameKey, u32)]) {
        self.earlier = table
            .iter()
            .map(|&(NameKey { kind, name, .. }, number)| ((kind, name), number))
            .collect();
        self.last = self.earlier.values().copied().fold(last, u32::max);
    }

    /// Names without a number get new ones from now on.
    pub(super) fn begin_anew(&mut self) {
        self.earlier = HashMap::new();
    }

    /// The last number that was given.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// The number of `name`, which stands in the table as `key`, never 0, for one more rule set; `None`
    /// when there are no more numbers.
    pub(super) fn acquire(&mut self, name: &DomainName, key: &NameKey) -> Option<u32> {
        if let Some(known) = self.known.get_mut(name) {
            known.rule_sets += 1;
            return Some(known.number);
        }
        let number = match self.earlier.get(&(key.kind, key.name)) {
            Some(&number) => number,
            None => self.last.checked_add(1)?,
        };
        self.last = self.last.max(number);
        let new = Numbered {
            number,
            rule_sets: 1,
        };
        self.known.insert(name.clone(), new);
        Some(number)
    }

    /// A rule set with the name is gone.
    pub(super) fn release(&mut self, name: &DomainName) {
        if let Some(known) = self.known.get_mut(name) {
            known.rule_sets -= 1;
            if known.rule_sets == 0 {
                self.known.remove(name);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
