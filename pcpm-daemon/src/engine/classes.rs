//! The classes of slots as clients and the journal name them, and what is the same for all slots of one.

use std::rc::Rc;

use ipnet::Ipv4Net;
use pcpm_api::{
    error::PoolError,
    options::Options,
    types::{ClassPolicy, ClassStatus, Reservation},
};

use super::{Engine, administration::Sizes, attachment::texts};
use crate::{
    net::Share,
    pool::{ClassIndex, ClassSettings, Recycle, SlotIndex, Terms},
};

/// A class as it is configured.
#[derive(Clone, Debug)]
pub(crate) struct ClassSpec {
    pub(crate) name: String,
    /// Of its slots' links, in bytes; the uplink's if there is none.
    pub(crate) mtu: Option<u32>,
    /// Namespaces that its slots have beside the network one.
    pub(crate) share: Share,
    /// What its slots' addresses are in.
    pub(crate) addresses: Ipv4Net,
    /// Of the reservations in `pool`, in their order.
    pub(crate) reservations: Vec<String>,
    /// Rules and limits that it gives to all attachments, if any.
    pub(crate) terms: Option<Rc<Terms>>,
    pub(crate) pool: ClassSettings,
}

/// A class by the place that it has in the pool.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) name: Rc<str>,
    pub(super) sizes: Sizes,
    mtu: Option<u32>,
    pub(super) share: Share,
    addresses: Ipv4Net,
    recycle: Recycle,
    pub(super) terms: Option<Rc<Terms>>,
    /// Names of the reservations, and whom they are for.
    reservations: Vec<(String, Vec<String>)>,
    /// Only slots of an earlier life are of it.
    pub(super) is_removed: bool,
}

impl Class {
    pub(super) fn new(spec: &ClassSpec) -> Self {
        let tenants = spec.pool.reserves.iter().map(|reserve| {
            let patterns = reserve.tenants.iter();
            patterns.map(ToString::to_string).collect()
        });
        Self {
            name: spec.name.as_str().into(),
            sizes: Sizes::of(spec.pool.target),
            mtu: spec.mtu,
            share: spec.share,
            addresses: spec.addresses,
            recycle: spec.pool.recycle,
            terms: spec.terms.clone(),
            reservations: spec.reservations.iter().cloned().zip(tenants).collect(),
            is_removed: false,
        }
    }
}

impl Engine {
    /// The class of this name that slots can be had of; the default one where none is named.
    pub(super) fn class_named(&self, name: Option<&str>) -> Result<ClassIndex, PoolError> {
        let Some(name) = name else {
            return Ok(0);
        };
        let known = || self.classes.iter().filter(|class| !class.is_removed);
        known()
            .position(|class| *class.name == *name)
            .ok_or_else(|| PoolError::NoSuchClass {
                class: name.to_owned(),
                classes: known().map(|class| class.name.to_string()).collect(),
            })
    }

    /// The class of this name, one of an earlier life if there is no other.
    pub(super) fn class_of_earlier_life(&mut self, name: &Rc<str>) -> ClassIndex {
        let known = self.classes.iter().position(|class| class.name == *name);
        known.unwrap_or_else(|| {
            tracing::warn!(
                class = &**name,
                "slots are left of a class that is not configured"
            );
            let index = self.pool.add_removed_class();
            self.classes.push(Class {
                name: name.clone(),
                sizes: Sizes::of(self.pool.target_setting(index)),
                mtu: None,
                share: Share::default(),
                addresses: self.world.pool_cidr,
                recycle: Recycle::Never,
                terms: None,
                reservations: Vec::new(),
                is_removed: true,
            });
            index
        })
    }

    /// The name of the class that the slot is of, which is not vacant.
    pub(super) fn class_name(&self, slot: SlotIndex) -> &Rc<str> {
        &self.classes[self.pool.class_of(slot)].name
    }

    /// The MTU of new slots.
    pub(super) fn mtu(&self, class: ClassIndex) -> u32 {
        self.classes[class].mtu.unwrap_or(self.world.mtu)
    }

    /// Whether a slot with this MTU is like new ones of the class. That of the uplink may be another one at
    /// any time: slots that have the former one go on.
    pub(super) fn is_mtu_of(&self, class: ClassIndex, mtu: u32) -> bool {
        self.classes[class].mtu.is_none_or(|own| own == mtu)
    }

    pub(super) fn class_statuses(&self) -> Vec<ClassStatus> {
        let indexes = 0..self.classes.len();
        let shown = indexes.filter(|&index| {
            !self.classes[index].is_removed || self.pool.counts_of(index).beyond > 0
        });
        shown.map(|index| self.class_status(index)).collect()
    }

    fn class_status(&self, index: ClassIndex) -> ClassStatus {
        let class = &self.classes[index];
        let held = self.pool.reserved(index);
        let reservations = class.reservations.iter().zip(held);
        let reservations = reservations.map(|((name, tenants), (ready, warm))| Reservation {
            name: name.clone(),
            tenants: tenants.clone(),
            warm,
            ready,
        });
        ClassStatus {
            name: class.name.to_string(),
            slots: self.pool.counts_of(index),
            target: self.warm_target(index),
            draining: self.pool.drains(index),
            mtu: self.mtu(index),
            addresses: class.addresses.to_string(),
            recycle: class.recycle.to_string(),
            share: class.share.into(),
            policy: class
                .terms
                .as_deref()
                .map_or_else(ClassPolicy::default, shown),
            reservations: reservations.collect(),
        }
    }
}

fn shown(terms: &Terms) -> ClassPolicy {
    let Options {
        rules, up, down, ..
    } = &terms.options;
    ClassPolicy {
        default: terms.world,
        allow: texts(rules.allow()),
        deny: texts(rules.deny()),
        rate_up: up.bits,
        rate_down: down.bits,
        rate_up_packets: up.packets,
        rate_down_packets: down.packets,
    }
}
