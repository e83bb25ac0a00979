//! Finding a Rust toolchain that can compile for the kernel, and compiling with it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::manifest::{self, FLAGS, Manifest, PROGRAMS};
use crate::steps;

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "bpf";
/// Where LLVM's tools are on Debian; other systems have them on the path.
pub(super) const LLVM_TOOLS: &str = "/usr/lib/llvm-22/bin";

/// The objects, in the order of [`PROGRAMS`].
pub(super) type Objects = [Vec<u8>; PROGRAMS.len()];

/// A compiler with the sources of its core library, and the programs that link and strip.
#[derive(Debug)]
pub(super) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
    linker_version: String,
    strip: PathBuf,
}

#[derive(Debug)]
struct Compiler {
    rustc: PathBuf,
    cargo: PathBuf,
    sources: PathBuf,
    version: String,
    llvm: String,
}

impl Toolchain {
    /// The toolchain that `manifest` names if it is here; else a nightly of rustup, else the
    /// distribution's.
    pub(super) fn find(manifest: Option<&Manifest>) -> Result<Self> {
        let mut compilers = compilers();
        let named = |compiler: &Compiler| {
            manifest.is_some_and(|manifest| manifest.rustc == compiler.version)
        };
        let best = compilers.iter().position(named).unwrap_or(0);
        if compilers.is_empty() {
            bail!(
                "no Rust toolchain with the sources of its library (a rustup nightly with \
                 rust-src, or a distribution's rustc with its sources): run `cargo xtask ebpf setup`"
            );
        }
        let linker = find_program("bpf-linker")?;
        Ok(Self {
            compiler: compilers.swap_remove(best),
            linker_version: first_line(Command::new(&linker).arg("--version"))?,
            linker,
            strip: find_program("llvm-strip")?,
        })
    }

    /// rustc, its LLVM and the linker, as [`Manifest::toolchain`] has them.
    pub(super) fn versions(&self) -> [&str; 3] {
        [
            &self.compiler.version,
            &self.compiler.llvm,
            &self.linker_version,
        ]
    }

    /// The manifest of `objects`, built with this toolchain.
    pub(super) fn manifest(&self, sources: String, objects: &Objects) -> Manifest {
        Manifest {
            sources,
            objects: objects.each_ref().map(|object| manifest::hash(object)),
            rustc: self.compiler.version.clone(),
            llvm: self.compiler.llvm.clone(),
            bpf_linker: self.linker_version.clone(),
        }
    }

    /// Compiles the kernel programs of the repository at `root`, without debug sections other than
    /// BTF.
    pub(super) fn build(&self, root: &Path, target_directory: &Path) -> Result<Objects> {
        // Only now the directory is there whose name must not show in the object.
        steps::run(
            self.cargo(root)?
                .args(["fetch", "--locked", "--quiet", "--target", TARGET]),
        )?;
        steps::run(&mut self.compilation(root, target_directory)?)?;
        let linked = target_directory.join(TARGET).join(PROFILE);
        let [steer, locks, witness] = PROGRAMS.map(|program| self.strip(&linked.join(program)));
        Ok([steer?, locks?, witness?])
    }

    /// What the linker made, without what only debuggers want.
    fn strip(&self, linked: &Path) -> Result<Vec<u8>> {
        let stripped = linked.with_extension("o");
        let mut strip = Command::new(&self.strip);
        steps::run(strip.arg("-g").arg(linked).arg("-o").arg(&stripped))?;
        fs::read(&stripped).with_context(|| format!("read {}", stripped.display()))
    }

    fn compilation(&self, root: &Path, target_directory: &Path) -> Result<Command> {
        let mut cargo = self.cargo(root)?;
        cargo
            .args([
                "build",
                "--locked",
                "--ignore-rust-version",
                "-Zbuild-std=core",
            ])
            .args(["--package", "pcpm-ebpf", "--bins"])
            .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
            .arg(target_directory)
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(root)?.join("\x1f"));
        Ok(cargo)
    }

    /// This toolchain's cargo, unmoved by the user's settings.
    fn cargo(&self, root: &Path) -> Result<Command> {
        let mut cargo = Command::new(&self.compiler.cargo);
        without_settings(&mut cargo);
        cargo
            .current_dir(root)
            .env("RUSTC", &self.compiler.rustc)
            // Lets a stable compiler build the core library, which is unstable to do.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC_WRAPPER", "")
            .env("PATH", self.path()?);
        Ok(cargo)
    }

    /// The compiler starts `bpf-linker` from the path.
    fn path(&self) -> Result<std::ffi::OsString> {
        let own = self.linker.parent().map(Path::to_owned);
        let path = env::var_os("PATH").unwrap_or_default();
        let all = own.into_iter().chain(env::split_paths(&path));
        env::join_paths(all).context("compose PATH")
    }

    fn flags(&self, root: &Path) -> Result<Vec<String>> {
        let mut flags: Vec<_> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
        for (path, name) in self.source_roots(root)? {
            flags.push(format!("--remap-path-prefix={}={name}", path.display()));
        }
        Ok(flags)
    }

    /// Debug information names source files; under these names the place of the build is gone. They
    /// exist nowhere, or the linker would copy lines from there.
    fn source_roots(&self, root: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
        let mut roots = vec![(root.to_owned(), "/pcpm")];
        let sources = &self.compiler.sources;
        let real =
            fs::canonicalize(sources).with_context(|| format!("resolve {}", sources.display()))?;
        roots.extend([(sources.clone(), "/rust"), (real, "/rust")]);
        let registries = cargo_home()?.join("registry/src");
        let entries = fs::read_dir(&registries).into_iter().flatten().flatten();
        roots.extend(entries.map(|entry| (entry.path(), "/registry")));
        Ok(roots)
    }
}

/// Removes whatever would change the build: this process's own cargo, and the user's flags.
fn without_settings(command: &mut Command) {
    const EXACT: &[&str] = &[
        "CARGO",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
    ];
    const PREFIXES: &[&str] = &[
        "CARGO_BUILD_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "RUSTC",
        "RUSTUP_TOOLCHAIN",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if EXACT.contains(&&*text) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// Usable compilers, the preferred first.
fn compilers() -> Vec<Compiler> {
    let mut found: Vec<_> = rustup_nightlies()
        .iter()
        .filter_map(|bin| compiler(bin))
        .collect();
    found.extend(compiler(Path::new("/usr/bin")));
    found
}

/// The directories of the programs of rustup's nightly toolchains.
fn rustup_nightlies() -> Vec<PathBuf> {
    let list = output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let nightlies = names.filter(|name| name.starts_with("nightly"));
    nightlies
        .filter_map(|name| {
            let mut rustc = Command::new("rustup");
            let sysroot = output(rustc.args(["run", name, "rustc", "--print", "sysroot"])).ok()?;
            Some(Path::new(sysroot.trim()).join("bin"))
        })
        .collect()
}

/// The compiler in `bin`, if it comes with the sources of its library.
fn compiler(bin: &Path) -> Option<Compiler> {
    let (rustc, cargo) = (bin.join("rustc"), bin.join("cargo"));
    let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let usable = cargo.exists() && sources.join("library/core/Cargo.toml").exists();
    let verbose = output(Command::new(&rustc).arg("-vV")).ok()?;
    let llvm = verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "));
    let found = Compiler {
        version: verbose.lines().next()?.to_owned(),
        llvm: llvm?.to_owned(),
        rustc,
        cargo,
        sources,
    };
    usable.then_some(found)
}

/// Where `program` is: on the path, where cargo installs, or among LLVM's tools.
pub(super) fn find_program(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = [cargo_home()?.join("bin"), LLVM_TOOLS.into()];
    let mut directories = env::split_paths(&path).chain(more);
    let found = directories.find_map(|directory| {
        let candidate = directory.join(program);
        candidate.is_file().then_some(candidate)
    });
    found.with_context(|| format!("{program} is not installed: run `cargo xtask ebpf setup`"))
}

/// Where cargo keeps what it downloads and installs.
pub(super) fn cargo_home() -> Result<PathBuf> {
    let set = env::var_os("CARGO_HOME").filter(|value| value != OsStr::new(""));
    if let Some(home) = set {
        return Ok(home.into());
    }
    let home = env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

pub(super) fn first_line(command: &mut Command) -> Result<String> {
    let text = output(command)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn output(command: &mut Command) -> Result<String> {
    let line = steps::line(command);
    let output = command
        .output()
        .with_context(|| format!("start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of `{line}`"))
}
