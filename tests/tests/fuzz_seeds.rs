//! The fuzz targets on their seeds and on small, always equal mutations of them: what `make fuzz` does at length, in a second.
//!
//! It also keeps the targets compiling, since `fuzz/` is built on demand only.

use std::fs;

use holdfast_tests::process::workspace;

#[expect(unreachable_pub, reason = "the targets are a library of their own")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// Mutated inputs made of each seed.
const MUTATIONS: usize = 300;

/// Flips, cuts, doubles or replaces a piece of `seed`.
fn mutate(seed: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..4) {
        if bytes.is_empty() {
            bytes.push(random.u8(..));
        }
        let start = random.usize(..bytes.len());
        let end = random.usize(start..=bytes.len().min(start + 16));
        match random.u8(..5) {
            0 => bytes[start] ^= 1 << random.u8(..8),
            1 => bytes[start] = random.u8(..),
            2 => drop(bytes.drain(start..end)),
            3 => bytes.splice(start..start, bytes[start..end].to_vec()).for_each(drop),
            _ => bytes.truncate(start),
        }
    }
    bytes
}

#[test]
fn every_target_survives_its_seeds_and_mutations_of_them() {
    for (name, run) in fuzz::TARGETS {
        let folder = workspace().join("fuzz/seeds").join(name);
        let seeds: Vec<_> = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(!seeds.is_empty(), "{} has no seeds", folder.display());
        for seed in seeds {
            let bytes = fs::read(&seed).unwrap();
            run(&bytes);
            let mut random = fastrand::Rng::with_seed(0);
            for _ in 0..MUTATIONS {
                run(&mutate(&bytes, &mut random));
            }
        }
    }
}

#[test]
fn every_target_has_a_program() {
    let manifest = fs::read_to_string(workspace().join("fuzz/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let mut programs: Vec<_> = manifest["bin"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bin| bin["name"].as_str().unwrap())
        .collect();
    let mut targets: Vec<_> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    programs.sort_unstable();
    targets.sort_unstable();
    assert_eq!(programs, targets);
}
