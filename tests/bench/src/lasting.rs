//! What a reload costs where clients are silent or slow: how long the old process stays for them, and what is cut of
//! their downloads and event streams, over plain HTTP and over TLS.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    panic::resume_unwind,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tests::{
    Process,
    load::{Class, Load, Report, Running as Loaded, Target},
    secured::{ClientConfig, NAME, trusting},
};
use tokio_rustls::rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{
    peer::{Peer, Running},
    reload::newest,
    results::Results,
};

/// Clients that ask once, say nothing while the load lasts, and ask again.
const SILENT: u32 = 100;

/// Clients that take one response for as long.
const DOWNLOADS: usize = 20;

/// Clients that hold an event stream, and the time between two events.
const STREAMS: u32 = 20;
const EVERY: Duration = Duration::from_secs(1);

/// How long the load lasts before the reload, and after it.
const BEFORE: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_secs(30);

/// How long an old process is waited for.
const GONE_MAX: Duration = Duration::from_secs(45);

/// What a download takes in all, more than the kernel does ahead of its client.
const BODY_BYTES: usize = 8 << 20;

/// What a download reads at once.
const PIECE: usize = BODY_BYTES / 300;

/// As on a network: loopback's segments of 64 KB would let the kernel take the whole response at once.
const SEGMENT_BYTES: u32 = 1400;
const RECEIVE_BYTES: usize = 32 * 1024;

/// The time from one peer's beginning to the next one's. The loads last for long and take little of the machine: they run
/// beside each other, while the reloads come one after the other, each a second after the clients of that peer began.
const STEP: Duration = Duration::from_secs(2);

/// Reloads each peer that can be reloaded once, beside such clients, and once more over TLS if it speaks that.
pub fn lasting(results: &mut Results, peers: &[Peer]) {
    let reloading = peers.iter().copied().filter(|peer| peer.reloads());
    let secured = |peer: Peer| [false, true].into_iter().filter(move |is_secured| !is_secured || peer.speaks_tls());
    let all = reloading.flat_map(|peer| secured(peer).map(move |is_secured| (peer, is_secured)));
    let measure = |((peer, is_secured), begins): ((Peer, bool), Duration)| {
        let measuring = thread::spawn(move || {
            thread::sleep(begins);
            measured(peer, is_secured)
        });
        (peer, is_secured, measuring)
    };
    let measuring: Vec<_> = all.zip((0..).map(|number| STEP * number)).map(measure).collect();
    for (peer, is_secured, measuring) in measuring {
        let prefix = if is_secured { "silent and slow, TLS" } else { "silent and slow" };
        for (figure, value) in measuring.join().unwrap_or_else(|panic| resume_unwind(panic)) {
            results.add("lasting", &format!("{prefix}: {figure}"), peer.name(), value);
        }
    }
}

/// The figures of one peer, by name.
fn measured(peer: Peer, is_secured: bool) -> Vec<(String, f64)> {
    let mut running = if is_secured { peer.start_secured() } else { peer.start() };
    let load = load(&running);
    let downloads: Vec<_> =
        if peer.answers("/8m") { (0..DOWNLOADS).map(|_| begin(&running)).collect() } else { vec![] };
    thread::sleep(BEFORE);
    let before = load.report().pids.len();
    let (signalled, gone) = reload(&mut running, &load);
    thread::sleep(LASTS);
    // Where nothing was reloaded, nothing is cut.
    load.wait_until("a new process answers", |now| now.pids.len() > before);
    let report = load.stop();
    let mut figures = Vec::new();
    let gone: Option<Vec<Instant>> = gone.into_iter().map(|thread| thread.join().ok().flatten()).collect();
    if let Some(last) = gone.and_then(|gone| gone.into_iter().max()) {
        figures.push(("signal to the end of the old process, s".to_owned(), (last - signalled).as_secs_f64()));
    }
    figures.push(("failed requests".to_owned(), report.failed as f64));
    figures.push(("connections closed".to_owned(), report.closed_connections() as f64));
    if !downloads.is_empty() {
        let whole = downloads.into_iter().map(thread::JoinHandle::join).filter(|ended| matches!(ended, Ok(Ok(true))));
        figures.push((format!("downloads cut, of {DOWNLOADS}"), (DOWNLOADS - whole.count()) as f64));
    }
    if peer.has_event_streams() {
        figures.push((format!("event streams cut, of {STREAMS}"), streams_cut(&report) as f64));
    }
    figures
}

fn load(running: &Running) -> Loaded {
    let target = running.tls.as_ref().map_or(Target::Tcp(running.address), |tls| Target::Tls(tls.address));
    let load = Load::new(target).at_most(Duration::from_mins(2)).paced(8, 200).idle(SILENT);
    if running.peer.has_event_streams() { load.events(STREAMS, EVERY).start() } else { load.start() }
}

/// When it was reloaded, and the ends of the processes that had answered before.
fn reload(running: &mut Running, load: &Loaded) -> (Instant, Vec<thread::JoinHandle<Option<Instant>>>) {
    let report = load.report();
    let old: Vec<Process> = report.pids.keys().copied().filter_map(Process::open).collect();
    let signalled = Instant::now();
    running.reload(newest(&report));
    let ended = |old: Process| thread::spawn(move || old.wait(GONE_MAX).then(Instant::now));
    (signalled, old.into_iter().map(ended).collect())
}

/// Event streams that did not go on to the end of the load. Their clients come back, so that each is counted once.
fn streams_cut(report: &Report) -> u64 {
    let streams = report.classes.get(&Class::Events);
    streams.map_or(0, |streams| streams.faults.values().sum())
}

/// Begins a download that takes as long as the load. It says whether all of it came.
fn begin(running: &Running) -> thread::JoinHandle<io::Result<bool>> {
    let plain = running.address;
    let tls = running.tls.as_ref().map(|tls| (tls.address, trusting(&tls.certificate, false)));
    thread::spawn(move || match tls {
        Some((address, config)) => download(secure(connect(address)?, config)?),
        None => download(connect(plain)?),
    })
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_mss(SEGMENT_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(GONE_MAX))?;
    Ok(stream)
}

fn secure(stream: TcpStream, config: Arc<ClientConfig>) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    Ok(StreamOwned::new(ClientConnection::new(config, name).map_err(io::Error::other)?, stream))
}

fn download(mut stream: impl Read + Write) -> io::Result<bool> {
    stream.write_all(b"GET /8m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let (mut received, mut piece) = (0, vec![0; PIECE]);
    loop {
        let count = match stream.read(&mut piece) {
            // Without a word of TLS, which some servers leave out.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        if count == 0 {
            return Ok(received > BODY_BYTES);
        }
        received += count;
        thread::sleep(LASTS.mul_f64(count as f64 / BODY_BYTES as f64));
    }
}
