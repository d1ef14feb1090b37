//! Does `docs/on-disk-format.md` say what the code does? Its tables have no gaps, the regions lie where the
//! code puts them, and the tests it names exist.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use raid_core::format::layout::{MemberLayout, Region};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn document() -> String {
    fs::read_to_string(repository().join("docs/on-disk-format.md")).unwrap()
}

/// The rows of the tables under a heading that begins so.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let start = document.find(&format!("## {heading}")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = &document[start + 3..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    section
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|--"))
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn structures_have_no_gaps_and_the_right_length() {
    let document = document();
    for (heading, length) in
        [("The superblock", 256), ("The bitmap", 256), ("The envelope", 64), ("The labsan header", 264 + 384)]
    {
        let mut next = 0;
        for row in rows(&document, heading) {
            let (offset, bytes): (u64, u64) = (row[0].parse().unwrap(), row[1].parse().unwrap());
            assert_eq!(offset, next, "{heading}: {row:?}");
            next = offset + bytes;
        }
        assert_eq!(next, length, "{heading}");
    }
}

#[test]
fn regions_lie_where_the_document_has_them() {
    let layout = MemberLayout::for_member(64 << 20).unwrap();
    let kib = |cell: &str| {
        cell.strip_suffix('K').and_then(|number| number.parse::<u64>().ok()).map(|kib| kib << 10)
    };
    let rows = rows(&document(), "A member");
    let find =
        |what: &str| rows.iter().find(|row| row[2].starts_with(what)).unwrap_or_else(|| panic!("no {what}"));
    for (what, region) in [
        ("write-intent bitmap", layout.bitmap),
        ("bad-block log", layout.bad_block_log),
        ("labsan header", layout.headers),
        ("config slot A", layout.config[0]),
        ("config slot B", layout.config[1]),
        ("lost-block list, copy A", layout.lost[0]),
        ("lost-block list, copy B", layout.lost[1]),
        ("journal head", layout.journal_head),
        ("written map", layout.written_map),
    ] {
        let row = find(what);
        assert_eq!(Region { offset: kib(&row[0]).unwrap(), len: kib(&row[1]).unwrap() }, region, "{what}");
    }
    assert_eq!((find("journal ring")[0].as_str(), layout.journal.offset), ("1M", 1 << 20));
    assert_eq!(layout.checksums.offset, layout.journal.offset + layout.journal.len);
    assert_eq!(layout.data_offset % (1 << 20), 0);
}

#[test]
fn the_tests_it_names_exist() {
    let document = document();
    let mut sources = String::new();
    read_all(&repository().join("raid-core/src/format"), &mut sources);
    read_all(&repository().join("raid-core/tests"), &mut sources);
    let is_name =
        |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let words = document.split('`').skip(1).step_by(2).filter(is_name);
    // The names of tests are sentences; those of fields are shorter.
    let tests: Vec<&str> = words.filter(|word| word.matches('_').count() >= 3).collect();
    assert!(tests.len() > 40, "found {} names only", tests.len());
    for name in tests.into_iter().filter(|name| *name != "calc_sb_1_csum") {
        assert!(sources.contains(&format!("fn {name}(")), "the document names {name}, which is nowhere");
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
