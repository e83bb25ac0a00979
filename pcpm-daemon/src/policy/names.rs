//! Numbers for domain names. A name has the same number in all rule sets, so that what was learned for
//! it counts on after a change of rules that keeps the name. No number is used twice.

use std::collections::HashMap;

use pcpm_api::rules::DomainName;

#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<DomainName, Numbered>,
    last: u32,
}

#[derive(Debug)]
struct Numbered {
    number: u32,
    rule_sets: u32,
}

impl Names {
    /// The number of `name`, never 0, for one more rule set; `None` when there are no more numbers.
    pub(super) fn acquire(&mut self, name: &DomainName) -> Option<u32> {
        if let Some(known) = self.known.get_mut(name) {
            known.rule_sets += 1;
            return Some(known.number);
        }
        let number = self.last.checked_add(1)?;
        self.last = number;
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
