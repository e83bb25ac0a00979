//! The committed objects belong to the sources beside it.

#[path = "../../xtask/src/ebpf/manifest.rs"]
mod manifest;

use std::path::Path;

use anyhow::Result;
use manifest::Manifest;
use pcpm_ebpf::{LOCKS_OBJECT, STEER_OBJECT, WITNESS_OBJECT, abi::names, locks, witness};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_objects_were_built_from_these_sources() -> Result<()> {
    let sources = manifest::source_hash(repository())?;
    Manifest::read(repository())?.check(&sources, &[STEER_OBJECT, LOCKS_OBJECT, WITNESS_OBJECT])
}

#[test]
fn the_manifest_is_as_it_is_written() -> Result<()> {
    let manifest = Manifest::read(repository())?;
    let text = std::fs::read_to_string(repository().join(manifest::PATH))?;
    assert_eq!(manifest.to_string(), text);
    assert!(
        manifest
            .toolchain()
            .iter()
            .all(|version| !version.is_empty())
    );
    Ok(())
}

#[test]
fn a_changed_object_or_changed_sources_are_noticed() -> Result<()> {
    let manifest = Manifest::read(repository())?;
    let mut object = STEER_OBJECT.to_vec();
    object[100] ^= 1;
    let changed = [object.as_slice(), LOCKS_OBJECT, WITNESS_OBJECT];
    assert!(manifest.check(&manifest.sources, &changed).is_err());
    let unchanged = [STEER_OBJECT, LOCKS_OBJECT, WITNESS_OBJECT];
    assert!(manifest.check("other", &unchanged).is_err());
    Ok(())
}

#[test]
fn the_objects_name_all_programs_and_maps() {
    let named = |object: &[u8], name: &str| {
        let terminated = [name.as_bytes(), b"\0"].concat();
        object
            .windows(terminated.len())
            .any(|window| window == terminated)
    };
    let maps = [
        names::ATTACHMENTS,
        names::HUBS,
        names::FLOWS,
        names::FRAGMENTS,
        names::SLOT_FLOWS,
        names::FLOW_TABLE,
        names::SLOT_COUNTERS,
        names::DROPS,
        names::CONFIG,
    ];
    let programs = [
        names::FROM_SLOT,
        names::FROM_HOST,
        names::FROM_HUB,
        names::TO_HUB,
        names::FROM_UPLINK,
        names::COLLECT,
    ];
    for name in maps.iter().chain(&programs) {
        assert!(named(STEER_OBJECT, name), "{name}");
    }
    for name in [
        locks::names::CONTENTION_BEGIN,
        locks::names::CONTENTION_END,
        locks::names::TRACING,
        locks::names::WAITERS,
        locks::names::BLOCKERS,
        locks::names::LONG_WAITS,
        locks::names::MISSED,
    ] {
        assert!(named(LOCKS_OBJECT, name), "{name}");
    }
    for name in [
        witness::names::KERNEL_LAYOUT,
        witness::names::SYSCTL_WRITES,
        witness::names::SYSCTL_ACCESSED,
        witness::names::REFERENCES,
    ] {
        assert!(named(WITNESS_OBJECT, name), "{name}");
    }
}

#[test]
fn the_object_says_nothing_of_the_place_it_was_built_in() {
    let text = String::from_utf8_lossy(&[STEER_OBJECT, LOCKS_OBJECT, WITNESS_OBJECT].concat())
        .into_owned();
    for trace in ["/home/", "/root/", "/tmp/", ".cargo/", "/usr/lib/"] {
        assert!(!text.contains(trace), "{trace}");
    }
}

#[test]
fn what_the_programs_are_built_from_is_hashed() -> Result<()> {
    let copy = tempfile::tempdir()?;
    let hash = |path: &str, from: &str, to: &str| -> Result<String> {
        copy_sources(copy.path())?;
        let file = copy.path().join(path);
        let text = std::fs::read_to_string(&file)?;
        assert!(from == to || text.contains(from), "{path} has no {from}");
        std::fs::write(&file, text.replacen(from, to, 1))?;
        manifest::source_hash(copy.path())
    };
    let unchanged = hash("Cargo.toml", "", "")?;
    assert_eq!(unchanged, manifest::source_hash(repository())?);
    for (path, from, to, matters) in [
        ("pcpm-ebpf/src/bin/steer/main.rs", "fn", "fn ", true),
        ("pcpm-ebpf/src/abi.rs", "512", "511", true),
        ("Cargo.toml", "debug = 2", "debug = 1", true),
        (
            "Cargo.lock",
            "name = \"aya-ebpf-macros\"\n",
            "name = \"aya-ebpf-macros\"\n\n",
            true,
        ),
        (
            "Cargo.lock",
            "name = \"tokio\"\nversion = \"1",
            "name = \"tokio\"\nversion = \"2",
            false,
        ),
        ("Cargo.toml", "serde = {", "serde =  {", false),
    ] {
        let changed = hash(path, from, to)?;
        assert_eq!(changed != unchanged, matters, "{path}: {from}");
    }
    Ok(())
}

/// Copies what [`manifest::source_hash`] reads.
fn copy_sources(to: &Path) -> Result<()> {
    let mut paths: Vec<_> = [
        "Cargo.toml",
        "Cargo.lock",
        "pcpm-ebpf/Cargo.toml",
        "pcpm-ebpf/src",
    ]
    .map(std::path::PathBuf::from)
    .into();
    while let Some(path) = paths.pop() {
        let (source, target) = (repository().join(&path), to.join(&path));
        if source.is_dir() {
            std::fs::create_dir_all(target)?;
            for entry in std::fs::read_dir(source)? {
                paths.push(path.join(entry?.file_name()));
            }
        } else {
            std::fs::create_dir_all(target.parent().unwrap_or(to))?;
            std::fs::copy(source, target)?;
        }
    }
    Ok(())
}
