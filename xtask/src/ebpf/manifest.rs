//! The manifest beside the compiled objects: what they were built from, and with what.
//!
//! Also included by the test of `pcpm-ebpf` that fails when the sources have moved on.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The manifest, in the repository.
pub(crate) const PATH: &str = "pcpm-ebpf/prebuilt/MANIFEST.toml";

/// The programs of the crate, each an object of its own: `pcpm-ebpf/prebuilt/NAME.o`.
pub(crate) const PROGRAMS: [&str; 3] = ["steer", "locks", "witness"];

/// Flags for the compiler that change the objects.
pub(crate) const FLAGS: &[&str] = &[
    // The programs read nothing of the machine's registers: one object serves all architectures.
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// What [`PATH`] says. Hashes are SHA-256, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Hash of all that the objects are made from.
    pub(crate) sources: String,
    /// Hashes of the objects, in the order of [`PROGRAMS`].
    pub(crate) objects: [String; PROGRAMS.len()],
    /// `rustc --version`.
    pub(crate) rustc: String,
    /// The LLVM inside that rustc.
    pub(crate) llvm: String,
    /// `bpf-linker --version`.
    pub(crate) bpf_linker: String,
}

impl Manifest {
    /// Reads the manifest of the repository at `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(PATH)).with_context(|| format!("read {PATH}"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| value(line, name));
            value.with_context(|| format!("{PATH} has no `{name}`"))
        };
        let objects = PROGRAMS.map(field);
        let [steer, locks, witness] = objects;
        Ok(Self {
            sources: field("sources")?,
            objects: [steer?, locks?, witness?],
            rustc: field("rustc")?,
            llvm: field("llvm")?,
            bpf_linker: field("bpf-linker")?,
        })
    }

    /// rustc, its LLVM and the linker.
    pub(crate) fn toolchain(&self) -> [&str; 3] {
        [&self.rustc, &self.llvm, &self.bpf_linker]
    }

    /// Fails when the manifest speaks of other sources or of other objects.
    pub(crate) fn check(&self, sources: &str, objects: &[&[u8]; PROGRAMS.len()]) -> Result<()> {
        if self.sources != sources {
            bail!(
                "the sources of the kernel programs changed since they were compiled: run \
                 `cargo xtask ebpf build` and commit pcpm-ebpf/prebuilt"
            );
        }
        if self.objects != objects.map(hash) {
            bail!("{PATH} belongs to other objects: run `cargo xtask ebpf build`");
        }
        Ok(())
    }
}

/// The value in `NAME = "VALUE"`.
fn value(line: &str, name: &str) -> Option<String> {
    let quoted = line.strip_prefix(name)?.strip_prefix(" = \"")?;
    quoted.strip_suffix('"').map(str::to_owned)
}

impl Display for Manifest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "# What the objects are made from, and with what.")?;
        writeln!(f, "# Written by `cargo xtask ebpf build`.")?;
        writeln!(f, "sources = \"{}\"", self.sources)?;
        for (program, object) in PROGRAMS.iter().zip(&self.objects) {
            writeln!(f, "{program} = \"{object}\"")?;
        }
        writeln!(f, "rustc = \"{}\"", self.rustc)?;
        writeln!(f, "llvm = \"{}\"", self.llvm)?;
        writeln!(f, "bpf-linker = \"{}\"", self.bpf_linker)
    }
}

/// The hash of all that goes into the object: the sources of the crate, the versions of what they
/// use, the profile and the flags. Versions do so even when the code does not: the compiler puts a
/// hash of them into the names of functions.
pub(crate) fn source_hash(root: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for path in source_files(root)? {
        let name = path.strip_prefix(root).unwrap_or(&path);
        add(&mut hasher, &name.to_string_lossy(), &read(&path)?);
    }
    let lock = read(&root.join("Cargo.lock"))?;
    add(&mut hasher, "dependencies", &dependencies(&lock));
    let workspace = read(&root.join("Cargo.toml"))?;
    add(
        &mut hasher,
        "package",
        &sections(&workspace, "[workspace.package]"),
    );
    add(&mut hasher, "profiles", &sections(&workspace, "[profile."));
    add(&mut hasher, "flags", &FLAGS.join(" "));
    Ok(hexadecimal(&hasher.finalize()))
}

fn source_files(root: &Path) -> Result<Vec<PathBuf>> {
    let package = root.join("pcpm-ebpf");
    let mut files = vec![package.join("Cargo.toml")];
    let mut directories = vec![package.join("src")];
    while let Some(directory) = directories.pop() {
        let listed = || format!("list {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(listed)? {
            let path = entry.with_context(listed)?.path();
            let list = if path.is_dir() {
                &mut directories
            } else {
                &mut files
            };
            list.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The paragraphs of a TOML file that contain `mark`.
fn sections(toml: &str, mark: &str) -> String {
    let chosen = toml.split("\n\n").filter(|text| text.contains(mark));
    chosen.collect::<Vec<_>>().join("\n\n")
}

/// The entries of a Cargo.lock for `aya-ebpf` and everything it depends on.
fn dependencies(lock: &str) -> String {
    let packages: Vec<_> = lock.split("\n\n").filter_map(Package::parse).collect();
    let mut wanted = vec!["aya-ebpf"];
    let mut chosen = BTreeSet::new();
    while let Some(dependency) = wanted.pop() {
        for package in packages.iter().filter(|package| package.is(dependency)) {
            if chosen.insert(package.entry) {
                wanted.extend(package.dependencies());
            }
        }
    }
    chosen.into_iter().collect()
}

/// A package in a Cargo.lock.
struct Package<'a> {
    entry: &'a str,
    name: String,
    version: String,
}

impl<'a> Package<'a> {
    fn parse(entry: &'a str) -> Option<Self> {
        let field = |name| entry.lines().find_map(|line| value(line, name));
        Some(Self {
            entry,
            name: field("name")?,
            version: field("version")?,
        })
    }

    /// A dependency is a name, followed by the version when there are several.
    fn is(&self, dependency: &str) -> bool {
        let mut words = dependency.split(' ');
        words.next() == Some(self.name.as_str())
            && words.next().is_none_or(|version| version == self.version)
    }

    /// They stand one a line, as ` "NAME",`.
    fn dependencies(&self) -> impl Iterator<Item = &'a str> {
        let lines = self.entry.lines();
        lines.filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\","))
    }
}

/// Lengths keep `ab` + `c` apart from `a` + `bc`.
fn add(hasher: &mut Sha256, name: &str, content: &str) {
    for text in [name, content] {
        hasher.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(text);
    }
}

/// The hash of `bytes`.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16);
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(digit).collect()
}
