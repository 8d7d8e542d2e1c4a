//! Whatever one generation says to another, however wrong, and whatever of it is lost: each message of a reload in each
//! direction is changed in each way by which a message can be wrong, and each time all promises are kept.
//!
//! The messages come from a recorded reload, so a new protocol needs no edit here. Before the commit, and at it, a
//! reload may fail, with a reason; behind it, it has to succeed; the promises hold in any case. Cells run several at a time, and
//! those that fail are printed as a table. `REBORN_TEST_RELAY=TEXT` runs the cells only whose line has the text.

#![allow(clippy::unwrap_used)]

mod scene;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use scene::{Verdict, promises_hold};
use tests::Relay;
use tests::relay::{Change, Direction, Occurrence, Order, Seen, Which};

/// Runs those cells only whose line has this text.
const FILTER: &str = "REBORN_TEST_RELAY";

/// How many cells run at once; most of a cell's time is waiting.
const THREADS: usize = 6;

/// How long a message is held back: long enough for whoever waits for it to do something else.
const DELAY_MS: u64 = 150;

/// The kind with which no failure is taken for an answer any more.
const COMMIT: &str = "commit";

/// One message of the recorded reload.
struct Message {
    first: Seen,
    /// A reload that fails at it, with a reason, keeps its promise.
    may_fail: bool,
    /// Another kind that goes the same way over the same socket.
    other_kind: Option<String>,
}

/// One message and one change of it.
struct Cell {
    order: Order,
    may_fail: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Order { direction, kind, socket, change, .. } = &self.order;
        let direction = if *direction == Direction::ToNewer { "to newer" } else { "to older" };
        let socket = socket.as_deref().unwrap_or_default();
        write!(f, "{direction} | {socket} | {kind} | {}", describe(change))
    }
}

fn describe(change: &Change) -> String {
    match change {
        Change::UnknownField => "unknown field".into(),
        Change::MissingField(name) => format!("missing field {}", name.as_deref().unwrap_or("(first)")),
        Change::OtherType(name) => format!("other type of {}", name.as_deref().unwrap_or("(first)")),
        Change::OtherKind(kind) => format!("other kind: {kind}"),
        Change::Garbage => "garbage".into(),
        Change::Duplicate => "duplicate".into(),
        Change::DropDescriptor(which) => format!("{which:?} descriptor dropped").to_lowercase(),
        Change::SurplusDescriptor => "surplus descriptor".into(),
        Change::Drop => "dropped".into(),
        Change::Delay(ms) => format!("delayed by {ms} ms"),
    }
}

/// The messages of a reload, each kind of each socket and direction once, in order.
fn messages(seen: &[Seen]) -> Vec<Message> {
    let key = |seen: &Seen| (seen.direction, seen.socket.clone(), seen.kind.clone());
    let is_commit = |seen: &Seen| seen.direction == Direction::ToNewer && seen.kind == COMMIT;
    let commit = seen.iter().position(is_commit).expect("a reload has a point of no return");
    let mut messages: Vec<Message> = Vec::new();
    for (number, first) in seen.iter().enumerate() {
        if messages.iter().any(|message| key(&message.first) == key(first)) {
            continue;
        }
        let is_other = |other: &&Seen| {
            (other.direction, &other.socket) == (first.direction, &first.socket) && other.kind != first.kind
        };
        let other_kind = seen.iter().find(is_other).map(|other| other.kind.clone());
        messages.push(Message { first: first.clone(), may_fail: number <= commit, other_kind });
    }
    messages
}

/// All changes that can be made to a message.
fn cells_of(message: &Message) -> Vec<Cell> {
    let Message { first, may_fail, other_kind } = message;
    let mut changes = vec![Change::UnknownField, Change::OtherKind("song".into()), Change::Garbage];
    changes.extend([Change::Duplicate, Change::SurplusDescriptor, Change::Drop, Change::Delay(DELAY_MS)]);
    changes.extend(other_kind.iter().map(|kind| Change::OtherKind(kind.clone())));
    if first.descriptors > 0 {
        changes.push(Change::DropDescriptor(Which::First));
    }
    if first.descriptors > 1 {
        changes.push(Change::DropDescriptor(Which::Last));
    }
    for field in &first.fields {
        changes.extend([Change::MissingField(Some(field.clone())), Change::OtherType(Some(field.clone()))]);
    }
    let cell = |change| {
        let (kind, socket) = (first.kind.clone(), Some(first.socket.clone()));
        let order = Order { direction: first.direction, kind, socket, occurrence: Occurrence::First, change };
        Cell { order, may_fail: *may_fail }
    };
    changes.into_iter().map(cell).collect()
}

/// Runs a cell, whatever becomes of it.
fn run(cell: &Cell) -> (Verdict, Duration) {
    let began = Instant::now();
    let relay = Relay::new().order(cell.order.clone());
    let verdict = catch_unwind(AssertUnwindSafe(|| promises_hold(relay, cell.may_fail))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map_or("a panic without words", String::as_str);
        Verdict::broken(&format!("the harness gave up: {}", words.lines().next().unwrap_or_default()))
    });
    (verdict, began.elapsed())
}

/// Runs cells, several at a time.
fn run_all(cells: &[Cell]) -> Vec<(&Cell, Verdict, Duration)> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (verdict, took) = run(cell);
                    done.lock().unwrap().push((cell, verdict, took));
                }
            });
        }
    });
    done.into_inner().unwrap()
}

#[test]
fn whatever_is_wrong_with_a_message_no_request_is_lost_and_one_process_is_the_main_one() {
    let recorded = promises_hold(Relay::new(), false);
    assert!(recorded.broken.is_empty(), "an unchanged reload broke promises: {:#?}", recorded.broken);
    let messages = messages(&recorded.seen);
    let filter = std::env::var(FILTER).unwrap_or_default();
    let mut cells: Vec<Cell> = messages.iter().flat_map(cells_of).collect();
    cells.retain(|cell| cell.to_string().contains(&filter));
    println!("{} messages, {} cells", messages.len(), cells.len());
    for Message { first, may_fail, .. } in &messages {
        let Seen { direction, socket, kind, fields, descriptors, .. } = first;
        let phase = if *may_fail { "may fail" } else { "must succeed" };
        println!("message | {direction:?} | {socket} | {kind} | {} | {descriptors} fds | {phase}", fields.join(", "));
    }
    let began = Instant::now();
    let done = run_all(&cells);
    println!("took {:.1?}, of which the longest {:.1?}", began.elapsed(), done.iter().map(|(_, _, took)| *took).max());
    let in_order = cells.iter().filter_map(|cell| done.iter().find(|(of, ..)| std::ptr::eq(*of, cell)));
    let mut failed = 0;
    for (cell, verdict, took) in in_order {
        let phase = if cell.may_fail { "may fail" } else { "must succeed" };
        let line = format!("{cell} | {phase} | {} in {took:.1?}", verdict.reload);
        if !verdict.broken.is_empty() {
            failed += 1;
            println!("BROKEN | {line} | {}", verdict.broken.join("; "));
        } else if !filter.is_empty() {
            println!("kept   | {line}");
        }
    }
    assert_eq!(failed, 0, "so many of {} cells broke promises; the table above has them", cells.len());
}
