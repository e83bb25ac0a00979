//! Published ports, from wherever they can be asked for.

mod from_outside;
mod from_slots;
mod from_the_host;
mod publish;
