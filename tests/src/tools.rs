//! Where are the programs that the tests drive?
//!
//! labsand and raidctl: in the target directory that this test was built into. qemu-img and qemu-io: what
//! `scripts/install-test-tools` unpacked there if it had to, otherwise the installed ones. Others: `PATH` and sbin.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The profile's directory (`target/debug`), found from the running test.
pub fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("where am I")?;
    let dir = exe.parent().context("no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("no directory")? } else { dir };
    Ok(dir.to_owned())
}

/// One of labsan's own programs.
///
/// # Errors
/// When it has not been built; says how.
pub fn own(program: &str) -> Result<PathBuf> {
    let path = profile_dir()?.join(program);
    if !path.is_file() {
        bail!("{} is not built; run: cargo build --workspace --all-targets", path.display());
    }
    Ok(path)
}

/// The path of an installed program, if it is there.
pub fn find(program: &str) -> Option<PathBuf> {
    let private = profile_dir().ok().and_then(|p| Some(p.parent()?.join("tools/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    private
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// An installed program that the test cannot do without.
///
/// # Errors
/// When it is missing; says what installs it.
pub fn need(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is missing; run: scripts/install-test-tools"))
}

/// Whether the tests run as root (loop devices, mounts).
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}
