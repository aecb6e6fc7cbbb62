//! A small file system for tests that fill it.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// A tmpfs of its own, unmounted on drop.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts one of `mib` mebibytes. Where this process may not mount: `None` and a line on stderr, a panic if `CI` is `true`.
    pub(crate) fn mount(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(Self(dir)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no reason given").to_owned(),
            Err(error) => error.to_string(),
        };
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} must run in CI, but a tmpfs cannot be mounted: {why}");
        // Past the capture of the test harness, which hides what passing tests print.
        let _ = std::io::stderr().write_all(format!("skipped: {name}: a tmpfs cannot be mounted: {why}\n").as_bytes());
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
