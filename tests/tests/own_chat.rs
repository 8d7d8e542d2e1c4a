//! A WebSocket of somebody's own program goes on through reloads: the example `chat` shows it, through real ones.

use std::{net::TcpStream, time::Duration};

use smol::block_on;
use tests::{
    DEADLINE, Process, Reborn, Server, Version, binary,
    load::{Chat, Limits, Target},
};
use tungstenite::{
    Error, Message,
    protocol::frame::{
        Frame,
        coding::{CloseCode, Data, OpCode},
    },
};

/// A chat that serves.
fn start() -> Server {
    Reborn::new().version(Version::File(binary::example("chat"))).probation_ms(0).start()
}

/// A reload, after which nothing keeps the old process.
#[track_caller]
fn reload(server: &Server) {
    let old = Process::open(server.pid()).expect("it runs");
    server.reload_ok();
    assert!(old.wait(DEADLINE), "the old process stays\n{}", server.state());
}

/// A client that decides on its frames, and blocks.
fn connect(server: &Server) -> tungstenite::WebSocket<TcpStream> {
    let stream = TcpStream::connect(server.address()).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
    tungstenite::client(format!("ws://{}/", server.address()), stream).expect("it is a WebSocket").0
}

#[test]
fn its_nickname_and_its_count_go_through_three_reloads_also_in_the_middle_of_a_frame() {
    let server = start();
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    block_on(async {
        let mut chat = Chat::open(&Target::Tcp(server.address()), limits).await?;
        chat.call_me("Anna").await?;
        reload(&server);
        chat.say("between two messages").await?;
        let second = chat.begin(&"in the middle ".repeat(200)).await?;
        reload(&server);
        chat.end(second).await?;
        let second = chat.begin("once more").await?;
        reload(&server);
        chat.end(second).await?;
        assert_eq!(chat.said(), 4);
        chat.say_in_halves("and then", Duration::from_millis(1)).await
    })
    .expect("a chat that nothing happens to");
    assert_eq!(server.generation(), 4);
    server.assert_no_error();
}

#[test]
fn a_message_in_parts_with_a_ping_between_them_goes_on_in_the_next_process() {
    let server = start();
    let mut client = connect(&server);
    let part = |data, text: &'static str, is_last| Frame::message(text, OpCode::Data(data), is_last);
    client.send(Message::Frame(part(Data::Text, "in ", false))).expect("it is sent");
    client.send(Message::Ping("there?".into())).expect("it is sent");
    assert_eq!(client.read().expect("an answer"), Message::Pong("there?".into()));
    client.send(Message::Frame(part(Data::Continue, "three ", false))).expect("it is sent");
    reload(&server);
    client.send(Message::Frame(part(Data::Continue, "parts", true))).expect("it is sent");
    let answer = loop {
        match client.read().expect("an answer") {
            // What was kept of the message is read again, the ping within it as well.
            Message::Pong(_) => {}
            other => break other,
        }
    };
    assert_eq!(answer, Message::text("1: in three parts"));
}

#[test]
fn a_stop_and_a_message_that_is_too_long_are_told_by_a_close_frame() {
    let server = start();
    let code = |client: &mut tungstenite::WebSocket<TcpStream>| match client.read() {
        Ok(Message::Close(Some(frame))) => frame.code,
        other => panic!("no close frame: {other:?}"),
    };
    let mut client = connect(&server);
    client.send(Message::text("x".repeat(17_000))).expect("it is sent");
    assert_eq!(code(&mut client), CloseCode::Size);
    let mut client = connect(&server);
    client.send(Message::text("here")).expect("it is sent");
    assert_eq!(client.read().expect("an answer"), Message::text("1: here"));
    let stop = server.stop_in_background();
    assert_eq!(code(&mut client), CloseCode::Away);
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
    stop.join().expect("it ends").assert_success();
}
