//! What attachments may reach: their rules, made into what the kernel programs look up.
//!
//! [`compile`] makes the table's nodes of rules, and [`Policies`] keeps one copy of every rule set in
//! the table, however many attachments have it.

mod compile;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    rc::Rc,
};

use pcpm_api::rules::{DomainName, Rules};
use pcpm_ebpf::{
    abi::{PolicyKey, PolicyNode},
    address::Address,
};

use crate::bpf::{BpfError, CompiledPolicy, Datapath};

use compile::NamedNode;
use names::Names;

pub(crate) use compile::{Ranges, RuleError};

/// Rule sets that stay in the table after their last attachment, so that the next one finds them.
const RESTING: usize = 256;

/// The number of a rule set in the table; 0 is that of no rules.
pub(crate) type PolicyId = u32;

/// Why an attachment cannot have the rules it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// The rules themselves.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// The kernel.
    #[error(transparent)]
    Table(#[from] BpfError),
    /// Four thousand million rule sets later.
    #[error("add a rule set: their numbers have run out, restart the daemon")]
    Exhausted,
}

/// All rule sets that are in the table. A number is never used again, so that neither a flow nor a
/// packet under way can take one rule set for another.
#[derive(Debug)]
pub(crate) struct Policies {
    ranges: Ranges,
    names: Names,
    by_rules: HashMap<Rc<Rules>, PolicyId>,
    sets: HashMap<PolicyId, Interned>,
    /// Sets without an attachment, the one that rests longest first.
    resting: VecDeque<PolicyId>,
    last: PolicyId,
}

#[derive(Debug)]
struct Interned {
    rules: Rc<Rules>,
    compiled: CompiledPolicy,
    names: Vec<DomainName>,
    attachments: u32,
}

impl Policies {
    /// No rule sets yet; `ranges` are those that not every rule is about.
    pub(crate) fn new(ranges: Ranges) -> Self {
        Self {
            ranges,
            names: Names::default(),
            by_rules: HashMap::new(),
            sets: HashMap::new(),
            resting: VecDeque::new(),
            last: 0,
        }
    }

    /// The number of `rules` for one more attachment. They are in the table when this returns.
    pub(crate) fn acquire(
        &mut self,
        rules: &Rules,
        table: &mut dyn Datapath,
    ) -> Result<PolicyId, PolicyError> {
        if rules.is_empty() {
            return Ok(0);
        }
        match self.by_rules.get(rules) {
            Some(&id) => {
                self.use_again(id);
                Ok(id)
            }
            None => self.add(rules, table),
        }
    }

    /// Goes on with what an earlier life left in the table: numbers up to `last_policy` and `last_name`
    /// were used. [`restore`](Self::restore) takes over rule sets until
    /// [`end_restore`](Self::end_restore).
    pub(crate) fn begin_restore(
        &mut self,
        last_policy: PolicyId,
        last_name: u32,
        table: &dyn Datapath,
    ) -> Result<(), BpfError> {
        let left = table.policies()?;
        let policies = left.nodes.iter().map(|key| u32::from_be(key.policy));
        self.last = policies.fold(last_policy, u32::max);
        self.names.go_on_after(last_name, &left.names);
        Ok(())
    }

    /// Like [`acquire`](Self::acquire), for rules that had the number `id` in an earlier life.
    pub(crate) fn restore(
        &mut self,
        rules: &Rules,
        id: PolicyId,
        table: &mut dyn Datapath,
    ) -> Result<PolicyId, PolicyError> {
        if id == 0 || self.sets.contains_key(&id) || self.by_rules.contains_key(rules) {
            return self.acquire(rules, table);
        }
        self.last = self.last.max(id);
        self.add_as(id, rules, table)
    }

    /// Removes from the table what no rule set has.
    pub(crate) fn end_restore(&mut self, table: &mut dyn Datapath) -> Result<(), BpfError> {
        self.names.begin_anew();
        let mut nodes = HashSet::new();
        let mut names = HashSet::new();
        for set in self.sets.values() {
            nodes.extend(set.compiled.nodes.iter().map(|(key, _)| *key));
            names.extend(set.compiled.names.iter().map(|(key, _)| *key));
        }
        let mut left = table.policies()?;
        left.nodes.retain(|key| !nodes.contains(key));
        left.names.retain(|(key, _)| !names.contains(key));
        table.remove_policy(&CompiledPolicy {
            nodes: left
                .nodes
                .into_iter()
                .map(|key| (key, PolicyNode::default()))
                .collect(),
            names: left.names,
        })
    }

    /// The last numbers that were given to rule sets and names.
    pub(crate) fn last(&self) -> (PolicyId, u32) {
        (self.last, self.names.last())
    }

    /// An attachment has other rules from now on, or is gone: its settings do not name `rules`.
    pub(crate) fn release(
        &mut self,
        rules: &Rules,
        table: &mut dyn Datapath,
    ) -> Result<(), BpfError> {
        let Some(&id) = self.by_rules.get(rules) else {
            return Ok(());
        };
        let set = self.sets.get_mut(&id).expect("every known set is kept");
        set.attachments -= 1;
        if set.attachments == 0 {
            self.resting.push_back(id);
        }
        self.let_rest(RESTING, table)
    }

    fn use_again(&mut self, id: PolicyId) {
        let set = self.sets.get_mut(&id).expect("every known set is kept");
        if set.attachments == 0 {
            self.resting.retain(|resting| *resting != id);
        }
        set.attachments += 1;
    }

    fn add(&mut self, rules: &Rules, table: &mut dyn Datapath) -> Result<PolicyId, PolicyError> {
        let id = self.last.checked_add(1).ok_or(PolicyError::Exhausted)?;
        self.add_as(id, rules, table)
    }

    fn add_as(
        &mut self,
        id: PolicyId,
        rules: &Rules,
        table: &mut dyn Datapath,
    ) -> Result<PolicyId, PolicyError> {
        let nodes = compile::address_nodes(rules, id, &self.ranges)?;
        let named = compile::name_nodes(rules, id)?;
        self.last = self.last.max(id);
        let mut set = Interned {
            rules: Rc::new(rules.clone()),
            compiled: CompiledPolicy {
                nodes,
                names: Vec::new(),
            },
            names: Vec::new(),
            attachments: 1,
        };
        let added = self
            .name(&mut set, id, named)
            .and_then(|()| self.write(&set.compiled, table));
        if let Err(error) = added {
            self.forget_names(&set);
            return Err(error);
        }
        self.by_rules.insert(set.rules.clone(), id);
        self.sets.insert(id, set);
        Ok(id)
    }

    /// Gives the names of `set` their numbers.
    fn name(
        &mut self,
        set: &mut Interned,
        id: PolicyId,
        named: Vec<NamedNode>,
    ) -> Result<(), PolicyError> {
        for NamedNode { name, key, node } in named {
            let number = self
                .names
                .acquire(&name, &key)
                .ok_or(PolicyError::Exhausted)?;
            let at = PolicyKey::of(id, Address::of_name(number));
            set.compiled.nodes.push((at, node));
            set.compiled.names.push((key, number));
            set.names.push(name);
        }
        Ok(())
    }

    fn forget_names(&mut self, set: &Interned) {
        for name in &set.names {
            self.names.release(name);
        }
    }

    /// Resting sets give way when the table is full.
    fn write(
        &mut self,
        compiled: &CompiledPolicy,
        table: &mut dyn Datapath,
    ) -> Result<(), PolicyError> {
        if table.add_policy(compiled).is_ok() {
            return Ok(());
        }
        self.let_rest(0, table)?;
        Ok(table.add_policy(compiled)?)
    }

    /// Removes the sets that rest longest, until `most` are left.
    fn let_rest(&mut self, most: usize, table: &mut dyn Datapath) -> Result<(), BpfError> {
        let mut outcome = Ok(());
        while self.resting.len() > most {
            let oldest = self.resting.pop_front().expect("there are more");
            let set = self
                .sets
                .remove(&oldest)
                .expect("every resting set is kept");
            self.by_rules.remove(&set.rules);
            self.forget_names(&set);
            outcome = outcome.and(table.remove_policy(&set.compiled));
        }
        outcome
    }
}
