//! The pid file: it names the main process, is replaced by rename, and goes with the last one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A pid file that this service keeps.
#[derive(Clone, Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    pub(crate) fn new(path: &Path) -> Result<PidFile, Error> {
        let path = std::path::absolute(path)
            .map_err(|error| Error::system(format!("cannot use the pid file {}", path.display()), error))?;
        Ok(PidFile { path })
    }

    /// Makes the file name this process. A reader sees the old file or the new one, never a part.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let pid = std::process::id();
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{pid}"));
        let write = || -> io::Result<()> {
            // A process of the same pid may have left it; whatever else lies there is neither followed nor written to.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
            writeln!(file, "{pid}")?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            Error::system(format!("cannot write the pid file {}", self.path.display()), error)
        })
    }

    /// Removes the file, if it still names this process.
    pub(crate) fn remove(&self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == std::process::id().to_string()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_file_names_this_process_and_is_removed_only_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pid_file = PidFile::new(&path).unwrap();
        pid_file.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
        fs::write(&path, "1\n").unwrap();
        pid_file.remove();
        assert!(path.exists(), "another process's file stays");
        pid_file.write().unwrap();
        pid_file.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_symlink_that_somebody_has_planted_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, precious) = (folder.path().join("pid"), folder.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, folder.path().join(format!("pid.{}", std::process::id()))).unwrap();
        PidFile::new(&path).unwrap().write().unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file() && metadata.mode() & 0o777 & !0o644 == 0, "{metadata:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }
}
