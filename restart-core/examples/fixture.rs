//! What the library's tests start: an echo server whose size, state and manners are set by the environment.
//!
//! Arguments are endpoints. Each line or datagram is answered with the generation, the pid and the bytes of state that
//! came from the generation before. Not an example to follow; `echo` and `hyper` are.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use restart_core::control::{Answer, Place};
use restart_core::{Accepted, Builder, Endpoint, Exit, Generation, Phase};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::{Async, Timer, future};

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What a file in the test's folder says, if it is there.
fn note(variable: &str) -> Option<String> {
    std::fs::read_to_string(std::env::var_os(variable)?).ok()
}

/// Greets the predecessor, and takes nothing of what it gives.
fn say_hello() -> Result<(), Box<dyn std::error::Error>> {
    use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
    let hello = r#"{"kind":"hello","magic":"reborn-handover","min_version":1,"max_version":1,"features":[],"formats":[],"generation":2,"pid":1}"#;
    let (line, _ours) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [pidfd.as_fd(), line.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(std::io::stdin(), &[IoSlice::new(hello.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What is asked for, by the environment. `fails`: where a successor is to fail.
fn builder(endpoints: &[Endpoint], fails: Option<&str>) -> Builder {
    let version = note("FIXTURE_VERSION").unwrap_or_else(|| "fixture".to_owned());
    let mut builder = Builder::new().probation(Duration::ZERO).version(&version);
    for endpoint in endpoints {
        builder = builder.listen(endpoint.clone());
    }
    if let Some(path) = std::env::var_os("FIXTURE_CONTROL") {
        builder = builder.control(Place::Path(PathBuf::from(path)));
    }
    if let Some(word) = note("FIXTURE_WORD") {
        builder = builder.handover_word(word);
    }
    if let Some(path) = std::env::var_os("FIXTURE_PID_FILE") {
        builder = builder.pid_file(path);
    }
    if std::env::var_os("FIXTURE_PATIENCE").is_some() {
        let ever = Duration::MAX;
        builder = builder.ready_timeout(ever).drain_timeout(ever).stop_delay(Duration::ZERO).max_draining(u8::MAX);
    }
    // A successor's alone: there is no such signal.
    if fails == Some("at its signals") {
        builder = builder.reload_signal(999);
    }
    if let Some(bytes) = number("FIXTURE_STATE") {
        builder = builder.save_state(7, move || (0..=250).cycle().take(bytes).collect());
    }
    // Well for as long as the file is not there; else it says nothing at all.
    let unwell = std::env::var_os("FIXTURE_UNWELL").map(PathBuf::from);
    builder.probe(move || {
        let is_unwell = unwell.as_ref().is_some_and(|path| path.exists());
        async move { if is_unwell { future::pending().await } else { true } }
    })
}

fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let fails = note("FIXTURE_FAIL").filter(|_| std::env::var_os("RESTART_CORE_HANDOVER").is_some());
    if fails.as_deref() == Some("after its hello") {
        say_hello()?;
        std::process::exit(3);
    }
    let endpoints: Vec<Endpoint> =
        restart_core::arguments().iter().map(|arg| arg.to_string_lossy().parse()).collect::<Result<_, _>>()?;
    let (generation, driver) = match builder(&endpoints, fails.as_deref()).start() {
        Ok(started) => started,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let own = generation.number();
    let asks = std::env::var_os("FIXTURE_ASKS");
    if asks.is_some() {
        smol::block_on(ask_all("before", &generation));
    }
    match fails.as_deref() {
        None | Some("by accepting nothing") => {}
        Some("without a word") => {
            drop(generation);
            return Ok(smol::block_on(driver.run()));
        }
        Some(_) => {
            generation.fail("it was told to fail");
            std::process::exit(1);
        }
    }
    // As for a database that is down.
    while note("FIXTURE_WAITS").is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let state = generation.take_state().map_or("none".to_owned(), |state| {
        let whole = state.bytes.iter().copied().eq((0..=250).cycle().take(state.bytes.len()));
        if whole && state.format == 7 { state.bytes.len().to_string() } else { "spoilt".to_owned() }
    });
    // Only the first generation: what its reload costs is asked, not how long its successor takes to fill its memory.
    let mebibytes = number("FIXTURE_MEMORY_MIB").filter(|_| own == 1).unwrap_or(0);
    let mut memory = vec![0_u8; mebibytes << 20];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let greeting = format!("{own} {} {state}", std::process::id());
    if fails.is_none() {
        serve(&generation, &endpoints, &greeting)?;
    }
    // The same, where the application waits without blocking.
    let get_ready = async {
        while note("FIXTURE_GETS_READY").is_some() {
            Timer::after(Duration::from_millis(1)).await;
        }
        generation.ready().await
    };
    let exit = smol::block_on(driver.run_with(get_ready));
    if asks.is_some() {
        smol::block_on(ask_all("after", &generation));
    }
    std::hint::black_box(&memory);
    Ok(exit)
}

/// Accepts on all listeners, and answers datagrams.
fn serve(generation: &Generation, endpoints: &[Endpoint], greeting: &str) -> Result<(), Box<dyn std::error::Error>> {
    for listener in generation.listeners().to_vec() {
        let (drain, greeting, own) = (generation.drain(), greeting.to_owned(), generation.clone());
        smol::spawn(async move {
            while let Some(accepted) = listener.accept().await {
                let drained = drain.changed(Phase::Serving);
                let echo = echo(accepted, greeting.clone(), own.clone());
                smol::spawn(future::or(echo, async move {
                    drained.await;
                    Ok(())
                }))
                .detach();
            }
        })
        .detach();
    }
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.address.is_stream()) {
        let socket = Async::<UdpSocket>::new(generation.socket(&endpoint.name)?.into())?;
        let greeting = greeting.to_owned();
        smol::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((_, from)) = socket.recv_from(&mut packet).await {
                let _ = socket.send_to(greeting.as_bytes(), from).await;
            }
        })
        .detach();
    }
    Ok(())
}

/// What the application can ask from within, as a client may have it ask.
async fn ask(generation: &Generation, wish: &str) -> Option<String> {
    let answer = match wish {
        "status\n" => generation.status().await.map(|status| status.state),
        "reload\n" => generation.reload().await.map(|answer| match answer {
            Answer::Outcome(outcome) => outcome.to_string(),
            other => format!("{other:?}"),
        }),
        "committed\n" => Ok(format!("{:?}", future::poll_once(generation.committed()).await)),
        "stop\n" => generation.stop().await.map(|()| "stops".to_owned()),
        _ => return None,
    };
    Some(answer.unwrap_or_else(|error| error.to_string()) + "\n")
}

/// Asks for all of it at once where nobody drives, and prints what each was told.
async fn ask_all(when: &str, generation: &Generation) {
    let told = future::zip(ask(generation, "status\n"), ask(generation, "stop\n"));
    let (reload, (status, stop)) = future::zip(ask(generation, "reload\n"), told).await;
    for (what, told) in [("reload", reload), ("status", status), ("stop", stop)] {
        print!("{when} {what}: {}", told.unwrap_or_default());
    }
}

async fn echo(accepted: Accepted, greeting: String, generation: Generation) -> std::io::Result<()> {
    let Accepted { fd, guard: _guard, .. } = accepted;
    let mut stream = BufReader::new(Async::<std::os::unix::net::UnixStream>::new(fd.into())?);
    let mut line = String::new();
    while (&mut stream).take(1024).read_line(&mut line).await? > 0 {
        let answer = match ask(&generation, &line).await {
            Some(answer) => answer,
            None => format!("{greeting} {line}"),
        };
        stream.get_mut().write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}
