//! What a reload costs where clients are silent or slow: how long the old process stays for them, and what is cut.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tests::{Process, load::Load};

use crate::{
    peer::{Leader, Peer, Running},
    results::Results,
};

/// Clients that ask once, say nothing while the load lasts, and ask again.
const SILENT: u32 = 100;

/// Clients that take one response for as long.
const DOWNLOADS: usize = 20;

/// How long the load lasts after the reload.
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

/// Reloads each peer that can be reloaded once, beside such clients.
pub fn lasting(results: &mut Results, peers: &[Peer]) {
    for peer in peers {
        let Some((signal, leader)) = peer.reload() else { continue };
        let running = peer.start();
        let load = Load::new(running.address).at_most(Duration::from_mins(2)).paced(8, 200).idle(SILENT).start();
        let downloads: Vec<_> =
            if peer.answers("/8m") { (0..DOWNLOADS).map(|_| begin(&running)).collect() } else { vec![] };
        thread::sleep(Duration::from_secs(1));
        let answered: BTreeSet<u32> = load.report().pids.into_keys().collect();
        let old: Vec<Process> = answered.into_iter().filter_map(Process::open).collect();
        let pid = match leader {
            Leader::First => running.first_pid(),
            Leader::Newest => old.first().expect("somebody answers").pid(),
        };
        let signalled = Instant::now();
        running.signal(pid, signal);
        let gone: Vec<_> =
            old.into_iter().map(|old| thread::spawn(move || old.wait(GONE_MAX).then(Instant::now))).collect();
        thread::sleep(LASTS);
        let report = load.stop();
        let mut add = |figure: &str, value: f64| {
            results.add("lasting", &format!("silent and slow: {figure}"), peer.name(), value);
        };
        let gone: Option<Vec<Instant>> = gone.into_iter().map(|thread| thread.join().ok().flatten()).collect();
        if let Some(last) = gone.and_then(|gone| gone.into_iter().max()) {
            add("signal to the end of the old process, s", (last - signalled).as_secs_f64());
        }
        add("failed requests", report.failed as f64);
        add("connections closed", report.closed_connections() as f64);
        if !downloads.is_empty() {
            let whole =
                downloads.into_iter().map(thread::JoinHandle::join).filter(|ended| matches!(ended, Ok(Ok(true))));
            add(&format!("downloads cut, of {DOWNLOADS}"), (DOWNLOADS - whole.count()) as f64);
        }
    }
}

/// Begins a download that takes as long as the load. It says whether all of it came.
fn begin(running: &Running) -> thread::JoinHandle<io::Result<bool>> {
    let address = running.address;
    thread::spawn(move || download(address))
}

fn download(address: SocketAddr) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_mss(SEGMENT_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(GONE_MAX))?;
    stream.write_all(b"GET /8m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let (mut received, mut piece) = (0, vec![0; PIECE]);
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(received > BODY_BYTES);
        }
        received += count;
        thread::sleep(LASTS.mul_f64(count as f64 / BODY_BYTES as f64));
    }
}
