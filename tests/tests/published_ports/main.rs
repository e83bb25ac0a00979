//! Published ports, from wherever they can be asked for.

mod from_the_host;
mod publish;
