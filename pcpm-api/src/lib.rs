//! The contract between `pcpmd` and its clients: the Varlink interface `io.pcpm.Pool`
//! ([`INTERFACE`]), its types ([`types`]), its errors ([`error`]), its limits ([`limits`]), what an
//! attachment may ask for beside a slot ([`options`]: [`publish`], [`rules`], [`rates`]), how times are counted ([`times`]), and a small blocking client ([`client`]). No kernel interface may enter here.

pub mod client;
pub mod duration;
pub mod error;
pub mod limits;
pub mod options;
pub mod ports;
pub mod publish;
pub mod rates;
pub mod rules;
pub mod times;
pub mod types;

/// Name of the Varlink interface.
pub const INTERFACE_NAME: &str = "io.pcpm.Pool";

/// Definition of the interface, as served by the daemon.
pub const INTERFACE: &str = include_str!("../io.pcpm.Pool.varlink");

/// Where `pcpmd` listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/pcpm/pcpm.sock";

/// The interface that every slot has, by its name inside.
pub const SLOT_INTERFACE: &str = "eth0";
