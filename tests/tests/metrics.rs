//! What is counted goes on over all generations: a counter never falls at a reload, and its sum is what the clients
//! sent. Health and readiness are told beside it.

#![allow(clippy::unwrap_used)]
#![allow(clippy::float_cmp, reason = "what is counted is whole, and below 2^53")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use smol::block_on;
use tests::load::{Answer, Chat, Connection, EventStream, Limits, Look, Request, Target};
use tests::{DEADLINE, Ended, Reborn, Server, Version};

type Scrape = BTreeMap<String, f64>;

/// A server whose metrics are at another port of its own address.
fn measured(reborn: Reborn) -> (Server, Target) {
    let address = SocketAddr::new(reborn.address().ip(), reborn.address().port() + 5000);
    let server = reborn.arg("--metrics").arg(address.to_string()).start();
    (server, Target::Tcp(address))
}

/// A server that has all metrics: one of its listeners speaks TLS.
fn with_https() -> Reborn {
    let reborn = Reborn::new();
    let https = SocketAddr::new(reborn.address().ip(), reborn.address().port() + 10_000);
    reborn.listen(&format!("https={https}")).arg("--tls-self-signed")
}

fn get(target: &Target, path: &str) -> Answer {
    try_get(target, path).unwrap()
}

/// The answer, or nothing where the connection has ended without one.
fn try_get(target: &Target, path: &str) -> Option<Answer> {
    block_on(async {
        let limits = Limits { answer: DEADLINE, ..Limits::default() };
        let mut connection = Connection::open(target, limits).await.unwrap();
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.ok()?;
        connection.answer().await.ok()
    })
}

fn scrape(target: &Target) -> Scrape {
    parse(&get(target, "/metrics").text())
}

/// Each sample of the page by its name and labels.
fn parse(page: &str) -> Scrape {
    assert!(page.ends_with("# EOF\n"), "{page}");
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

fn total(scrape: &Scrape, name: &str) -> f64 {
    scrape.iter().filter(|(sample, _)| sample.split('{').next() == Some(name)).map(|(_, value)| value).sum()
}

fn is_counter(name: &str) -> bool {
    let name = name.split('{').next().unwrap();
    ["_total", "_bucket", "_count", "_sum"].iter().any(|end| name.ends_with(end))
}

#[track_caller]
fn assert_nothing_fell(before: &Scrape, after: &Scrape) {
    for (name, value) in before.iter().filter(|(name, _)| is_counter(name)) {
        let now = after.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        assert!(now >= value, "{name} fell from {value} to {now}");
    }
}

#[test]
fn counters_never_fall_over_reloads_under_load_and_their_sums_are_what_the_clients_sent() {
    let (server, metrics) = measured(Reborn::new().demo().probation_ms(0));
    let load = server.load().paced(8, 400).new_connections_paced(8, 200).start();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let (mut last, mut scrapes) = (scrape(&metrics), 0);
            while !over.load(Ordering::Relaxed) {
                // A process that ends takes along what it was asked and has not answered.
                let Some(page) = try_get(&metrics, "/metrics") else { continue };
                let next = parse(&page.text());
                assert_nothing_fell(&last, &next);
                (last, scrapes) = (next, scrapes + 1);
            }
            scrapes
        });
        for _ in 0..11 {
            let new = server.reload_ok();
            load.wait_for_pid(new, DEADLINE).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        let scrapes = scraper.join().unwrap();
        assert!(scrapes > 20, "only {scrapes} scrapes");
    });
    let report = load.stop();
    report.assert_no_failure();
    let mut last = Scrape::new();
    #[expect(clippy::cast_precision_loss, reason = "a test sends no 2^52 requests")]
    server.wait_until("all that was sent is counted", |_| {
        last = scrape(&metrics);
        let total = |name| total(&last, name);
        total("reborn_requests_total") == report.requests as f64
            && total("reborn_request_duration_seconds_count") == report.requests as f64
            && total("reborn_connections_handed_over_total") == total("reborn_connections_received_total")
    });
    assert_eq!(last["reborn_requests_total{method=\"GET\",status=\"2xx\"}"], total(&last, "reborn_requests_total"));
    assert_eq!(last["reborn_request_duration_seconds_count"], total(&last, "reborn_requests_total"));
    assert_eq!(last["reborn_request_duration_seconds_bucket{le=\"+Inf\"}"], total(&last, "reborn_requests_total"));
    assert_eq!(last["reborn_reloads_total{outcome=\"success\"}"], 11.0);
    assert_eq!((last["reborn_generation"], last["reborn_stopping"]), (12.0, 0.0));
    let moved = total(&last, "reborn_connections_handed_over_total");
    assert!(moved >= 11.0 && moved == total(&last, "reborn_connections_received_total"), "{last:?}");
    assert!(last["reborn_reload_stage_seconds_total{stage=\"ready\"}"] > 0.0);
    assert_eq!(server.status()["reloads"].as_array().unwrap().len(), 10, "the history is bounded");
}

#[test]
fn what_a_draining_generation_still_answers_is_counted_and_its_predecessors_too() {
    let (server, metrics) = measured(Reborn::new().demo().probation_ms(0));
    let draining = || scrape(&metrics)["reborn_draining_generations"];
    assert_eq!(draining(), 0.0);
    let (first, second) = (server.hold(), {
        server.reload_ok();
        server.hold()
    });
    server.wait_until("one drains", |_| draining() == 1.0);
    server.reload_ok();
    server.wait_until("two drain", |_| draining() == 2.0);
    assert_eq!(total(&scrape(&metrics), "reborn_requests_total"), 0.0);
    first.finish_by(server.first_pid());
    server
        .wait_until("the first one's request is counted", |_| total(&scrape(&metrics), "reborn_requests_total") == 1.0);
    drop(second);
    let single = server.wait_single();
    server.wait_until("both are counted", |_| total(&scrape(&metrics), "reborn_requests_total") == 2.0);
    server.wait_until("none drains", |_| draining() == 0.0);
    assert_eq!(server.pid(), single);
}

#[test]
fn what_moves_is_counted_by_what_was_under_way_and_shown_by_the_status() {
    let (server, metrics) = measured(Reborn::new().demo().probation_ms(0).args(["--drain-timeout", "60s"]));
    server.wait_until("the harness's own connections are gone", |server| server.status()["connections"] == 0);
    let (target, limits) = (Target::Tcp(server.address()), Limits { answer: DEADLINE, ..Limits::default() });
    let (mut idle, download) = (server.connect(), server.connect());
    block_on(idle.exchange(&Request::fast("idle"))).unwrap();
    // More than the kernel takes for a client that reads nothing.
    block_on(download.send(b"GET /bytes?n=50000000 HTTP/1.1\r\nhost: localhost\r\n\r\n")).unwrap();
    assert!(matches!(block_on(download.changed()), Look::Bytes(_)));
    let mut events = block_on(EventStream::open(&target, Duration::from_millis(100), limits)).unwrap();
    let mut chat = block_on(Chat::open(&target, limits)).unwrap();
    block_on(async { events.next().await.and(chat.say("before").await) }).unwrap();
    let counter = |kind: &str| format!("reborn_connections_moved_total{{kind=\"{kind}\"}}");
    let kinds = ["idle", "responses", "streams", "upgraded"];
    let first = scrape(&metrics);
    assert_eq!(kinds.map(|kind| first[&counter(kind)]), [0.0; 4], "so that the first one is an increase");
    for reloads in 1..=2 {
        server.reload_ok();
        server.wait_until("one of each kind has moved", |server| {
            let scraped = scrape(&metrics);
            assert_nothing_fell(&first, &scraped);
            server.status()["connections"] == 4 && kinds.map(|kind| scraped[&counter(kind)]) == [f64::from(reloads); 4]
        });
    }
    let held = server.hold();
    server.reload_ok();
    let mut status = server.status();
    server.wait_until("who drains has said what has moved", |server| {
        status = server.status();
        status["draining"][0]["application"]["handed_over"] == 4
    });
    let moved = serde_json::json!({"idle": 1, "responses": 1, "streams": 1, "upgraded": 1});
    assert_eq!(status["draining"][0]["application"]["moved"], moved, "{status}");
    let text = server.command(["status"]).assert_success().stdout.clone();
    assert!(text.contains("4 (1 idle, 1 responses, 1 streams, 1 upgraded)"), "{text}");
    held.finish_by(status["draining"][0]["pid"].as_u64().unwrap().try_into().unwrap());
}

#[test]
fn bytes_that_leave_are_counted_once_where_a_response_moves_and_one_that_is_not_whole_is_told() {
    const LONG: f64 = 20_000_000.0;
    let (server, metrics) = measured(Reborn::new().demo().probation_ms(0));
    let begin = || {
        let connection = server.connect();
        let head = format!("GET /bytes?n={LONG} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        block_on(connection.send(head.as_bytes())).unwrap();
        assert!(matches!(block_on(connection.changed()), Look::Bytes(_)), "the response has begun");
        connection
    };
    let before = scrape(&metrics);
    assert_eq!([before["reborn_sent_bytes_total"], before["reborn_responses_incomplete_total"]], [0.0, 0.0]);
    let (mut whole, left) = (begin(), begin());
    server.reload_ok();
    assert_eq!(block_on(whole.answer()).unwrap().status, 200);
    drop(left);
    let mut after = Scrape::new();
    server.wait_until("both are over", |_| {
        after = scrape(&metrics);
        total(&after, "reborn_requests_total") == 2.0
    });
    assert_eq!(after["reborn_responses_incomplete_total"], 1.0);
    let sent = after["reborn_sent_bytes_total"];
    assert!(sent > LONG && sent < 2.0 * LONG, "{sent}");
}

#[test]
fn what_the_deadline_cuts_is_counted_and_what_its_client_leaves_is_not() {
    let (server, metrics) = measured(Reborn::new().demo().probation_ms(0).args(["--drain-timeout", "1s"]));
    let (left, cut) = (server.hold(), server.hold());
    assert_eq!(scrape(&metrics)["reborn_requests_cut_total"], 0.0, "so that the first one is an increase");
    server.reload_ok();
    drop(left);
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(0));
    assert!(cut.finish().is_err());
    let mut scraped = Scrape::new();
    server.wait_until("both are counted", |_| {
        scraped = scrape(&metrics);
        total(&scraped, "reborn_requests_total") == 2.0
    });
    assert_eq!(scraped["reborn_requests_cut_total"], 1.0);
    server.reload_ok();
    assert_eq!(scrape(&metrics)["reborn_requests_cut_total"], 1.0, "it goes on");
}

#[test]
fn a_failed_reload_is_counted_and_the_metrics_stay_with_the_old_generation() {
    let (server, metrics) = measured(Reborn::new().demo().probation_ms(0));
    server.ask();
    let failures = "reborn_reloads_total{outcome=\"failure\"}";
    assert_eq!(scrape(&metrics)[failures], 0.0, "so that the first one is an increase");
    server.replace_binary(&Version::Missing);
    server.reload().assert_code(1);
    let mut scraped = Scrape::new();
    server.wait_until("the request and the failure are counted", |_| {
        scraped = scrape(&metrics);
        scraped[failures] == 1.0 && total(&scraped, "reborn_requests_total") == 1.0
    });
    assert_eq!(scraped["reborn_generation"], 1.0);
}

#[test]
fn readiness_fails_first_when_a_stop_begins_and_clients_are_served_through_the_stop_delay() {
    let (server, metrics) = measured(Reborn::new().demo().args(["--stop-delay", "10s"]));
    assert_eq!((get(&metrics, "/readyz").status, get(&metrics, "/healthz").status), (200, 200));
    assert_eq!(get(&metrics, "/other").status, 404);
    let stop = server.stop_in_background();
    server.wait_until("it is not ready any more", |_| get(&metrics, "/readyz").status == 503);
    assert_eq!(server.ask().pid(), Some(server.first_pid()), "new clients are served meanwhile");
    assert_eq!((get(&metrics, "/healthz").status, scrape(&metrics)["reborn_stopping"]), (200, 1.0));
    assert!(!stop.is_finished());
    stop.join().unwrap().assert_success();
    server.wait_nothing_left();
}

#[test]
fn silent_clients_keep_no_probe_from_its_answer() {
    let (_server, metrics) = measured(Reborn::new());
    let open = |begun: &[u8]| {
        let client = block_on(Connection::open(&metrics, Limits::default())).unwrap();
        block_on(client.send(begun)).unwrap();
        client
    };
    let begun: [&[u8]; 2] = [b"", b"GET /healthz HTTP/1.1\r\nhost: a\r\n"];
    let silent: Vec<_> = (0..300).map(|number| open(begun[number % 2])).collect();
    assert_eq!(["/healthz", "/readyz", "/metrics"].map(|path| get(&metrics, path).status), [200; 3]);
    drop(silent);
}

#[test]
fn metrics_can_be_had_on_a_unix_socket_and_are_moved_by_a_reload() {
    let reborn = Reborn::new().demo().probation_ms(0).args(["--config", "reborn.toml"]);
    let file = reborn.folder().join("reborn.toml");
    let paths = [1, 2].map(|number| reborn.folder().join(format!("metrics{number}.sock")));
    let write = |path: &Path| fs::write(&file, format!("metrics = \"unix:{}\"\n", path.display())).unwrap();
    write(&paths[0]);
    let server = reborn.start();
    assert_eq!(get(&Target::Unix(paths[0].clone()), "/readyz").status, 200);
    write(&paths[1]);
    server.ask();
    server.reload_ok();
    let moved = Target::Unix(paths[1].clone());
    server.wait_until("the request is counted", |_| total(&scrape(&moved), "reborn_requests_total") == 1.0);
    assert!(!paths[0].exists(), "the old path is gone");
    server.stop().assert_success();
    assert!(!paths[1].exists());
}

/// What Prometheus can ask for of the page: each sample's name, with the family that it belongs to.
fn samples(page: &str) -> BTreeMap<String, String> {
    let types: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert!(types.len() >= 14, "{page}");
    let of_family = |(family, of_type): (&str, &str)| {
        let ends: &[&str] = match of_type {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        let family = family.to_owned();
        ends.iter().map(|end| (format!("{family}{end}"), family.clone())).collect::<Vec<_>>()
    };
    types.into_iter().flat_map(of_family).collect()
}

fn deployed(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)).unwrap()
}

#[test]
fn every_metric_is_documented() {
    let (_server, metrics) = measured(with_https());
    let documentation = deployed("README.md");
    for (sample, family) in samples(&get(&metrics, "/metrics").text()) {
        let said = [&sample, &family]
            .iter()
            .any(|name| documentation.contains(&format!("`{name}`")) || documentation.contains(&format!("`{name}{{")));
        assert!(said, "{sample} is not in deploy/README.md");
    }
}

/// The metrics that an expression of the dashboard names. Each is followed by the choice of a job that the dashboard
/// offers.
#[track_caller]
fn metrics_in(expression: &str) -> Vec<&str> {
    let chosen = expression.match_indices("{job=~\"$job\"");
    let word =
        |before: &'_ str| before.len() - before.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let names: Vec<_> = chosen.map(|(at, _)| &expression[at - word(&expression[..at])..at]).collect();
    let marks = [expression.matches('{').count(), expression.matches("reborn_").count()];
    assert!(!names.is_empty() && marks == [names.len(); 2], "something is asked for without its job: {expression}");
    names
}

/// All expressions in the dashboard: of its panels and annotations, with where they stand.
fn expressions(dashboard: &serde_json::Value) -> Vec<(String, String)> {
    let of = |list: &serde_json::Value| list.as_array().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut found = vec![];
    for panel in of(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row") {
        let targets = of(&panel["targets"]);
        assert!(!targets.is_empty(), "{panel}");
        found.extend(targets.iter().map(|target| (text(&panel["title"]), text(&target["expr"]))));
    }
    for annotation in of(&dashboard["annotations"]["list"]) {
        found.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    found
}

#[test]
fn the_dashboard_asks_for_what_is_exported_and_shows_all_of_it() {
    let (_server, metrics) = measured(with_https());
    let exported = samples(&get(&metrics, "/metrics").text());
    let dashboard = serde_json::from_str(&deployed("grafana/reborn.json")).unwrap();
    let mut shown = BTreeSet::new();
    for (place, expression) in expressions(&dashboard) {
        for name in metrics_in(&expression) {
            let family = exported.get(name).unwrap_or_else(|| panic!("{place}: nothing is called {name:?}"));
            shown.insert(family.clone());
        }
    }
    let all: BTreeSet<_> = exported.into_values().collect();
    assert_eq!(all.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "no panel shows these");
}

#[test]
fn the_rules_for_prometheus_ask_for_what_is_exported() {
    let (_server, metrics) = measured(with_https());
    let exported = samples(&get(&metrics, "/metrics").text());
    let rules = deployed("prometheus/reborn.yml");
    let expressions: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() >= 3 && expressions.len() == rules.matches("- alert: ").count(), "{rules}");
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_');
        let names: Vec<_> = words.filter(|word| word.starts_with("reborn_")).collect();
        assert!(!names.is_empty() && names.iter().all(|name| exported.contains_key(*name)), "{expression}");
    }
}
