//! What is compared: how each server is started, found ready, told to reload, and ended.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tests::secured::write_certificate;

use crate::{
    answer::{Fixed, fixed},
    group::Group,
};

/// The name under which `run` makes the newer nginx known.
pub const NEW_NGINX: &str = "nginx-1.31";

/// How long a server may take to its first answer.
const START_MAX: Duration = Duration::from_secs(30);

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// `server::run` with the peers' handler.
    Reborn,
    /// hyper on tokio, which cannot reload.
    Hyper,
    /// Go's net/http with the original program's way to restart.
    Go,
    /// nginx as the distribution has it.
    Nginx,
    /// A newer nginx, which has `keepalive_min_timeout`.
    NewNginx,
    /// `HAProxy`.
    Haproxy,
    /// An application of pingora, which is replaced by another process that it sends its listeners to.
    Pingora,
    /// hyper on tokio, restarted by ecdysis.
    Ecdysis,
}

impl Peer {
    /// All of them, the project's own first.
    pub const ALL: [Self; 8] =
        [Self::Reborn, Self::Hyper, Self::Go, Self::Nginx, Self::NewNginx, Self::Haproxy, Self::Pingora, Self::Ecdysis];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reborn => "reborn",
            Self::Hyper => "hyper",
            Self::Go => "Go net/http",
            Self::Nginx => "nginx",
            Self::NewNginx => "nginx 1.31",
            Self::Haproxy => "HAProxy",
            Self::Pingora => "pingora",
            Self::Ecdysis => "ecdysis",
        }
    }

    /// Whether it has an answer at this path.
    pub fn answers(self, path: &str) -> bool {
        self != Self::Haproxy || !matches!(path, "/100k" | "/1m" | "/8m")
    }

    /// How it is reloaded, if it can be.
    fn reload(self) -> Option<Reload> {
        match self {
            Self::Hyper => None,
            Self::Reborn | Self::Ecdysis => Some(Reload::Newest(Signal::HUP)),
            Self::Go => Some(Reload::Newest(Signal::INT)),
            Self::Nginx | Self::NewNginx => Some(Reload::First(Signal::HUP)),
            Self::Haproxy => Some(Reload::First(Signal::USR2)),
            Self::Pingora => Some(Reload::Another { old: Signal::QUIT, new: "--upgrade" }),
        }
    }

    /// Whether it can be reloaded.
    pub fn reloads(self) -> bool {
        self.reload().is_some()
    }

    /// Whether it speaks TLS here.
    pub fn speaks_tls(self) -> bool {
        matches!(self, Self::Reborn | Self::Hyper | Self::Nginx | Self::NewNginx | Self::Ecdysis)
    }

    /// Whether it makes an event stream by itself.
    pub fn has_event_streams(self) -> bool {
        matches!(self, Self::Reborn | Self::Hyper | Self::Go | Self::Pingora | Self::Ecdysis)
    }

    fn command(self, folder: &Path, address: SocketAddr, tls: Option<&Tls>) -> Command {
        let address = address.to_string();
        let own = |name: &str| {
            let exe = std::env::current_exe().expect("a process knows its program");
            exe.with_file_name(name)
        };
        let configured = |template: &str| {
            let path = folder.join("configuration");
            let tls = tls.map_or_else(String::new, |Tls { address, .. }| {
                let files = "ssl_certificate site.pem; ssl_certificate_key site.key;";
                format!("listen {address} ssl backlog=4096; ssl_protocols TLSv1.2 TLSv1.3; {files}")
            });
            let patient = if self == Self::NewNginx { "keepalive_min_timeout 1m;" } else { "" };
            let text = template.replace("SECURED", &tls).replace("PATIENT", patient);
            let text = text.replace("FOLDER", &folder.display().to_string()).replace("ADDRESS", &address);
            let text = text.replace("THREADS", &threads().to_string());
            fs::write(&path, text).expect("the peer's folder is ours");
            path
        };
        match self {
            Self::Reborn => {
                let mut command = Command::new(own("peer-reborn"));
                let threads = threads().to_string();
                command.args(["--threads", &threads, "--probation", "0s", "--listen", &address, "--control"]);
                command.arg(folder.join("control"));
                if let Some(Tls { address, certificate, key }) = tls {
                    command.args(["--listen", &format!("https={address}")]);
                    command.arg("--tls-certificate").arg(certificate).arg("--tls-key").arg(key);
                }
                command
            }
            Self::Hyper | Self::Ecdysis => {
                let mut command = Command::new(own("peer-hyper"));
                command.arg(address);
                if let Some(Tls { address, certificate, key }) = tls {
                    command.args(["--tls", &address.to_string()]).arg(certificate).arg(key);
                }
                command.args((self == Self::Ecdysis).then_some("--ecdysis"));
                command
            }
            Self::Pingora => {
                let mut command = Command::new(own("peer-pingora"));
                command.arg(address).arg(folder.join("upgrade.sock"));
                command
            }
            Self::Go => {
                let mut command = Command::new(own("peer-go"));
                command.args(["-listen", &address]).env("GOMAXPROCS", threads().to_string());
                command
            }
            Self::Nginx | Self::NewNginx => {
                let mut command = Command::new(if self == Self::Nginx { "nginx" } else { NEW_NGINX });
                command.arg("-p").arg(folder).arg("-c").arg(configured(include_str!("../peers/nginx.conf")));
                command
            }
            Self::Haproxy => {
                let mut command = Command::new("haproxy");
                command.args(["-W", "-q", "-f"]).arg(configured(include_str!("../peers/haproxy.cfg")));
                command
            }
        }
    }

    /// Starts it and waits for its first answer.
    pub fn start(self) -> Running {
        self.start_with(&[])
    }

    /// The same, with more variables in its environment.
    pub fn start_with(self, environment: &[(&str, &str)]) -> Running {
        self.start_as(environment, false)
    }

    /// The same, and speaking TLS on another address.
    pub fn start_secured(self) -> Running {
        self.start_as(&[], true)
    }

    fn start_as(self, environment: &[(&str, &str)], secured: bool) -> Running {
        let folder = tempfile::Builder::new().prefix("reborn-bench-").tempdir().expect("a temporary folder");
        let files = folder.path().join("files");
        fs::create_dir(&files).expect("the peer's folder is ours");
        for name in ["1k", "100k", "1m", "8m"] {
            if let Fixed::Bytes(bytes) = fixed(&format!("/{name}")) {
                fs::write(files.join(name), bytes).expect("the peer's folder is ours");
            }
        }
        // nginx's workers are another user.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), readable).expect("the peer's folder is ours");
        let address = next_address();
        let tls = secured.then(|| {
            let [certificate, key] = write_certificate(folder.path());
            Tls { address: next_address(), certificate, key }
        });
        let mut command = self.command(folder.path(), address, tls.as_ref());
        command.envs(environment.iter().copied()).process_group(0);
        let started = Instant::now();
        let child = spawn(command, folder.path());
        let (successors, first_answer) = (Vec::new(), Duration::ZERO);
        let mut running = Running { peer: self, address, tls, child, successors, folder, first_answer };
        running.first_answer = running.wait_first_answer(started);
        running
    }
}

/// Starts a peer's program in its folder, where its log is.
fn spawn(mut command: Command, folder: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"));
    let log = log.expect("the peer's folder is ours");
    command.env("BENCH_THREADS", threads().to_string()).env_remove("NOTIFY_SOCKET").current_dir(folder);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// With how many threads each peer serves.
static THREADS: OnceLock<u32> = OnceLock::new();

/// Says with how many threads each peer serves, before any is started.
pub fn set_threads(threads: u32) {
    // The first word holds.
    let _ = THREADS.set(threads);
}

/// With how many threads each peer serves; 2 where nobody has said it.
pub fn threads() -> u32 {
    *THREADS.get_or_init(|| 2)
}

/// How a peer is reloaded.
#[derive(Clone, Copy, Debug)]
enum Reload {
    /// By a signal to the process that was started: a master.
    First(Signal),
    /// By a signal to the newest process.
    Newest(Signal),
    /// By another process that is started with one more argument, and a signal to the newest before it.
    Another { old: Signal, new: &'static str },
}

/// Where a peer speaks TLS, and with what.
#[derive(Debug)]
pub struct Tls {
    /// The address.
    pub address: SocketAddr,
    /// The certificate's file, which is what clients trust.
    pub certificate: PathBuf,
    key: PathBuf,
}

/// A peer that serves. Dropped, its processes are killed.
#[derive(Debug)]
pub struct Running {
    /// Which one it is.
    pub peer: Peer,
    /// Where it serves.
    pub address: SocketAddr,
    /// Where it speaks TLS, if it does.
    pub tls: Option<Tls>,
    child: Child,
    /// Those that were started to reload it.
    successors: Vec<Child>,
    folder: TempDir,
    /// From the start of its program to its first answer.
    pub first_answer: Duration,
}

impl Running {
    /// Its processes.
    pub fn group(&self) -> Group {
        Group(self.child.id())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of its control socket, if it is reborn.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Reloads it in its own way. `newest` is the process that answered last for the first time.
    pub fn reload(&mut self, newest: u32) {
        match self.peer.reload().expect("it can be reloaded") {
            Reload::First(signal) => self.signal(self.child.id(), signal),
            Reload::Newest(signal) => self.signal(newest, signal),
            Reload::Another { old, new } => {
                // In this order, as pingora's guide has it: the old one tries to reach the new one every second.
                self.signal(newest, old);
                let mut command = self.peer.command(self.folder(), self.address, self.tls.as_ref());
                let group = i32::try_from(self.child.id()).expect("a pid");
                command.arg(new).process_group(group);
                self.successors.push(spawn(command, self.folder()));
            }
        }
    }

    /// Sends a signal to one of its processes.
    pub fn signal(&self, pid: u32, signal: Signal) {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(raw, signal).unwrap_or_else(|error| panic!("{signal:?} to {pid}: {error}\n{}", self.log()));
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_first_answer(&mut self, started: Instant) -> Duration {
        loop {
            if is_answered(self.address) {
                return started.elapsed();
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{}: {status}\n{}", self.peer.name(), self.log());
            }
            assert!(started.elapsed() < START_MAX, "{} does not answer\n{}", self.peer.name(), self.log());
            // As short as the kernel's timers allow: what is measured is the start.
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It fails where nothing is left to be killed.
            let _gone = kill_process_group(group, Signal::KILL);
        }
        for child in std::iter::once(&mut self.child).chain(&mut self.successors) {
            let _reaped = child.wait();
        }
    }
}

fn is_answered(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"cout\n"))
}

/// An address that no peer of this run had before, below the ports that the kernel gives out by itself.
fn next_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    ([127, 0, 0, 1], NEXT.fetch_add(1, Ordering::Relaxed)).into()
}
