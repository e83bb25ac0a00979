//! The command line. It only collects: what a value may be is decided in one place for all sources.
#![expect(
    clippy::doc_markdown,
    reason = "the comments of options are their help, shown as they are"
)]

use std::path::PathBuf;

use clap::Parser;

use super::Origin;
use super::layer::{Given, Layer, RefillLayer};

/// Keeps a pool of ready network namespaces and hands them to starting containers.
///
/// Settings come from the built-in defaults, then the configuration file, then these options.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "pcpmd", version)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub(crate) struct Args {
    /// Configuration file [default: /etc/pcpm/pcpmd.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Unix socket to serve [default: STATE_DIR/pcpm.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<String>,

    /// Directory of the lock file and the namespaces [default: /run/pcpm]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<String>,

    /// Directory of the pinned BPF maps and programs [default: /sys/fs/bpf/pcpm]
    #[arg(long, value_name = "DIR")]
    pub(crate) bpffs: Option<String>,

    /// Number of slots [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) capacity: Option<i64>,

    /// Number of slots kept ready [default: the capacity]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) ready: Option<i64>,

    /// Whether the number of slots kept ready is fixed or follows demand [default: fixed]
    #[arg(long, value_name = "fixed|adaptive")]
    pub(crate) target: Option<String>,

    /// Addresses of the slots [default: 10.213.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pool_cidr: Option<String>,

    /// IPv6 addresses of the slots, a private prefix [default: fd00:7063:706d::/64]
    #[arg(long, value_name = "CIDR|off")]
    pub(crate) pool_cidr6: Option<String>,

    /// Interfaces that lead to the world, also given several times [default: auto, those of the default routes]
    #[arg(long, value_name = "auto|IFACE,...", value_delimiter = ',')]
    pub(crate) uplink: Option<Vec<String>>,

    /// What becomes of slots, attachments and traffic when the daemon is told to stop [default: remove]
    #[arg(long, value_name = "remove|keep")]
    pub(crate) on_exit: Option<String>,

    /// Removes all that an earlier life of the daemon left, attachments too, and exits. Refused while a
    /// daemon runs
    #[arg(long, conflicts_with_all = ["print_config", "check"])]
    pub(crate) cleanup: bool,

    /// Checks the host, prints what was found and exits: 0 if the daemon can run, 1 if not
    #[arg(long, conflicts_with = "print_config")]
    pub(crate) check: bool,

    /// Prints the checks as JSON
    #[arg(long, requires = "check")]
    pub(crate) json: bool,

    /// Prints the effective settings as a configuration file and exits
    #[arg(long)]
    pub(crate) print_config: bool,

    /// Prints the manual page and exits, for packages
    #[arg(long, hide = true)]
    pub(crate) manual: bool,

    /// Prints a shell's completion script and exits
    #[arg(long, value_name = "SHELL", conflicts_with_all = ["print_config", "check", "cleanup"])]
    pub(crate) completions: Option<clap_complete::Shell>,

    /// Kernel programs to run in place of those of the build, for those who work on them
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) steer_object: Option<PathBuf>,

    /// Where monitoring asks: a loopback address with a port, or unix:PATH [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<String>,

    /// How the log is written [default: auto, which is journald where the journal reads stderr, else human]
    #[arg(long, value_name = "auto|human|json|journald")]
    pub(crate) log_format: Option<String>,

    /// What is logged [default: $RUST_LOG, or info]
    #[arg(long, value_name = "error|warn|info|debug|trace")]
    pub(crate) log_level: Option<String>,
}

impl Args {
    pub(super) fn layer(&self) -> Layer {
        Layer {
            socket: option(self.socket.as_ref(), "--socket"),
            state_dir: option(self.state_dir.as_ref(), "--state-dir"),
            bpffs: option(self.bpffs.as_ref(), "--bpffs"),
            capacity: option(self.capacity.as_ref(), "--capacity"),
            ready: option(self.ready.as_ref(), "--ready"),
            refill: RefillLayer {
                target: option(self.target.as_ref(), "--target"),
                ..RefillLayer::default()
            },
            pool_cidr: option(self.pool_cidr.as_ref(), "--pool-cidr"),
            pool_cidr6: option(self.pool_cidr6.as_ref(), "--pool-cidr6"),
            uplink: option(self.uplink.as_ref(), "--uplink"),
            on_exit: option(self.on_exit.as_ref(), "--on-exit"),
            metrics_listen: option(self.metrics.as_ref(), "--metrics"),
            log_format: option(self.log_format.as_ref(), "--log-format"),
            log_level: option(self.log_level.as_ref(), "--log-level"),
            ..Layer::default()
        }
    }
}

fn option<T: Clone>(value: Option<&T>, name: &'static str) -> Option<Given<T>> {
    let value = value?.clone();
    Some(Given {
        value,
        origin: Origin::Option(name),
    })
}
