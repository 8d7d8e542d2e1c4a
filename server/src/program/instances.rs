//! The servers of one name that run on a machine, the plain one and the instances of a template unit: which of them a
//! command is for, and the list of them.
//!
//! It finds and lists; what is done to the one that was chosen is `commands`'.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use restart_core::Error;
use restart_core::control::{self, Client, Found, Status};
use serde_json::{Value, json};

use crate::program::cli::ClientArgs;
use crate::program::overview::{age, table};
use crate::program::package::Package;

/// Whom a command is for.
pub(super) enum Chosen {
    /// The one with this control socket.
    One(PathBuf),
    /// One of these, and nobody has said which; or all of them.
    Several(Vec<Found>),
}

/// Finds whom a command is for: for `all` that run, where nobody is named and it says so. Fails where no server runs.
pub(super) fn choose(package: &Package, args: &ClientArgs, all: bool) -> Result<Chosen, Error> {
    match (args.control(), &args.instance) {
        (None, None) => {
            let mut found = control::find_all(&package.name)?;
            Ok(if found.len() == 1 && !all { Chosen::One(found.remove(0).path) } else { Chosen::Several(found) })
        }
        (None, Some(instance)) => control::find_instance(&package.name, instance).map(Chosen::One),
        (Some(path), _) => control::find(Some(path), &package.name).map(Chosen::One),
    }
}

/// That a command is for one server, and with which flag each is named.
pub(super) fn which(package: &Package, found: &[Found]) -> String {
    let flags: Vec<String> = found.iter().map(|one| flag(one.instance.as_deref(), &one.path)).collect();
    format!("several servers of {} run, and this is for one of them; say which: {}", package.name, flags.join(", "))
}

/// The flag that names a server.
fn flag(instance: Option<&str>, path: &Path) -> String {
    match instance {
        Some(instance) => format!("--instance {instance}"),
        None => format!("--control {}", path.display()),
    }
}

/// The control socket that was asked for, or that of one of the system's own servers, where this user may not connect.
pub(super) fn hidden(package: &Package, args: &ClientArgs) -> Option<PathBuf> {
    let socket = |folder: String| Path::new("/run").join(folder).join("control.sock");
    let name = &package.name;
    let places = match (args.control(), &args.instance) {
        (Some(path), _) => vec![path.to_owned()],
        (None, Some(instance)) => vec![socket(format!("{name}@{instance}"))],
        (None, None) => {
            let instances = fs::read_dir("/run").into_iter().flatten().flatten();
            let instances = instances.filter_map(|entry| entry.file_name().into_string().ok());
            let instances = instances.filter(|folder| folder.starts_with(&format!("{name}@")));
            [name.clone()].into_iter().chain(instances).map(socket).collect()
        }
    };
    places
        .into_iter()
        .find(|place| UnixStream::connect(place).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied))
}

/// Servers, asked for their status.
pub(super) struct Listed {
    /// The list, as a table or as a JSON array. One that does not answer stands in it all the same.
    pub(super) text: String,
    /// Why each of these does not answer.
    pub(super) failures: Vec<String>,
}

/// Lists servers. Waits for each for at most 30 s.
pub(super) fn list(package: &Package, found: &[Found], as_json: bool) -> Listed {
    let servers: Vec<Server> = found.iter().map(Server::ask).collect();
    let text = if as_json {
        let all: Vec<Value> = servers.iter().map(Server::described).collect();
        serde_json::to_string_pretty(&all).expect("a status is plain data") + "\n"
    } else {
        let mut text = table(HEADS, servers.iter().map(Server::row));
        let answering = servers.iter().rfind(|server| server.status.is_ok()).or(servers.last());
        let example = answering.map(|server| flag(server.instance.as_deref(), &server.path)).unwrap_or_default();
        text.push_str(&package.named(&format!("\nall of one: reborn status {example}\n")));
        text
    };
    Listed { text, failures: servers.into_iter().filter_map(|server| server.status.err()).collect() }
}

const HEADS: [&str; 9] =
    ["INSTANCE", "GENERATION", "PID", "VERSION", "AGE", "STATE", "CONNECTIONS", "DRAINING", "ADDRESSES"];

/// One that runs, as it stands in the list.
struct Server {
    instance: Option<String>,
    path: PathBuf,
    status: Result<Status, String>,
}

impl Server {
    /// Asks it for its status, and waits for at most 30 s.
    fn ask(found: &Found) -> Server {
        let status = Client::connect(&found.path).and_then(|mut client| client.status());
        let status = status.map_err(|error| error.to_string());
        Server { instance: found.instance.clone(), path: found.path.clone(), status }
    }

    /// The status as `reborn status --json` has it for one, with whose it is.
    fn described(&self) -> Value {
        let mut all = json!({ "instance": self.instance, "control": self.path.to_string_lossy() });
        match &self.status {
            Ok(status) => {
                let fields = serde_json::to_value(status).expect("a status is plain data");
                if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
                    all.extend(fields);
                }
            }
            Err(error) => all["error"] = error.as_str().into(),
        }
        all
    }

    fn row(&self) -> [String; 9] {
        let instance = self.instance.as_deref().unwrap_or("-");
        let Ok(Status { id, state, uptime_ms, connections, listeners, draining, .. }) = &self.status else {
            return [instance, "", "", "", "", "no answer", "", "", ""].map(str::to_owned);
        };
        let addresses: Vec<&str> = listeners.iter().map(|listener| listener.address.as_str()).collect();
        let [generation, pid] = [id.generation, u64::from(id.pid)].map(|number| number.to_string());
        let [connections, draining] = [*connections, draining.len()].map(|number| number.to_string());
        let (age, addresses) = (age(Duration::from_millis(*uptime_ms)), addresses.join(", "));
        [instance, &generation, &pid, &id.version, &age, state, &connections, &draining, &addresses].map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(instance: Option<&str>, status: Result<Status, String>) -> Server {
        let folder = instance.map_or("app".to_owned(), |instance| format!("app@{instance}"));
        let path = PathBuf::from(format!("/run/{folder}/control.sock"));
        Server { instance: instance.map(str::to_owned), path, status }
    }

    fn status() -> Status {
        serde_json::from_value(json!({
            "generation": 3, "pid": 33, "version": "1.2", "state": "serving", "uptime_ms": 61_000, "connections": 20,
            "managed": true, "draining": [{"generation": 2, "pid": 22}], "last_reload": null,
            "listeners": [
                {"name": "http", "address": "127.0.0.1:80", "origin": "bound"},
                {"name": "local", "address": "unix:/run/app.sock", "origin": "bound"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn each_server_is_a_row_with_its_instance_and_its_addresses() {
        let servers = [server(None, Ok(status())), server(Some("blog"), Err("it hangs".to_owned()))];
        let expected = "\
INSTANCE  GENERATION  PID  VERSION  AGE    STATE      CONNECTIONS  DRAINING  ADDRESSES
-         3           33   1.2      1m 1s  serving    20           1         127.0.0.1:80, unix:/run/app.sock
blog                                       no answer
";
        assert_eq!(table(HEADS, servers.iter().map(Server::row)), expected);
    }

    #[test]
    fn in_json_each_is_what_it_is_for_one_and_whose_it_is() {
        let all = server(Some("blog"), Ok(status())).described();
        let alone = serde_json::to_value(status()).unwrap();
        for (field, value) in alone.as_object().unwrap() {
            assert_eq!(all[field], *value, "{field}");
        }
        assert_eq!((&all["instance"], &all["control"]), (&json!("blog"), &json!("/run/app@blog/control.sock")));
        assert_eq!(server(None, Ok(status())).described()["instance"], Value::Null);
        assert_eq!(server(None, Err("it hangs".to_owned())).described()["error"], "it hangs");
    }

    #[test]
    fn a_server_is_named_by_the_flag_that_chooses_it() {
        assert_eq!(flag(Some("blog"), Path::new("/run/app@blog/control.sock")), "--instance blog");
        assert_eq!(flag(None, Path::new("/run/app/control.sock")), "--control /run/app/control.sock");
    }
}
