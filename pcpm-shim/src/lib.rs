//! What `pcpm-cni` and `pcpm-runtime` have in common: how the attachments that they make are marked, how they are given
//! back, and what is told of how long it took. Both are started once for each container and live for milliseconds: no
//! runtime, no thread, one connection.

pub mod claim;
pub mod phases;
