//! What attachments have beside their slots, carried out: ports reserved on the host and led to the
//! slot, rules in the kernel's table, settings. An attachment without options touches nothing here.
//!
//! The order is that of trust: what a packet could use comes before the attachment that lets it pass,
//! and goes after it.

use std::{collections::HashSet, rc::Rc};

use pcpm_api::{
    error::PoolError,
    options::Options,
    publish::Port,
    rates::Rate,
    rules::Rules,
    types::{DefaultPolicy, UpdateRequest},
};
use pcpm_ebpf::{
    abi::{PortKey, PortTarget, RateLimit, Settings, settings_flag},
    address::Address,
};

use super::{Attachment, Engine, events::Happening};
use crate::{
    api::Caller,
    bpf::BpfError,
    net::slot_name,
    policy::{PolicyError, PolicyId},
    pool::{Holder, SlotIndex},
    reservation::{Keeper, ReservationError},
};

/// The number of no rules.
const NO_RULES: PolicyId = 0;

impl Engine {
    /// Gives the slot what its holder's options ask for, for the attachment `epoch` that no packet
    /// passes yet, and returns the number of its rules. On failure nothing of it is left.
    pub(super) fn grant_options(
        &mut self,
        slot: SlotIndex,
        epoch: u32,
    ) -> Result<PolicyId, PoolError> {
        let Some(holder) = self.pool.holder(slot).filter(|h| has_any(h)) else {
            return Ok(NO_RULES);
        };
        let holder = holder.clone();
        let publish = &holder.options.publish;
        let rules = &holder.in_force().rules;
        self.reserve(slot, publish, keeper(&holder.options))?;
        let granted = self.acquire_policy(rules).and_then(|policy| {
            if holder.has_settings() {
                let settings = settings(epoch, policy, &holder);
                self.datapath.set_settings(slot, &settings);
            }
            self.lead(slot, epoch, publish, &[])
                .inspect_err(|_| self.release_policy(rules))?;
            Ok(policy)
        });
        granted.inspect_err(|_| self.reservations.release(slot, publish))
    }

    /// Takes back what the slot had; its traffic is cut already.
    pub(super) fn revoke_options(&mut self, slot: SlotIndex, holder: &Holder) {
        if !has_any(holder) {
            return;
        }
        self.withdraw(&holder.options.publish);
        self.give_back(slot, &holder.options.publish);
        self.release_policy(&holder.in_force().rules);
    }

    /// Changes the options of a live attachment. What is still allowed goes on undisturbed; on failure
    /// everything is as it was.
    pub(crate) fn update(
        &mut self,
        request: &UpdateRequest,
        caller: Caller,
    ) -> Result<Attachment, PoolError> {
        let slot = self.slot_named(&request.owner, request.id.as_deref())?;
        self.may_touch(slot, caller)?;
        let before = self.pool.holder(slot).cloned();
        let before = before.expect("owners hold attached slots");
        let options = before.options.changed(request)?;
        self.may_change_terms(slot, &before, &options)?;
        let after = Rc::new(Holder {
            options,
            ..before.as_ref().clone()
        });
        let after = self.on_terms(slot, &after)?;
        self.change(slot, &before, &after)?;
        self.after_change();
        let (attachment, _) = self.attached(slot, false)?;
        Ok(attachment)
    }

    /// Gives whoever holds the slot what `after` has.
    pub(super) fn change(
        &mut self,
        slot: SlotIndex,
        before: &Holder,
        after: &Rc<Holder>,
    ) -> Result<(), PoolError> {
        let (ports_before, ports) = (&before.options.publish, &after.options.publish);
        let rules = &after.in_force().rules;
        let epoch = self.pool.epoch(slot);
        let taken = takes_more(ports_before, ports);
        let given_up = takes_more(ports, ports_before);
        self.reserve(slot, &taken, keeper(&after.options))?;
        let changed = self.acquire_policy(rules).and_then(|policy| {
            self.lead(slot, epoch, ports, ports_before)
                .and_then(|()| {
                    self.write_updated(slot, policy, after).inspect_err(|_| {
                        let led = new_ports(ports, ports_before);
                        self.lead_back(slot, epoch, &led, ports_before);
                    })
                })
                .inspect_err(|_| self.release_policy(rules))?;
            Ok(policy)
        });
        let policy = changed.inspect_err(|_| self.reservations.release(slot, &taken))?;
        self.datapath
            .set_settings(slot, &settings(epoch, policy, after));
        self.release_policy(&before.in_force().rules);
        self.withdraw(&given_up);
        self.give_back(slot, &given_up);
        self.pool.change_holder(slot, after.clone());
        self.events
            .push(Happening::Updated, Some(slot), Some(after));
        Ok(())
    }

    /// The ports are the host's again.
    fn give_back(&mut self, slot: SlotIndex, ports: &[Port]) {
        self.reservations.release(slot, ports);
        self.unreserved
            .retain(|(of, port)| *of != slot || !ports.contains(port));
    }

    fn reserve(
        &mut self,
        slot: SlotIndex,
        ports: &[Port],
        keeper: Keeper,
    ) -> Result<(), PoolError> {
        let reserved = self.reservations.reserve(slot, ports, keeper);
        reserved.map_err(|error| self.not_reserved(&error))
    }

    /// A bad choice of ports is the request's fault, a host that has no more is nobody's.
    fn not_reserved(&self, error: &ReservationError) -> PoolError {
        match error {
            ReservationError::Published { port, slot } => {
                let owner = self.pool.holder(*slot).map(|holder| &holder.owner);
                let by = owner.map_or_else(|| slot_name(*slot), |owner| format!("'{owner}'"));
                let reason = format!("port {port} is published by owner {by} already");
                PoolError::invalid("publish", reason)
            }
            ReservationError::Taken(_)
            | ReservationError::Translated(_)
            | ReservationError::NoSuchAddress(_) => {
                PoolError::invalid("publish", error.to_string())
            }
            ReservationError::TooMany(_) | ReservationError::Bind(..) => failed(error),
        }
    }

    /// Leads `ports` to the slot. On failure they lead where they did: to the slot's ports in
    /// `before`, or nowhere.
    pub(super) fn lead(
        &mut self,
        slot: SlotIndex,
        epoch: u32,
        ports: &[Port],
        before: &[Port],
    ) -> Result<(), PoolError> {
        let new = new_ports(ports, before);
        for (done, port) in new.iter().enumerate() {
            let target = target(slot, epoch, port);
            if let Err(error) = self.datapath.publish_port(key(port), target) {
                self.lead_back(slot, epoch, &new[..done], before);
                return Err(failed(&error));
            }
            self.not_withdrawn.retain(|rest| *rest != key(port));
        }
        Ok(())
    }

    fn lead_back(&mut self, slot: SlotIndex, epoch: u32, led: &[&Port], before: &[Port]) {
        for port in led {
            let key = key(port);
            if let Some(old) = before.iter().find(|old| self::key(old) == key) {
                complain(self.datapath.publish_port(key, target(slot, epoch, old)));
            } else {
                self.withdraw_key(key);
            }
        }
    }

    fn withdraw(&mut self, ports: &[Port]) {
        for port in ports {
            self.withdraw_key(key(port));
        }
    }

    /// What cannot be withdrawn leads nowhere once the attachment is gone: its epoch is over. It is tried again,
    /// because one that lives on has given the port up all the same.
    pub(super) fn withdraw_key(&mut self, key: PortKey) {
        if let Err(error) = self.datapath.withdraw_port(key) {
            complain(Err(error));
            self.not_withdrawn.push(key);
        }
    }

    /// Withdraws ports that could not be before, and that nobody has published since.
    pub(super) fn withdraw_rest(&mut self) {
        for key in std::mem::take(&mut self.not_withdrawn) {
            self.withdraw_key(key);
        }
    }

    /// The number of the rules in the kernel's table, where they are from now on.
    fn acquire_policy(&mut self, rules: &Rules) -> Result<PolicyId, PoolError> {
        let acquired = self.policies.acquire(rules, &mut *self.datapath);
        acquired.map_err(|error| match error {
            PolicyError::Rules(error) => {
                let field = if rules.allow().is_empty() {
                    "deny"
                } else {
                    "allow"
                };
                PoolError::invalid(field, error.to_string())
            }
            error => failed(&error),
        })
    }

    fn release_policy(&mut self, rules: &Rules) {
        complain(self.policies.release(rules, &mut *self.datapath));
    }
}

/// Those of `ports` that did not lead to the same place `before`.
fn new_ports<'a>(ports: &'a [Port], before: &[Port]) -> Vec<&'a Port> {
    let is_new = |port: &&Port| before.binary_search(port).is_err();
    ports.iter().filter(is_new).collect()
}

/// Ports of `after` that take something of the host that none of `before` does.
fn takes_more(before: &[Port], after: &[Port]) -> Vec<Port> {
    let held: HashSet<_> = before.iter().map(key).collect();
    let more = after.iter().filter(|port| !held.contains(&key(port)));
    more.copied().collect()
}

pub(super) fn complain(done: Result<(), BpfError>) {
    if let Err(error) = done {
        tracing::error!("{error}");
    }
}

fn failed(error: &dyn std::error::Error) -> PoolError {
    PoolError::Failed {
        reason: error.to_string(),
    }
}

/// Who keeps the published ports of an attachment that is being made or changed.
fn keeper(options: &Options) -> Keeper {
    if options.reserve_ports {
        Keeper::Daemon
    } else {
        Keeper::Client
    }
}

/// Whether the holder has anything beside the slot.
pub(super) fn has_any(holder: &Holder) -> bool {
    !holder.options.publish.is_empty() || holder.has_settings()
}

pub(super) fn settings(epoch: u32, policy: PolicyId, holder: &Holder) -> Settings {
    let options = holder.in_force();
    let world = |default| holder.world() == Some(default);
    let flags = [
        (world(DefaultPolicy::Open), settings_flag::WORLD_OPEN),
        (world(DefaultPolicy::Closed), settings_flag::WORLD_CLOSED),
        (options.rules.has_names(), settings_flag::LEARN_NAMES),
        (is_limited(options.up), settings_flag::LIMIT_UP),
        (is_limited(options.down), settings_flag::LIMIT_DOWN),
    ];
    let set = flags.iter().filter(|(is_set, _)| *is_set);
    Settings {
        epoch,
        policy,
        flags: set.map(|(_, flag)| flag).sum(),
        up: limit(options.up),
        down: limit(options.down),
        ..Settings::default()
    }
}

fn is_limited(rate: Rate) -> bool {
    limit(rate) != RateLimit::default()
}

fn limit(rate: Rate) -> RateLimit {
    RateLimit {
        bits_per_second: rate.bits.unwrap_or(0),
        packets_per_second: rate.packets.unwrap_or(0),
    }
}

pub(super) fn key(port: &Port) -> PortKey {
    PortKey {
        address: port.host_address.map_or(Address::ANY, Address::from),
        port: port.host_port,
        protocol: port.transport.number(),
        padding: 0,
    }
}

pub(super) fn target(slot: SlotIndex, epoch: u32, port: &Port) -> PortTarget {
    PortTarget {
        slot,
        epoch,
        port: port.port,
        ..PortTarget::default()
    }
}
