//! Does `docs/on-disk-format.md` say what the code does? Its tables have no gaps, the regions and the fields of the
//! journal lie where the code puts them, and the tests that it and `docs/crash-consistency.md` name exist.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use raid_core::format::labsan::journal_head::{Epoch, JournalHead, MAX_EPOCHS};
use raid_core::format::labsan::journal_record::{Item, Stamp, encode, record_bytes};
use raid_core::format::layout::{MemberLayout, Region};
use raid_core::geometry::Row;
use uuid::Uuid;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn document() -> String {
    text_of("docs/on-disk-format.md")
}

fn text_of(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The rows of the tables under a heading that begins so.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let start = document.find(&format!("## {heading}")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = &document[start + 3..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        // The first table only.
        .take_while(|line| line.starts_with('|'))
        .filter(|line| !line.starts_with("|--"))
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn structures_have_no_gaps_and_the_right_length() {
    let document = document();
    for (heading, length) in [
        ("The superblock", 256),
        ("The bitmap", 256),
        ("The envelope", 64),
        ("The labsan header", 264 + 384),
        ("The journal head", 96 + MAX_EPOCHS as u64 * 24),
        ("A journal record", 96),
        ("An item of a record", 48),
    ] {
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

/// The number at a field's place, as a table has it.
fn field(rows: &[Vec<String>], bytes: &[u8], name: &str) -> u64 {
    let row = rows.iter().find(|row| row[2] == format!("`{name}`")).unwrap_or_else(|| panic!("no {name}"));
    let (offset, length): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
    let mut number = [0; 8];
    number[..length].copy_from_slice(&bytes[offset..offset + length]);
    u64::from_le_bytes(number)
}

#[test]
fn the_journals_fields_lie_where_the_document_has_them() {
    let document = document();
    let uuid = Uuid::from_u128(7);
    let stamp = Stamp { epoch: 0x11, nonce: 0x22 };
    let head = JournalHead {
        generation: 0x33,
        tail: 0x44,
        ring_bytes: 4096,
        epochs: vec![Epoch { stamp, first: 0x55 }],
    };
    let (page, rows_of_head) = (head.encode(uuid), rows(&document, "The journal head"));
    assert_eq!(&page[..8], b"LABSANJH");
    assert_eq!(
        (field(&rows_of_head, &page, "tail"), field(&rows_of_head, &page, "ring_bytes")),
        (0x44, 4096)
    );
    let epochs = rows_of_head.iter().find(|row| row[2] == "`epochs`").unwrap()[0].parse::<usize>().unwrap();
    assert_eq!((page[epochs], page[epochs + 8], page[epochs + 16], page[epochs + 24]), (0x11, 0x22, 0x55, 0));

    let payload = [9; 512];
    let parity = Item::Parity { stripe: 0x66, row: Row::Q, column: 1024, length: 512, from: 0x77, to: 0x88 };
    let mut record = vec![0; record_bytes(1, 512)];
    encode(&mut record, uuid, 0x99, stamp, std::iter::once((parity, &payload[..])));
    assert_eq!(&record[..8], b"LABSANJR");
    let envelope = rows(&document, "The envelope");
    assert_eq!((field(&envelope, &record, "generation"), field(&envelope, &record, "index")), (0x99, 1));
    let rows_of_record = rows(&document, "A journal record");
    assert_eq!(
        (field(&rows_of_record, &record, "epoch"), field(&rows_of_record, &record, "nonce")),
        (0x11, 0x22)
    );
    let rows_of_item = rows(&document, "An item of a record");
    let item = &record[96..];
    for (name, value) in [
        ("kind", 2),
        ("row", 1),
        ("stripe", 0x66),
        ("start", 1024),
        ("length", 512),
        ("payload", 4096),
        ("from", 0x77),
        ("to", 0x88),
    ] {
        assert_eq!(field(&rows_of_item, item, name), value, "{name}");
    }
    assert_eq!(record[4096..4608], payload);
}

#[test]
fn the_tests_it_names_exist() {
    let mut sources = String::new();
    for directory in ["raid-core/src", "raid-core/tests", "tests/tests", "appliance/src", "iscsi-target/src"]
    {
        read_all(&repository().join(directory), &mut sources);
    }
    let is_name =
        |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    for (path, least) in [("docs/on-disk-format.md", 60), ("docs/crash-consistency.md", 25)] {
        let document = text_of(path);
        let words = document.split('`').skip(1).step_by(2).filter(is_name);
        // The names of tests are sentences; those of fields are shorter.
        let tests: Vec<&str> = words.filter(|word| word.matches('_').count() >= 3).collect();
        assert!(tests.len() > least, "found {} names only in {path}", tests.len());
        for name in tests.into_iter().filter(|name| *name != "calc_sb_1_csum") {
            assert!(sources.contains(&format!("fn {name}(")), "{path} names {name}, which is nowhere");
        }
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
