//! Numbers for domain names. A name has the same number in all rule sets, so that what was learned for
//! it counts on after a change of rules that keeps the name. No number is used twice.

use std::collections::HashMap;

use super::rules::Pattern;

#[derive(Debug, Default)]
pub(super) struct Names {
    by_pattern: HashMap<Pattern, Numbered>,
    last: u32,
}

#[derive(Debug)]
struct Numbered {
    number: u32,
    rule_sets: u32,
}

impl Names {
    /// The number of `pattern`, never 0, for one more rule set; `None` when there are no more numbers.
    pub(super) fn acquire(&mut self, pattern: &Pattern) -> Option<u32> {
        if let Some(known) = self.by_pattern.get_mut(pattern) {
            known.rule_sets += 1;
            return Some(known.number);
        }
        let number = self.last.checked_add(1)?;
        self.last = number;
        let new = Numbered {
            number,
            rule_sets: 1,
        };
        self.by_pattern.insert(pattern.clone(), new);
        Some(number)
    }

    /// A rule set with the name is gone.
    pub(super) fn release(&mut self, pattern: &Pattern) {
        if let Some(known) = self.by_pattern.get_mut(pattern) {
            known.rule_sets -= 1;
            if known.rule_sets == 0 {
                self.by_pattern.remove(pattern);
            }
        }
    }
}
