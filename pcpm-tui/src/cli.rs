//! The words of the command line and their help. What they do is in `commands`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pcpm_api::types::{
    AttachRequest, DrainRequest, Lease, OnEmpty, ResizeRequest, TargetMode, UpdateRequest,
};
use pcpm_api::{DEFAULT_SOCKET, duration};

use crate::parse::{self, LeaseOption};
use crate::top::{Config, ThemeName, View};

/// Where the help puts what every verb takes.
const EVERYWHERE: &str = "Everywhere";

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  refused or failed; the reason is on standard error
  2  wrong usage
  3  pcpmd cannot be reached or does not answer
  4  the pool is exhausted
  'run' and 'exec' exit with the status of their command: 128 + N when signal N killed it, 126 when
  it cannot be executed, 127 when it is not found.

Examples:
  pcpm status
  pcpm run -- curl http://example.com/
  pcpm attach web-1 --tenant shop
  pcpm --json ls | jq -r '.[].owner'";

const ATTACH_HELP: &str = "\
Examples:
  pcpm attach web-1 --tenant shop --label app=web --publish 8080:80
  pcpm attach job-6 --allow example.com:443 --deny 0.0.0.0/0 --rate-up 10M
  netns=$(pcpm --json attach web-1 | jq -r .netns)
  pcpm attach job-7 --on-empty fail || echo 'no slot is ready'

With '--lease connection' the attachment lives as long as this command: it prints the attachment,
then stays until its standard input ends or it is interrupted, and the slot is free again even if it
is killed. With '--lease pid:PID' it ends with that process, also after a restart of the daemon. Attaching an owner again with the same parameters returns the same attachment.";

const RUN_HELP: &str = "\
Examples:
  pcpm run -- ping -c 1 169.254.1.1
  pcpm run --name web-1 --tenant shop -- python3 -m http.server 8080

The slot is given back when the command ends, also when pcpm itself is killed. The command gets the
variables PCPM_OWNER, PCPM_SLOT, PCPM_ADDRESS, PCPM_INNER_ADDRESS and PCPM_NETNS, and the signals sent
to pcpm. Only its network is another one: it sees the files of the host, and /sys still shows the
host's devices.
Joining a network namespace takes root (CAP_SYS_ADMIN).";

const UPDATE_HELP: &str = "\
Examples:
  pcpm update web-1 --publish 8080:80 --publish 8443:443
  pcpm update web-1 --no-publish --rate-up none
  pcpm update web-1 --deny 192.0.2.0/24

What is named replaces what was, all of it; what is not named stays. Connections that are still
allowed go on. When anything is refused, nothing has changed.";

const EXEC_HELP: &str = "\
Examples:
  pcpm exec web-1 -- ip address
  pcpm exec web-1 -- ss -tln

The command replaces pcpm and keeps running in the slot's network; it does not keep the slot attached.
It sees the files of the host, and /sys still shows the host's devices. Joining a network namespace
takes root (CAP_SYS_ADMIN).";

const WATCH_HELP: &str = "\
Prints one line per event: time (UTC), kind, slot, owner, tenant, message. With --json one frame per
line, the first with every slot, the others with those that changed. Exits 3 when pcpmd goes away.

With --locks there is a line for each of the locks that were waited for longest in the last second
(kind lock), and one for each long wait (kind wait).";

const TOP_HELP: &str = "\
Examples:
  pcpm top                              ? shows the keys
  pcpm top --once | less                one frame, as text
  pcpm top --record load.pcpm           everything it sees, for later
  pcpm top --replay load.pcpm --at 2m   without a daemon, by anybody

The configuration is read from $XDG_CONFIG_HOME/pcpm/top.toml or ~/.config/pcpm/top.toml:
'pcpm top --print-config > ~/.config/pcpm/top.toml' begins one. NO_COLOR and --color never turn colours off.";

const DROPS_HELP: &str = "\
Examples:
  pcpm drops --owner web-1
  pcpm drops --follow --reason other-tenant
  pcpm drops --explain host-closed

Every dropped packet is counted; of each slot and reason up to 8 a second (on each processor) are
recorded with what they were. A record counts the packets since the one before. The last 1024 are
remembered.";

const LOCKS_HELP: &str = "\
Examples:
  pcpm locks                       the last ten seconds
  pcpm locks --duration 30s --stacks
  pcpm locks --follow
  pcpm locks --last 10m --top 500 --folded | flamegraph.pl > locks.svg

SHARE is the time that all waiters together waited, of the time observed: more than 100% when several
wait at once. A lock in parentheses is named by the function that asks for it. Waits of at least
locks.long_wait_ms (10 by default) are told one by one.";

const DRAIN_HELP: &str = "\
Examples:
  pcpm drain --wait --timeout 10m && systemctl stop pcpmd
  pcpm drain --undo

Requests that wait for a slot are refused. Exits 1 when the time is over and something is still attached;
pcpmd then goes on draining.";

const RESIZE_HELP: &str = "\
Examples:
  pcpm resize --capacity 200 --ready 50
  pcpm resize --target adaptive

Until pcpmd is started again: the configuration is not changed. A smaller pool destroys free slots at once
and does not replace attached ones when they are given back.";

const DOCTOR_HELP: &str = "\
Exits 1 when a check failed. When pcpmd cannot be reached, 'pcpmd --check' is run
instead, found beside pcpm or in PATH, and the exit code is that of its checks.";

/// Hand out, watch and use the network slots that pcpmd keeps ready.
///
/// A slot is a network namespace with its link, address and routes, made beforehand. Attaching one to
/// a starting container takes microseconds.
#[derive(Debug, Parser)]
#[command(name = "pcpm", version, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Where pcpmd listens.
    #[arg(long, global = true, value_name = "PATH", env = "PCPM_SOCKET")]
    #[arg(help_heading = EVERYWHERE, default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,

    /// Print JSON, for programs.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,

    /// When to use colours; the variable `NO_COLOR` turns 'auto' off.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    #[arg(help_heading = EVERYWHERE)]
    pub(crate) color: ColorWhen,

    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal.
    Auto,
    /// Always, with aligned columns.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Attach a slot to an owner and print it.
    #[command(after_help = ATTACH_HELP)]
    Attach(AttachArgs),
    /// Give slots back; their traffic is cut at once.
    Detach {
        /// Whose slots.
        #[arg(required = true, value_name = "OWNER")]
        owners: Vec<String>,
    },
    /// Change what an attachment publishes, may reach and how fast.
    #[command(after_help = UPDATE_HELP)]
    Update(UpdateArgs),
    /// List the attachments.
    Ls,
    /// Show the attachment of one owner, its traffic and its flows.
    Show {
        /// Whose attachment.
        owner: String,
    },
    /// Run a command in a slot of its own.
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Run a command in an owner's slot.
    #[command(after_help = EXEC_HELP)]
    Exec {
        /// Whose slot.
        owner: String,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Show the pool's state, latencies, drops and failures.
    Status,
    /// Follow what happens in the pool.
    #[command(after_help = WATCH_HELP)]
    Watch(WatchArgs),
    /// Show the dashboard.
    #[command(after_help = TOP_HELP)]
    Top(TopArgs),
    /// Show which packets were dropped, and why.
    #[command(after_help = DROPS_HELP)]
    Drops(DropsArgs),
    /// Show who waits for the kernel's locks, and who holds them.
    #[command(after_help = LOCKS_HELP)]
    Locks(LocksArgs),
    /// Take no new attachments; those there are go on.
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArgs),
    /// Change how large the pool is, and how much of it is kept ready.
    #[command(after_help = RESIZE_HELP)]
    Resize(ResizeArgs),
    /// Have pcpmd read its configuration again; says what changed and what needs a restart.
    Reload,
    /// Check what the host offers and what pcpmd needs.
    #[command(after_help = DOCTOR_HELP)]
    Doctor,
    /// Print a shell's completion script.
    #[command(after_help = "Example:\n  pcpm completions bash > /etc/bash_completion.d/pcpm")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, for packages.
    #[command(hide = true)]
    Manual {
        /// Where to.
        directory: PathBuf,
    },
}

/// Words of `attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Who gets the slot: a container id, a unit, any name.
    pub(crate) owner: String,
    #[command(flatten)]
    pub(crate) options: AttachOptions,
    /// How long the attachment lives: until 'detach' (explicit), as long as this command (connection), or
    /// as long as a process (pid:PID).
    #[arg(long, value_name = "LEASE", default_value = Lease::Explicit.as_str())]
    #[arg(value_parser = parse::lease)]
    pub(crate) lease: LeaseOption,
}

/// Words of `update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Whose attachment.
    pub(crate) owner: String,
    #[command(flatten)]
    options: SlotOptions,
    /// Publish nothing any more.
    #[arg(long, conflicts_with = "publish")]
    no_publish: bool,
    /// Allow nothing beyond what everybody may.
    #[arg(long, conflicts_with = "allow")]
    no_allow: bool,
    /// Deny nothing any more.
    #[arg(long, conflicts_with = "deny")]
    no_deny: bool,
}

impl UpdateArgs {
    /// The request these words make.
    pub(crate) fn request(&self) -> UpdateRequest {
        let or_none = |texts: &[String], none: bool| list(texts).or(none.then(Vec::new));
        let options = &self.options;
        UpdateRequest {
            owner: self.owner.clone(),
            id: None,
            publish: or_none(&options.publish, self.no_publish),
            allow: or_none(&options.allow, self.no_allow),
            deny: or_none(&options.deny, self.no_deny),
            rate_up: options.rate_up,
            rate_down: options.rate_down,
            rate_up_packets: options.rate_up_packets,
            rate_down_packets: options.rate_down_packets,
        }
    }
}

/// Words of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Who gets the slot; a new name is made up if not given.
    #[arg(long, value_name = "OWNER")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) options: AttachOptions,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Words that `attach` and `run` share.
#[derive(Debug, Args)]
pub(crate) struct AttachOptions {
    /// Whose slots the new one reaches, and is reached by.
    #[arg(long)]
    tenant: Option<String>,
    /// Class of slots that it gets one of: size, MTU, addresses and the rest are the class's.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// A label of the attachment; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// What to do when no slot is ready: wait for one, have one made now, or fail at once.
    #[arg(long, value_name = "WHAT", value_parser = one_of(OnEmpty::ALL, OnEmpty::as_str))]
    on_empty: Option<OnEmpty>,
    /// How long to wait for a slot: 500ms, 5s, 2m.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
    #[command(flatten)]
    slot: SlotOptions,
}

/// Words about what a slot may do; the daemon judges what they say.
#[derive(Debug, Args)]
struct SlotOptions {
    /// Lead a port of the host to the slot: `[tcp:|udp:][HOSTADDR:]HOSTPORT:PORT`, both may be ranges;
    /// may be given several times.
    #[arg(long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Let the slot reach an address, CIDR, domain name or 'host': `PEER[:PORTS][/PROTOCOL]`; the most
    /// specific of all rules counts; may be given several times.
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// Keep the slot from an address or CIDR: `PEER[:PORTS][/PROTOCOL]`; may be given several times.
    #[arg(long, value_name = "RULE")]
    deny: Vec<String>,
    /// Most the slot may send, in bits a second: 500k, 10M, 1G; 'none' for no limit.
    #[arg(long, value_name = "BPS", value_parser = parse::rate)]
    rate_up: Option<u64>,
    /// Most the slot may receive, in bits a second.
    #[arg(long, value_name = "BPS", value_parser = parse::rate)]
    rate_down: Option<u64>,
    /// Most the slot may send, in packets a second.
    #[arg(long, value_name = "PPS", value_parser = parse::rate)]
    rate_up_packets: Option<u64>,
    /// Most the slot may receive, in packets a second.
    #[arg(long, value_name = "PPS", value_parser = parse::rate)]
    rate_down_packets: Option<u64>,
}

fn list(texts: &[String]) -> Option<Vec<String>> {
    (!texts.is_empty()).then(|| texts.to_vec())
}

impl AttachOptions {
    /// The request these words make for `owner`. The daemon judges names and limits.
    pub(crate) fn request(&self, owner: &str, lease: LeaseOption) -> AttachRequest {
        let labels: BTreeMap<_, _> = self.labels.iter().cloned().collect();
        AttachRequest {
            owner: owner.into(),
            tenant: self.tenant.clone(),
            class: self.class.clone(),
            labels: (!labels.is_empty()).then_some(labels),
            publish: list(&self.slot.publish),
            allow: list(&self.slot.allow),
            deny: list(&self.slot.deny),
            rate_up: self.slot.rate_up,
            rate_down: self.slot.rate_down,
            rate_up_packets: self.slot.rate_up_packets,
            rate_down_packets: self.slot.rate_down_packets,
            on_empty: self.on_empty,
            timeout_ms: self.timeout.map(milliseconds),
            lease: Some(lease.lease),
            lease_pid: lease.pid,
            exclusive: None,
            reserve_ports: None,
            pass_fd: None,
        }
    }
}

/// Words of `top`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are what may be said")]
pub(crate) struct TopArgs {
    /// Print one frame as text and end; no terminal is needed.
    #[arg(long)]
    pub(crate) once: bool,
    /// The view to begin with.
    #[arg(long, value_enum, default_value = "overview")]
    pub(crate) view: View,
    /// Size of the frame that '--once' prints: 120x40.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse::size, requires = "once")]
    pub(crate) size: Option<(u16, u16)>,
    /// Without the actions that change something.
    #[arg(long)]
    read_only: bool,
    /// Shortest time between two updates.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    interval: Option<Duration>,
    /// Colours for a dark or light background, none, or some that everybody can tell apart.
    #[arg(long, value_enum)]
    theme: Option<ThemeName>,
    /// Use only signs that every font has.
    #[arg(long)]
    ascii: bool,
    /// Leave the mouse to the terminal.
    #[arg(long)]
    no_mouse: bool,
    /// Write everything that is seen to a new file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["replay", "once"])]
    pub(crate) record: Option<PathBuf>,
    /// Show what was recorded; neither a daemon nor root is needed.
    #[arg(long, value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,
    /// How fast to replay.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "replay", value_parser = parse::speed)]
    pub(crate) speed: f64,
    /// Where in the recording to begin; with '--once', what to show.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "replay")]
    pub(crate) at: Option<Duration>,
    /// Read this configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the keys, as the configuration has them.
    #[arg(long)]
    pub(crate) print_keys: bool,
    /// Print the configuration in force.
    #[arg(long, conflicts_with = "print_keys")]
    pub(crate) print_config: bool,
}

impl TopArgs {
    /// What was said here counts more than what is configured.
    pub(crate) fn apply(&self, config: &mut Config) {
        config.theme = self.theme.unwrap_or(config.theme);
        config.ascii |= self.ascii;
        config.read_only |= self.read_only;
        config.mouse &= !self.no_mouse;
        config.interval_ms = self.interval.map_or(config.interval_ms, milliseconds);
    }
}

/// Words of `drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Take new attachments again.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) undo: bool,
    /// Wait until nothing is attached.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: 30s, 10m.
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = duration::parse)]
    pub(crate) timeout: Option<Duration>,
    /// Only this class of slots.
    #[arg(long, value_name = "NAME")]
    pub(crate) class: Option<String>,
}

impl DrainArgs {
    /// The request these words make.
    pub(crate) fn request(&self) -> DrainRequest {
        DrainRequest {
            undo: self.undo.then_some(true),
            class: self.class.clone(),
        }
    }
}

/// Words of `resize`.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct ResizeArgs {
    /// Number of slots.
    #[arg(long, value_name = "N")]
    capacity: Option<u32>,
    /// Number of slots kept ready, or an adaptive target begins with.
    #[arg(long, value_name = "N")]
    ready: Option<u32>,
    /// Whether the number of slots kept ready is fixed or follows demand.
    #[arg(long, value_name = "HOW", value_parser = one_of(TargetMode::ALL, TargetMode::as_str))]
    target: Option<TargetMode>,
    /// The class of slots, if it is not the default one.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
}

impl ResizeArgs {
    /// The request these words make.
    pub(crate) fn request(&self) -> ResizeRequest {
        ResizeRequest {
            capacity: self.capacity,
            ready: self.ready,
            target: self.target,
            class: self.class.clone(),
        }
    }
}

/// Words of `drops`.
#[derive(Debug, Args)]
pub(crate) struct DropsArgs {
    /// Print what is dropped from now on, too, until interrupted.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only packets from or for the slot of this owner.
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// Only packets dropped for this reason.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Print what a reason means, what causes it and what to do about it.
    #[arg(long, value_name = "REASON", exclusive = true)]
    pub(crate) explain: Option<String>,
}

/// Words of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Shortest time between two frames.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) interval: Option<Duration>,
    /// Tell also, once a second, who waits for the kernel's locks.
    #[arg(long)]
    pub(crate) locks: bool,
}

/// Words of `locks`.
#[derive(Debug, Args)]
pub(crate) struct LocksArgs {
    /// Observe for this long from now on.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "last")]
    pub(crate) duration: Option<Duration>,
    /// Show this much of the past, at most 10m.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10s")]
    pub(crate) last: Duration,
    /// Print what every second brings, until interrupted.
    #[arg(long, short, conflicts_with_all = ["duration", "last"])]
    pub(crate) follow: bool,
    /// Print the stacks of the longest waits.
    #[arg(long)]
    pub(crate) stacks: bool,
    /// Print nothing but the stacks of the longest waits, one a line, for flame graphs.
    #[arg(long, conflicts_with = "stacks")]
    pub(crate) folded: bool,
    /// How many waiters, blockers and long waits.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) top: Option<u64>,
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Accepts the words of `all`, which then show in the help and in completions.
fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    word: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(move |&value| word(value))).map(move |text| {
        let value = all.iter().copied().find(|&value| word(value) == text);
        value.expect("clap accepts the listed words only")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn attach_asks_for_what_its_words_say() {
        let words = "pcpm attach web --tenant t --class big --label a=1 --label b= --on-empty fail \
                     --timeout 2s --lease connection --publish 80:80 --publish udp:53:53 \
                     --allow 10.0.0.0/8 --deny 10.1.0.0/16 --rate-up 10M --rate-down-packets 5k";
        let Verb::Attach(args) = Cli::parse_from(words.split(' ').filter(|w| !w.is_empty())).verb
        else {
            panic!("another verb");
        };
        let request = args.options.request(&args.owner, args.lease);
        let labels = [
            ("a".to_owned(), "1".to_owned()),
            ("b".into(), String::new()),
        ];
        let expected = AttachRequest {
            owner: "web".into(),
            tenant: Some("t".into()),
            class: Some("big".into()),
            labels: Some(BTreeMap::from(labels)),
            on_empty: Some(OnEmpty::Fail),
            timeout_ms: Some(2000),
            lease: Some(Lease::Connection),
            publish: Some(vec!["80:80".into(), "udp:53:53".into()]),
            allow: Some(vec!["10.0.0.0/8".into()]),
            deny: Some(vec!["10.1.0.0/16".into()]),
            rate_up: Some(10_000_000),
            rate_down_packets: Some(5_000),
            ..AttachRequest::default()
        };
        assert_eq!(request, expected);
    }

    fn update(words: &str) -> UpdateRequest {
        match Cli::parse_from(words.split(' ')).verb {
            Verb::Update(args) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn update_names_only_what_is_to_change() {
        let expected = UpdateRequest {
            owner: "web".into(),
            publish: Some(vec!["80:80".into()]),
            ..UpdateRequest::default()
        };
        assert_eq!(update("pcpm update web --publish 80:80"), expected);
    }

    #[test]
    fn update_can_clear_everything() {
        let words = "pcpm update web --no-publish --no-allow --no-deny --rate-up none \
                     --rate-down none --rate-up-packets none --rate-down-packets none";
        let words: Vec<_> = words.split_whitespace().collect();
        let expected = UpdateRequest {
            owner: "web".into(),
            id: None,
            publish: Some(Vec::new()),
            allow: Some(Vec::new()),
            deny: Some(Vec::new()),
            rate_up: Some(0),
            rate_down: Some(0),
            rate_up_packets: Some(0),
            rate_down_packets: Some(0),
        };
        assert_eq!(update(&words.join(" ")), expected);
        assert!(
            Cli::try_parse_from("pcpm update w --no-allow --allow 10.0.0.1".split(' ')).is_err()
        );
    }

    #[test]
    fn a_commands_own_options_are_left_alone() {
        let cli = Cli::parse_from(["pcpm", "run", "--", "ls", "--json", "--", "-x"]);
        assert!(!cli.json);
        let Verb::Run(args) = cli.verb else {
            panic!("another verb");
        };
        assert_eq!(args.command, ["ls", "--json", "--", "-x"]);
    }

    #[test]
    fn global_options_may_follow_the_verb() {
        let cli = Cli::parse_from(["pcpm", "status", "--json", "--socket", "/x"]);
        assert!(cli.json);
        assert_eq!(cli.socket, PathBuf::from("/x"));
    }

    #[test]
    fn a_typo_gets_a_suggestion() {
        let error = Cli::try_parse_from(["pcpm", "staus"]).unwrap_err();
        assert!(error.to_string().contains("'status'"), "{error}");
    }
}
