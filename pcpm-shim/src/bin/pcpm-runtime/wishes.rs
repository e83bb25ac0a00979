//! What a container asks of its network: annotations of its configuration, `io.pcpm.*`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use pcpm_api::types::{AttachRequest, OnEmpty, SharedNamespace};
use pcpm_api::{duration, rates};
use pcpm_shim::claim::Claim;

use crate::settings::Settings;

const PREFIX: &str = "io.pcpm.";
/// The network namespace among those that are shared.
const NETWORK: &str = "net";

/// The annotations, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Whether the container is to have a pooled network, where it says.
    pub(crate) attach: Option<bool>,
    pub(crate) resolv_conf: Option<PathBuf>,
    /// The namespaces of the slot that the container is to be in, beside the network one.
    pub(crate) share: Vec<SharedNamespace>,
    tenant: Option<String>,
    class: Option<String>,
    publish: Option<Vec<String>>,
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
    rate_up: Option<u64>,
    rate_down: Option<u64>,
    on_empty: Option<OnEmpty>,
    timeout: Option<Duration>,
}

impl Wishes {
    /// Reads `annotations`; those that are not ours are somebody else's.
    pub(crate) fn read(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let mut wishes = Self::default();
        for (name, value) in annotations {
            if let Some(name) = name.strip_prefix(PREFIX) {
                let read = wishes.set(name, value);
                read.with_context(|| format!("annotation {PREFIX}{name}"))?;
            }
        }
        Ok(wishes)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "attach" => self.attach = Some(value.parse().context("is true or false")?),
            "tenant" => self.tenant = Some(value.into()),
            "class" => self.class = Some(value.into()),
            "share" => self.share = shared(value)?,
            "publish" => self.publish = Some(list(value)),
            "allow" => self.allow = Some(list(value)),
            "deny" => self.deny = Some(list(value)),
            "rate-up" => self.rate_up = Some(rates::parse(value).map_err(|e| anyhow!(e))?),
            "rate-down" => self.rate_down = Some(rates::parse(value).map_err(|e| anyhow!(e))?),
            "on-empty" => self.on_empty = Some(value.parse().map_err(|e: String| anyhow!(e))?),
            "timeout" => self.timeout = Some(duration::parse(value).map_err(|e| anyhow!(e))?),
            "resolv-conf" => {
                let path = PathBuf::from(value);
                if !path.is_absolute() {
                    bail!("{value} is no absolute path");
                }
                self.resolv_conf = Some(path);
            }
            _ => bail!("is not known"),
        }
        Ok(())
    }

    /// The request for container `id`.
    pub(crate) fn request(self, id: &str, settings: &Settings) -> AttachRequest {
        let wait = self.timeout.unwrap_or(settings.timeout);
        AttachRequest {
            owner: id.into(),
            tenant: self.tenant.or_else(|| settings.tenant.clone()),
            class: self.class.or_else(|| settings.class.clone()),
            labels: Some(claim().labels().clone()),
            publish: self.publish,
            allow: self.allow,
            deny: self.deny,
            rate_up: self.rate_up,
            rate_down: self.rate_down,
            on_empty: self.on_empty,
            timeout_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            exclusive: Some(true),
            ..AttachRequest::default()
        }
    }
}

/// What this program attaches.
pub(crate) fn claim() -> Claim {
    Claim::of("runtime", &[])
}

/// The network is always the slot's.
fn shared(value: &str) -> Result<Vec<SharedNamespace>> {
    let words = list(value);
    if !words.iter().any(|word| word == NETWORK) {
        bail!("{value:?} is without {NETWORK}: write net, or net,ipc,uts");
    }
    let others = words.iter().filter(|word| *word != NETWORK);
    let others = others.map(|word| word.parse().map_err(|e: String| anyhow!(e)));
    others.collect()
}

/// Words between commas or blanks.
fn list(value: &str) -> Vec<String> {
    let words = value.split(|c: char| c == ',' || c.is_whitespace());
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Result<Wishes> {
        let annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        Wishes::read(&annotations.collect())
    }

    #[test]
    fn annotations_are_read() {
        let wishes = read(&[
            ("io.pcpm.tenant", "shop"),
            ("io.pcpm.class", "pods"),
            ("io.pcpm.share", "net,ipc uts"),
            ("io.pcpm.publish", "8080:80, udp:53:53"),
            ("io.pcpm.allow", "10.0.0.0/8:443/tcp"),
            ("io.pcpm.rate-up", "10M"),
            ("io.pcpm.on-empty", "create"),
            ("org.example", "whatever"),
        ])
        .unwrap();
        assert_eq!(wishes.share, [SharedNamespace::Ipc, SharedNamespace::Uts]);
        let request = wishes.request("c1", &Settings::default());
        assert_eq!(request.class.as_deref(), Some("pods"));
        assert_eq!(request.tenant.as_deref(), Some("shop"));
        assert_eq!(request.publish.unwrap(), ["8080:80", "udp:53:53"]);
        assert_eq!(request.rate_up, Some(10_000_000));
        assert_eq!(request.on_empty, Some(OnEmpty::Create));
        assert_eq!(request.timeout_ms, Some(5000));
    }

    #[test]
    fn settings_are_for_what_annotations_leave_out() {
        let settings = Settings {
            tenant: Some("shop".into()),
            class: Some("pods".into()),
            ..Settings::default()
        };
        let request = read(&[]).unwrap().request("c1", &settings);
        assert_eq!(request.tenant.as_deref(), Some("shop"));
        assert_eq!(request.class.as_deref(), Some("pods"));
        let own = [("io.pcpm.tenant", "ml"), ("io.pcpm.class", "jumbo")];
        let request = read(&own).unwrap().request("c1", &settings);
        assert_eq!(request.tenant.as_deref(), Some("ml"));
        assert_eq!(request.class.as_deref(), Some("jumbo"));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (name, value) in [
            ("io.pcpm.publsh", "8080:80"),
            ("io.pcpm.rate-up", "fast"),
            ("io.pcpm.on-empty", "panic"),
            ("io.pcpm.attach", "yes"),
            ("io.pcpm.share", "ipc"),
            ("io.pcpm.share", "net,pid"),
            ("io.pcpm.timeout", "5"),
            ("io.pcpm.resolv-conf", "relative"),
        ] {
            let error = format!("{:#}", read(&[(name, value)]).unwrap_err());
            assert!(error.contains(name), "{error}");
        }
    }
}
