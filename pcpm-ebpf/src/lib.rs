//! What the kernel programs and the daemon share: the map layouts ([`abi`]), the pure packet logic,
//! and the compiled programs themselves.
//!
//! Nothing here touches the kernel; the programs are in `src/bin`.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "a kernel program should be one function: calls cost stack and lose what the verifier \
              knows of the arguments"
)]

pub mod abi;
pub mod address;
pub mod clone;
pub mod decision;
pub mod dns;
pub mod drop_reason;
pub mod drop_sample;
pub mod icmp_error;
mod kernel;
pub mod locks;
pub mod nat;
#[cfg(not(target_arch = "bpf"))]
pub mod object;
pub mod packet;
pub mod policy;
pub mod published;
pub mod quota;
pub mod rate;
pub mod rewrite;
pub mod witness;
#[cfg(not(target_arch = "bpf"))]
pub use object::{LOCKS_OBJECT, STEER_OBJECT, WITNESS_OBJECT};
