//! What `pcpm-cni` and `pcpm-runtime` have in common: how the attachments that they make are marked, and how
//! they are given back. Both are started once for each container and live for milliseconds: no runtime, no
//! thread, one connection.

pub mod claim;
