//! What do the tests store on a LUN? A real filesystem with thousands of files, whose every byte is known.

use crate::process::run;
use crate::seed::Seed;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 1 << 20;

/// Makes an ext4 image of `size_bytes` at `path` with `files` files of 0 to 16 KiB in many directories.
pub fn make_ext4(path: &Path, size_bytes: u64, files: u32, seed: &mut Seed) -> Result<()> {
    let tree = tempfile::tempdir()?;
    fill_tree(tree.path(), files, seed)?;
    File::create(path)?.set_len(size_bytes)?;
    let mut command = Command::new(tools::need("mke2fs")?);
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-N", &(files * 2).to_string(), "-d"]);
    run(command.arg(tree.path()).arg(path), LIMIT)?.ok()?;
    check_ext4(path)
}

fn fill_tree(root: &Path, files: u32, seed: &mut Seed) -> Result<()> {
    for number in 0..files {
        let dir = root.join(format!("dir-{:02}", number % 61)).join(format!("{:02}", number % 7));
        if number < 61 * 7 {
            fs::create_dir_all(&dir)?;
        }
        let len = usize::try_from(seed.below(16 << 10))?;
        fs::write(dir.join(format!("file-{number:05}")), seed.bytes(len))?;
    }
    Ok(())
}

/// `e2fsck -fn`: clean, or an error with what it found.
pub fn check_ext4(path: &Path) -> Result<()> {
    run(Command::new(tools::need("e2fsck")?).args(["-f", "-n"]).arg(path), LIMIT)?.ok()?;
    Ok(())
}

/// Compares the first `len` bytes of two files.
///
/// # Errors
/// Names the first byte that differs.
pub fn same_bytes(left: &Path, right: &Path, len: u64) -> Result<()> {
    let open = |path: &Path| -> Result<_> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        Ok(BufReader::with_capacity(READ_BYTES, file.take(len)))
    };
    let (mut a, mut b) = (open(left)?, open(right)?);
    let (mut block_a, mut block_b) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    let mut at = 0;
    while at < len {
        let step = usize::try_from((len - at).min(READ_BYTES as u64))?;
        a.read_exact(&mut block_a[..step]).with_context(|| format!("{} at byte {at}", left.display()))?;
        b.read_exact(&mut block_b[..step]).with_context(|| format!("{} at byte {at}", right.display()))?;
        if block_a[..step] != block_b[..step] {
            let first = (0..step).find(|&i| block_a[i] != block_b[i]).unwrap_or(0);
            bail!("{} and {} differ at byte {}", left.display(), right.display(), at + first as u64);
        }
        at += step as u64;
    }
    Ok(())
}

/// A sum over all bytes of each file, to tell whether a refused command wrote anything.
pub fn fingerprints(paths: &[PathBuf]) -> Result<Vec<u64>> {
    paths.iter().map(|path| fingerprint(path)).collect()
}

fn fingerprint(path: &Path) -> Result<u64> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut block = vec![0; READ_BYTES];
    // FNV-1a over 64-bit words: any changed word changes it; nobody is attacking it.
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(sum);
        }
        block[read..].fill(0);
        for word in block[..read.next_multiple_of(8)].chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into().context("eight bytes")?);
            sum = (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let mut bytes = Seed::new(1).bytes(3 << 20);
        fs::write(&a, &bytes).unwrap();
        bytes[2_500_000] ^= 1;
        fs::write(&b, &bytes).unwrap();
        same_bytes(&a, &b, 2_500_000).unwrap();
        let error = same_bytes(&a, &b, 3 << 20).unwrap_err();
        assert!(error.to_string().ends_with("byte 2500000"), "{error}");
        assert_ne!(fingerprint(&a).unwrap(), fingerprint(&b).unwrap());
    }

    #[test]
    fn the_image_is_a_clean_filesystem_and_damage_shows() {
        if tools::find("mke2fs").is_none() {
            crate::report::skipped("ext4 image maker", "no mke2fs");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fs.img");
        make_ext4(&path, 32 << 20, 500, &mut Seed::new(7)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[4096..12288].fill(0xa5);
        fs::write(&path, bytes).unwrap();
        assert!(check_ext4(&path).is_err());
    }
}
