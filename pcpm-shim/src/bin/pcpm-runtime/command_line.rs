//! The command line of an OCI runtime, as far as it matters here: which verb, for which container, in which
//! bundle. It goes on to the real runtime as it came.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Options before the verb that have a value, of runc, crun and youki.
const GLOBAL_WITH_VALUE: [&str; 7] = [
    "log",
    "log-format",
    "log-level",
    "root",
    "criu",
    "rootless",
    "cgroup-manager",
];
/// Options of `create` and `run` that have a value.
const CREATE_WITH_VALUE: [&str; 8] = [
    "bundle",
    "b",
    "config",
    "f",
    "console-socket",
    "pid-file",
    "pidfd-socket",
    "preserve-fds",
];

/// What is asked of the runtime.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// Everything up to the verb, to ask the real runtime something else in the same place.
    pub(crate) globals: Vec<OsString>,
    pub(crate) verb: Verb,
    /// Where the engine looks for the reason of a failure.
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_is_json: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Verb {
    /// A container is made and left running.
    Create(Creation),
    /// A container is made, and ends with the runtime.
    Run(Creation),
    /// The program of a container that was made begins.
    Start {
        id: String,
    },
    Delete {
        id: String,
    },
    /// Nothing that networks have to do with, or nothing that makes sense: the real runtime knows.
    #[default]
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Creation {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// The configuration's name in the bundle, which crun lets one choose.
    pub(crate) config: PathBuf,
    /// The container's program begins at once.
    pub(crate) is_started: bool,
}

impl CommandLine {
    pub(crate) fn read(arguments: &[OsString]) -> Self {
        let mut words = Words::new(arguments, &GLOBAL_WITH_VALUE);
        let mut line = Self::default();
        let verb = loop {
            match words.next() {
                Some(Word::Option("log", value)) => line.log = value.map(PathBuf::from),
                Some(Word::Option("log-format", value)) => {
                    line.log_is_json = value.is_some_and(|format| format == "json");
                }
                Some(Word::Option(..)) => {}
                Some(Word::Plain(verb)) => break verb.to_str(),
                None => return line,
            }
        };
        let (globals, rest) = arguments.split_at(words.position - 1);
        line.globals = globals.to_vec();
        line.verb = read_verb(verb.unwrap_or_default(), &rest[1..]).unwrap_or_default();
        line
    }
}

fn read_verb(verb: &str, arguments: &[OsString]) -> Option<Verb> {
    match verb {
        "create" => read_creation(arguments).map(|(creation, _)| Verb::Create(creation)),
        "run" => read_creation(arguments).map(|(mut creation, detached)| {
            creation.is_started = true;
            if detached {
                Verb::Create(creation)
            } else {
                Verb::Run(creation)
            }
        }),
        "start" => read_id(arguments).map(|id| Verb::Start { id }),
        "delete" => read_id(arguments).map(|id| Verb::Delete { id }),
        _ => None,
    }
}

/// The container that a verb without options that have a value is about.
fn read_id(arguments: &[OsString]) -> Option<String> {
    let mut words = Words::new(arguments, &[]);
    let id = words.find_map(|word| match word {
        Word::Plain(id) => id.to_str(),
        Word::Option(..) => None,
    });
    id.map(str::to_owned)
}

/// The creation, and whether the runtime is to leave the container alone.
fn read_creation(arguments: &[OsString]) -> Option<(Creation, bool)> {
    let (mut id, mut bundle, mut config) = (None, PathBuf::from("."), PathBuf::from("config.json"));
    let mut detached = false;
    for word in Words::new(arguments, &CREATE_WITH_VALUE) {
        match word {
            Word::Option("bundle" | "b", Some(value)) => bundle = value.into(),
            Word::Option("config" | "f", Some(value)) => config = value.into(),
            Word::Option("detach" | "d", value) => detached = value.is_none_or(|v| v != "false"),
            Word::Option("help" | "h", _) => return None,
            Word::Option(..) => {}
            Word::Plain(word) => id = id.or(Some(word)),
        }
    }
    let creation = Creation {
        id: id?.to_str()?.to_owned(),
        bundle,
        config,
        is_started: false,
    };
    Some((creation, detached))
}

/// Arguments by what they are.
struct Words<'a> {
    arguments: &'a [OsString],
    with_value: &'a [&'a str],
    position: usize,
    only_plain: bool,
}

enum Word<'a> {
    Plain(&'a OsStr),
    /// By its name without dashes; one dash is as good as two.
    Option(&'a str, Option<&'a OsStr>),
}

impl<'a> Words<'a> {
    fn new(arguments: &'a [OsString], with_value: &'a [&'a str]) -> Self {
        Self {
            arguments,
            with_value,
            position: 0,
            only_plain: false,
        }
    }

    fn take(&mut self) -> Option<&'a OsStr> {
        let word = self.arguments.get(self.position)?;
        self.position += 1;
        Some(word)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let word = self.take()?;
        let name = match word.to_str() {
            Some(text) if !self.only_plain => text.strip_prefix('-'),
            _ => None,
        };
        // A single dash is a word.
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Some(Word::Plain(word));
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if name.is_empty() {
            self.only_plain = true;
            return self.next();
        }
        if let Some((name, value)) = name.split_once('=') {
            return Some(Word::Option(name, Some(OsStr::new(value))));
        }
        let value = if self.with_value.contains(&name) {
            self.take()
        } else {
            None
        };
        Some(Word::Option(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> CommandLine {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        CommandLine::read(&words)
    }

    fn creation(id: &str, bundle: &str) -> Creation {
        Creation {
            id: id.into(),
            bundle: bundle.into(),
            config: "config.json".into(),
            is_started: false,
        }
    }

    fn run(id: &str, bundle: &str) -> Creation {
        Creation {
            is_started: true,
            ..creation(id, bundle)
        }
    }

    #[test]
    fn what_engines_say_is_understood() {
        let line = read(
            "--root /run/r --log /b/log.json --log-format json --systemd-cgroup create \
             --bundle /b --pid-file /b/init.pid --console-socket /s c1",
        );
        assert_eq!(line.verb, Verb::Create(creation("c1", "/b")));
        assert_eq!(line.log, Some("/b/log.json".into()));
        assert!(line.log_is_json);
        let globals = "--root /run/r --log /b/log.json --log-format json --systemd-cgroup";
        assert_eq!(
            line.globals,
            globals.split(' ').map(OsString::from).collect::<Vec<_>>()
        );
    }

    #[test]
    fn people_write_it_in_other_ways() {
        for (line, verb) in [
            ("run c1", Verb::Run(run("c1", "."))),
            ("run -b /b c1", Verb::Run(run("c1", "/b"))),
            ("run --bundle=/b c1", Verb::Run(run("c1", "/b"))),
            ("--debug run -d -b /b c1", Verb::Create(run("c1", "/b"))),
            ("run --detach=false c1", Verb::Run(run("c1", "."))),
            ("run c1 --detach", Verb::Create(run("c1", "."))),
            ("run -- -c1", Verb::Run(run("-c1", "."))),
            ("start c1", Verb::Start { id: "c1".into() }),
            ("delete -f c1", Verb::Delete { id: "c1".into() }),
            ("delete c1 --force", Verb::Delete { id: "c1".into() }),
        ] {
            assert_eq!(read(line).verb, verb, "{line}");
        }
    }

    #[test]
    fn everything_else_is_the_real_runtimes() {
        for line in [
            "",
            "--version",
            "state c1",
            "exec c1 run x",
            "run",
            "run --help",
            "create --bundle",
            "start",
            "start --help",
            "delete",
            "--root delete",
        ] {
            assert_eq!(read(line).verb, Verb::Other, "{line}");
        }
    }
}
