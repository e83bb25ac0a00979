//! What an engine says in the environment.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use crate::error::Error;

/// Longest name of an interface: `IFNAMSIZ` without the final zero.
const INTERFACE_NAME_BYTES: usize = 15;
/// `CNI_ARGS` may have keys that a plugin does not know only if this one says so.
const IGNORE_UNKNOWN: &str = "IgnoreUnknown";
/// Arguments that Kubernetes gives, and what they are good for here: labels, and the tenant.
const KNOWN: [&str; 5] = [
    IGNORE_UNKNOWN,
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_UID",
];

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add(Container, PathBuf),
    /// The namespace may be gone already, and is not needed.
    Del(Container),
    Check(Container, PathBuf),
    Gc,
    Status,
    Version,
}

/// Whom an attachment is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) interface: String,
    pub(crate) args: BTreeMap<String, String>,
}

impl Command {
    /// Reads the environment; `None` if there is nothing of CNI in it, as when a person starts the program.
    pub(crate) fn from_env() -> Result<Option<Self>, Error> {
        let is_cni = |(name, _): (std::ffi::OsString, _)| {
            name.to_str().is_some_and(|name| name.starts_with("CNI_"))
        };
        if !env::vars_os().any(is_cni) {
            return Ok(None);
        }
        Self::read(&variable).map(Some)
    }

    fn read(variable: &Lookup) -> Result<Self, Error> {
        let command = required(variable, "CNI_COMMAND")?;
        match command.as_str() {
            "ADD" => Ok(Self::Add(container(variable)?, netns(variable)?)),
            "DEL" => Ok(Self::Del(container(variable)?)),
            "CHECK" => Ok(Self::Check(container(variable)?, netns(variable)?)),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => {
                let reason =
                    format!("'{other}' is none of ADD, DEL, CHECK, GC, STATUS and VERSION");
                Err(Error::environment("CNI_COMMAND", reason))
            }
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Add(..) => "ADD",
            Self::Del(_) => "DEL",
            Self::Check(..) => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

type Lookup<'a> = dyn Fn(&str) -> Result<Option<String>, Error> + 'a;

fn variable(name: &str) -> Result<Option<String>, Error> {
    match env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Error::environment(name, "is no text")),
    }
}

fn required(variable: &Lookup, name: &str) -> Result<String, Error> {
    match variable(name)? {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(Error::environment(name, "required and missing")),
    }
}

fn netns(variable: &Lookup) -> Result<PathBuf, Error> {
    required(variable, "CNI_NETNS").map(PathBuf::from)
}

fn container(variable: &Lookup) -> Result<Container, Error> {
    let id = required(variable, "CNI_CONTAINERID")?;
    check_name(&id).map_err(|reason| Error::environment("CNI_CONTAINERID", reason))?;
    let interface = required(variable, "CNI_IFNAME")?;
    check_interface(&interface).map_err(|reason| Error::environment("CNI_IFNAME", reason))?;
    let args = variable("CNI_ARGS")?.unwrap_or_default();
    let args = read_args(&args).map_err(|reason| Error::environment("CNI_ARGS", reason))?;
    Ok(Container {
        id,
        interface,
        args,
    })
}

/// Checks the name of a network or container as the specification wants it: it starts with a letter or digit
/// and goes on with these and `_`, `.` or `-`.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.chars().all(inner) {
        return Ok(());
    }
    Err(format!(
        "{name:?} must start with a letter or digit, and have only those and _ . - behind it"
    ))
}

fn check_interface(name: &str) -> Result<(), String> {
    if name.len() > INTERFACE_NAME_BYTES {
        return Err(format!(
            "{name:?} is longer than {INTERFACE_NAME_BYTES} bytes"
        ));
    }
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name == "." || name == ".." || name.contains(is_bad) {
        return Err(format!("{name:?} is no name of an interface"));
    }
    Ok(())
}

/// Reads `KEY=VALUE;KEY=VALUE`.
fn read_args(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{pair:?} is not KEY=VALUE")),
    };
    let args: BTreeMap<_, _> = pairs.map(pair).collect::<Result<_, _>>()?;
    let lenient = args.get(IGNORE_UNKNOWN).is_some_and(|value| is_true(value));
    let unknown = args.keys().find(|key| !KNOWN.contains(&key.as_str()));
    match unknown {
        Some(key) if !lenient => Err(format!(
            "{key} is not known; {IGNORE_UNKNOWN}=1 would allow it"
        )),
        _ => Ok(args),
    }
}

fn is_true(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn read(variables: &[(&str, &str)]) -> Result<Command, Error> {
        Command::read(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })
    }

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
    ];

    #[test]
    fn every_command_has_its_variables() {
        let Ok(Command::Add(container, netns)) = read(&ADD) else {
            panic!("no ADD");
        };
        assert_eq!(container.id, "c1");
        assert_eq!(container.interface, "eth0");
        assert_eq!(netns, PathBuf::from("/run/netns/c1"));
        for command in ["GC", "STATUS", "VERSION"] {
            let read = read(&[("CNI_COMMAND", command)]).unwrap();
            assert_eq!(read.name(), command);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for missing in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            let rest: Vec<_> = ADD.into_iter().filter(|(n, _)| *n != missing).collect();
            let error = read(&rest).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.report("1.1.0").contains(missing), "{error:?}");
        }
    }

    #[test]
    fn a_namespace_that_is_gone_can_be_released() {
        let del = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", "eth0"),
        ];
        assert_eq!(read(&del).unwrap().name(), "DEL");
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for (variable, value) in [
            ("CNI_CONTAINERID", "../etc"),
            ("CNI_CONTAINERID", "-c"),
            ("CNI_CONTAINERID", "a b"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a:b"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_COMMAND", "add"),
            ("CNI_ARGS", "novalue"),
            ("CNI_ARGS", "IP=10.0.0.1"),
        ] {
            let mut variables: Vec<_> = ADD.into_iter().filter(|(n, _)| *n != variable).collect();
            variables.push((variable, value));
            let error = read(&variables).unwrap_err();
            assert!(error.report("1.1.0").contains(variable), "{error:?}");
        }
    }

    #[test]
    fn arguments_of_kubernetes_are_known_and_others_must_be_allowed() {
        let args = read_args("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;X=;").unwrap();
        assert_eq!(args["K8S_POD_NAMESPACE"], "shop");
        assert_eq!(args["X"], "");
        assert!(read_args("K8S_POD_NAME=web").is_ok());
        assert!(read_args("X=1").unwrap_err().contains('X'));
    }
}
