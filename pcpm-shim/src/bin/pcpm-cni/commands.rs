//! ADD, DEL, CHECK, GC and STATUS. The owner of a container's attachment is its id, so that `DEL` needs nothing
//! else; labels tell whose it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcpm_api::DEFAULT_SOCKET;
use pcpm_api::client::Client;
use pcpm_api::types::{AttachRequest, StartPhase, Status};
use pcpm_shim::claim::{Claim, unless_missing};
use pcpm_shim::phases::Stopwatch;
use serde_json::Value;

use crate::config::Network;
use crate::error::{Code, Error};
use crate::invocation::Container;
use crate::namespace::Sandbox;
use crate::result::{self, Outcome};

/// How long the daemon may take for anything but a wait for a slot.
const PATIENCE: Duration = Duration::from_secs(10);
const PROGRAM: &str = "cni";
const NETWORK: &str = "io.pcpm.cni.network";
const INTERFACE: &str = "io.pcpm.cni.ifname";
/// What Kubernetes tells of a pod, and the label that it becomes.
const POD: [(&str, &str); 2] = [
    ("K8S_POD_NAMESPACE", "io.kubernetes.pod.namespace"),
    ("K8S_POD_NAME", "io.kubernetes.pod.name"),
];

/// Hands a pooled network to `container`; `watch` runs since this was asked for.
pub(crate) fn add(
    network: &Network,
    container: &Container,
    netns: PathBuf,
    mut watch: Stopwatch,
) -> Result<Value, Error> {
    network.check()?;
    check_interface(&container.interface)?;
    let request = request(network, container)?;
    let outcome = Outcome::after(network.prev_result.as_ref())?;
    let sandbox = Sandbox::open(netns)?;
    if sandbox.enter_and_find(&container.interface)? {
        let reason = format!("{} exists in the container already", container.interface);
        return Err(Error::environment("CNI_IFNAME", reason));
    }
    let (mut pool, (attachment, pooled)) = watch.time(StartPhase::Attach, || {
        let mut pool = connect(network)?;
        let attached = pool.attach_with_netns(&request)?;
        Ok::<_, Error>((pool, attached))
    })?;
    let replaced = watch.time(StartPhase::Mount, || sandbox.replace(pooled));
    if let Err(error) = replaced {
        // This error is the one to tell; DEL comes anyway.
        let _ = pool.detach_only(&attachment.owner, &attachment.id);
        return Err(error);
    }
    let version = &network.cni_version;
    let result = outcome.add(version, &attachment, &sandbox.path, network.dns());
    watch.whole(StartPhase::Add);
    watch.tell(&mut pool, &attachment.owner, Some(&attachment.id));
    Ok(result)
}

fn request(network: &Network, container: &Container) -> Result<AttachRequest, Error> {
    let rates = network.rates()?;
    let wait = network.wait()?;
    let mut labels = claim(network, container).labels().clone();
    for (arg, label) in POD {
        if let Some(value) = container.args.get(arg) {
            labels.insert(label.into(), value.clone());
        }
    }
    Ok(AttachRequest {
        owner: container.id.clone(),
        tenant: network.tenant(&container.args)?.map(str::to_owned),
        class: network.class.clone(),
        labels: Some(labels),
        publish: Some(network.publish()?),
        reserve_ports: network.reserve_ports,
        allow: network.allow.clone(),
        deny: network.deny.clone(),
        rate_up: rates.up,
        rate_down: rates.down,
        on_empty: network.on_empty,
        timeout_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        exclusive: Some(true),
        ..AttachRequest::default()
    })
}

/// Slots are made with this interface before anybody asks for a name.
fn check_interface(name: &str) -> Result<(), Error> {
    if name == pcpm_api::SLOT_INTERFACE {
        return Ok(());
    }
    let reason = format!(
        "{name} cannot be had: pooled networks have {}",
        pcpm_api::SLOT_INTERFACE
    );
    Err(Error::environment("CNI_IFNAME", reason))
}

/// Takes the network of `container` back, if it has one.
pub(crate) fn del(network: &Network, container: &Container) -> Result<(), Error> {
    let mut pool = connect(network)?;
    Ok(claim(network, container).release(&mut pool, &container.id)?)
}

/// Whether `container` has what it was given.
pub(crate) fn check(network: &Network, container: &Container, netns: PathBuf) -> Result<(), Error> {
    let Some(previous) = &network.prev_result else {
        return Err(Error::config("prevResult", "missing"));
    };
    let mut pool = connect(network)?;
    let found = unless_missing(pool.get_with_netns(&container.id))?;
    let ours = found.filter(|(reply, _)| claim(network, container).covers(&reply.attachment));
    let Some((reply, pooled)) = ours else {
        let msg = format!("container {} has no pooled network", container.id);
        return Err(Error::new(Code::UnknownContainer, msg));
    };
    let sandbox = Sandbox::open(netns)?;
    if !sandbox.is(pooled)? {
        let msg = format!("{} is not the pooled namespace", sandbox.path.display());
        return Err(Error::new(Code::Failed, msg).with(reply.attachment.netns));
    }
    result::check(previous, &reply.attachment, &sandbox.path)
}

/// Takes back what containers of this network have that the engine does not know any more.
pub(crate) fn gc(network: &Network) -> Result<(), Error> {
    let Some(valid) = &network.valid_attachments else {
        return Err(Error::config("cni.dev/valid-attachments", "missing"));
    };
    let valid: BTreeSet<_> = valid
        .iter()
        .map(|kept| (kept.container_id.as_str(), kept.ifname.as_str()))
        .collect();
    let network_claim = Claim::of(PROGRAM, &[(NETWORK, &network.name)]);
    let mut pool = connect(network)?;
    let attachments = pool.list()?;
    let stale = attachments.iter().filter(|attachment| {
        let interface = attachment.labels.get(INTERFACE).map_or("", String::as_str);
        network_claim.covers(attachment) && !valid.contains(&(&attachment.owner, interface))
    });
    let mut failed = None;
    for attachment in stale {
        let detached = pool.detach_only(&attachment.owner, &attachment.id);
        // One that cannot be taken back does not keep the others.
        failed = unless_missing(detached).err().or(failed);
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Whether an ADD has a chance.
pub(crate) fn status(network: &Network) -> Result<(), Error> {
    network.check()?;
    let pool = connect(network).and_then(|mut pool| Ok(pool.status()?));
    match pool {
        Ok(status) => judge(&status),
        Err(error) => Err(error.unavailable()),
    }
}

fn judge(status: &Status) -> Result<(), Error> {
    let unavailable = |code, msg: String| Err(Error::new(code, msg));
    let slots = &status.slots;
    if status.uplinks.is_empty() {
        let msg = "the host has no way out: pooled networks reach each other only";
        return unavailable(Code::NotAvailableAndLimited, msg.into());
    }
    if status.draining {
        return unavailable(Code::NotAvailable, "the pool is draining".into());
    }
    if slots.ready + slots.creating + slots.retiring == 0 {
        let msg = format!(
            "no pooled network is ready or in the making: {} of {} attached, {} failed",
            slots.attached, slots.capacity, slots.failed
        );
        return unavailable(Code::NotAvailable, msg);
    }
    Ok(())
}

fn connect(network: &Network) -> Result<Client, Error> {
    let socket = network.socket.as_deref();
    let socket = socket.unwrap_or(Path::new(DEFAULT_SOCKET));
    Ok(Client::connect_within(socket, PATIENCE)?)
}

/// What is attached for `container` on this network.
fn claim(network: &Network, container: &Container) -> Claim {
    let labels = [
        (NETWORK, network.name.as_str()),
        (INTERFACE, container.interface.as_str()),
    ];
    Claim::of(PROGRAM, &labels)
}
