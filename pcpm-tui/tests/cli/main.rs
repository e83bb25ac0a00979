//! The real `pcpm` against a scripted daemon: what scripts rely on (`contract`), and commands run
//! inside a slot (`inside`, which takes root). The real daemon is tested elsewhere.

#[cfg(test)]
mod contract;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod inside;
