//! What the process was started with: its program, arguments and the variables that concern a reload.
//!
//! Read once, before any thread exists, into one value; nothing reads the environment afterwards. It decides nothing
//! about a reload.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::error::Error;
use crate::handover::is_handover_socket;
use crate::sys;
use crate::terminal;

/// The word that a predecessor puts in front of its successor's arguments, unless the application has chosen otherwise.
pub(crate) const HANDOVER_FLAG: &str = "-g";
/// Tells a successor which socket its standard input is, as device and inode, and which word it was given: `8:1234 -g`. So
/// no other process takes its own standard input for a handover socket, whatever that is and whoever its parents were.
pub(crate) const HANDOVER_VARIABLE: &str = "RESTART_CORE_HANDOVER";
/// Names the supervisor, for as long as it lives, to all its generations.
pub(crate) const SUPERVISOR_VARIABLE: &str = "RESTART_CORE_SUPERVISOR";
/// The path of the directory in which the service was started, as it was typed, for all its generations.
const DIRECTORY_VARIABLE: &str = "RESTART_CORE_DIRECTORY";
/// So many threads are named in an error.
const THREADS_NAMED_MAX: usize = 4;

/// How long threads that are about to end may take, and how long they are not looked at in between: longer each time, since
/// most are gone at once. Only a mistake waits for all of it.
const THREADS_END_TIMEOUT: Duration = Duration::from_secs(1);
const THREADS_END_STEP_MIN: Duration = Duration::from_micros(10);
const THREADS_END_STEP_MAX: Duration = Duration::from_millis(1);
/// What must not reach a successor: it is about this process, and a stale one misleads (`sd_listen_fds(3)`).
pub(crate) const NOT_PASSED_ON: [&str; 6] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID", "SYSTEMD_EXEC_PID"];

/// The process's start, as far as a reload is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    /// The path by which it was started, absolute, symlinks kept.
    pub(crate) program: PathBuf,
    /// All arguments, with the program's name.
    pub(crate) args: Vec<OsString>,
    /// Whether `-g` is among them.
    pub(crate) handover_flag: bool,
    /// The word that a predecessor has put in front of them, where one has said so.
    pub(crate) handed_word: Option<OsString>,
    /// LISTEN_FDNAMES.
    pub(crate) listen_fdnames: Option<String>,
    /// LISTEN_FDS.
    pub(crate) listen_fds: Option<String>,
    /// LISTEN_PID: the process that LISTEN_FDS is meant for.
    pub(crate) listen_pid: Option<String>,
    /// LISTEN_PIDFDID: the same, as the inode of its pidfd, which no later process shares.
    pub(crate) listen_pidfdid: Option<String>,
    /// NOTIFY_SOCKET is set: a service manager follows this process.
    pub(crate) notify_socket: Option<OsString>,
    /// The pid of the supervisor of the generations, if there is one.
    pub(crate) supervisor: Option<Pid>,
    /// FDSTORE: how many sockets systemd keeps for the service, where it says so.
    pub(crate) fdstore: Option<u32>,
    /// MEMORY_PRESSURE_WATCH is set: by a systemd that would have said FDSTORE as well (254 and later).
    pub(crate) memory_pressure_watch: bool,
    /// WATCHDOG_USEC, unless WATCHDOG_PID names another process.
    pub(crate) watchdog_usec: Option<u64>,
    /// RUNTIME_DIRECTORY.
    pub(crate) runtime_directory: Option<PathBuf>,
    /// XDG_RUNTIME_DIR.
    pub(crate) xdg_runtime_dir: Option<PathBuf>,
}

impl Environment {
    /// Reads it. Fails where the process cannot find out by which path it was started.
    pub(crate) fn read() -> Result<Environment, Error> {
        let args: Vec<OsString> = env::args_os().collect();
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let own_watchdog = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        Ok(Environment {
            program: program()?,
            handover_flag: has_handover_flag(&args),
            handed_word: handed().map(|handed| handed.word.clone()),
            args,
            listen_fdnames: text("LISTEN_FDNAMES"),
            listen_fds: text("LISTEN_FDS"),
            listen_pid: text("LISTEN_PID"),
            listen_pidfdid: text("LISTEN_PIDFDID"),
            notify_socket: env::var_os("NOTIFY_SOCKET").filter(|value| !value.is_empty()),
            supervisor: text(SUPERVISOR_VARIABLE).and_then(|pid| Pid::from_raw(pid.parse().ok()?)),
            fdstore: text("FDSTORE").and_then(|count| count.parse().ok()),
            memory_pressure_watch: text("MEMORY_PRESSURE_WATCH").is_some(),
            watchdog_usec: text("WATCHDOG_USEC").and_then(|usec| usec.parse().ok()).filter(|_| own_watchdog),
            runtime_directory: runtime_directory(),
            xdg_runtime_dir: env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map(PathBuf::from),
        })
    }

    /// The arguments of the next generation, without the program's name: the same ones, `word` in front, unless it stands
    /// among them already. That of the predecessor goes, where it was another one.
    pub(crate) fn successor_args(&self, word: Option<&str>) -> Vec<OsString> {
        let given = &self.args.get(1..).unwrap_or_default();
        if word.is_some_and(|word| given.iter().take_while(|arg| *arg != "--").any(|arg| arg == word)) {
            return given.to_vec();
        }
        let own = without_word(given, self.handed_word.as_deref());
        word.map(OsString::from).into_iter().chain(own.iter().cloned()).collect()
    }

    /// Whether a predecessor has started this process.
    pub(crate) fn succeeds(&self) -> bool {
        self.handover_flag || self.handed_word.is_some()
    }

    /// Whether somebody may hold the listeners that this service has bound, once it has ended: systemd, in its descriptor
    /// store. Before version 254 it does not say whether there is one, and is believed to have it.
    pub(crate) fn listeners_may_last(&self) -> bool {
        let is_systemd = self.notify_socket.is_some() && self.supervisor.is_none();
        is_systemd && self.fdstore.map_or(!self.memory_pressure_watch, |count| count > 0)
    }

    /// Whether the service manager is known to hold the listeners that this service has bound, in its descriptor store.
    pub(crate) fn listeners_are_stored(&self) -> bool {
        self.supervisor.is_none() && self.fdstore.is_some_and(|count| count > 0)
    }

    /// The program's name as it was given (`argv[0]`).
    pub(crate) fn arg0(&self) -> &OsStr {
        self.args.first().map_or(self.program.as_os_str(), |arg| arg.as_os_str())
    }
}

/// RUNTIME_DIRECTORY may name several directories, separated by colons (`systemd.exec(5)`); the first one is ours.
pub(crate) fn runtime_directory() -> Option<PathBuf> {
    let value = env::var_os("RUNTIME_DIRECTORY")?;
    let first = value.as_bytes().split(|&byte| byte == b':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(first)))
}

/// Why whoever follows this process would take the end of this one for the end of its service, as it comes with the
/// first reload: there is nobody who can be told of the next one. `None` where that is no danger. A process that is told
/// why has to [`supervise`](crate::supervise); one that a predecessor started is never told.
///
/// It is PID 1 of its pid namespace, with which everything else ends; or it leads the session of a terminal, which hangs up
/// with its end (`ssh -t`, `xterm -e`); or systemd waits for this very process, and has
/// given it no NOTIFY_SOCKET (`Type=simple` or `exec`). Under `Type=forking` with `PIDFile=` systemd follows the pid file.
pub fn must_supervise() -> Option<&'static str> {
    if is_successor() {
        return None;
    }
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let follower = Follower {
        pid: std::process::id(),
        notify_socket: env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty()),
        exec_pid: set("SYSTEMD_EXEC_PID"),
        invocation_id: set("INVOCATION_ID").is_some(),
        leads_a_terminal: terminal::is_led_by_this_process(),
        parent_is_systemd,
    };
    follower.danger()
}

/// Who may wait for the end of this process.
struct Follower {
    pid: u32,
    leads_a_terminal: bool,
    notify_socket: bool,
    exec_pid: Option<String>,
    invocation_id: bool,
    parent_is_systemd: fn() -> bool,
}

impl Follower {
    fn danger(&self) -> Option<&'static str> {
        if self.pid == 1 {
            return Some("it is PID 1, with which everything in its pid namespace ends");
        }
        if self.leads_a_terminal {
            return Some("it leads the session of its terminal, which hangs up with it");
        }
        if self.notify_socket {
            return None;
        }
        let is_main = match &self.exec_pid {
            Some(pid) => *pid == self.pid.to_string(),
            // systemd says it from version 248 on.
            None => self.invocation_id && (self.parent_is_systemd)(),
        };
        is_main.then_some(
            "it is the main process of a systemd unit without Type=notify, which would take its end for the service's",
        )
    }
}

/// Whether the parent is a service manager: of the system, or of a user.
fn parent_is_systemd() -> bool {
    let Some(parent) = rustix::process::getppid() else { return false };
    let name = std::fs::read(format!("/proc/{parent}/comm")).unwrap_or_default();
    parent.as_raw_nonzero().get() == 1 || name == b"systemd\n"
}

/// The arguments of this process, without the program's name and without the word that a predecessor has put in front of
/// them ([`Builder::handover_word`](crate::Builder::handover_word)): the same in all generations.
pub fn arguments() -> Vec<OsString> {
    let given: Vec<OsString> = env::args_os().skip(1).collect();
    without_word(&given, handed().map(|handed| handed.word.as_os_str())).to_vec()
}

/// `handed`: the word that a predecessor has put there; where none has said so, one of an older version has put `-g`.
fn without_word<'a>(given: &'a [OsString], handed: Option<&OsStr>) -> &'a [OsString] {
    let word = handed.unwrap_or(OsStr::new(HANDOVER_FLAG));
    match given.split_first() {
        Some((first, rest)) if first == word => rest,
        _ => given,
    }
}

/// What a predecessor has said of the start of this process.
struct Handed {
    /// Empty where there is none.
    word: OsString,
}

/// What the predecessor has said, if there is one: it names the socket that is the standard input. Looked at once, before
/// that socket is taken away from there.
fn handed() -> Option<&'static Handed> {
    static HANDED: OnceLock<Option<Handed>> = OnceLock::new();
    let look = || {
        let value = env::var_os(HANDOVER_VARIABLE)?;
        let (socket, word) = read_handed(&value)?;
        let stdin = rustix::stdio::stdin();
        let found = rustix::fs::fstat(stdin).ok().map(|stat| (stat.st_dev, stat.st_ino));
        (found == Some(socket) && is_handover_socket(stdin)).then_some(Handed { word })
    };
    HANDED.get_or_init(look).as_ref()
}

/// Reads `DEVICE:INODE WORD`, the word empty where there is none.
fn read_handed(value: &OsStr) -> Option<((u64, u64), OsString)> {
    let (socket, word) = value.to_str()?.split_once(' ')?;
    let (device, inode) = socket.split_once(':')?;
    Some(((device.parse().ok()?, inode.parse().ok()?), word.into()))
}

/// What a successor is told of its start ([`HANDOVER_VARIABLE`]).
pub(crate) fn handed_value(stdin: BorrowedFd<'_>, word: Option<&str>) -> io::Result<String> {
    let stat = rustix::fs::fstat(stdin)?;
    Ok(format!("{}:{} {}", stat.st_dev, stat.st_ino, word.unwrap_or_default()))
}

/// Whether a predecessor has started this process: its arguments say so, or its environment and its standard input.
pub(crate) fn is_successor() -> bool {
    let args: Vec<OsString> = env::args_os().collect();
    handed().is_some() || has_handover_flag(&args)
}

/// What is about this process alone does not reach those that the application starts. It needs to be without threads.
pub(crate) fn forget_handed() {
    if env::var_os(HANDOVER_VARIABLE).is_some() {
        // Once it has been read.
        let _ = handed();
        sys::set_variable(HANDOVER_VARIABLE, None);
    }
}

/// Whether `-g` stands among the arguments, before any `--`.
pub(crate) fn has_handover_flag(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == HANDOVER_FLAG)
}

/// Fails where this process has other threads: what they have opened would be marked close-on-exec between two of their
/// calls, and signals would reach handlers of theirs. Where nobody tells (no /proc), there are none.
///
/// A thread that has been waited for may still be on its way out; it is given a moment, and no second look finds it.
pub(crate) fn refuse_threads() -> Result<(), Error> {
    let names = left_over(THREADS_END_TIMEOUT, threads_beside);
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "start() has to come before any thread, and this process has some already ({}): call it first thing in main, and \
         make the runtime afterwards (tokio::runtime::Runtime::new()), or let main be a \
         #[tokio::main(flavor = \"current_thread\")]",
        names.join(", ")
    )))
}

/// What is still there when the time is over, or nothing as soon as nothing is.
fn left_over(time: Duration, mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let end = Instant::now() + time;
    let mut step = THREADS_END_STEP_MIN;
    loop {
        let left = look();
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        std::thread::sleep(step);
        step = (2 * step).min(THREADS_END_STEP_MAX);
    }
}

/// The names of some of the threads that this process has beside its main one.
fn threads_beside() -> Vec<String> {
    if sys::has_one_thread() {
        return Vec::new();
    }
    let own = std::process::id().to_string();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let others = tasks.flatten().filter(|task| task.file_name() != *own);
    let names = others.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).take(THREADS_NAMED_MAX).collect()
}

/// Makes each generation start in the directory in which the service was started, by the path that was typed: one that
/// leads through a link to a release leads to the next release once the link is switched.
///
/// The kernel knows only where such a path led at the time; PWD is the path itself, where it leads to the same directory.
/// Call it first thing in `main`, before anything looks at a relative path and before any thread exists; where there are
/// threads already, nothing happens. Where the path leads to no directory any more, a generation stays in that of the one
/// before.
pub fn follow_directory() {
    if is_successor() {
        if let Some(path) = env::var_os(DIRECTORY_VARIABLE) {
            // What is relative is looked for where it was, then.
            _ = env::set_current_dir(path);
        }
    } else {
        let path = typed_directory();
        if path.is_some() || env::var_os(DIRECTORY_VARIABLE).is_some() {
            sys::set_variable(DIRECTORY_VARIABLE, path.as_deref().map(Path::as_os_str));
        }
    }
}

/// The current directory by the path that was typed, if that is known: PWD may as well be somebody else's.
fn typed_directory() -> Option<PathBuf> {
    let identity = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let typed = env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute())?;
    (identity(&typed)? == identity(Path::new("."))?).then_some(typed)
}

/// The path by which the kernel was asked to run this program (AT_EXECFN, `getauxval(3)`), against the directory in
/// which the process was started. Never `/proc/self/exe`: a replaced file is the one to run next, and a symlink that
/// is switched to another release is followed.
fn program() -> Result<PathBuf, Error> {
    let path = PathBuf::from(OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()));
    if path.as_os_str().is_empty() {
        return Err(Error::system("cannot find the path of this program", io::Error::from(io::ErrorKind::NotFound)));
    }
    let typed = typed_directory().unwrap_or_default().join(&path);
    std::path::absolute(&typed)
        .map_err(|error| Error::system(format!("cannot make {} absolute", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_args(args: &[&str]) -> Environment {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Environment { handover_flag: has_handover_flag(&args), args, ..Environment::read().unwrap() }
    }

    #[test]
    fn the_flag_is_put_first_once_and_nothing_else_changes() {
        let next = |args: &[&str]| with_args(args).successor_args(Some(HANDOVER_FLAG));
        assert_eq!(next(&["app", "serve", "", "--x"]), ["-g", "serve", "", "--x"]);
        assert_eq!(next(&["app", "-g", "serve"]), ["-g", "serve"]);
        assert_eq!(next(&["app", "serve", "-g"]), ["serve", "-g"]);
        assert_eq!(next(&["app", "--", "-g"]), ["-g", "--", "-g"]);
        assert_eq!(with_args(&["app"]).arg0(), "app");
    }

    #[test]
    fn another_word_takes_the_place_of_the_predecessors() {
        let next = |args: &[&str], handed: Option<&str>, word| {
            let handed_word = handed.map(OsString::from);
            Environment { handed_word, ..with_args(args) }.successor_args(word)
        };
        assert_eq!(next(&["app", "-g", "a"], None, None), ["a"], "of an older version");
        assert_eq!(next(&["app", "-g", "a"], Some("-g"), Some("--next")), ["--next", "a"]);
        assert_eq!(next(&["app", "--next", "a"], Some("--next"), Some("-g")), ["-g", "a"]);
        assert_eq!(next(&["app", "a"], Some(""), Some("-g")), ["-g", "a"]);
        assert_eq!(next(&["app", "a", "-g"], Some(""), None), ["a", "-g"], "the application's own");
    }

    #[test]
    fn what_a_predecessor_says_is_read_or_is_nothing() {
        assert_eq!(read_handed(OsStr::new("8:12 -g")), Some(((8, 12), "-g".into())));
        assert_eq!(read_handed(OsStr::new("8:12 ")), Some(((8, 12), "".into())));
        for nothing in ["", "8:12", "8 12", "a:b c", "8: "] {
            assert_eq!(read_handed(OsStr::new(nothing)), None, "{nothing}");
        }
    }

    #[test]
    fn listeners_last_where_a_descriptor_store_may_hold_them() {
        let last = |managed: bool, supervised: bool, fdstore, memory_pressure_watch| {
            let notify_socket = managed.then(|| "/run/notify".into());
            let supervisor = supervised.then_some(Pid::INIT);
            let environment = Environment::read().unwrap();
            Environment { notify_socket, supervisor, fdstore, memory_pressure_watch, ..environment }
                .listeners_may_last()
        };
        assert!(last(true, false, Some(16), true));
        assert!(last(true, false, None, false), "systemd before 254 does not say");
        assert!(!last(true, false, None, true), "systemd has none");
        assert!(!last(true, false, Some(0), false), "the unit says that it has none");
        assert!(!last(true, true, None, false) && !last(true, true, Some(16), true), "a supervisor keeps nothing");
        assert!(!last(false, false, None, false));
    }

    #[test]
    fn only_a_process_whose_end_would_be_the_services_has_to_supervise() {
        let danger = |pid, notify_socket, exec_pid: Option<&str>, invocation_id, parent| {
            let exec_pid = exec_pid.map(str::to_owned);
            let parent_is_systemd: fn() -> bool = if parent { || true } else { || false };
            let leads_a_terminal = false;
            Follower { pid, leads_a_terminal, notify_socket, exec_pid, invocation_id, parent_is_systemd }.danger()
        };
        assert!(danger(1, false, None, false, false).unwrap().contains("PID 1"));
        assert!(danger(1, true, None, false, false).is_some(), "a notify socket from outside saves no namespace");
        assert!(danger(7, false, Some("7"), true, true).unwrap().contains("Type=notify"));
        assert!(danger(7, false, None, true, true).is_some(), "a systemd before 248");
        assert_eq!(danger(7, true, Some("7"), true, true), None, "systemd is told");
        assert_eq!(danger(7, false, Some("6"), true, true), None, "a child of the main process");
        assert_eq!(danger(7, false, None, true, false), None, "started from a shell within a service");
        assert_eq!(danger(7, false, None, false, true), None, "a daemon, adopted by PID 1");
    }

    #[test]
    fn a_thread_on_its_way_out_is_no_reason_to_refuse() {
        let mut looks = vec![vec![], vec!["reborn".to_owned()], vec!["reborn".to_owned()]];
        assert!(left_over(Duration::from_secs(60), || looks.pop().unwrap_or_default()).is_empty());
        assert!(looks.is_empty(), "it was looked at until it had gone");
        assert_eq!(left_over(Duration::ZERO, || vec!["stays".to_owned()]), ["stays"]);
    }

    #[test]
    fn a_thread_that_exists_already_is_named() {
        // The test runner's own is one.
        let error = refuse_threads().unwrap_err().to_string();
        assert!(error.contains("start() has to come before any thread"), "{error}");
    }

    #[test]
    fn the_program_is_the_absolute_path_that_was_run() {
        let program = program().unwrap();
        assert!(program.is_absolute());
        assert_eq!(program.canonicalize().unwrap(), env::current_exe().unwrap().canonicalize().unwrap());
    }
}
