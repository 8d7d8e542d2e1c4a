//! The addresses that were asked for: read, named, and checked against each other.
//!
//! How one address is written is known by `restart_core::Endpoint` alone. What is checked here is what only the whole
//! list shows, two listeners of one name and addresses that exclude each other, and what only an HTTP server refuses:
//! datagrams.

use restart_core::{Address, Endpoint};

use super::given::{Error, Given};

/// What is listened on where nothing was asked for and no socket was inherited.
pub const DEFAULT_LISTEN: &str = "http=127.0.0.1:8080";

/// What the first listener without a name is called; the others get a number as well.
const DEFAULT_NAME: &str = "http";

/// What the listener for metrics is called.
pub const METRICS_NAME: &str = "metrics";

const ADVICE: &str = "write [NAME=]ADDR, such as 127.0.0.1:8080, [::1]:8080, web=unix:/run/web.sock or @abstract";

/// Gives the list as it is wanted.
pub(super) fn check(given: &[Given]) -> Result<Vec<Endpoint>, Error> {
    let all = given.iter().map(|given| given.text().as_str()).collect::<Vec<_>>().join(",");
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(given.len());
    for given in given {
        let text = given.text();
        let refuse = |cause: String, advice: &str| given.refuse_as(&all, cause, advice);
        let number = endpoints.len() + 1;
        let name = if number == 1 { DEFAULT_NAME.to_owned() } else { format!("{DEFAULT_NAME}-{number}") };
        let endpoint = Endpoint::parse(text, &name).map_err(|error| match meant(text) {
            Some(meant) => refuse(format!("{text:?} is no address"), &meant),
            None => refuse(error.to_string(), ADVICE),
        })?;
        if !endpoint.address.is_stream() {
            return Err(refuse(format!("{text:?} is for datagrams, and HTTP needs connections"), ADVICE));
        }
        if endpoints.iter().any(|earlier| earlier.name == endpoint.name) {
            let cause = format!("two listeners are called {:?}", endpoint.name);
            return Err(refuse(cause, "give each listener a name of its own"));
        }
        if endpoints.iter().any(|earlier| earlier.address == endpoint.address) {
            return Err(refuse(format!("{} is there twice", endpoint.address), "name each address once"));
        }
        if let Some(earlier) = endpoints.iter().find(|earlier| excludes(&earlier.address, &endpoint.address)) {
            let cause = format!("{} and {} exclude each other", earlier.address, endpoint.address);
            return Err(refuse(cause, "the one for all addresses serves the other one's clients as well"));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// What was probably meant where only a port was given, or a name for this machine, as other servers take it.
fn meant(text: &str) -> Option<String> {
    let (name, address) = text.rsplit_once('=').map_or(("", text), |(name, address)| (name, address));
    let (host, port) = address.rsplit_once(':').unwrap_or(("", address));
    let port: u16 = port.parse().ok()?;
    let name = if name.is_empty() { String::new() } else { format!("{name}=") };
    match host {
        "" | "*" => Some(format!(
            "write {name}127.0.0.1:{port} for clients on this machine, {name}[::]:{port} for clients anywhere"
        )),
        "localhost" => Some(format!("write {name}127.0.0.1:{port} or {name}[::1]:{port}")),
        _ => None,
    }
}

/// Whether only one of two sockets can be bound: the same address, or all of a family and one of them.
fn excludes(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            let is_for_all = one.ip().is_unspecified() || other.ip().is_unspecified();
            let alike = one.port() == other.port() && one.port() != 0 && one.is_ipv4() == other.is_ipv4();
            one == other || (alike && is_for_all)
        }
        _ => one == other,
    }
}

/// Where metrics are served; the listener is always called [`METRICS_NAME`]. Clients are served at the default address where
/// nothing else was asked for, unless sockets are `inherited`.
pub(super) fn metrics(given: &Given, listen: &[Given], inherited: bool) -> Result<Endpoint, Error> {
    const ADVICE: &str = "write ADDR, such as 127.0.0.1:9100 or unix:/run/reborn/metrics.sock";
    let refuse = |cause: String| given.refuse(cause, ADVICE);
    let endpoint = Endpoint::parse(&format!("{METRICS_NAME}={}", given.text()), METRICS_NAME);
    let endpoint = endpoint.map_err(|error| refuse(error.to_string()))?;
    if !endpoint.address.is_stream() {
        return Err(refuse("it is for datagrams, and HTTP needs connections".to_owned()));
    }
    let clashes = |other: Endpoint| excludes(&other.address, &endpoint.address) || other.name == endpoint.name;
    let default = (listen.is_empty() && !inherited).then_some(DEFAULT_LISTEN);
    match listen
        .iter()
        .map(|given| given.text().as_str())
        .chain(default)
        .find(|text| Endpoint::parse(text, DEFAULT_NAME).is_ok_and(clashes))
    {
        Some(other) => {
            let cause = format!("clients are served on {other:?}");
            Err(given.refuse(cause, "give each listener an address and a name of its own"))
        }
        None => Ok(endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::given::{ValueSource, given};

    fn checked(source: &ValueSource, texts: &[&str]) -> Result<Vec<String>, String> {
        let given: Vec<_> = texts.iter().map(|text| given(source.clone(), "listen", text)).collect();
        let endpoints = check(&given).map_err(|error| error.to_string())?;
        Ok(endpoints.iter().map(Endpoint::to_string).collect())
    }

    #[test]
    fn a_list_keeps_its_order_and_every_listener_gets_a_name() {
        assert!(checked(&ValueSource::Flag, &["127.0.0.1:0", "0.0.0.0:0", "[::]:8080", "127.0.0.1:8080"]).is_ok());
        let given = ["127.0.0.1:8080", "[::1]:8080", "unix:/run/a,b=c", "x=@y=z"];
        let expected = ["http=127.0.0.1:8080", "http-2=[::1]:8080", "http-3=unix:/run/a,b=c", "x=unix:@y=z"];
        assert_eq!(checked(&ValueSource::Flag, &given).unwrap(), expected);
        assert_eq!(checked(&ValueSource::Default, &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn metrics_have_an_address_of_their_own() {
        let metrics = |text: &str, listen: &[&str], inherited| {
            let listen: Vec<_> = listen.iter().map(|text| given(ValueSource::Flag, "listen", text)).collect();
            let endpoint = metrics(&given(ValueSource::Flag, "metrics", text), &listen, inherited);
            endpoint.map(|endpoint| endpoint.to_string()).map_err(|error| error.to_string())
        };
        let checked = |text: &str, listen: &str| metrics(text, &[listen], false);
        assert_eq!(checked("127.0.0.1:9", "@x").unwrap(), "metrics=127.0.0.1:9");
        assert_eq!(checked("/run/m?mode=660", "@x").unwrap(), "metrics=unix:/run/m?mode=0660");
        assert_eq!(checked("127.0.0.1:80", "[::]:80").unwrap(), "metrics=127.0.0.1:80");
        let refused = [
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("[::]:80", "x=[::1]:80"),
            ("localhost", "@x"),
            ("udp:127.0.0.1:1", "@x"),
            ("@x", "a=@x"),
            ("@y", "metrics=@x"),
        ];
        for (text, listen) in refused {
            let error = checked(text, listen).unwrap_err();
            assert!(error.starts_with(&format!("--metrics {text:?}: ")), "{error}");
        }
        let of_default = |inherited| metrics("127.0.0.1:8080", &[], inherited);
        let error = of_default(false).unwrap_err();
        assert!(error.contains(r#"clients are served on "http=127.0.0.1:8080""#), "{error}");
        assert!(of_default(true).is_ok(), "what was inherited takes the default's place");
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let cases: [(&[&str], &str); 12] = [
            (&[":8081"], r#"":8081" is no address; write 127.0.0.1:8081 for clients on this machine, [::]:8081 for"#),
            (&["web=8081"], "write web=127.0.0.1:8081 for clients on this machine"),
            (&["localhost:8081"], "write 127.0.0.1:8081 or [::1]:8081"),
            (&["127.0.0.1:80", "all=0.0.0.0:80"], "127.0.0.1:80 and 0.0.0.0:80 exclude each other"),
            (&["[::]:80", "[::1]:80"], "[::]:80 and [::1]:80 exclude each other"),
            (&["a=@x", "b=@y", "a=@z"], r#"--listen "a=@x,b=@y,a=@z": two listeners are called "a""#),
            (&["127.0.0.1:1", "n=127.0.0.1:1"], "127.0.0.1:1 is there twice"),
            (&["/run/x", "unix:/run/x"], "unix:/run/x is there twice"),
            (&["a="], r#""" is no address"#),
            (&["=@x"], r#""" is no name for a listener"#),
            (&["localhost:80"], r#""localhost:80" is no address"#),
            (&["udp:127.0.0.1:53"], "is for datagrams"),
        ];
        for (given, expected) in cases {
            let error = checked(&ValueSource::Flag, given).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = checked(&ValueSource::Variable, &["a=@a", ""]).unwrap_err();
        assert!(error.starts_with("REBORN_LISTEN \"a=@a,\": \"\" is no address"), "{error}");
    }
}
