//! What is done for a container: it is given a network before the runtime makes it, and the network is taken back
//! when the runtime has removed it. How long it took until it ran is told.

use std::path::Path;
use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pcpm_api::client::{Client, ClientError};
use pcpm_api::types::{AttachRequest, Attachment, Lease, SharedNamespace, StartPhase};
use pcpm_shim::phases::{self, Stopwatch};

use crate::bundle::{Bundle, Network};
use crate::command_line::{CommandLine, Creation};
use crate::complain;
use crate::real::{Runtime, code_of};
use crate::settings::{OnDaemonDown, Settings};
use crate::wishes::{Wishes, claim};

/// How long the daemon may take for anything but a wait for a slot.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a container that lives on. If that fails the network is given back.
pub(crate) fn create(
    line: &CommandLine,
    creation: &Creation,
    settings: &Settings,
    runtime: &Runtime,
) -> Result<ExitCode> {
    let mut watch = Stopwatch::start();
    let given = give_network(line, creation, settings, Lease::Explicit, &mut watch)?;
    let Some((attachment, mut pool)) = given else {
        return Err(runtime.become_it());
    };
    let made = if creation.is_started {
        runtime.wait_for_it()
    } else {
        watch.time(StartPhase::Create, || runtime.wait_for_it())
    };
    if made.as_ref().is_ok_and(process::ExitStatus::success) {
        watch.tell(&mut pool, &attachment.owner, Some(&attachment.id));
    } else {
        let released = connect(settings)
            .and_then(|mut pool| pool.detach_only(&attachment.owner, &attachment.id));
        if let Err(error) = released {
            complain(
                line,
                &format!("give back the network of {}: {error}", creation.id),
            );
        }
    }
    made.map(code_of)
}

/// Runs a container whose network ends with this process, which becomes the runtime.
pub(crate) fn run(
    line: &CommandLine,
    creation: &Creation,
    settings: &Settings,
    runtime: &Runtime,
) -> Result<ExitCode> {
    give_network(
        line,
        creation,
        settings,
        Lease::Pid,
        &mut Stopwatch::start(),
    )?;
    Err(runtime.become_it())
}

/// Starts the program of a container. Of one that has no network of the pool there is nothing to tell, which the daemon
/// knows.
pub(crate) fn start(id: &str, settings: &Settings, runtime: &Runtime) -> Result<ExitCode> {
    let mut watch = Stopwatch::start();
    let started = watch.time(StartPhase::Start, || runtime.wait_for_it())?;
    if started.success()
        && let Ok(mut pool) = Client::connect_within(&settings.socket, phases::PATIENCE)
    {
        watch.tell(&mut pool, id, None);
    }
    Ok(code_of(started))
}

/// Removes a container, and then its network. One that the runtime does not know any more has none either, so
/// the command can be repeated until all is gone.
pub(crate) fn delete(
    line: &CommandLine,
    id: &str,
    settings: &Settings,
    runtime: &Runtime,
) -> Result<ExitCode> {
    let removed = runtime.wait_for_it()?;
    if !removed.success() && runtime.knows(line, id)? {
        return Ok(code_of(removed));
    }
    let released = connect(settings).and_then(|mut pool| claim().release(&mut pool, id));
    match released {
        Err(error) if may_go_without(&error, settings) => {
            complain(line, &format!("give back the network of {id}: {error}"));
        }
        released => released.with_context(|| format!("give back the network of {id}"))?,
    }
    Ok(code_of(removed))
}

/// Attaches, and writes the network into the bundle. `None`: the container is to have none of ours. The connection to
/// the daemon comes with the attachment.
fn give_network(
    line: &CommandLine,
    creation: &Creation,
    settings: &Settings,
    lease: Lease,
    watch: &mut Stopwatch,
) -> Result<Option<(Attachment, Client)>> {
    let config = creation.bundle.join(&creation.config);
    let mut bundle = watch.time(StartPhase::Bundle, || Bundle::read(&config))?;
    let wishes = Wishes::read(&bundle.annotations)?;
    if !is_wanted(&bundle.network, wishes.attach, &creation.id, settings)? {
        return Ok(None);
    }
    let (resolv_conf, share) = (wishes.resolv_conf.clone(), wishes.share.clone());
    let request = AttachRequest {
        lease: Some(lease),
        lease_pid: (lease == Lease::Pid).then(process::id),
        ..wishes.request(&creation.id, settings)
    };
    let attached = watch.time(StartPhase::Attach, || {
        connect(settings).and_then(|mut pool| Ok((pool.attach(&request)?, pool)))
    });
    let (attachment, mut pool) = match attached {
        Ok(attached) => attached,
        Err(error) if may_go_without(&error, settings) => {
            complain(
                line,
                &format!("{} starts without a network: {error}", creation.id),
            );
            return Ok(None);
        }
        Err(error) => return Err(error).context("get a pooled network"),
    };
    let resolv_conf = resolv_conf.as_ref().or(settings.resolv_conf.as_ref());
    let written = watch.time(StartPhase::Bundle, || {
        bundle.set_network(&attachment.netns)?;
        set_shared(&mut bundle, &share, &attachment)?;
        resolv_conf.map_or(Ok(()), |file| bundle.set_resolv_conf(file))?;
        bundle.write()
    });
    if let Err(error) = written {
        // This error is the one to tell.
        let _ = pool.detach_only(&attachment.owner, &attachment.id);
        return Err(error);
    }
    Ok(Some((attachment, pool)))
}

/// Writes the other namespaces of the slot into the bundle that the container asks for.
fn set_shared(
    bundle: &mut Bundle,
    share: &[SharedNamespace],
    attachment: &Attachment,
) -> Result<()> {
    for kind in share {
        let path = attachment.shared(*kind).with_context(|| {
            let class = &attachment.class;
            format!(
                "slots of class '{class}' have no {kind} namespace: see share in its configuration"
            )
        })?;
        bundle.set_shared(*kind, path)?;
    }
    Ok(())
}

/// Whether a container with `network` gets one out of the pool: where the engine has none for it, or where its
/// annotation says so (`asked`).
fn is_wanted(
    network: &Network,
    asked: Option<bool>,
    id: &str,
    settings: &Settings,
) -> Result<bool> {
    match (network, asked) {
        (_, Some(false)) | (Network::Hosts, None) => Ok(false),
        (Network::Hosts, Some(true)) => {
            bail!(
                "container {id} asks for a pooled network, and has no network namespace of its own"
            )
        }
        (Network::New(_), _) | (Network::At(..), Some(true)) => Ok(true),
        (Network::At(path, _), None) => is_left_over(path, id, settings),
    }
}

/// Whether `path` is what an earlier run of the same bundle left in it: a slot that nobody but this container
/// holds. It must not be joined: by now it is anybody's.
fn is_left_over(path: &Path, id: &str, settings: &Settings) -> Result<bool> {
    let Some(slot) = slot_at(path) else {
        return Ok(false);
    };
    let holder = connect(settings).and_then(|mut pool| pool.holder_of(slot));
    let holder = holder.with_context(|| format!("ask who holds {}", path.display()))?;
    // Slots of another daemon have the same names.
    let mut holders = holder.iter().filter(|held| Path::new(&held.netns) == path);
    Ok(holders.all(|holder| holder.owner == id && claim().covers(holder)))
}

/// The name of the slot at `path`, if it looks like one's: `STATE_DIR/netns/s0000`.
fn slot_at(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix('s')?;
    let is_number = digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_digit());
    let is_one = is_number && path.parent()?.file_name()? == "netns";
    is_one.then_some(name)
}

fn may_go_without(error: &ClientError, settings: &Settings) -> bool {
    error.is_unreachable() && settings.on_daemon_down == OnDaemonDown::Continue
}

fn connect(settings: &Settings) -> Result<Client, ClientError> {
    Client::connect_within(&settings.socket, PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(network: &Network, asked: Option<bool>) -> Result<bool> {
        is_wanted(network, asked, "c1", &Settings::default())
    }

    #[test]
    fn a_container_without_a_network_of_the_engines_gets_one() {
        let other = Network::At("/run/netns/x".into(), 0..1);
        for (network, asked, expected) in [
            (&Network::New(0..1), None, true),
            (&Network::New(0..1), Some(false), false),
            (&Network::Hosts, None, false),
            (&other, None, false),
            (&other, Some(true), true),
        ] {
            assert_eq!(
                wanted(network, asked).unwrap(),
                expected,
                "{network:?} {asked:?}"
            );
        }
        assert!(wanted(&Network::Hosts, Some(true)).is_err());
    }

    #[test]
    fn slots_are_known_by_their_paths() {
        for (path, is_one) in [
            ("/run/pcpm/netns/s0001", true),
            ("/state/netns/s12345", true),
            ("/run/netns/s1", false),
            ("/run/netns/s000x", false),
            ("/run/other/s0001", false),
            ("/proc/1/ns/net", false),
        ] {
            assert_eq!(slot_at(Path::new(path)).is_some(), is_one, "{path}");
        }
    }
}
