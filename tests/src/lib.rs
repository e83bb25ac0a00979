//! Support for the privileged tests: a private [`World`] of namespaces in which a [`Daemon`] runs
//! and real tools judge it. What a test expects stands in `tests/tests/`, never here.

mod chaos;
mod churn;
mod daemon;
mod dns;
pub mod engines;
mod event;
mod http;
mod iperf;
mod machine;
mod place;
mod process;
mod random;
mod rtnl_load;
mod snapshot;
mod tap;
mod terminal;
pub mod wire;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use chaos::{Chaos, ChaosPlan, chaos};
pub use churn::{Churn, churn};
pub use daemon::Daemon;
pub use dns::DnsServer;
pub use event::wait_for_path;
pub use http::HttpServer;
pub use iperf::serve_iperf;
pub use machine::Machine;
pub use place::{Place, Tool};
pub use process::Process;
pub use rtnl_load::{Asked, RtnlLoad};
pub use snapshot::HostState;
pub use tap::Tap;
pub use terminal::Terminal;
pub use wire::Wire;
pub use world::{HOST_ADDRESS, HOST_ADDRESS6, INTERNET_ADDRESS, INTERNET_ADDRESS6, UPLINK, World};

/// How long anything that must happen may take. Generous: a loaded machine is slow, not wrong.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The variable that says where the binaries are that are tested or measured.
pub const BINARIES: &str = "PCPM_BIN_DIR";

/// Where the binary `name` of this workspace is: in [`BINARIES`], or else where cargo put it.
///
/// # Errors
/// When it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os(BINARIES) {
        Some(directory) => directory.into(),
        None => cargo_output_directory()?,
    };
    let path = directory.join(name);
    if !path.exists() {
        bail!(
            "{} does not exist: build it with `cargo build --bins`, or run `cargo xtask test`",
            path.display()
        );
    }
    Ok(path)
}

/// Tests run from `target/PROFILE/deps`, other binaries from `target/PROFILE`.
fn cargo_output_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running executable")?;
    let directory = own
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps"))
        .context("the running executable has no directory")?;
    Ok(directory.to_owned())
}
