//! Where might there be disks? Paths only; nothing is opened and nothing is judged.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Names in /sys/block that are never somebody's disk: memory disks and optical drives.
const NEVER_DISKS: [&str; 3] = ["ram", "sr", "fd"];

/// The regular files and block devices of a directory, by name or by symbolic link, sorted. Hidden names
/// are left out; a directory that cannot be read is logged and counts as empty.
pub fn directory(path: impl AsRef<Path>) -> Vec<PathBuf> {
    let path = path.as_ref();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!("cannot look for disks in {}: {error}", path.display());
            return Vec::new();
        }
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .filter(|path| is_candidate(path))
        .collect();
    found.sort();
    found
}

/// Follows links, so that a link to a disk counts and a dangling one does not.
fn is_candidate(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_block_device() || kind.is_file()
    })
}

/// The machine's disks and their partitions, sorted. Left out: memory disks, optical drives, and whatever
/// has no size.
pub fn block_devices() -> Vec<PathBuf> {
    block_devices_in(Path::new("/sys/block"), Path::new("/dev"))
}

fn block_devices_in(sys_block: &Path, dev: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = children(sys_block)
        .filter(|disk| !is_never_a_disk(&name(disk)))
        .flat_map(|disk| {
            let partitions = children(&disk).filter(|child| child.join("partition").exists());
            partitions.chain([disk.clone()]).collect::<Vec<_>>()
        })
        .filter(|device| has_size(device))
        // The kernel writes '!' for '/' in names (cciss!c0d0).
        .map(|device| dev.join(name(&device).replace('!', "/")))
        .collect();
    found.sort();
    found
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `sr0` and `ram12`, but not `sram`: the prefix, then digits only.
fn is_never_a_disk(name: &str) -> bool {
    NEVER_DISKS.iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn has_size(device: &Path) -> bool {
    let sectors = fs::read_to_string(device.join("size")).ok();
    sectors.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|sectors| sectors > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_files_and_links_to_files_sorted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.img", "a.img", ".hidden"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("a.img"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", dir.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("null")).unwrap();
        let names: Vec<_> = directory(dir.path()).iter().map(|path| name(path)).collect();
        assert_eq!(names, ["a.img", "b.img", "link"]);
        assert!(directory(dir.path().join("missing")).is_empty());
    }

    #[test]
    fn block_devices_are_disks_and_partitions_with_a_size() {
        let sys = tempfile::tempdir().unwrap();
        let disk = |name: &str, sectors: &str| {
            let path = sys.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("size"), sectors).unwrap();
            path
        };
        disk("sr0", "2048\n");
        disk("ram3", "2048\n");
        disk("loop0", "0\n");
        disk("cciss!c0d0", "10\n");
        disk("sda", "2048\n");
        fs::write(disk("sda/sda1", "1024\n").join("partition"), "1\n").unwrap();
        disk("sda/queue", "1\n");
        let found = block_devices_in(sys.path(), Path::new("/dev"));
        assert_eq!(found, ["/dev/cciss/c0d0", "/dev/sda", "/dev/sda1"].map(PathBuf::from));
    }

    #[test]
    fn the_real_machine_can_be_scanned() {
        assert!(block_devices().is_sorted());
    }
}
