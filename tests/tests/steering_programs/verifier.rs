//! What the programs cost the kernel's verifier, which every start of the daemon and every test pays.

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::programs::PROGRAMS;

/// Instructions that the verifier may follow in a program; there were 19,700 at most when slots
/// could have one inner address.
/// A thousand of them take a millisecond or two.
const MOST: u32 = 20_000;

#[test]
fn the_verifier_is_soon_done_with_every_program() -> Result<()> {
    let mut lab = Lab::new()?;
    for name in PROGRAMS {
        let info = lab.program(name)?.info()?;
        let verified = info.verified_instruction_count();
        let verified = verified.with_context(|| format!("{name} was not verified"))?;
        assert!(
            verified <= MOST,
            "the verifier follows {verified} instructions in {name}, {MOST} at most are wanted: make \
             what loops, or is called from several places, a global function (global.rs)"
        );
    }
    Ok(())
}
