//! What the kernel programs and the daemon share: the map layouts ([`abi`]) and the pure packet
//! logic. Nothing here touches the kernel; the programs themselves are in `src/bin`.
#![no_std]

pub mod abi;
