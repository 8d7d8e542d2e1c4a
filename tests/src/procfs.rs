//! Processes as the kernel shows them: found by the marker that a test put into their environment, held by pidfd,
//! and described from `/proc`. Nothing here is found by name, so no test touches a process that is not its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::Command,
    sync::{Mutex, Once, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper,
        waitid,
    },
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// A process, held by pidfd: its pid can't come to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    ended: OnceLock<Ended>,
}

impl Process {
    /// Takes hold of a process; None if there is none of this pid.
    pub fn open(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        Some(Self { pid, pidfd, ended: OnceLock::new() })
    }

    /// Starts a command and takes hold of its process.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        Ok(Self::open(child.id()).expect("a child that nobody has waited for"))
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal; false if it has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.pidfd, signal).is_ok()
    }

    /// Whether it still runs: a zombie does not.
    pub fn is_alive(&self) -> bool {
        !self.wait(Duration::ZERO)
    }

    /// Waits for its end; false if it outlives the deadline.
    pub fn wait(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("a test's deadline fits");
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll of the pidfd of {}: {error}", self.pid),
            }
        }
    }

    /// How it ended, if it has and if it was this process's child or came to it as an orphan.
    pub fn ended(&self) -> Option<Ended> {
        if let Some(ended) = self.ended.get() {
            return Some(*ended);
        }
        let status =
            waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
        let code = status.exit_status().map(Ended::Code);
        let ended = code.or_else(|| status.terminating_signal().map(Ended::Signal))?;
        Some(*self.ended.get_or_init(|| ended))
    }

    /// Resident memory in bytes; 0 once it has ended.
    pub fn resident_bytes(&self) -> u64 {
        self.status_field("VmRSS").and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0)
            * 1024
    }

    /// Its number of threads; 0 once it has ended.
    pub fn threads(&self) -> u64 {
        self.status_field("Threads").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Its open file descriptors and what they are, as `/proc/PID/fd` shows them.
    pub fn fds(&self) -> BTreeMap<u32, String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let name = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        let target = |entry: &fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned());
        entries.filter_map(|entry| Some((name(&entry)?, target(&entry)?))).collect()
    }

    /// How many descriptors are entered in each of its epolls.
    pub fn epolls(&self) -> Vec<usize> {
        let epolls = self.fds().into_iter().filter(|(_, target)| target.contains("eventpoll"));
        let entries = |(fd, _)| {
            let text = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", self.pid)).unwrap_or_default();
            text.lines().filter(|line| line.starts_with("tfd:")).count()
        };
        epolls.map(entries).collect()
    }

    /// The sum of its user and system time, in clock ticks (100 a second).
    pub fn cpu_ticks(&self) -> u64 {
        stat(self.pid).map_or(0, |stat| stat.cpu_ticks)
    }

    fn status_field(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }
}

/// The processes that carry a marker in their environment, and those that once did and have ended since.
#[derive(Debug)]
pub struct Family {
    marker: String,
    seen: Mutex<BTreeMap<u32, Process>>,
    /// Those that were seen to be a test's tools: one that is about to end shows no environment any more.
    tools: Mutex<BTreeSet<u32>>,
}

impl Family {
    /// The variable that carries the marker.
    pub const VARIABLE: &'static str = "REBORN_TEST_ID";

    /// The variable of those members that are a test's tools, and no generations of the server.
    pub const HELPER_VARIABLE: &'static str = "REBORN_TEST_HELPER";

    /// A family without members yet. From here on, orphans of the test's processes become the test's own children,
    /// so that it learns how each generation ended, also of those that it did not start itself.
    pub fn new(marker: &str) -> Self {
        static SUBREAPER: Once = Once::new();
        SUBREAPER.call_once(|| {
            set_child_subreaper(Some(getpid())).expect("a process may become a subreaper");
        });
        Self { marker: marker.to_owned(), seen: Mutex::default(), tools: Mutex::default() }
    }

    /// The marker that they carry.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// The pids of the living members that are no test's tools, oldest first. In the instant between the birth of a process
    /// and the start of its program, the kernel shows it with its parent's environment: such a one is listed too.
    pub fn alive(&self) -> Vec<u32> {
        self.living().into_iter().filter(|pid| !self.is_helper(*pid)).collect()
    }

    /// The pids of the living members that are a test's tools.
    pub fn helpers(&self) -> Vec<u32> {
        self.living().into_iter().filter(|pid| self.is_helper(*pid)).collect()
    }

    fn is_helper(&self, pid: u32) -> bool {
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        tools.contains(&pid) || (is_helper(pid) && tools.insert(pid))
    }

    fn living(&self) -> Vec<u32> {
        let marked = format!("{}={}", Self::VARIABLE, self.marker);
        let carries_marker = |pid: u32| has_variable(pid, |variable| variable == marked.as_bytes());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for process in seen.values() {
            // Asking for the status also buries the dead.
            process.ended();
        }
        let mut alive = Vec::new();
        for pid in pids() {
            let is_known = seen.get(&pid).is_some_and(Process::is_alive);
            if is_known {
                alive.push(pid);
            } else if carries_marker(pid)
                && let Some(process) = Process::open(pid)
                && carries_marker(pid)
            {
                seen.insert(pid, process);
                // Pids are given out again.
                self.tools.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
                alive.push(pid);
            }
        }
        // Pids begin anew once the highest one is given out.
        alive.sort_by_cached_key(|pid| (stat(*pid).map(|stat| stat.started_ticks), *pid));
        alive
    }

    /// How a member ended, as far as it is known: None while it lives, and for one that nobody ever looked at.
    pub fn ended(&self, pid: u32) -> Option<Ended> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&pid)?.ended()
    }

    /// Takes note of a member.
    pub fn add(&self, process: Process) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(process.pid, process);
    }

    /// Children that have ended and that their parent, a living member, has not yet waited for.
    pub fn zombies(&self) -> Vec<u32> {
        let alive = self.alive();
        let is_zombie = |pid: &u32| stat(*pid).is_some_and(|stat| stat.state == 'Z' && alive.contains(&stat.parent));
        pids().filter(is_zombie).collect()
    }

    /// Kills every member, until none is left.
    pub fn kill(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        loop {
            let alive = self.living();
            if alive.is_empty() || Instant::now() > end {
                return;
            }
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for process in alive.iter().filter_map(|pid| seen.get(pid)) {
                process.signal(Signal::KILL);
                process.wait(end.saturating_duration_since(Instant::now()));
                process.ended();
            }
        }
    }

    /// One line for each member that was ever seen, for a failing test.
    pub fn describe(&self) -> String {
        let alive = self.living();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(pid, process): (&u32, &Process)| {
            if !alive.contains(pid) {
                let ended = process.ended().map_or("ended".to_owned(), |ended| ended.to_string());
                return format!("  pid {pid}: {ended}\n");
            }
            let (state, parent) = stat(*pid).map_or(('?', 0), |stat| (stat.state, stat.parent));
            let words = command_line(*pid).join(" ");
            format!("  pid {pid}: state {state}, parent {parent}, {} fds: {words}\n", process.fds().len())
        };
        seen.iter().map(line).collect()
    }
}

fn is_helper(pid: u32) -> bool {
    has_variable(pid, |variable| variable.starts_with(format!("{}=", Family::HELPER_VARIABLE).as_bytes()))
}

fn has_variable(pid: u32, is_it: impl Fn(&[u8]) -> bool) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(is_it)
}

/// The arguments of a process; none for a zombie.
pub fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The program that a process runs; its name ends in ` (deleted)` once the file is replaced.
pub fn executable(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    parent: u32,
    cpu_ticks: u64,
    /// Since the machine started.
    started_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may itself hold spaces and parentheses.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: ticks(11)? + ticks(12)?,
        started_ticks: ticks(19)?,
    })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::Duration,
    };

    use super::{Ended, Family, Process, Signal, command_line};

    #[test]
    fn only_processes_with_the_marker_are_found_and_killed() {
        let family = Family::new("procfs-tests");
        let sleep = |marker: &str| {
            let mut command = Command::new("sleep");
            command.arg("100").env(Family::VARIABLE, marker).stdin(Stdio::null());
            Process::spawn(&mut command).unwrap()
        };
        let (ours, others) = (sleep("procfs-tests"), sleep("procfs-tests2"));
        while family.alive() != [ours.pid()] {
            std::thread::yield_now();
        }
        assert!(family.describe().contains("sleep 100"), "{}", family.describe());
        family.kill(Duration::from_secs(30));
        assert_eq!((family.alive(), family.ended(ours.pid())), (vec![], Some(Ended::Signal(9))));
        assert!(!ours.is_alive() && others.is_alive());
        assert!(others.signal(Signal::TERM) && others.wait(Duration::from_secs(30)));
        assert_eq!(others.ended(), Some(Ended::Signal(15)));
    }

    #[test]
    fn a_tool_is_no_generation_when_it_shows_no_environment_any_more() {
        let family = Family::new("procfs-tools");
        let mut command = Command::new("sh");
        command.args(["-c", "read _; exec env -i sleep 100"]).stdin(Stdio::piped());
        command.env(Family::VARIABLE, "procfs-tools").env(Family::HELPER_VARIABLE, "1");
        let mut tool = command.spawn().unwrap();
        while family.helpers() != [tool.id()] {
            std::thread::yield_now();
        }
        drop(tool.stdin.take());
        while command_line(tool.id()) != ["sleep", "100"] {
            std::thread::yield_now();
        }
        assert_eq!((family.alive(), family.helpers()), (vec![], vec![tool.id()]));
        tool.kill().unwrap();
        tool.wait().unwrap();
    }

    #[test]
    fn an_orphan_of_the_family_ends_in_sight() {
        let family = Family::new("procfs-orphan");
        let script = "sh -c 'read x; exit 7' <&3 & echo started";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec 3<&0; {script}")]).env(Family::VARIABLE, "procfs-orphan");
        let mut parent = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pipe = parent.stdin.take().unwrap();
        assert!(parent.wait().unwrap().success());
        // In the instant of an exec a process has no environment to be known by.
        let orphan = loop {
            match family.alive() {
                nobody if nobody.is_empty() => std::thread::yield_now(),
                orphan => break orphan,
            }
        };
        assert_eq!(orphan.len(), 1, "{}", family.describe());
        drop(pipe);
        while !family.alive().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(family.ended(orphan[0]), Some(Ended::Code(7)));
    }

    #[test]
    fn a_process_shows_its_memory_threads_and_fds() {
        let me = Process::open(std::process::id()).unwrap();
        assert!(me.resident_bytes() > 0 && me.threads() > 0 && me.fds().contains_key(&2));
        assert!(me.ended().is_none() && me.is_alive());
    }
}
