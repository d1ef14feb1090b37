//! Which paths does a `scan` pattern name? `*` and `?` within a path's parts; a directory stands for what is in it.

use std::path::{Component, Path, PathBuf};

use crate::limits::MAX_SCANNED;

/// What the patterns name, sorted, each path once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Regular files and block devices.
    pub(crate) paths: Vec<PathBuf>,
    /// Patterns that name nothing, and directories that cannot be read.
    pub(crate) notes: Vec<String>,
}

/// Look at the file system.
pub(crate) fn expand(patterns: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for pattern in patterns {
        let before = found.paths.len();
        for path in matching(pattern, &mut found.notes) {
            if path.is_dir() {
                let inside = entries(&path, &mut found.notes);
                found.paths.extend(inside.into_iter().filter(|path| could_be_disk(path)));
            } else if could_be_disk(&path) {
                found.paths.push(path);
            }
        }
        if found.paths.len() == before {
            found.notes.push(format!("scan: {} names no disk", pattern.display()));
        }
    }
    found.paths.sort();
    found.paths.dedup();
    if found.paths.len() > MAX_SCANNED {
        let ignored = found.paths.len() - MAX_SCANNED;
        found
            .notes
            .push(format!("scan: more than {MAX_SCANNED} paths; the last {ignored} are not looked at"));
        found.paths.truncate(MAX_SCANNED);
    }
    found
}

/// A pipe or socket would block or fail; its name alone puts nothing of ours on it.
fn could_be_disk(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() || meta.file_type().is_block_device())
}

fn matching(pattern: &Path, notes: &mut Vec<String>) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let name = part.as_os_str().to_string_lossy();
        let literal = !matches!(part, Component::Normal(_)) || !name.contains(['*', '?']);
        found = found
            .iter()
            .flat_map(|base| match literal {
                true => vec![base.join(part)],
                false => named(base, &name, notes),
            })
            .collect();
    }
    found.retain(|path| path.exists());
    found
}

fn named(base: &Path, pattern: &str, notes: &mut Vec<String>) -> Vec<PathBuf> {
    let wanted = |path: &PathBuf| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            // As in a shell: a hidden file is named only by a pattern that says so.
            name.starts_with('.') == pattern.starts_with('.') && glob(pattern, &name)
        })
    };
    let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    if !base.is_dir() {
        return Vec::new();
    }
    entries(base, notes).into_iter().filter(wanted).collect()
}

fn entries(directory: &Path, notes: &mut Vec<String>) -> Vec<PathBuf> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) => {
            notes.push(format!("scan: cannot read {}: {error}", directory.display()));
            Vec::new()
        }
    }
}

/// Shell-like matching of one part. Linear in the product of the lengths, whatever the pattern.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // reachable[i]: the pattern read so far can end after i characters of the name.
    let mut reachable = vec![false; name.len() + 1];
    reachable[0] = true;
    for symbol in pattern {
        let mut next = vec![false; name.len() + 1];
        for i in 0..=name.len() {
            next[i] = match symbol {
                '*' => reachable[i] || (i > 0 && next[i - 1]),
                '?' => i > 0 && reachable[i - 1],
                symbol => i > 0 && reachable[i - 1] && name[i - 1] == symbol,
            };
        }
        reachable = next;
    }
    reachable[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name) in
            [("*", "x"), ("*.img", "a.img"), ("d?sk*", "disk0"), ("a*b*c", "aXbYbZc"), ("", "")]
        {
            assert!(glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.img", "a.imgx"), ("?", ""), ("a", "b"), ("a*b", "ac"), ("disk", "disk0")]
        {
            assert!(!glob(pattern, name), "{pattern} {name}");
        }
        assert!(!glob(&"*a".repeat(200), &"a".repeat(199)), "no explosion");
    }

    #[test]
    fn files_directories_and_patterns_are_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        for name in ["disk1.img", "disk0.img", ".hidden.img", "notes.txt", "sub/disk9.img"] {
            std::fs::write(at(name), b"x").unwrap();
        }
        let found = expand(&[at("*.img"), at("disk0.img"), at("s*"), at("none-*")]);
        assert_eq!(found.paths, [at("disk0.img"), at("disk1.img"), at("sub/disk9.img")]);
        assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
        assert!(found.notes[0].contains("none-*"));
    }
}
