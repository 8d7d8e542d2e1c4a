//! A server that speaks TLS, for tests: its listener, its certificate, which can be replaced, what it says of handshakes,
//! and the account that debug builds keep of every record that they seal.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    net::SocketAddr,
    path::Path,
};

use super::{Reborn, Server, certificates::Certificate, load::Target};

/// Where a debug build of the server notes what it seals.
const RECORDS_VARIABLE: &str = "REBORN_TEST_SEALED_RECORDS";

/// The file of that, in the server's folder.
const RECORDS_FILE: &str = "sealed";

/// The level of the log at which handshakes are told, and nothing else of the kind.
const HANDSHAKES_LOG: &str = "info,server::http::connection::handshake=debug";

impl Reborn {
    /// A listener `https` on a port of the kernel's choosing, with a certificate that [`Server::renew_certificate`] replaces.
    pub fn https(self) -> Self {
        renew(self.folder());
        let files = ["--tls-certificate", "site.pem", "--tls-key", "site.key"];
        self.listen("https=127.0.0.1:0").args(files)
    }

    /// A log in which [`Server::handshakes`] can count, without a line for each request.
    pub fn tells_handshakes(self) -> Self {
        self.args(["--log", HANDSHAKES_LOG])
    }

    /// Has every record noted that is sealed, for [`Server::sealed_records`]. Only debug builds can.
    pub fn notes_sealed_records(self) -> Self {
        let file = self.folder().join(RECORDS_FILE);
        self.env(RECORDS_VARIABLE, file)
    }
}

impl Server {
    /// The address of its listener `https`.
    #[track_caller]
    pub fn https_address(&self) -> SocketAddr {
        let status = self.status();
        let listeners = status["listeners"].as_array().expect("the status names listeners");
        let https = listeners.iter().find(|listener| listener["name"] == "https");
        let address = https.and_then(|https| https["address"].as_str()).and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("no listener https in {status}"))
    }

    /// The same as a load's target.
    #[track_caller]
    pub fn https_target(&self) -> Target {
        Target::Tls(self.https_address())
    }

    /// Puts another certificate in the place of the one that is there, for the next generation.
    pub fn renew_certificate(&self) {
        renew(self.folder());
    }

    /// How many handshakes all generations have held, by their log: see [`Reborn::tells_handshakes`].
    pub fn handshakes(&self) -> usize {
        self.log().matches("a TLS handshake is done").count()
    }

    /// What all generations have sealed so far.
    #[track_caller]
    pub fn sealed_records(&self) -> SealedRecords {
        let text = fs::read_to_string(self.folder().join(RECORDS_FILE));
        SealedRecords::read(&text.expect("a debug build that was started with notes_sealed_records()"))
    }
}

/// What was sealed, in all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedRecords {
    /// How many records there were.
    pub count: usize,
    /// With how many keys.
    pub keys: usize,
    /// How many of the keys sealed in more than one process.
    pub shared: usize,
    /// What must not be: a key's hash and a number, with both processes that used it.
    pub twice: Vec<String>,
}

impl SealedRecords {
    fn read(text: &str) -> Self {
        let mut used: HashMap<(&str, u64), &str> = HashMap::new();
        let mut processes: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        let mut read = Self::default();
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let &[key, number, pid] = &words[..] else { panic!("no record: {line:?}") };
            let number = number.parse().expect("a number");
            read.count += 1;
            processes.entry(key).or_default().insert(pid);
            if let Some(before) = used.insert((key, number), pid) {
                read.twice.push(format!("number {number} of key {key}: pid {before} and pid {pid}"));
            }
        }
        read.keys = processes.len();
        read.shared = processes.values().filter(|processes| processes.len() > 1).count();
        read
    }
}

fn renew(folder: &Path) {
    let certificate = Certificate::new(&["localhost"]);
    for (name, text) in [("site.pem", certificate.pem()), ("site.key", certificate.key_pem())] {
        fs::write(folder.join(name), text).expect("a file in the test's own folder");
    }
}

#[cfg(test)]
mod tests {
    use super::SealedRecords;

    #[test]
    fn a_number_that_is_used_twice_with_one_key_is_found_in_whatever_process() {
        let read = SealedRecords::read("a 0 7\nb 0 7\na 1 8\n");
        assert_eq!(read, SealedRecords { count: 3, keys: 2, shared: 1, twice: Vec::new() });
        for text in ["a 5 7\na 6 7\na 5 8\n", "a 5 7\na 5 7\n"] {
            assert_eq!(SealedRecords::read(text).twice.len(), 1, "{text}");
        }
    }
}
