//! What the library's tests start: an axum program that says who asks, and that gives an upgraded connection back what it
//! says. Not an example to follow; `axum` and `axum_chat` are.

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use hyper_util::rt::TokioIo;
use restart_core::axum::Program;
use tokio::io::AsyncWriteExt;

fn main() -> ExitCode {
    Program::new("fixture-axum").listen("http=127.0.0.1:0").run(async |generation| {
        let number = generation.number();
        let who = async move |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("{number} {peer}");
        let echo = async move |peer: ConnectInfo<SocketAddr>, request: Request| echo(number, peer, request);
        Ok(Router::new().route("/who", get(who)).route("/echo", get(echo)))
    })
}

/// Switches in the way of axum's `ws`: it takes what hyper has put into the request, and a task of its own goes on. That
/// one says who the client is, and then what the client says.
fn echo(number: u64, ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request) -> Response {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        if to.write_all(format!("{number} {peer}\n").as_bytes()).await.is_ok() {
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let heads = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, heads).into_response()
}
