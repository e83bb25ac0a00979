//! Networks made by plain netlink with no product code: what an engine would do without a pool, and
//! the floor under what the daemon does to fill one. Nothing here may use the daemon's code.

mod link_load;
mod message;
mod namespace;
mod on_demand;
mod pooled;
mod settle;
mod socket;

pub(crate) use link_load::LinkLoad;
pub(crate) use namespace::Netns;
pub(crate) use on_demand::{OnDemand, prepare_host};
pub(crate) use pooled::{HUB_SLOTS, Hub, SlotMaker};
pub(crate) use settle::settle;
