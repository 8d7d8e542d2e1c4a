//! What is served at `--metrics`: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever watches the process.
//!
//! The listener is handed over like the control socket, so that the newest generation answers, with what all
//! generations have counted: a counter never falls at a reload. Each answer closes its connection, since the next
//! question may be another process's to answer. It counts nothing itself.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_types::headers::CONNECTION;
use http_types::{Body, Method, Request, Response, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use restart_core::{Accepted, Counts, Drain, Inherited, Listener, resident_memory};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{FutureExt, yield_now};

use crate::http::{self, Context, Handler, Limits, Start};
use crate::service::ledger::MOVED_KINDS;
use crate::service::metrics::{BUCKETS_US, HANDSHAKES, Metrics, bucket_name};
use crate::threads::workers::Workers;

/// So many clients may be there at a time; whoever came first makes room for another.
const CLIENTS_MAX: usize = 32;
/// A client that asks nothing for so long, or does not take its answer, is closed: probes ask at once.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// What Prometheus asks for and understands.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What answers.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) inherited: Inherited,
    pub(crate) drain: Drain,
    pub(crate) generation: u64,
    pub(crate) started: SystemTime,
    /// The program's version.
    pub(crate) version: String,
    /// When the first certificate expires, where there is one.
    pub(crate) not_after: Option<SystemTime>,
}

/// Answers clients for as long as this is the main process. No number of silent ones keeps another out.
pub(crate) async fn serve(listener: Listener, admin: Admin) {
    let workers = Arc::clone(&admin.workers);
    let limits = Limits {
        idle_timeout: CLIENT_TIMEOUT,
        head_timeout: CLIENT_TIMEOUT,
        body_timeout: CLIENT_TIMEOUT,
        write_timeout: CLIENT_TIMEOUT,
        ..Limits::default()
    };
    // The drain is of its own: that of the service neither waits for these connections nor moves them.
    let context = Arc::new(Context { limits, ..Context::new(admin, Drain::new()) });
    let mut guests = Guests::default();
    while let Some(Accepted { fd, guard, .. }) = listener.accept().await {
        let (context, leave) = (Arc::clone(&context), guests.enter());
        let connection = async move {
            let _held = guard;
            let serve = async {
                http::serve(&context, Start::new(fd, None)).await;
            };
            // Nothing is ever sent: it ends when this one has to make room.
            let evicted = async {
                let _ = leave.recv().await;
            };
            serve.or(evicted).await;
        };
        workers.spawn_on_main(connection);
        yield_now().await;
    }
}

/// Who is there, in the order in which they came. A client ends when its sender is dropped.
#[derive(Debug, Default)]
struct Guests(VecDeque<Sender<()>>);

impl Guests {
    /// Lets another one in, and the first one go if there are too many. It has to leave when nothing can be received
    /// any more.
    fn enter(&mut self) -> Receiver<()> {
        self.0.retain(|guest| !guest.is_closed());
        if self.0.len() >= CLIENTS_MAX {
            self.0.pop_front();
        }
        let (guest, leave) = bounded(1);
        self.0.push_back(guest);
        leave
    }
}

impl Handler for Admin {
    async fn answer(&self, request: Request) -> http_types::Result<Response> {
        let mut response = match request.url().path() {
            _ if !matches!(request.method(), Method::Get | Method::Head) => {
                plain(StatusCode::MethodNotAllowed, "this takes GET and HEAD\n")
            }
            "/metrics" => self.scrape(),
            "/healthz" if self.workers.probe().await => plain(StatusCode::Ok, "ok\n"),
            "/healthz" => {
                plain(StatusCode::ServiceUnavailable, "in a team of threads none has taken a task for a second\n")
            }
            "/readyz" if self.drain.stop_announced() => plain(StatusCode::ServiceUnavailable, "stopping\n"),
            "/readyz" => plain(StatusCode::Ok, "ready\n"),
            _ => plain(StatusCode::NotFound, "there are /metrics, /healthz and /readyz\n"),
        };
        response.insert_header(CONNECTION, "close");
        if request.method() == Method::Head {
            let length = response.len();
            response.replace_body(Body::from_reader(futures_lite::io::empty(), length));
        }
        Ok(response)
    }
}

impl Admin {
    fn scrape(&self) -> Response {
        let mut registry = Registry::with_prefix("reborn");
        registry.register_collector(Box::new(self.clone()));
        let mut page = String::new();
        // Writing to a String cannot fail.
        _ = text::encode(&mut page, &registry);
        let mut response = plain(StatusCode::Ok, &page);
        response.insert_header("content-type", OPENMETRICS);
        response
    }
}

fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(status);
    response.set_body(text);
    response
}

impl Collector for Admin {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut totals = self.inherited.total(|| self.metrics.counts());
        // Prometheus sees an increase only where there was a number before.
        for outcome in ["success", "failure"] {
            totals.entry(format!("reloads/{outcome}")).or_default();
        }
        for kind in MOVED_KINDS {
            totals.entry(format!("connections/moved/{kind}")).or_default();
        }
        if self.not_after.is_some() {
            for (outcome, _) in self.metrics.handshakes.counts() {
                totals.entry(format!("{HANDSHAKES}{outcome}")).or_default();
            }
        }
        let has_handshakes = totals.keys().any(|name| name.starts_with(HANDSHAKES));
        let mut page = Page { encoder, totals };
        page.counter("requests", "Requests that are over", "requests/", &["method", "status"])?;
        let help = "Requests that the deadline of a drain or of a stop cut";
        page.counter("requests_cut", help, "requests_cut", &[])?;
        let help = "Responses that had begun and did not leave whole";
        page.counter("responses_incomplete", help, "responses_incomplete", &[])?;
        page.counter("sent_bytes", "Bytes of responses that have left, before TLS", "sent_bytes", &[])?;
        page.latency()?;
        let (live, busy) = (self.drain.live(), self.metrics.in_flight());
        let connections = [("busy", busy), ("idle", live.saturating_sub(busy))];
        page.gauges("connections", "Live connections of the newest generation", "state", &connections)?;
        page.counter("connections_accepted", "Connections accepted", "connections/accepted", &[])?;
        page.counter("connections_received", "Connections taken over", "connections/received", &[])?;
        page.counter("connections_handed_over", "Connections handed over", "connections/handed_over", &[])?;
        let help = "Connections handed over, by what was under way on them";
        page.counter("connections_moved", help, "connections/moved/", &["kind"])?;
        page.counter("connections_closed", "Connections closed", "connections/closed/", &["by", "reason"])?;
        if has_handshakes {
            page.counter("tls_handshakes", "TLS handshakes by their outcome", HANDSHAKES, &["outcome"])?;
        }
        page.counter("reloads", "Reloads by their outcome", "reloads/", &["outcome"])?;
        page.stages()?;
        page.gauge("generation", "The number of the generation that answers", None, self.generation)?;
        let help = "Older generations that still finish what they have";
        page.gauge("draining_generations", help, None, self.inherited.draining() as u64)?;
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = Some(&Unit::Seconds);
        page.gauge("generation_start_time", "When it was started, since 1970", seconds, started.as_secs())?;
        if let Some(not_after) = self.not_after {
            let not_after = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let help = "When the first certificate expires, since 1970";
            page.gauge("tls_certificate_not_after_timestamp", help, seconds, not_after)?;
        }
        let memory = resident_memory();
        page.gauge("process_resident_memory", "Its resident memory", Some(&Unit::Bytes), memory)?;
        page.gauge("stopping", "1 once the service was told to stop", None, u64::from(self.drain.stop_announced()))?;
        page.describe("build", "The program", None, MetricType::Info)?
            .encode_info(&[("version", self.version.as_str())])
    }
}

/// A page of metrics under construction.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
    totals: Counts,
}

impl Page<'_> {
    fn describe<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        of_type: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, unit, of_type)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        self.describe(name, help, unit, MetricType::Gauge)?.encode_gauge(&gauge(value))
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, values: &[(&str, usize)]) -> fmt::Result {
        let mut metric = self.describe(name, help, None, MetricType::Gauge)?;
        for (state, value) in values {
            metric.encode_family(&[(label, *state)])?.encode_gauge(&gauge(*value as u64))?;
        }
        Ok(())
    }

    /// A counter for each name under `prefix`, what follows in it being its labels.
    fn counter(&mut self, name: &str, help: &str, prefix: &str, labels: &[&str]) -> fmt::Result {
        let totals = std::mem::take(&mut self.totals);
        let mut metric = self.describe(name, help, None, MetricType::Counter)?;
        if labels.is_empty() {
            let total = totals.get(prefix).copied().unwrap_or_default();
            metric.encode_counter::<NoLabelSet, _, u64>(&total, None)?;
        } else {
            for (rest, total) in totals.iter().filter_map(|(name, total)| Some((name.strip_prefix(prefix)?, total))) {
                let values: Vec<_> = labels.iter().copied().zip(rest.splitn(labels.len(), '/')).collect();
                metric.encode_family(&values)?.encode_counter::<NoLabelSet, _, u64>(total, None)?;
            }
        }
        self.totals = totals;
        Ok(())
    }

    fn latency(&mut self) -> fmt::Result {
        let count = |name: &str| self.totals.get(name).copied().unwrap_or_default();
        let bounds = BUCKETS_US.iter().map(|&us| seconds(us)).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.enumerate().map(|(index, bound)| (bound, count(&bucket_name(index)))).collect();
        let (sum, number) = (seconds(count("latency_us")), buckets.iter().map(|(_, count)| count).sum());
        let help = "From a request's first byte to its answer's last";
        let mut metric = self.describe("request_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, number, &buckets, None)
    }

    fn stages(&mut self) -> fmt::Result {
        let stages = ["spawn", "ready", "probation", "commit"];
        let totals =
            stages.map(|stage| seconds(self.totals.get(&format!("stages/{stage}")).copied().unwrap_or_default()));
        let help = "How long successful reloads have taken in all";
        let mut metric = self.describe("reload_stage", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for (stage, total) in stages.iter().zip(totals) {
            metric.encode_family(&[("stage", *stage)])?.encode_counter::<NoLabelSet, _, u64>(&total, None)?;
        }
        Ok(())
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use http_types::Url;
    use smol::block_on;

    use super::*;

    #[test]
    fn a_server_whose_handlers_hang_on_every_thread_is_not_healthy() {
        let workers = Arc::new(Workers::start(1).expect("threads"));
        let admin = Admin {
            metrics: Arc::default(),
            workers: Arc::clone(&workers),
            inherited: Inherited::default(),
            drain: Drain::new(),
            generation: 1,
            started: SystemTime::now(),
            version: String::new(),
            not_after: None,
        };
        let health = || {
            let request = Request::new(Method::Get, Url::parse("http://localhost/healthz").expect("an address"));
            block_on(admin.answer(request)).expect("it never fails").status()
        };
        assert_eq!(health(), StatusCode::Ok);
        let ((begin, begun), (end, ended)) = (channel(), channel::<()>());
        workers.spawn(|_| async move {
            begin.send(()).expect("somebody waits for it");
            let _ = ended.recv();
        });
        begun.recv().expect("it is run");
        assert_eq!(health(), StatusCode::ServiceUnavailable);
        drop(end);
    }
}
