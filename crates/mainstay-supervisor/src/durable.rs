//! Files that survive kill -9 and power loss: written aside, synced, renamed, folder synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces `path` with `bytes`, or leaves it as it was. Mode applies to the new file.
///
/// **Errors**: the file system's.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no file name"))?;
    let mut aside_name = std::ffi::OsString::from(".");
    aside_name.push(name);
    aside_name.push(format!(".{}.new", std::process::id()));
    let aside = folder.join(aside_name);
    let written = (|| {
        // The folder may be a child's own: through a link that lies there in wait nothing is written, and the mode is
        // set on what was opened, whatever the umask is.
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).custom_flags(no_link).open(&aside)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // The aside file is ours alone; what matters is the error that is returned.
        std::fs::remove_file(&aside).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x");
        replace(&path, b"one", 0o600).expect("writes");
        replace(&path, b"two", 0o600).expect("replaces");
        assert_eq!(std::fs::read(&path).expect("reads"), b"two");
        assert!(replace(&folder.path().join("no/such"), b"x", 0o600).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn nothing_is_written_through_a_link_in_wait() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, victim) = (folder.path().join("x"), folder.path().join("victim"));
        std::fs::write(&victim, "kept").expect("writes");
        let aside = folder.path().join(format!(".x.{}.new", std::process::id()));
        std::os::unix::fs::symlink(&victim, &aside).expect("links");
        assert!(replace(&path, b"one", 0o644).is_err());
        assert_eq!(std::fs::read(&victim).expect("reads"), b"kept");
        replace(&path, b"two", 0o644).expect("the link is gone");
    }
}
