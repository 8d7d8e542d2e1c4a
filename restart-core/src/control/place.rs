//! Where the control socket lies: chosen by the server, found by its clients.
//!
//! The folder is private to its user. A folder that others could write to is refused, since whoever can replace the
//! socket could command our clients.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::client::connect;
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

/// The folder itself; systemd makes RUNTIME_DIRECTORY of a dynamic user a symlink of root's.
fn look_at(folder: &Path) -> io::Result<Metadata> {
    let metadata = fs::symlink_metadata(folder)?;
    if metadata.is_symlink() && metadata.uid() == 0 { fs::metadata(folder) } else { Ok(metadata) }
}

fn others_may_write(metadata: &Metadata) -> bool {
    metadata.mode() & 0o022 != 0
}

fn check_private(folder: &Path) -> Result<(), Error> {
    let shown = folder.display();
    let metadata = look_at(folder)
        .map_err(|error| Error::control_io(format!("cannot look at the control socket's folder {shown}"), error))?;
    let (uid, mode) = (rustix::process::geteuid().as_raw(), metadata.mode() & 0o7777);
    if !metadata.is_dir() || metadata.uid() != uid || others_may_write(&metadata) {
        return Err(Error::control(format!(
            "the control socket's folder {shown} must be a folder of uid {uid} that nobody else can write to; it \
             belongs to uid {} and has mode {mode:04o}: repair it, or choose another place with --control",
            metadata.uid()
        )));
    }
    Ok(())
}

/// Whether a client of this user looks for a server in a folder: it has to be his or root's, and nobody else's to write
/// to. Root also commands the services of others, where root has given them the folder, as systemd does in `/run`.
fn is_trusted(folder: &Path, client: u32) -> io::Result<bool> {
    let metadata = look_at(folder)?;
    let given_by_root = || -> io::Result<bool> {
        let parent = fs::metadata(folder.parent().unwrap_or(Path::new("/")))?;
        Ok(client == 0 && parent.uid() == 0 && !others_may_write(&parent))
    };
    let owned = [client, 0].contains(&metadata.uid());
    Ok(metadata.is_dir() && !others_may_write(&metadata) && (owned || given_by_root()?))
}

/// A server that runs, as [`find_all`] has found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Its control socket.
    pub path: PathBuf,
    /// What is behind the `@` in its folder's name: the instance of a template unit. `None` for the plain service.
    pub instance: Option<String>,
}

/// Finds the control socket of a running service: at `path` if it is given; else the one live socket among those of
/// [`find_all`].
///
/// Fails where none is live, with the places that were looked at, and where several are, with their paths. Connects to
/// each place once, to see whether it is live. Never blocks.
pub fn find(path: Option<&Path>, name: &str) -> Result<PathBuf, Error> {
    if let Some(path) = path {
        return match knock(path) {
            Ok(()) => Ok(path.to_owned()),
            Err(error) => {
                Err(Error::not_running(format!("no server answers at the control socket {}: {error}", path.display())))
            }
        };
    }
    match find_all(name)?.as_slice() {
        [one] => Ok(one.path.clone()),
        several => {
            let paths: Vec<String> = several.iter().map(|one| one.path.display().to_string()).collect();
            Err(Error::not_running(format!("several servers run; choose one with --control: {}", paths.join(", "))))
        }
    }
}

/// Finds all running services of a name: the live sockets in `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/NAME`, `/run/NAME`
/// and, for all but root, `/tmp/NAME-UID`; and in each `NAME@INSTANCE` beside the second and the third, where the
/// instances of a template unit have theirs. A folder that others could write to is passed over.
///
/// Within a unit it is about that unit: a live socket in `$RUNTIME_DIRECTORY` is the only one that is given, and where
/// that folder is called `NAME` or `NAME@INSTANCE`, no other place is looked at.
///
/// Fails where none is live, with the places that were looked at; else there is at least one, the plain service first.
/// Connects to each place once. Never blocks.
pub fn find_all(name: &str) -> Result<Vec<Found>, Error> {
    let surroundings = Surroundings::of_this_process();
    let uid = rustix::process::geteuid().as_raw();
    let mut looked_at = Vec::new();
    if let Some(own) = &surroundings.unit {
        let (live, passed) = look_for(&[own.join(SOCKET_NAME)], name, uid);
        if !live.is_empty() {
            return Ok(live);
        }
        looked_at = passed;
        if is_of(own, name) {
            return Err(none_found(&looked_at));
        }
    }
    let (live, passed) = look_for(&surroundings.candidates(name, uid), name, uid);
    looked_at.extend(passed);
    if live.is_empty() { Err(none_found(&looked_at)) } else { Ok(live) }
}

/// Finds the running instance of a template unit, such as `blog` of `NAME@blog`, wherever [`find_all`] looks from outside
/// of a unit.
///
/// Fails where it does not run, and names the places that were looked at; and where a user and the system have one each.
pub fn find_instance(name: &str, instance: &str) -> Result<PathBuf, Error> {
    let surroundings = Surroundings::of_this_process();
    let folder = format!("{name}@{instance}");
    if Path::new(&folder).components().count() != 1 || folder.contains('/') {
        return Err(Error::not_running(format!(
            "{instance:?} cannot be the name of an instance; give what is behind the @ in the name of its unit"
        )));
    }
    let places: Vec<PathBuf> = surroundings.bases().map(|base| base.join(&folder).join(SOCKET_NAME)).collect();
    let (live, looked_at) = look_for(&places, name, rustix::process::geteuid().as_raw());
    match live.as_slice() {
        [one] => Ok(one.path.clone()),
        [] => Err(Error::not_running(format!(
            "no running instance {instance:?} found; looked at {}; start it, or give the name of one that runs",
            looked_at.join(", ")
        ))),
        [one, other, ..] => Err(Error::not_running(format!(
            "several instances {instance:?} run; choose one with --control: {}, {}",
            one.path.display(),
            other.path.display()
        ))),
    }
}

/// The live ones among some places, and all others as a message shows them.
fn look_for(places: &[PathBuf], name: &str, uid: u32) -> (Vec<Found>, Vec<String>) {
    let (mut live, mut looked_at) = (Vec::new(), Vec::new());
    for place in places {
        let shown = place.display();
        match place.parent().map_or(Ok(true), |folder| is_trusted(folder, uid)) {
            Ok(true) => match knock(place) {
                Ok(()) => {
                    let instance = place.parent().and_then(|folder| instance_of(folder, name)).map(str::to_owned);
                    live.push(Found { path: place.clone(), instance });
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    looked_at.push(format!("{shown} (permission denied)"));
                }
                Err(_) => looked_at.push(shown.to_string()),
            },
            Ok(false) => looked_at.push(format!("{shown} (passed over: others could have put it there)")),
            Err(_) => looked_at.push(shown.to_string()),
        }
    }
    (live, looked_at)
}

fn none_found(looked_at: &[String]) -> Error {
    Error::not_running(format!(
        "no running server found; looked at {}; if it was started with --control, give the same path here",
        looked_at.join(", ")
    ))
}

/// The instance whose folder this is.
fn instance_of<'a>(folder: &'a Path, name: &str) -> Option<&'a str> {
    folder.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('@')
}

/// Whether a unit's folder is that of the plain service of this name, or of an instance of it.
fn is_of(folder: &Path, name: &str) -> bool {
    folder.file_name().is_some_and(|called| called == name) || instance_of(folder, name).is_some()
}

/// Whether somebody listens there. One whose queue is full is busy, and live.
fn knock(path: &Path) -> io::Result<()> {
    match connect(path, None) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// The folders in which control sockets are looked for.
struct Surroundings {
    /// The folder of the unit that this process belongs to (`RUNTIME_DIRECTORY`).
    unit: Option<PathBuf>,
    /// What holds the folders of this user's services (`XDG_RUNTIME_DIR`).
    user: Option<PathBuf>,
    /// What holds those of the system's.
    system: PathBuf,
}

impl Surroundings {
    fn of_this_process() -> Surroundings {
        let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
        Surroundings { unit: runtime_directory(), user, system: PathBuf::from("/run") }
    }

    fn bases(&self) -> impl Iterator<Item = &PathBuf> {
        self.user.iter().chain([&self.system])
    }

    /// Where a socket may lie, each once: the plain services, then the instances by their names.
    fn candidates(&self, name: &str, uid: u32) -> Vec<PathBuf> {
        // Root's servers never are there, and whoever comes first may make that folder.
        let temporary = (uid != 0).then(|| PathBuf::from(format!("/tmp/{name}-{uid}")));
        let plain = self.bases().map(|base| base.join(name)).chain(temporary);
        let instances = self.bases().flat_map(|base| instance_folders(base, name));
        let mut places: Vec<PathBuf> = plain.chain(instances).map(|folder| folder.join(SOCKET_NAME)).collect();
        let mut seen = Vec::new();
        places.retain(|place| {
            let real = place.canonicalize().unwrap_or_else(|_| place.clone());
            let new = !seen.contains(&real);
            seen.push(real);
            new
        });
        places
    }
}

/// The folders of the instances, in the order of their names. What cannot be listed has none.
fn instance_folders(base: &Path, name: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    // systemd keeps a socket file of that name there as well, when a unit asks for one.
    let mut folders: Vec<PathBuf> =
        paths.filter(|path| instance_of(path, name).is_some() && !is_socket(path)).collect();
    folders.sort();
    folders
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, lchown};

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
    fn a_client_looks_nowhere_where_others_could_have_put_a_socket() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("app");
        fs::create_dir(&folder).unwrap();
        let own = fs::metadata(&folder).unwrap().uid();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&folder, 0o755);
        assert!(is_trusted(&folder, own).unwrap());
        mode(&folder, 0o775);
        assert!(!is_trusted(&folder, own).unwrap());
        assert!(is_trusted(&base.path().join("missing"), own).is_err());
        let nowhere = Surroundings { unit: None, user: None, system: base.path().join("none") };
        let in_tmp = |uid| nowhere.candidates("app", uid).iter().any(|place| place.starts_with("/tmp/app-0"));
        assert!(!in_tmp(0));
        assert!(nowhere.candidates("app", 7).contains(&PathBuf::from("/tmp/app-7/control.sock")));
    }

    #[test]
    fn the_instances_of_a_template_are_looked_for_beside_the_plain_service() {
        let base = tempfile::tempdir().unwrap();
        for folder in ["app@b", "app", "app@a", "application", "app-a", "other@a"] {
            fs::create_dir(base.path().join(folder)).unwrap();
        }
        let _listener = std::os::unix::net::UnixListener::bind(base.path().join("app@a.sock")).unwrap();
        // A user's folder that is the system's counts once.
        let user = Some(base.path().to_owned());
        let around = Surroundings { unit: None, user, system: base.path().to_owned() };
        let places = around.candidates("app", 0);
        let expected = ["app", "app@a", "app@b"].map(|folder| base.path().join(folder).join(SOCKET_NAME));
        assert_eq!(places, expected);
        let instances: Vec<_> = places.iter().map(|place| instance_of(place.parent().unwrap(), "app")).collect();
        assert_eq!(instances, [None, Some("a"), Some("b")]);
    }

    #[test]
    fn what_is_live_is_given_with_its_instance() {
        let base = tempfile::tempdir().unwrap();
        let own = fs::metadata(base.path()).unwrap().uid();
        let place = |folder: &str| base.path().join(folder).join(SOCKET_NAME);
        let places = ["app", "app@a", "app@b"].map(place);
        for place in &places {
            fs::create_dir(place.parent().unwrap()).unwrap();
        }
        let _live: Vec<_> =
            places[1..].iter().map(|place| std::os::unix::net::UnixListener::bind(place).unwrap()).collect();
        let (live, looked_at) = look_for(&places, "app", own);
        let found =
            |index: usize, instance: &str| Found { path: places[index].clone(), instance: Some(instance.to_owned()) };
        assert_eq!(live, [found(1, "a"), found(2, "b")]);
        assert_eq!(looked_at, [places[0].display().to_string()]);
    }

    #[test]
    fn a_units_folder_is_its_services_by_its_name() {
        for (folder, own) in [("/run/app", true), ("/run/app@a", true), ("/run/apple", false), ("/run/other", false)] {
            assert_eq!(is_of(Path::new(folder), "app"), own, "{folder}");
        }
        for strange in ["a/../b", "/a", "../a", "a/"] {
            let error = find_instance("app", strange).unwrap_err().to_string();
            assert!(error.contains("cannot be the name of an instance; give what is behind the @"), "{error}");
        }
    }

    #[test]
    fn root_looks_into_anothers_folder_only_where_root_has_given_it() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "only root can give a folder away");
            eprintln!("SKIPPED: only root can give a folder away");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let (folder, link) = (base.path().join("app"), base.path().join("link"));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        chown(&folder, Some(65534), None).unwrap();
        assert!(is_trusted(&folder, 0).unwrap() && is_trusted(&folder, 65534).unwrap());
        assert!(!is_trusted(&folder, 1000).unwrap(), "another user does not");
        assert!(is_trusted(&link, 0).unwrap(), "systemd's for a dynamic user");
        lchown(&link, Some(65534), None).unwrap();
        assert!(!is_trusted(&link, 0).unwrap());
        chown(base.path(), Some(65534), None).unwrap();
        assert!(!is_trusted(&folder, 0).unwrap(), "he has made it himself");
    }

    #[test]
    fn a_server_whose_queue_is_full_is_found_without_waiting() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("control.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let _queued: Vec<_> = std::iter::from_fn(|| connect(&path, None).ok()).collect();
        assert_eq!(connect(&path, None).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (found, finding) = std::sync::mpsc::channel();
        let sought = path.clone();
        std::thread::spawn(move || found.send(find(Some(&sought), "app")));
        assert_eq!(finding.recv_timeout(std::time::Duration::from_secs(30)).unwrap().unwrap(), path);
    }

    #[test]
    fn a_dead_socket_is_no_running_server() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(find(Some(&path), "app").unwrap_err().is_not_running());
    }
}
