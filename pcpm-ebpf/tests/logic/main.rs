//! Tests on the host of what is decided about packets and waits: the same functions that run in the kernel.

mod clone;
mod decision;
mod dns;
mod drop_reasons;
mod drop_sample;
mod frames;
mod icmp_error;
mod ipv6;
mod locks;
mod nat;
mod packet;
mod policy;
mod published;
mod quota;
mod rate;
mod rewrite;
mod sent;
