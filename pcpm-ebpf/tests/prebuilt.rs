//! The committed object belongs to the sources beside it.

#[path = "../../xtask/src/ebpf/manifest.rs"]
mod manifest;

use std::path::Path;

use anyhow::Result;
use manifest::Manifest;
use pcpm_ebpf::{STEER_OBJECT, abi::names};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_object_was_built_from_these_sources() -> Result<()> {
    let sources = manifest::source_hash(repository())?;
    Manifest::read(repository())?.check(&sources, STEER_OBJECT)
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
    assert!(manifest.check(&manifest.sources, &object).is_err());
    assert!(manifest.check("other", STEER_OBJECT).is_err());
    Ok(())
}

#[test]
fn the_object_names_all_programs_and_maps() {
    let named = |name: &str| {
        let terminated = [name.as_bytes(), b"\0"].concat();
        STEER_OBJECT
            .windows(terminated.len())
            .any(|window| window == terminated)
    };
    let maps = [
        names::ATTACHMENTS,
        names::HUBS,
        names::FLOWS,
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
    ];
    for name in maps.iter().chain(&programs) {
        assert!(named(name), "{name}");
    }
}

#[test]
fn the_object_says_nothing_of_the_place_it_was_built_in() {
    let text = String::from_utf8_lossy(STEER_OBJECT);
    for trace in ["/home/", "/root/", "/work/", "index.crates.io", "/usr/lib/"] {
        assert!(!text.contains(trace), "{trace}");
    }
}
