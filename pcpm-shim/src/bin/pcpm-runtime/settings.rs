//! How the wrapper is configured: `/etc/pcpm/runtime.toml`, and the environment.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pcpm_api::limits::{check_class, check_tenant};
use pcpm_api::{DEFAULT_SOCKET, duration};
use serde::{Deserialize, Deserializer, de};

const FILE: &str = "/etc/pcpm/runtime.toml";
/// Another file than [`FILE`].
const FILE_VARIABLE: &str = "PCPM_RUNTIME_CONFIG";
/// Another runtime than the file says.
const RUNTIME_VARIABLE: &str = "PCPM_RUNTIME";

/// Podman starts runtimes with hardly any environment.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `runtime.toml` says. Every key may be left out.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The real runtime: a path, or a name to be found in `PATH`.
    pub(crate) runtime: PathBuf,
    /// Where the daemon listens.
    pub(crate) socket: PathBuf,
    /// The tenant of containers that do not name one.
    pub(crate) tenant: Option<String>,
    /// The class of slots of containers that do not name one.
    pub(crate) class: Option<String>,
    /// How long to wait for a slot.
    #[serde(deserialize_with = "read_duration")]
    pub(crate) timeout: Duration,
    /// Without a daemon, whether a container is refused or gets a namespace with nothing in it.
    pub(crate) on_daemon_down: OnDaemonDown,
    /// A file to be found at `/etc/resolv.conf` in containers that have no other.
    pub(crate) resolv_conf: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnDaemonDown {
    #[default]
    Fail,
    Continue,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runtime: "runc".into(),
            socket: DEFAULT_SOCKET.into(),
            tenant: None,
            class: None,
            timeout: Duration::from_secs(5),
            on_daemon_down: OnDaemonDown::default(),
            resolv_conf: None,
        }
    }
}

impl Settings {
    pub(crate) fn load() -> Result<Self> {
        let named = env::var_os(FILE_VARIABLE).map(PathBuf::from);
        let file = named.as_deref().unwrap_or(Path::new(FILE));
        let mut settings = match fs::read_to_string(file) {
            Ok(text) => Self::read(&text).with_context(|| file.display().to_string())?,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        if let Some(runtime) = env::var_os(RUNTIME_VARIABLE).filter(|value| !value.is_empty()) {
            settings.runtime = runtime.into();
        }
        settings.runtime = find(&settings.runtime)?;
        Ok(settings)
    }

    fn read(text: &str) -> Result<Self> {
        let settings: Self = toml::from_str(text)?;
        settings.tenant.as_deref().map_or(Ok(()), check_tenant)?;
        settings.class.as_deref().map_or(Ok(()), check_class)?;
        let relative = settings
            .resolv_conf
            .as_ref()
            .filter(|file| !file.is_absolute());
        if let Some(file) = relative {
            bail!("resolv_conf: {} is no absolute path", file.display());
        }
        Ok(settings)
    }
}

/// The runtime's path. It is not this program, under whatever name.
fn find(runtime: &Path) -> Result<PathBuf> {
    let own = fs::metadata("/proc/self/exe").context("find this program")?;
    let directories = match runtime.components().count() {
        1 if !runtime.is_absolute() => env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
        _ => OsString::from("/"),
    };
    let candidates = env::split_paths(&directories).map(|directory| directory.join(runtime));
    let mut found = candidates.filter_map(|path| Some((fs::metadata(&path).ok()?, path)));
    let different = |metadata: &fs::Metadata| {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino()) != (own.dev(), own.ino())
    };
    match found.find(|(metadata, _)| metadata.is_file() && different(metadata)) {
        Some((_, path)) => Ok(path),
        None => bail!(
            "there is no container runtime {}: set {RUNTIME_VARIABLE}, or runtime in {FILE}",
            runtime.display()
        ),
    }
}

fn read_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_may_be_left_out() {
        let settings = Settings::read("").unwrap();
        assert_eq!(settings.runtime, Path::new("runc"));
        let settings = Settings::read(
            "runtime = '/usr/bin/crun'\ntimeout = '1s'\non_daemon_down = 'continue'\ntenant = 'shop'",
        )
        .unwrap();
        assert_eq!(settings.timeout, Duration::from_secs(1));
        assert_eq!(settings.on_daemon_down, OnDaemonDown::Continue);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("runtim = 'x'", "runtim"),
            ("timeout = '5'", "units are needed"),
            ("on_daemon_down = 'maybe'", "on_daemon_down"),
            ("resolv_conf = 'x'", "resolv_conf"),
            ("tenant = ''", "tenant: must not be empty"),
            ("class = 'a b'", "class: character ' '"),
        ] {
            let error = format!("{:#}", Settings::read(text).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_runtime_is_found_by_name_or_path() {
        assert!(find(Path::new("sh")).unwrap().is_absolute());
        assert_eq!(find(Path::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
        assert!(find(Path::new("no-such-runtime")).is_err());
        assert!(find(Path::new("/no/such/runtime")).is_err());
        let own = env::current_exe().unwrap();
        assert!(find(&own).is_err(), "the wrapper does not wrap itself");
    }
}
