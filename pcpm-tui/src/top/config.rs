//! The dashboard's own configuration file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{keys::Keys, view::theme::ThemeName};

/// What can be configured. The command line has the last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Colours: dark, light, mono, safe.
    pub(crate) theme: ThemeName,
    /// Whether the dashboard takes the mouse.
    pub(crate) mouse: bool,
    /// Only signs that every font has.
    pub(crate) ascii: bool,
    /// No actions that change anything.
    pub(crate) read_only: bool,
    /// Shortest time between two updates, in milliseconds.
    pub(crate) interval_ms: u64,
    /// Keys of actions that have others than usual.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) keys: BTreeMap<String, Vec<String>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            theme: ThemeName::Dark,
            mouse: true,
            ascii: false,
            read_only: false,
            interval_ms: 250,
            keys: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The file that is named, or the usual one if there is one.
    ///
    /// # Errors
    /// It cannot be read, or says something that is not understood.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self> {
        let usual = usual_path().filter(|path| named.is_none() && path.exists());
        let Some(path) = named.map(Path::to_owned).or(usual) else {
            return Ok(Self::default());
        };
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let config: Self =
            toml::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
        config
            .bindings()
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("keys in {}", path.display()))?;
        Ok(config)
    }

    /// The keys in force.
    ///
    /// # Errors
    /// What is wrong with those that are configured.
    pub(crate) fn bindings(&self) -> Result<Keys, String> {
        let mut keys = Keys::default();
        for (name, bound) in &self.keys {
            keys.rebind(name, bound)?;
        }
        keys.check()?;
        Ok(keys)
    }

    /// As a file.
    pub(crate) fn print(&self) -> Result<String> {
        toml::to_string(self).context("write the configuration")
    }
}

fn usual_path() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.filter(|path| path.is_absolute())
    };
    let directory =
        absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(directory.join("pcpm/top.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Result<Config> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("top.toml");
        fs::write(&path, text).unwrap();
        Config::load(Some(&path))
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let config = loaded("theme = \"safe\"\n[keys]\nquit = [\"Q\"]\n").unwrap();
        assert_eq!((config.theme, config.interval_ms), (ThemeName::Safe, 250));
        let keys = config.bindings().unwrap().print();
        assert!(keys.contains("quit = [\"Q\"]"), "{keys}");
    }

    #[test]
    fn what_is_wrong_is_named_with_the_file() {
        for (text, reason) in [
            ("colour = 1", "colour"),
            ("theme = \"pink\"", "pink"),
            ("[keys]\nexplode = [\"x\"]", "no action 'explode'"),
            ("[keys]\nhelp = [\"q\"]", "have the same key"),
        ] {
            let error = format!("{:#}", loaded(text).unwrap_err());
            assert!(
                error.contains(reason) && error.contains("top.toml"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        assert_eq!(
            loaded(&Config::default().print().unwrap()).unwrap(),
            Config::default()
        );
    }
}
