//! Whether a path will do, as far as can be said without opening or making anything, and why not under systemd.
//!
//! What is asked is what the kernel would answer this process now (`access(2)`). A service of systemd sees another
//! machine than its administrator does: where that may be the cause, the refusal names the directive.

use std::env;
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

/// Whether files can be opened in a directory.
pub(super) fn searchable(directory: &Path) -> Result<(), String> {
    access(directory, Access::EXEC_OK).map_err(|errno| cause(directory, &errno.into()))
}

/// Whether a file can be written to, or made where there is none.
pub(super) fn writable(file: &Path) -> Result<(), String> {
    match access(file, Access::WRITE_OK) {
        Err(Errno::NOENT) => folder(file),
        result => result.map_err(|errno| cause(file, &errno.into())),
    }
}

/// Whether a file can be made, and put in the place of one that is there.
pub(super) fn folder(file: &Path) -> Result<(), String> {
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(()),
        Err(errno) => Err(format!("its folder {}: {}", folder.display(), cause(folder, &errno.into()))),
    }
}

/// An error, and under systemd the directive that may be behind it.
pub(crate) fn cause(path: &Path, error: &io::Error) -> String {
    let is_service = env::var_os("INVOCATION_ID").is_some_and(|id| !id.is_empty());
    match directive(path, error).filter(|_| is_service) {
        Some(directive) => format!("{error} ({directive})"),
        None => error.to_string(),
    }
}

fn directive(path: &Path, error: &io::Error) -> Option<&'static str> {
    let is_below = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => Some(
            "ProtectSystem= of the unit makes it read-only: LogsDirectory=, StateDirectory= or ReadWritePaths= help",
        ),
        _ if is_below(&["/home", "/root", "/run/user"]) => Some("ProtectHome= of the unit may hide it"),
        _ if is_below(&["/tmp", "/var/tmp"]) => Some("with PrivateTmp= the unit has a folder of its own there"),
        io::ErrorKind::PermissionDenied if is_below(&["/var/log"]) => Some(
            "LogsDirectory= gives the unit a folder of its own there: the units that come with reborn have /var/log/reborn",
        ),
        io::ErrorKind::PermissionDenied => {
            Some("the unit's user, with DynamicUser= one of its own, must have the right to it")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_that_may_be_the_cause_is_named() {
        let named = |path: &str, errno: Errno| directive(Path::new(path), &errno.into()).unwrap_or_default();
        assert!(named("/home/x/www", Errno::NOENT).starts_with("ProtectHome="));
        assert!(named("/root/www", Errno::ACCESS).starts_with("ProtectHome="));
        assert!(named("/tmp/www", Errno::NOENT).contains("PrivateTmp="));
        assert!(named("/srv/www", Errno::ACCESS).contains("DynamicUser="));
        assert!(named("/var/log", Errno::ACCESS).starts_with("LogsDirectory="));
        assert!(named("/var/log/x.log", Errno::ROFS).starts_with("ProtectSystem="));
        assert_eq!(named("/srv/www", Errno::NOENT), "");
    }

    #[test]
    fn what_cannot_be_written_to_is_told_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(writable(&folder.path().join("new")), Ok(()));
        assert_eq!(writable(Path::new("relative")), Ok(()));
        let missing = folder.path().join("missing/new");
        let error = writable(&missing).unwrap_err();
        assert!(
            error.starts_with("its folder ") && error.ends_with("No such file or directory (os error 2)"),
            "{error}"
        );
        assert!(writable(Path::new("/dev/null/new")).is_err());
    }
}
