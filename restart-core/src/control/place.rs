//! Where the control socket lies: chosen by the server, found by its clients.
//!
//! The folder is private to its user. A folder that others could write to is refused, since whoever can replace the
//! socket could command our clients.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::environment::{Environment, runtime_directory};
use crate::error::Error;

const SOCKET_NAME: &str = "control.sock";

/// Where a server's control socket lies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// There is none: the service obeys signals only.
    None,
    /// In the usual folder of a service of this name: `$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/NAME`, else
    /// `/run/NAME` for root and `/tmp/NAME-UID` for anybody else.
    Named(String),
    /// At this path.
    Path(PathBuf),
}

/// The path for a server, with its folder made if it is missing.
pub(crate) fn resolve(place: &Place, environment: &Environment) -> Result<Option<PathBuf>, Error> {
    let (folder, socket) = match place {
        Place::None => return Ok(None),
        Place::Path(path) => {
            let path = std::path::absolute(path)
                .map_err(|error| Error::control_io(format!("cannot use {}", path.display()), error))?;
            let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
            make_folder(&folder)?;
            return Ok(Some(path));
        }
        Place::Named(name) => {
            let folder = match (&environment.runtime_directory, &environment.xdg_runtime_dir) {
                (Some(folder), _) => folder.clone(),
                (None, Some(folder)) => folder.join(name),
                (None, None) => fallback(name),
            };
            let socket = folder.join(SOCKET_NAME);
            (folder, socket)
        }
    };
    make_folder(&folder)?;
    check_private(&folder)?;
    Ok(Some(socket))
}

/// The folder of a user who has no runtime directory.
fn fallback(name: &str) -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() { Path::new("/run").join(name) } else { PathBuf::from(format!("/tmp/{name}-{}", uid.as_raw())) }
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::control_io(
            format!("cannot make the control socket's folder {}; choose one with --control", folder.display()),
            error,
        )),
        _ => Ok(()),
    }
}

fn check_private(folder: &Path) -> Result<(), Error> {
    let shown = folder.display();
    let metadata = fs::symlink_metadata(folder)
        .map_err(|error| Error::control_io(format!("cannot look at the control socket's folder {shown}"), error))?;
    // systemd makes RUNTIME_DIRECTORY of a dynamic user a symlink of root's.
    let metadata = if metadata.is_symlink() && metadata.uid() == 0 {
        fs::metadata(folder).map_err(|error| Error::control_io(format!("cannot look at {shown}"), error))?
    } else {
        metadata
    };
    let (uid, mode) = (rustix::process::geteuid().as_raw(), metadata.mode() & 0o7777);
    if !metadata.is_dir() || metadata.uid() != uid || mode & 0o022 != 0 {
        return Err(Error::control(format!(
            "the control socket's folder {shown} must be a folder of uid {uid} that nobody else can write to; it \
             belongs to uid {} and has mode {mode:04o}: repair it, or choose another place with --control",
            metadata.uid()
        )));
    }
    Ok(())
}

/// Finds the control socket of a running service: at `path` if it is given; else the one live socket among
/// `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/NAME`, `/run/NAME` and `/tmp/NAME-UID`.
///
/// Fails where none is live, with the places that were looked at, and where several are, with their paths. Connects to
/// each place once, to see whether it is live. Never blocks.
pub fn find(path: Option<&Path>, name: &str) -> Result<PathBuf, Error> {
    if let Some(path) = path {
        return match UnixStream::connect(path) {
            Ok(_) => Ok(path.to_owned()),
            Err(error) => {
                Err(Error::not_running(format!("no server answers at the control socket {}: {error}", path.display())))
            }
        };
    }
    let places = candidates(name);
    let live: Vec<&PathBuf> = places.iter().filter(|place| UnixStream::connect(place).is_ok()).collect();
    match live.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::not_running(format!(
            "no running server found; looked at {}; if it was started with --control, give the same path here",
            list(&places)
        ))),
        several => Err(Error::not_running(format!(
            "several servers run; choose one with --control: {}",
            list(several.iter().copied())
        ))),
    }
}

fn list<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    let shown: Vec<String> = paths.into_iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

fn candidates(name: &str) -> Vec<PathBuf> {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let uid = rustix::process::geteuid().as_raw();
    let mut places: Vec<PathBuf> = runtime_directory()
        .into_iter()
        .chain(xdg.map(|folder| Path::new(&folder).join(name)))
        .chain([Path::new("/run").join(name), PathBuf::from(format!("/tmp/{name}-{uid}"))])
        .map(|folder| folder.join(SOCKET_NAME))
        .collect();
    // RUNTIME_DIRECTORY often is /run/NAME: one server must not count twice.
    let mut seen = Vec::new();
    places.retain(|place| {
        let real = place.canonicalize().unwrap_or_else(|_| place.clone());
        let new = !seen.contains(&real);
        seen.push(real);
        new
    });
    places
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_folder_is_made_private() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("run/control.sock");
        let environment = Environment::read().unwrap();
        assert_eq!(resolve(&Place::Path(path.clone()), &environment).unwrap(), Some(path.clone()));
        let mode = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("app")).unwrap();
        fs::set_permissions(base.path().join("app"), fs::Permissions::from_mode(0o777)).unwrap();
        let environment = Environment {
            runtime_directory: None,
            xdg_runtime_dir: Some(base.path().to_owned()),
            ..Environment::read().unwrap()
        };
        let error = resolve(&Place::Named("app".to_owned()), &environment).unwrap_err();
        assert!(error.is_control() && error.to_string().contains("0777"), "{error}");
    }

    #[test]
    fn a_dead_socket_is_no_running_server() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(find(Some(&path), "app").unwrap_err().is_not_running());
    }
}
