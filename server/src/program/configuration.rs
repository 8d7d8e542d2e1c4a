//! From the flags to a configuration that this machine can serve: what `config` makes of them, and then what only a look at
//! the machine shows.
//!
//! Whether a path will do is asked as the kernel would answer this process now (`access(2)`), without opening or making
//! anything. A service of systemd sees another machine than its administrator does: where that may be the cause, the
//! refusal names the directive.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, thread};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::config::{Config, Error, FilesConfig, Given, IS_A_DIRECTORY, Machine, ServeArgs, non_empty};
use crate::tls::{Certificates, Part};

/// Checks what was typed. The first value that is refused is the error; paths come after everything else.
pub(crate) fn checked(args: &ServeArgs) -> Result<Config, Error> {
    // To count them takes a dozen system calls, since a cgroup may leave this process fewer.
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let machine = Machine {
        cores: if non_empty(args.threads.as_ref()).is_none() { cores() } else { 1 },
        has_listeners: env::var_os("LISTEN_FDS").is_some(),
    };
    let mut config = Config::new(args, machine)?;
    for (site, (_, given)) in config.sites.iter_mut().zip(args.app.sites()) {
        if let (Some(files), Some(root)) = (&mut site.files, &given.root) {
            files.root = directory(root)?;
            non_empty(given.fallback.as_ref()).map_or(Ok(()), |given| fallback(given, files))?;
        }
    }
    let file = |given: Option<&Given<OsString>>, allows: fn(&Path) -> Result<(), String>| {
        non_empty(given).map_or(Ok(()), |given| file(given, allows))
    };
    file(args.control.as_ref(), |_| Ok(()))?;
    file(args.pid_file.as_ref(), folder)?;
    file(args.access_log.as_ref().filter(|given| given.text() != "-"), writable)?;
    Ok(config)
}

/// Reads the certificates that a configuration asks for. The first that cannot be used is the error.
pub(crate) fn certificates(args: &ServeArgs, config: &Config) -> Result<Certificates, Error> {
    Certificates::load(&config.tls, SystemTime::now()).map_err(|error| {
        let (index, part) = error.which();
        let list = if part == Part::Key { &args.tls.tls_key } else { &args.tls.tls_certificate };
        let given = list.iter().filter(|given| !given.text().is_empty()).nth(index).expect("each has been given");
        let cause = error.io().map_or_else(|| error.cause(), |io| cause(error.path(), io));
        given.refuse(cause, error.advice())
    })
}

/// A directory that exists, as its absolute path without symlinks.
fn directory(given: &Given<OsString>) -> Result<PathBuf, Error> {
    let advice = "give a directory that exists, absolute or relative to the current directory";
    let path = Path::new(given.text());
    match path.canonicalize() {
        Ok(directory) if directory.is_dir() => {
            searchable(&directory).map_err(|cause| given.refuse(cause, "let this user search it"))?;
            Ok(directory)
        }
        Ok(_) => Err(given.refuse("not a directory", advice)),
        Err(error) => Err(given.refuse(cause(path, &error), advice)),
    }
}

/// A file that navigations to what is not there get: without it there would be no answer for them.
fn fallback(given: &Given<OsString>, files: &FilesConfig) -> Result<(), Error> {
    let path = files.root.join(files.fallback.as_deref().unwrap_or(Path::new("")));
    let refuse = |cause: String| Err(given.refuse(cause, "give the path of a file from the root on"));
    // The root is known without links, so that whatever is one lies below it.
    let is_reached = || files.follow_symlinks || path.canonicalize().is_ok_and(|found| found == path);
    match path.metadata() {
        Ok(found) if found.is_file() && is_reached() => Ok(()),
        Ok(found) if found.is_file() => refuse("behind a symlink, and follow-symlinks is off".to_owned()),
        Ok(_) => refuse(format!("no file in {}", files.root.display())),
        Err(error) => refuse(format!("in {}: {}", files.root.display(), cause(&path, &error))),
    }
}

/// The path of a file that this process can write, as `allows` says.
fn file(given: &Given<OsString>, allows: fn(&Path) -> Result<(), String>) -> Result<(), Error> {
    let path = Path::new(given.text());
    let (is_a_directory, advice) = IS_A_DIRECTORY;
    if path.is_dir() {
        return Err(given.refuse(is_a_directory, advice));
    }
    let advice = "give a file in a directory that this user may write to";
    allows(path).map_err(|cause| given.refuse(cause, advice))
}

/// Whether files can be opened in a directory.
fn searchable(directory: &Path) -> Result<(), String> {
    access(directory, Access::EXEC_OK).map_err(|errno| cause(directory, &errno.into()))
}

/// Whether a file can be written to, or made where there is none.
fn writable(file: &Path) -> Result<(), String> {
    match access(file, Access::WRITE_OK) {
        Err(Errno::NOENT) => folder(file),
        result => result.map_err(|errno| cause(file, &errno.into())),
    }
}

/// Whether a file can be made, and put in the place of one that is there.
fn folder(file: &Path) -> Result<(), String> {
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
    use std::fs;

    use super::*;
    use crate::program::cli::{self, Command};

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["reborn"].iter().chain(arguments).map(OsString::from);
        match cli::parse(arguments).unwrap() {
            Command::Serve(serve) => checked(&serve).map_err(|error| error.to_string()),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused_with_flag_value_and_cause() {
        let cases = [
            (["--root", "/nonexistent"], r#"--root "/nonexistent": No such file or directory"#),
            (["--root", "/dev/null"], r#"--root "/dev/null": not a directory"#),
            (["--pid-file", "."], r#"--pid-file ".": a directory; give the path of a file"#),
            (["--control", "src"], r#"--control "src": a directory; give the path of a file"#),
            (["--access-log", "/dev"], r#"--access-log "/dev": a directory; give the path of a file"#),
            (["--access-log", "no/a.log"], r#"--access-log "no/a.log": its folder no: No such file or directory"#),
        ];
        for (arguments, expected) in cases {
            let error = config(&arguments).unwrap_err();
            assert!(error.starts_with(expected) && error.contains("; "), "{error}");
        }
        assert!(config(&["--access-log=-", "--control=", "--pid-file="]).is_ok());
    }

    #[test]
    fn the_machine_says_how_many_threads_there_are_by_default() {
        assert!(config(&[]).unwrap().threads >= 1);
    }

    #[test]
    fn the_root_is_resolved_once() {
        let directory = tempfile::tempdir().unwrap();
        let (release, current) = (directory.path().join("release"), directory.path().join("current"));
        fs::create_dir(&release).unwrap();
        std::os::unix::fs::symlink(&release, &current).unwrap();
        let config = config(&["--root", current.to_str().unwrap()]).unwrap();
        let root = release.canonicalize().unwrap();
        assert_eq!(config.sites[0].files, Some(FilesConfig { root, ..FilesConfig::default() }));
    }

    #[test]
    fn a_fallback_is_a_file_that_is_served() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("app.html"), "app").unwrap();
        fs::create_dir(directory.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("app.html", directory.path().join("link.html")).unwrap();
        let root = &*format!("--root={}", directory.path().display());
        let refused = |fallback: &str| config(&[root, "--fallback", fallback]).map(drop).unwrap_err();
        assert!(config(&[root, "--fallback=/app.html"]).is_ok());
        assert!(config(&[root, "--fallback=link.html", "--follow-symlinks"]).is_ok());
        assert!(refused("link.html").contains("behind a symlink, and follow-symlinks is off; "));
        assert!(refused("folder").contains("no file in ") && refused("none").contains("No such file"));
    }

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
