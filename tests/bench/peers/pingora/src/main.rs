//! pingora as an HTTP server, with the answers that every peer gives: an application of `pingora_core`, without its proxy.
//!
//! It is replaced in pingora's own way: another one, started with `--upgrade`, waits on the upgrade socket; SIGQUIT makes
//! the old one send its listeners there, accept for 5 s more, and end after the grace period.
//! `peer-pingora ADDRESS UPGRADE_SOCKET [--upgrade]`, with `BENCH_THREADS` threads, or two.

use std::{error::Error, sync::Arc, time::Duration};

use answer::{EVENTS, Fixed, TEXT, event, fixed, interval, tagged};
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    protocols::http::ServerSession,
    server::{
        Server, ShutdownWatch,
        configuration::{Opt, ServerConf},
    },
    services::listening::Service,
};
use pingora_http::ResponseHeader;

#[path = "../../../src/answer.rs"]
mod answer;

/// With the 5 s for which the old process accepts: the 20 s that the other peers have for requests in flight. All of it
/// passes at each restart, whether there are any or not.
const GRACE_SECONDS: u64 = 15;

/// For how long a client may be silent.
const KEEP_ALIVE_SECONDS: u64 = 3600;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, upgrade_socket, rest @ ..] = &words[..] else {
        return Err("usage: peer-pingora ADDRESS UPGRADE_SOCKET [--upgrade]".into());
    };
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(2);
    let configuration = ServerConf {
        threads,
        upgrade_sock: upgrade_socket.clone(),
        grace_period_seconds: Some(GRACE_SECONDS),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let options = Opt { upgrade: rest == ["--upgrade"], ..Opt::default() };
    let mut server = Server::new_with_opt_and_conf(options, configuration);
    server.bootstrap();
    let mut service = Service::new("answers".to_owned(), Answers);
    service.add_tcp(address);
    server.add_service(service);
    server.run_forever()
}

struct Answers;

#[async_trait]
impl HttpServerApp for Answers {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // A client that has gone, or says something else than HTTP, has its connection ended.
        if !session.read_request().await.ok()? {
            return None;
        }
        let is_ending = *shutdown.borrow();
        session.set_keepalive((!is_ending).then_some(KEEP_ALIVE_SECONDS));
        answer(&mut session).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

async fn answer(session: &mut ServerSession) -> pingora_core::Result<()> {
    let uri = &session.req_header().uri;
    let (found, every) = (fixed(uri.path()), interval(uri.query()));
    let body = match found {
        Fixed::Bytes(bytes) => Bytes::from_static(bytes),
        Fixed::Tagged => return tagged_answer(session).await,
        Fixed::Events => return events(session, every).await,
        Fixed::None => return send(session, head(404, TEXT)?, Bytes::new()).await,
    };
    send(session, head(200, TEXT)?, body).await
}

async fn tagged_answer(session: &mut ServerSession) -> pingora_core::Result<()> {
    let id = session.get_header("x-id").and_then(|id| id.to_str().ok()).unwrap_or("-").to_owned();
    let mut head = head(200, TEXT)?;
    head.insert_header("x-pid", std::process::id().to_string())?;
    let body = tagged(&id).into();
    head.insert_header("x-id", id)?;
    send(session, head, body).await
}

/// Ends with its client or with the process.
async fn events(session: &mut ServerSession, every: Duration) -> pingora_core::Result<()> {
    let mut head = head(200, EVENTS)?;
    head.insert_header("transfer-encoding", "chunked")?;
    session.write_response_header(Box::new(head)).await?;
    for id in 1.. {
        tokio::time::sleep(every).await;
        session.write_response_body(event(id).into(), false).await?;
    }
    Ok(())
}

fn head(status: u16, kind: &'static str) -> pingora_core::Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header("content-type", kind)?;
    Ok(head)
}

async fn send(session: &mut ServerSession, mut head: ResponseHeader, body: Bytes) -> pingora_core::Result<()> {
    head.insert_header("content-length", body.len())?;
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(body, true).await
}
