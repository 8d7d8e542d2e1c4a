//! Where one machine is not enough: three instances behind a real HAProxy that checks their health, each in a network
//! of its own, replaced one after the other by stopping and starting them, as Kubernetes rolls a deployment out.

use std::{
    fmt::Write as _,
    process::{Child, Command},
    thread,
};

use tests::{
    Version,
    lab::{DEADLINE, Lab, PROGRAM},
    load::{Load, Target},
    skip::skip,
};

const INSTANCES: u8 = 3;
/// Where HAProxy listens, and where it is asked how things are.
const FRONT: &str = "127.0.0.1:8000";
const STATISTICS: &str = "127.0.0.1:8001";

/// HAProxy's configuration: an instance that is not ready gets no new requests, and loses its checks within 200 ms.
fn configuration() -> String {
    let mut text = format!(
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n  \
         timeout queue 10s\n  timeout check 5s\nfrontend statistics\n  bind {STATISTICS}\n  stats enable\n  \
         stats uri /\nfrontend front\n  bind {FRONT}\n  default_backend instances\nbackend instances\n  \
         option httpchk GET /readyz\n  default-server check port 9180 inter 200ms fall 1 rise 1\n"
    );
    for number in 1..=INSTANCES {
        writeln!(text, "  server instance{number} 10.77.{number}.2:8080").expect("a String takes it");
    }
    text
}

/// Gives each instance a network of its own, with one cable to HAProxy's.
fn lay_cables(lab: &Lab) {
    let mut script = "set -e\n".to_owned();
    for n in 1..=INSTANCES {
        writeln!(
            script,
            "ip netns add host{n}\nip link add cable{n} type veth peer name eth0 netns host{n}\n\
             ip addr add 10.77.{n}.1/24 dev cable{n}\nip link set cable{n} up\n\
             ip -n host{n} addr add 10.77.{n}.2/24 dev eth0\nip -n host{n} link set eth0 up\nip -n host{n} link set lo up"
        )
        .expect("a String takes it");
    }
    let said = lab.exec(["sh", "-c", &script]);
    assert!(said.status.success(), "{said:#?}");
}

/// One instance.
struct Instance {
    /// What has entered the lab for it, and ends with its exit status.
    child: Child,
    control: String,
}

impl Instance {
    fn start(lab: &Lab, number: u8) -> Self {
        let address = |port: u16| format!("10.77.{number}.2:{port}");
        let (host, listen, metrics) = (format!("host{number}"), format!("http={}", address(8080)), address(9180));
        let control = format!("/run/instance{number}.sock");
        let place = ["ip", "netns", "exec", &host, PROGRAM, "serve", "--demo", "--stop-delay", "5s"];
        let flags = ["--listen", &listen, "--metrics", &metrics, "--control", &control];
        Self { child: lab.spawn(place.into_iter().chain(flags)), control }
    }

    /// Stops it: it says that it is not ready, serves on for its delay, finishes its requests, and ends.
    fn stop(mut self, lab: &Lab) {
        let said = lab.exec([PROGRAM, "stop", "--control", &self.control]);
        assert!(said.status.success(), "{said:#?}");
        let status = self.child.wait().expect("it was started here");
        assert!(status.success(), "a stop is no failure: {status}");
    }
}

/// Waits until HAProxy believes in so many instances.
fn wait_for_health(lab: &Lab, instances: usize) {
    let ask = format!("curl --silent 'http://{STATISTICS}/;csv' | grep ^instances,instance | grep -c ,UP,");
    lab.wait_until(&format!("HAProxy sees {instances} instances up"), DEADLINE, || {
        lab.exec(["sh", "-c", &ask]).stdout == instances.to_string()
    });
}

#[test]
fn three_instances_behind_haproxy_are_rolled_without_a_failed_request() {
    for tool in ["haproxy", "curl", "ip"] {
        if Command::new(tool).arg("-V").output().is_err() {
            return skip(&format!("{tool} is not installed"));
        }
    }
    let Some(lab) = Lab::boot() else { return };
    lay_cables(&lab);
    Version::Current.put(&lab.path(PROGRAM));
    lab.write("/etc/haproxy.cfg", configuration());
    let mut instances: Vec<Instance> = (1..=INSTANCES).map(|number| Instance::start(&lab, number)).collect();
    let mut haproxy = lab.spawn(["haproxy", "-f", "/etc/haproxy.cfg", "-db"]);
    wait_for_health(&lab, instances.len());

    let target: Target = FRONT.parse().expect("an address");
    let load = lab.inside(|| Load::new(target).paced(8, 400).new_connections_paced(4, 50).start());
    let seen = |count: usize| {
        load.wait_until(&format!("{count} processes have answered"), |report| report.pids.len() >= count)
    };
    seen(3);
    Version::Differing.put(&lab.path(PROGRAM));
    for number in 1..=INSTANCES {
        instances.remove(0).stop(&lab);
        instances.push(Instance::start(&lab, number));
        wait_for_health(&lab, instances.len());
        seen(3 + usize::from(number));
    }
    load.stop().assert_no_failure();
    thread::scope(|scope| {
        for instance in instances {
            scope.spawn(|| instance.stop(&lab));
        }
    });
    haproxy.kill().expect("it runs");
    haproxy.wait().expect("it was started here");
}
