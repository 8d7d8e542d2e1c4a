//! One generation at work: accept loops and connections, from the accept or the hand-over to their end.
//!
//! It knows neither the command line nor what answers a request. Which connections it may accept, and when it has to
//! end, is the generation's matter; what happens on a connection, the HTTP layer's. Here each connection is booked in
//! the ledger, and offered to the next generation when the HTTP layer parks it.

mod accepting;
pub(crate) mod access;
mod admin;
mod clients;
mod https;
pub(crate) mod ledger;
pub(crate) mod means;
pub(crate) mod metrics;
mod proxies;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use restart_core::{
    Accepted, Address, Connection, Connections, Drain, Driver, Exit, Generation, Guard, Listener, Phase,
};
use rustix::net::sockopt;
use smol::Timer;
use smol::future::yield_now;
use smol::lock::{Semaphore, SemaphoreGuardArc};
use zeroize::Zeroizing;

use crate::config::{Config, METRICS_NAME};
use crate::http::{self, Context, Decorate, End, Handler, Moves, NoHeader, Observe, Security, Start};
use crate::moving;
use crate::per_team::PerTeam;
use crate::threads::workers::Workers;
use crate::tls::Acceptors;
use accepting::Door;
use admin::Admin;
use clients::{ClientPermit, Clients};

use ledger::Ledger;
use metrics::Metrics;
use proxies::Proxies;

/// A stop that takes longer says what it waits for.
const TELLING_PAUSE: Duration = Duration::from_millis(200);

/// After how long a silence the kernel asks whether a client is still there, how often it asks again, and how many
/// questions without an answer end the connection: who has vanished is gone within two minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// What answers requests, and who is told of them.
pub(crate) struct Service<H> {
    pub(crate) handler: H,
    /// Headers for every response.
    pub(crate) decorate: Option<Decorate>,
    pub(crate) observers: Vec<Observe>,
    /// What handshakes are held with, where a listener speaks TLS.
    pub(crate) tls: Option<Arc<Acceptors>>,
    /// The streams and protocols that can go on in another process.
    pub(crate) moves: Moves,
    /// The program's version, for the metrics.
    pub(crate) version: String,
}

impl<H: Handler> Service<H> {
    pub(crate) fn new(handler: H) -> Service<H> {
        let (moves, version) = (Moves::new(), String::new());
        Service { handler, decorate: None, observers: Vec::new(), tls: None, moves, version }
    }
}

/// What all connections of this generation share, and only read. It stands apart from the count of those who refer to it,
/// which each connection changes twice.
#[repr(align(128))]
struct Shared<H> {
    context: Context<H>,
    connections: Connections,
    ledger: Arc<Ledger>,
    /// Room for connections, and each client's share of it.
    room: Arc<Semaphore>,
    clients: Arc<Clients>,
    proxies: Proxies,
    workers: Arc<Workers>,
    tls: Option<Arc<Acceptors>>,
}

/// Serves until this process has nothing left to do. `metrics` are those that the generation's status shows.
pub(crate) fn serve<H: Handler + 'static>(
    config: &Config,
    (generation, driver): (Generation, Driver),
    workers: &Arc<Workers>,
    service: Service<H>,
    metrics: &Arc<Metrics>,
) -> Exit {
    means::raise_file_limit();
    // A connection, and the file that it is sent.
    let descriptors_each = if config.sites.iter().any(|site| site.files.is_some()) { 2 } else { 1 };
    let room = means::room(config.limits.connections, descriptors_each);
    let drain = generation.drain();
    let clients = Clients::new(config.limits.connections_per_client, room, config.proxies.trust.clone());
    let shared = Arc::new(Shared {
        context: Context {
            handler: service.handler,
            limits: config.limits.http.clone(),
            capacity: Arc::clone(&metrics.capacity),
            handshakes: Arc::clone(&metrics.handshakes),
            drain: drain.clone(),
            parks: true,
            screen: https::screen(&config.tls, service.tls.as_ref(), generation.listeners()),
            moves: service.moves,
            drains: PerTeam::new(workers.teams(), OnceLock::new),
            trust: config.proxies.trust.clone(),
            share: clients.share(&config.proxies),
            waits: Some(Arc::clone(&metrics.waits)),
            decorate: service.decorate,
            secured: https::headers(&config.tls),
            observers: observers(config, metrics, service.observers),
        },
        connections: generation.connections(),
        ledger: Arc::clone(&metrics.ledger),
        room: Arc::new(Semaphore::new(room)),
        proxies: Proxies::new(&config.proxies),
        clients,
        workers: Arc::clone(workers),
        tls: service.tls.clone(),
    });
    for listener in generation.listeners() {
        delay_nothing(listener);
        keep_alive(listener);
        workers.spawn_in_each(|team| accept(Arc::clone(&shared), listener.clone(), team));
    }
    workers.spawn_on_main(take(Arc::clone(&shared)));
    if let Ok(listener) = generation.listener(METRICS_NAME) {
        delay_nothing(&listener);
        keep_alive(&listener);
        let admin = Admin {
            metrics: Arc::clone(metrics),
            workers: Arc::clone(workers),
            inherited: generation.inherited(),
            drain,
            generation: generation.number(),
            started: SystemTime::now(),
            version: service.version,
            not_after: service.tls.as_ref().map(|tls| tls.not_after()),
        };
        workers.spawn_on_main(admin::serve(listener, admin));
    }
    workers.spawn_on_main(tell_stop(generation.drain(), config.reload.stop_timeout));
    let exit = workers.run(driver.run_with(begin(&generation, workers)));
    let balance = metrics.ledger.balance();
    if balance.is_closed() {
        log::debug!("connections: {balance}");
    } else {
        log::error!("the ledger does not balance: {balance}");
    }
    exit
}

/// Says that the service is ready, and starts the threads that a first client need not wait for: as many serve as can, but
/// not in the place of timers.
async fn begin(generation: &Generation, workers: &Workers) -> Result<(), restart_core::Error> {
    generation.ready().await?;
    http::begin_timers();
    workers.start_helpers();
    Ok(())
}

/// Says what a stop waits for: whoever typed Ctrl-C sees no prompt, and does not know why.
async fn tell_stop(drain: Drain, timeout: Duration) {
    let mut phase = drain.phase();
    while phase != Phase::Stopping {
        phase = drain.changed(phase).await;
    }
    // By then those that do nothing have closed.
    Timer::after(TELLING_PAUSE).await;
    match drain.live() {
        0 => {}
        live => log::info!(
            "stopping: {live} connections have requests to finish, for up to {timeout:?} (`kill -9` cuts them)"
        ),
    }
}

/// Has a listener's connections send at once (`TCP_NODELAY`): Linux gives each what its listener has, and it stays with
/// those that move.
fn delay_nothing(listener: impl AsFd) {
    // Fails on Unix sockets, which delay nothing.
    let _ = sockopt::set_tcp_nodelay(listener, true);
}

/// Has the kernel ask a silent client now and then whether it is there (`SO_KEEPALIVE`): one that has vanished, or has
/// closed without a reset, is noticed also where nothing is sent to it, while its handler runs. One that only sends no
/// more answers for itself. Connections have it from their listener, at no cost.
fn keep_alive(listener: impl AsFd) {
    let listener = listener.as_fd();
    // A Unix socket takes the first and knows none of the others; its clients cannot vanish.
    let _ = sockopt::set_socket_keepalive(listener, true)
        .and_then(|()| sockopt::set_tcp_keepidle(listener, KEEPALIVE_AFTER))
        .and_then(|()| sockopt::set_tcp_keepintvl(listener, KEEPALIVE_EVERY))
        .and_then(|()| sockopt::set_tcp_keepcnt(listener, KEEPALIVE_PROBES));
}

/// Who is told of each request that is over: whoever was before, and the metrics, where somebody can read them.
fn observers(config: &Config, metrics: &Arc<Metrics>, mut observers: Vec<Observe>) -> Vec<Observe> {
    if config.metrics.is_some() {
        let metrics = Arc::clone(metrics);
        observers.push(Box::new(move |served| metrics.observe(served)));
    }
    observers
}

/// Accepts on the threads of a team.
async fn accept<H: Handler + 'static>(shared: Arc<Shared<H>>, listener: Listener, team: usize) {
    let name: Option<Arc<str>> = Some(listener.name().into());
    let tls = shared.tls.as_ref().and_then(|acceptors| acceptors.for_listener(listener.name()));
    let is_for_proxies = shared.proxies.has(listener.name());
    let door = Door::new(&shared.room, &shared.context.capacity, (team, shared.workers.teams()));
    let admit = |Accepted { fd, peer, guard, .. }: Accepted, permit| {
        shared.ledger.accepted();
        let peer = if let Address::Tcp(address) = peer { Some(address) } else { None };
        match place(&shared, &listener, is_for_proxies, peer) {
            Ok(place) => {
                let peer = peer.map(|address| address.to_string());
                let security = tls.clone().map_or(Security::Plain, Security::Handshake);
                let start = Start { listener: name.clone(), security, ..Start::new(fd, peer) };
                open(&shared, Instant::now(), (start, is_for_proxies), guard, (permit, place));
            }
            Err(reason) => shared.ledger.closed_by_us(reason, 0),
        }
    };
    accepting::accept(&listener, door, admit).await;
}

/// The place of a connection among those of its client, or why there is none. Whose one is that a proxy brings is not known
/// yet.
fn place<H>(
    shared: &Shared<H>,
    listener: &Listener,
    is_for_proxies: bool,
    peer: Option<SocketAddr>,
) -> Result<ClientPermit, http::Reason> {
    let address = peer.map(|peer| peer.ip());
    if !is_for_proxies {
        return shared.clients.enter(address).ok_or(http::Reason::Share);
    }
    if shared.proxies.takes_from(address) {
        return Ok(ClientPermit::of_nobody());
    }
    let peer = peer.map(|peer| peer.to_string());
    shared.proxies.tell(listener.name(), peer.as_deref(), "it is none of --trusted-proxy");
    Err(http::Reason::ProxyHeader)
}

/// Takes over the connections of the generations before, beyond the limit as well: they were within it there.
async fn take<H: Handler + 'static>(shared: Arc<Shared<H>>) {
    loop {
        let Connection { fd, blob, guard, companions, .. } = shared.connections.take().await;
        shared.ledger.received();
        let blob = Zeroizing::new(blob);
        match moving::unpack(fd, &blob, companions.into_iter().next()) {
            Ok((start, age)) => {
                let listener = start.listener.as_deref().unwrap_or_default();
                let (requests, age_ms) = (start.requests, age.as_millis());
                log::debug!("a connection on {listener} goes on here after {requests} requests and {age_ms} ms");
                let now = Instant::now();
                let since = now.checked_sub(age).unwrap_or(now);
                let place = shared.clients.receive(start.peer.as_deref().and_then(http::address_in));
                open(&shared, since, (start, false), guard, (shared.room.try_acquire_arc(), place));
            }
            Err(error) => {
                log::error!("a connection came with a description that cannot be read, and is closed: {error}");
                shared.ledger.closed_by_us(http::Reason::Failed, 0);
            }
        }
        // Thousands may come at once, and others want something meanwhile.
        yield_now().await;
    }
}

/// Serves a connection, which was accepted at `since`, in a task of its own. It may have to begin with a PROXY header.
fn open<H: Handler + 'static>(
    shared: &Arc<Shared<H>>,
    since: Instant,
    (start, is_for_proxies): (Start, bool),
    guard: Guard,
    held: (Option<SemaphoreGuardArc>, ClientPermit),
) {
    let owned = Arc::clone(shared);
    if is_for_proxies {
        shared.workers.spawn(|mut place| async move {
            place.begin();
            let (_permit, _) = held;
            if let Some((start, _held)) = proxied(&owned, start).await {
                connection(&owned, since, start, guard).await;
            }
            drop(place);
        });
        return;
    }
    shared.workers.spawn(|mut place| async move {
        place.begin();
        connection(&owned, since, start, guard).await;
        drop((held, place));
    });
}

/// Takes the PROXY header off a connection, and gives it its place among those of the client whom it names. Where there is
/// none for it, or no header, its end is booked.
async fn proxied<H>(shared: &Shared<H>, start: Start) -> Option<(Start, ClientPermit)> {
    let (listener, proxy) = (start.listener.clone().unwrap_or_default(), start.peer.clone());
    let start = match http::proxied(&shared.context, start).await {
        Ok(start) => start,
        Err(NoHeader { end, cause }) => {
            if let Some(cause) = cause {
                shared.proxies.tell(&listener, proxy.as_deref(), cause);
            }
            match end {
                End::Server { reason, requests } => shared.ledger.closed_by_us(reason, requests),
                End::Client { requests } => shared.ledger.closed_by_client(requests),
                End::Parked(_) => unreachable!("it is not served yet"),
            }
            return None;
        }
    };
    let place = shared.clients.enter(start.peer.as_deref().and_then(http::address_in));
    if place.is_none() {
        shared.ledger.closed_by_us(http::Reason::Share, 0);
    }
    Some((start, place?))
}

/// Serves a connection until it ends here, for good or by moving on. The guard lives until the end is booked, so that
/// the process cannot end in between.
async fn connection<H: Handler>(shared: &Shared<H>, since: Instant, mut start: Start, mut guard: Guard) {
    loop {
        match http::serve(&shared.context, start).await {
            End::Client { requests } => return shared.ledger.closed_by_client(requests),
            End::Server { reason, requests } => return shared.ledger.closed_by_us(reason, requests),
            End::Parked(parked) => {
                let (kind, requests) = (moving::kind(&parked), parked.requests);
                match hand_over(shared, since, parked, guard).await {
                    Ok(_guard) => return shared.ledger.handed_over(kind),
                    // Nobody takes it: it is served here, and its next response says that it closes.
                    Err(Some((back, kept))) => (start, guard) = (back, kept),
                    Err(None) => return shared.ledger.closed_by_us(http::Reason::Failed, requests),
                }
            }
        }
    }
}

/// Offers a connection to the next generation; it comes back where nobody takes it.
async fn hand_over<H>(
    shared: &Shared<H>,
    since: Instant,
    parked: Start,
    guard: Guard,
) -> Result<Guard, Option<(Start, Guard)>> {
    let declined = Some(shared.context.drain.changes());
    let (stream, mut packed) = moving::pack(parked, since.elapsed());
    let _claim = packed.claim.take();
    let mut offer = Connection::new(packed.formats, stream, std::mem::take(&mut *packed.blob), guard);
    offer.companions.extend(packed.companion);
    let back = match shared.connections.offer(offer).await {
        Ok(guard) => return Ok(guard),
        Err(back) => back,
    };
    let Connection { fd, companions, blob, guard, .. } = back;
    let blob = Zeroizing::new(blob);
    match moving::unpack(fd, &blob, companions.into_iter().next()) {
        Ok((start, _)) => Err(Some((Start { declined, ..start }, guard))),
        Err(error) => {
            log::error!("a connection that nobody took cannot be served here either, and is closed: {error}");
            Err(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_delay_nothing_because_their_listener_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let connect = || {
            let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            listener.accept().expect("it waits").0.nodelay().expect("a TCP socket")
        };
        assert!(!connect());
        delay_nothing(&listener);
        assert!(connect());
    }

    #[test]
    fn connections_are_asked_whether_somebody_is_there_because_their_listener_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        keep_alive(&listener);
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (accepted, _) = listener.accept().expect("it waits");
        assert!(sockopt::socket_keepalive(&accepted).expect("a socket"));
        assert_eq!(sockopt::tcp_keepidle(&accepted), Ok(KEEPALIVE_AFTER));
        assert_eq!(sockopt::tcp_keepintvl(&accepted), Ok(KEEPALIVE_EVERY));
        assert_eq!(sockopt::tcp_keepcnt(&accepted), Ok(KEEPALIVE_PROBES));
    }
}
