//! `cargo xtask ebpf`: the toolchain for the kernel programs, their build, and the check that the
//! committed objects are what the sources say, byte for byte.

mod manifest;
mod setup;
mod toolchain;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::steps;
use manifest::{Manifest, PROGRAMS};
use toolchain::Toolchain;

/// Apart from the directory of the stable toolchain, which it would not share anything with.
const TARGET_DIRECTORY: &str = "target/bpf";

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum EbpfVerb {
    /// Install what is missing to build the kernel programs.
    Setup,
    /// Build the kernel programs into pcpm-ebpf/prebuilt.
    Build,
    /// Rebuild the kernel programs aside and compare them with the committed ones.
    Check,
}

pub(crate) fn run(verb: EbpfVerb) -> Result<()> {
    match verb {
        EbpfVerb::Setup => setup::run(),
        EbpfVerb::Build => build(),
        EbpfVerb::Check => check(),
    }
}

fn build() -> Result<()> {
    let root = steps::workspace();
    let toolchain = Toolchain::find(Manifest::read(&root).ok().as_ref())?;
    let objects = toolchain.build(&root, &root.join(TARGET_DIRECTORY))?;
    let manifest = toolchain.manifest(manifest::source_hash(&root)?, &objects);
    for (program, object) in PROGRAMS.iter().zip(&objects) {
        let path = path(program);
        write(&root.join(&path), object)?;
        println!("{path}: {} bytes", object.len());
    }
    write(&root.join(manifest::PATH), manifest.to_string().as_bytes())
}

/// Where the object of a program is in the repository.
fn path(program: &str) -> String {
    format!("pcpm-ebpf/prebuilt/{program}.o")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

fn check() -> Result<()> {
    let root = steps::workspace();
    let committed = Manifest::read(&root)?;
    let [steer, locks, witness] = PROGRAMS.map(|program| {
        let path = path(program);
        fs::read(root.join(&path)).with_context(|| format!("read {path}"))
    });
    let objects = [steer?, locks?, witness?];
    committed.check(
        &manifest::source_hash(&root)?,
        &objects.each_ref().map(Vec::as_slice),
    )?;
    let toolchain = Toolchain::find(Some(&committed))?;
    same_toolchain(&committed, &toolchain)?;
    let aside = tempfile::tempdir().context("make a directory for the build")?;
    let rebuilt = toolchain.build(&root, aside.path())?;
    for (program, (object, rebuilt)) in PROGRAMS.iter().zip(objects.iter().zip(&rebuilt)) {
        same_bytes(&path(program), object, rebuilt)?;
    }
    println!("the objects are what their sources say, byte for byte");
    Ok(())
}

/// Another compiler builds another object: that says nothing about the committed one.
fn same_toolchain(committed: &Manifest, toolchain: &Toolchain) -> Result<()> {
    let built_with = committed.toolchain();
    if toolchain.versions() == built_with {
        return Ok(());
    }
    bail!(
        "the objects were built with {}, this machine has {}: run `cargo xtask ebpf setup`, or, to \
         move to the toolchain of this machine, `cargo xtask ebpf build`, and commit",
        built_with.join(", "),
        toolchain.versions().join(", ")
    )
}

fn same_bytes(path: &str, committed: &[u8], rebuilt: &[u8]) -> Result<()> {
    if committed == rebuilt {
        return Ok(());
    }
    let offset = committed.iter().zip(rebuilt).position(|(a, b)| a != b);
    let offset = offset.unwrap_or_else(|| committed.len().min(rebuilt.len()));
    bail!(
        "{path} differs from what its sources build, from byte {offset} on ({} bytes committed, \
         {} rebuilt), with the same toolchain and sources",
        committed.len(),
        rebuilt.len()
    )
}
