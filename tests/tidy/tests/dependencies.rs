//! Dependencies point down the picture in ARCHITECTURE.md, and every version stands in one place.

use dejavm_tidy::{Dependency, Manifest, Section, sources};

/// A crate, and which of our own crates its program code may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("dejavm-units", &[]),
    ("dejavm-memory", &["dejavm-units"]),
    ("dejavm-cpu", &["dejavm-memory", "dejavm-units"]),
    ("dejavm-devices", &["dejavm-units"]),
    ("dejavm-kvm", &["dejavm-cpu", "dejavm-memory", "dejavm-units"]),
    ("dejavm-machine", &["dejavm-cpu", "dejavm-devices", "dejavm-memory", "dejavm-units"]),
    ("dejavm-replay", &["dejavm-machine", "dejavm-memory", "dejavm-units"]),
    ("dejavm-linux", &["dejavm-cpu", "dejavm-machine", "dejavm-units"]),
    (
        "dejavm-stub",
        &[
            "dejavm-cpu",
            "dejavm-linux",
            "dejavm-machine",
            "dejavm-memory",
            "dejavm-replay",
            "dejavm-units",
        ],
    ),
    ("dejavm-images", &[]),
];

/// What belongs to the host's side: threads, terminals, sockets, randomness. Only below `tools` and `tests`.
const HOST_SIDE: &[&str] = &[
    "async-std",
    "clap",
    "crossbeam",
    "crossterm",
    "getrandom",
    "mio",
    "nix",
    "rand",
    "rayon",
    "signal-hook",
    "termios",
    "tokio",
];

fn manifests() -> Vec<(String, Manifest)> {
    sources()
        .into_iter()
        .filter(|source| source.path.ends_with("/Cargo.toml"))
        .map(|source| {
            let manifest = Manifest::parse(&source.text)
                .unwrap_or_else(|error| panic!("{}: {error}", source.path));
            (source.path, manifest)
        })
        .collect()
}

/// What is wrong with a crate's dependencies.
fn complaint(path: &str, manifest: &Manifest, dependency: &Dependency) -> Option<String> {
    let Dependency { section, name, from_workspace: _ } = dependency;
    let upper = path.starts_with("tools/") || path.starts_with("tests/");
    let host_side = HOST_SIDE.iter().any(|host| {
        name == host || name.strip_prefix(host).is_some_and(|rest| rest.starts_with('-'))
    });
    if host_side && !upper {
        return Some(format!("{path}: {name} belongs to tools"));
    }
    if !name.starts_with("dejavm-") || upper {
        return None;
    }
    let arrows = ARROWS.iter().find(|(krate, _)| *krate == manifest.name);
    let Some((_, below)) = arrows else {
        return Some(format!("{path}: {} has no place among the arrows", manifest.name));
    };
    let for_tests = *section == Section::Dev && name == "dejavm-images";
    (!below.contains(&name.as_str()) && !for_tests)
        .then(|| format!("{path}: {} must not depend on {name}", manifest.name))
}

#[test]
fn dependencies_point_down() {
    let manifests = manifests();
    assert!(manifests.len() >= 10, "the manifests were found");
    let complaints: Vec<String> = manifests
        .iter()
        .flat_map(|(path, manifest)| {
            manifest.dependencies.iter().filter_map(|found| complaint(path, manifest, found))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    for (krate, _) in ARROWS {
        assert!(manifests.iter().any(|(_, manifest)| manifest.name == *krate), "{krate} is gone");
    }
}

#[test]
fn arrows_that_point_up_are_seen() {
    let refused = |path: &str, name: &str, on: &str, section| {
        let manifest = Manifest { name: name.into(), ..Manifest::default() };
        let dependency = Dependency { section, name: on.into(), from_workspace: true };
        complaint(path, &manifest, &dependency).is_some()
    };
    assert!(refused("vmm/cpu/Cargo.toml", "dejavm-cpu", "dejavm-devices", Section::Normal));
    assert!(refused("vmm/devices/Cargo.toml", "dejavm-devices", "dejavm-machine", Section::Dev));
    assert!(refused("replay/Cargo.toml", "dejavm-replay", "clap", Section::Normal));
    assert!(refused("replay/Cargo.toml", "dejavm-replay", "crossbeam-channel", Section::Dev));
    assert!(refused("vmm/new/Cargo.toml", "dejavm-new", "dejavm-units", Section::Normal));
    assert!(!refused("vmm/machine/Cargo.toml", "dejavm-machine", "dejavm-images", Section::Dev));
    assert!(refused("vmm/machine/Cargo.toml", "dejavm-machine", "dejavm-images", Section::Normal));
    assert!(!refused("tools/dejavm/Cargo.toml", "dejavm", "clap", Section::Normal));
    assert!(!refused("replay/Cargo.toml", "dejavm-replay", "random-name", Section::Normal));
}

/// Fuzz targets are a workspace of their own, because they build with another compiler.
#[test]
fn versions_stand_in_the_workspace_table() {
    for (path, manifest) in manifests() {
        if path.contains("fuzz/") {
            continue;
        }
        for Dependency { name, from_workspace, section: _ } in &manifest.dependencies {
            assert!(from_workspace, "{path}: {name} must say `workspace = true`");
        }
    }
}

#[test]
fn every_crate_is_a_member_with_the_workspace_lints() {
    let root = sources().into_iter().find(|source| source.path == "Cargo.toml").expect("the root");
    for (path, manifest) in manifests() {
        if path.contains("fuzz/") {
            continue;
        }
        let folder = path.strip_suffix("/Cargo.toml").expect("what was filtered for");
        assert!(root.text.contains(&format!("\"{folder}\"")), "{folder} is no member");
        assert!(manifest.workspace_lints, "{path}: [lints] workspace = true");
        // The one crate that others can use without the rest.
        assert_eq!(manifest.unpublished, folder != "tools/vmss", "{path}: publish = false");
    }
}
