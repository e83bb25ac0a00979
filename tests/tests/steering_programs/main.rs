//! The steering programs in the kernel: single packets through each program, then real traffic
//! between slots, host and internet. The daemon has no part in this.

mod clones;
mod connections;
mod families;
mod forwarded;
mod fragments;
mod from_host;
mod from_slot;
mod from_uplink;
mod host;
mod icmp_errors;
mod lab;
mod network;
mod packet;
mod path;
mod programs;
mod published;
mod routed;
mod rules;
mod shares;
mod traffic;
mod translation;
mod verifier;
mod world;
