//! A bundle's `config.json` (OCI runtime specification 1.2). Only the words that have to change are changed:
//! all others stay as they are, byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pcpm_api::types::SharedNamespace;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The longest configuration that is read; containerd bounds it to less.
const LONGEST: u64 = 16 << 20;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A configuration, and where in it the network is.
#[derive(Debug)]
pub(crate) struct Bundle {
    path: PathBuf,
    text: String,
    pub(crate) network: Network,
    /// Where the namespaces are that may be a slot's, too.
    shared: Vec<(SharedNamespace, Range<usize>)>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// The list of mounts, and whether one of them is the container's `/etc/resolv.conf`.
    mounts: Option<(Range<usize>, bool)>,
    changes: Vec<(Range<usize>, String)>,
}

/// The network namespace that a container is to have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// That of whoever starts it.
    Hosts,
    /// One of its own; where it is described.
    New(Range<usize>),
    /// One that exists, at a path.
    At(PathBuf, Range<usize>),
}

#[derive(Deserialize)]
struct Spec<'a> {
    #[serde(borrow)]
    linux: Option<&'a RawValue>,
    #[serde(borrow)]
    mounts: Option<&'a RawValue>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Linux<'a> {
    #[serde(borrow)]
    namespaces: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Mount {
    destination: PathBuf,
}

impl Bundle {
    /// Reads the configuration at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let path = fs::canonicalize(path).with_context(|| format!("find {shown}"))?;
        let file = File::open(&path).with_context(|| format!("open {shown}"))?;
        // Room for all of it and a byte more: one read, and another one that finds the end.
        let room = file.metadata().map_or(0, |found| found.len().min(LONGEST));
        let mut text = String::with_capacity(usize::try_from(room)? + 1);
        let length = file.take(LONGEST + 1).read_to_string(&mut text);
        if length.with_context(|| format!("read {shown}"))? as u64 > LONGEST {
            bail!("{shown} is larger than {LONGEST} bytes");
        }
        Self::parse(path, text).with_context(|| format!("read {shown}"))
    }

    fn parse(path: PathBuf, text: String) -> Result<Self> {
        let spec: Spec = serde_json::from_str(&text)?;
        let place = |part: &RawValue| place(&text, part);
        let linux: Option<Linux> = spec
            .linux
            .map(|linux| serde_json::from_str(linux.get()))
            .transpose()
            .context("linux")?;
        let namespaces = linux.and_then(|linux| linux.namespaces).unwrap_or_default();
        let mut network = Network::Hosts;
        let mut shared = Vec::new();
        for raw in namespaces {
            let namespace: Namespace =
                serde_json::from_str(raw.get()).context("linux.namespaces")?;
            if let Ok(kind) = namespace.kind.parse() {
                shared.push((kind, place(raw)));
            }
            if namespace.kind != "network" {
                continue;
            }
            network = match namespace.path {
                Some(at) if !at.as_os_str().is_empty() => Network::At(at, place(raw)),
                _ => Network::New(place(raw)),
            };
        }
        let mounts = spec
            .mounts
            .map(|raw| {
                let mounts: Vec<Mount> = serde_json::from_str(raw.get()).context("mounts")?;
                let resolves = |mount: &Mount| mount.destination == Path::new(RESOLV_CONF);
                anyhow::Ok((place(raw), mounts.iter().any(resolves)))
            })
            .transpose()?;
        let annotations = spec.annotations.unwrap_or_default();
        Ok(Self {
            path,
            network,
            shared,
            annotations,
            mounts,
            changes: Vec::new(),
            text,
        })
    }

    /// Has the container's network namespace be the one at `path`.
    pub(crate) fn set_network(&mut self, path: &str) -> Result<()> {
        let (Network::New(place) | Network::At(_, place)) = &self.network else {
            bail!("the container has no network namespace of its own");
        };
        let place = place.clone();
        self.set_path(place, path)
    }

    /// Has the container's namespace of another kind be the one at `path`.
    pub(crate) fn set_shared(&mut self, kind: SharedNamespace, path: &str) -> Result<()> {
        let found = self.shared.iter().find(|(of, _)| *of == kind);
        let Some((_, place)) = found else {
            bail!("the container has no {kind} namespace of its own");
        };
        let place = place.clone();
        self.set_path(place, path)
    }

    fn set_path(&mut self, place: Range<usize>, path: &str) -> Result<()> {
        let mut namespace: Value = serde_json::from_str(&self.text[place.clone()])?;
        namespace["path"] = path.into();
        self.changes.push((place, namespace.to_string()));
        Ok(())
    }

    /// Has the container find `file` at `/etc/resolv.conf`, unless something else is mounted there.
    pub(crate) fn set_resolv_conf(&mut self, file: &Path) -> Result<()> {
        let mount = json!({
            "destination": RESOLV_CONF, "type": "bind", "source": file,
            "options": ["rbind", "ro"],
        });
        let Some((list, taken)) = &self.mounts else {
            bail!(
                "{} has no mounts to add {RESOLV_CONF} to",
                self.path.display()
            );
        };
        if *taken {
            return Ok(());
        }
        let inside = list.start + 1..list.end - 1;
        let first = self.text[inside.clone()].trim().is_empty();
        let separator = if first { "" } else { "," };
        let end = inside.end..inside.end;
        self.changes.push((end, format!("{separator}{mount}")));
        Ok(())
    }

    /// Writes the changes: a reader finds the old or the new configuration, never a part of one.
    pub(crate) fn write(mut self) -> Result<()> {
        // From behind, so that places stay true.
        self.changes.sort_by_key(|(place, _)| place.start);
        for (place, words) in self.changes.iter().rev() {
            self.text.replace_range(place.clone(), words);
        }
        replace(&self.path, &self.text).with_context(|| format!("write {}", self.path.display()))
    }
}

/// Where `part`, which was found in `text`, is in it.
fn place(text: &str, part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + part.get().len()
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let before = fs::metadata(path)?;
    let beside = path.with_extension(format!("pcpm-{}", std::process::id()));
    let written = (|| {
        let mut file = File::create_new(&beside)?;
        file.set_permissions(before.permissions())?;
        std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{ "ociVersion" : "1.0.2",
        "annotations": {"io.pcpm.tenant": "shop"},
        "mounts": [ {"destination": "/proc", "type": "proc"} ],
        "x": 1.10, "linux": {"namespaces": [ {"type":"pid"}, {"type": "network" }, {"type":"ipc"} ],
        "other": "ü"} }"#;

    fn bundle(text: &str) -> Result<(tempfile::TempDir, Bundle)> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("config.json");
        fs::write(&path, text)?;
        Ok((directory, Bundle::read(&path)?))
    }

    fn network(namespaces: &str) -> Network {
        let text = format!(r#"{{"linux": {{"namespaces": {namespaces}}}}}"#);
        bundle(&text).unwrap().1.network
    }

    #[test]
    fn only_the_network_changes() {
        let (directory, mut read) = bundle(TEXT).unwrap();
        assert_eq!(read.annotations["io.pcpm.tenant"], "shop");
        read.set_network("/run/pcpm/netns/s0001").unwrap();
        read.write().unwrap();
        let written = fs::read_to_string(directory.path().join("config.json")).unwrap();
        let expected = TEXT.replace(
            r#"{"type": "network" }"#,
            r#"{"path":"/run/pcpm/netns/s0001","type":"network"}"#,
        );
        assert_eq!(written, expected);
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "nothing is left beside it");
    }

    #[test]
    fn other_namespaces_change_where_the_container_has_them() {
        let (directory, mut read) = bundle(TEXT).unwrap();
        read.set_network("/n").unwrap();
        read.set_shared(SharedNamespace::Ipc, "/i").unwrap();
        let refused = read.set_shared(SharedNamespace::Uts, "/u").unwrap_err();
        assert!(refused.to_string().contains("no uts namespace of its own"));
        read.write().unwrap();
        let written = fs::read_to_string(directory.path().join("config.json")).unwrap();
        let expected = TEXT
            .replace(
                r#"{"type": "network" }"#,
                r#"{"path":"/n","type":"network"}"#,
            )
            .replace(r#"{"type":"ipc"}"#, r#"{"path":"/i","type":"ipc"}"#);
        assert_eq!(written, expected);
    }

    #[test]
    fn the_network_is_found() {
        assert_eq!(network("[]"), Network::Hosts);
        assert_eq!(
            network(r#"[{"type": "ipc", "path": "/x"}]"#),
            Network::Hosts
        );
        assert!(matches!(
            network(r#"[{"type": "network"}]"#),
            Network::New(_)
        ));
        let empty = network(r#"[{"type": "network", "path": ""}]"#);
        assert!(matches!(empty, Network::New(_)));
        let at = network(r#"[{"type": "network", "path": "/proc/1/ns/net"}]"#);
        assert!(matches!(at, Network::At(path, _) if path == Path::new("/proc/1/ns/net")));
        assert_eq!(bundle("{}").unwrap().1.network, Network::Hosts);
    }

    #[test]
    fn a_resolv_conf_is_mounted_where_there_is_none() {
        let resolv_conf = Path::new("/run/dns/resolv.conf");
        for (mounts, count) in [
            ("[]", 1),
            (r#"[{"destination": "/proc"}]"#, 2),
            (r#"[{"destination": "/etc/resolv.conf"}]"#, 1),
        ] {
            let text = TEXT.replace(r#"[ {"destination": "/proc", "type": "proc"} ]"#, mounts);
            let (directory, mut read) = bundle(&text).unwrap();
            read.set_resolv_conf(resolv_conf).unwrap();
            read.set_network("/n").unwrap();
            read.write().unwrap();
            let written = fs::read_to_string(directory.path().join("config.json")).unwrap();
            let written: Value = serde_json::from_str(&written).unwrap();
            assert_eq!(written["mounts"].as_array().unwrap().len(), count);
            assert_eq!(written["linux"]["namespaces"][1]["path"], "/n");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in [
            "",
            "[]",
            "{\"linux\": 1}",
            "{\"linux\": {\"namespaces\": [1]}}",
        ] {
            assert!(bundle(text).is_err(), "{text}");
        }
    }
}
