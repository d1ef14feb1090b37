//! Every input that fuzzing has kept in `fixtures/fuzz`, and every seed, through the functions that the fuzz targets run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use fuzzing::{TARGETS, target};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = repository().join("fixtures/fuzz").join(name);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn replay(name: &str) {
    let target = target(name);
    for seed in (target.seeds)() {
        (target.run)(&seed);
    }
    for (path, input) in corpus(name) {
        // Shown only if it fails.
        eprintln!("{}", path.display());
        (target.run)(&input);
    }
}

#[test]
fn pdu() {
    replay("pdu");
}

#[test]
fn login() {
    replay("login");
}

#[test]
fn cdb() {
    replay("cdb");
}

#[test]
fn reserve_out() {
    replay("reserve_out");
}

#[test]
fn extended_copy() {
    replay("extended_copy");
}

#[test]
fn superblock() {
    replay("superblock");
}

#[test]
fn area() {
    replay("area");
}

#[test]
fn journal_record() {
    replay("journal_record");
}

#[test]
fn journal_ring() {
    replay("journal_ring");
}

#[test]
fn the_document_names_what_there_is() {
    let document = fs::read_to_string(repository().join("docs/testing.md")).unwrap();
    for target in TARGETS {
        assert!(
            document.contains(&format!("| `{}` |", target.name)),
            "docs/testing.md lacks {}",
            target.name
        );
    }
    let mut sources = String::new();
    for directory in ["iscsi-target/src", "iscsi-target/tests", "raid-core/src", "tests/tests"] {
        read_all(&repository().join(directory), &mut sources);
    }
    let begin = document.find("## Hostile initiators").unwrap();
    let end = document.find("## The system tests").unwrap();
    let words = document[begin..end].split('`').skip(1).step_by(2);
    // The names of tests are sentences; those of files and targets are shorter.
    let tests: Vec<&str> =
        words.filter(|word| word.matches('_').count() >= 3 && !word.contains('/')).collect();
    assert!(tests.len() > 15, "found {} names only", tests.len());
    for name in tests {
        assert!(sources.contains(&format!("fn {name}(")), "docs/testing.md names {name}, which is nowhere");
    }
}

fn read_all(directory: &Path, into: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_corpus_a_program_and_a_replay() {
    let here = fs::read_to_string(
        file!()
            .rsplit('/')
            .next()
            .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name))
            .unwrap(),
    )
    .unwrap();
    for target in TARGETS {
        let name = target.name;
        assert!(here.contains(&format!("replay(\"{name}\")")), "{name} is not replayed");
        let program = repository().join("fuzz/fuzz_targets").join(format!("{name}.rs"));
        assert!(fs::read_to_string(&program).unwrap().contains(&format!("\"{name}\"")), "{name}");
        let corpus = corpus(name);
        let bytes: usize = corpus.iter().map(|(_, input)| input.len()).sum();
        assert!(
            (1..=256).contains(&corpus.len()) && bytes <= 1 << 20,
            "{name}: {} files, {bytes} bytes",
            corpus.len()
        );
    }
    assert_eq!(fs::read_dir(repository().join("fixtures/fuzz")).unwrap().count(), TARGETS.len());
}
