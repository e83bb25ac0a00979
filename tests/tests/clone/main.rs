//! Slots that all have the same inner address: what they are inside, and what is outside of them. What passes
//! between them is tried by the tests for slots of any kind, which `cargo xtask test` runs with such ones too.

mod inside;
mod lifetime;
mod outside;
mod pool;
