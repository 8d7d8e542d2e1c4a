//! HTTPS as it is asked for: which listeners speak TLS, with which certificates, and what plain ones say instead.
//!
//! Which files go together, and what excludes what, is checked here; what is in the files is read by `crate::tls`.

use std::path::PathBuf;
use std::time::Duration;

use restart_core::Endpoint;

use super::flags::TlsArgs;
use super::given::{Error, Given, non_empty};
use super::values::{DURATION_MIN, optional};

/// The name of a listener that speaks TLS; one that begins with it and a dash is another one.
pub const HTTPS_NAME: &str = "https";

/// Browsers need to be told for no longer than this that a site has HTTPS only.
const HSTS_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What certificates are given with.
const ADVICE: &str = "give --tls-certificate FILE and --tls-key FILE, or for development --tls-self-signed";

/// How TLS is spoken, and what is said where it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificates, of which the first is for clients that ask for none of the others.
    pub certificates: Vec<CertificateFiles>,
    /// Whether a certificate for this machine is made, in the place of those from files.
    pub self_signed: bool,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// To which port plain listeners send their clients, if they do.
    pub redirect: Option<RedirectPort>,
    /// How long browsers are to ask for HTTPS only; without it they are told nothing.
    pub hsts: Option<Duration>,
    /// A handshake must be over after this time.
    pub handshake_timeout: Duration,
    /// The most handshakes at a time.
    pub handshakes: usize,
}

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and those that lead from it to a root, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// The port on which clients of plain listeners find HTTPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// That of the first listener that speaks TLS.
    Listener,
    /// This one, which leads to that listener from outside, as the port of a container or of a load balancer does.
    Outside(u16),
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Whether a listener of this name speaks TLS. The name decides, so that it can be said wherever listeners get their
/// names, as with `FileDescriptorName=` of a socket unit.
pub fn speaks_tls(listener: &str) -> bool {
    listener.strip_prefix(HTTPS_NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

impl TlsConfig {
    /// Whether there is a certificate at all.
    pub fn has_certificate(&self) -> bool {
        self.self_signed || !self.certificates.is_empty()
    }

    /// `behind_proxy`: whether a trusted proxy may be the one that speaks HTTPS.
    pub(super) fn new(args: &TlsArgs, listen: (&[Given], &[Endpoint]), behind_proxy: bool) -> Result<TlsConfig, Error> {
        let flag = |given: Option<&Given>| given.map_or(Ok(false), Given::boolean);
        let config = TlsConfig {
            certificates: pairs(args)?,
            self_signed: flag(args.tls_self_signed.as_ref())?,
            min_version: match args.tls_min_version.text().as_str() {
                "1.2" => TlsVersion::V1_2,
                "1.3" => TlsVersion::V1_3,
                _ => return Err(args.tls_min_version.refuse("not spoken", "write 1.2 or 1.3")),
            },
            redirect: args.redirect_https.as_ref().map_or(Ok(None), redirect_port)?,
            hsts: optional(args.hsts.as_ref(), |given| given.duration_within(Duration::ZERO..=HSTS_MAX))?,
            handshake_timeout: args.handshake_timeout.duration(DURATION_MIN)?,
            handshakes: args.handshakes.number(1..=1_000_000)?,
        };
        let both = config.self_signed && !config.certificates.is_empty();
        if let Some(given) = args.tls_self_signed.as_ref().filter(|_| both) {
            return Err(given.refuse("there are certificates from files as well", "leave the one or the others out"));
        }
        if !config.has_certificate() {
            nothing_needs_one(args, &config, listen, behind_proxy)?;
        }
        Ok(config)
    }
}

/// True, false, or a port.
fn redirect_port(given: &Given) -> Result<Option<RedirectPort>, Error> {
    if let Ok(redirects) = given.boolean() {
        return Ok(redirects.then_some(RedirectPort::Listener));
    }
    match given.text().parse() {
        Ok(port) if port > 0 => Ok(Some(RedirectPort::Outside(port))),
        _ => Err(given.refuse("neither true, false nor a port", "write the port on which clients find HTTPS, or true")),
    }
}

/// The files, each certificate with its key.
fn pairs(args: &TlsArgs) -> Result<Vec<CertificateFiles>, Error> {
    let given =
        |list: &'_ [Given]| -> Vec<Given> { list.iter().filter(|given| !given.text().is_empty()).cloned().collect() };
    let (certificates, keys) = (given(&args.tls_certificate), given(&args.tls_key));
    if let Some(certificate) = certificates.get(keys.len()) {
        return Err(certificate.refuse("has no key", "give a --tls-key FILE for each certificate, in the same order"));
    }
    if let Some(key) = keys.get(certificates.len()) {
        return Err(key.refuse("has no certificate", "give a --tls-certificate FILE for each key, in the same order"));
    }
    let files = |(certificate, key): (&Given, &Given)| CertificateFiles {
        certificate: certificate.text().into(),
        key: key.text().into(),
    };
    Ok(certificates.iter().zip(&keys).map(files).collect())
}

/// Refuses what cannot be done without a certificate.
fn nothing_needs_one(
    args: &TlsArgs,
    config: &TlsConfig,
    listen: (&[Given], &[Endpoint]),
    behind_proxy: bool,
) -> Result<(), Error> {
    let (given, endpoints) = listen;
    if let Some((given, endpoint)) = given.iter().zip(endpoints).find(|(_, endpoint)| speaks_tls(&endpoint.name)) {
        return Err(given.refuse(without_certificate(&endpoint.name), ADVICE));
    }
    let redirect = args.redirect_https.as_ref().filter(|_| config.redirect.is_some());
    let hsts = non_empty(args.hsts.as_ref()).filter(|_| !behind_proxy);
    match redirect.or(hsts) {
        Some(given) => {
            let behind =
                if redirect.is_none() { "; behind a proxy that has it, name that with --trusted-proxy" } else { "" };
            let advice = format!("{ADVICE}{behind}");
            Err(given.refuse("there is no certificate, so that nothing is served by HTTPS", advice))
        }
        None => Ok(()),
    }
}

fn without_certificate(listener: &str) -> String {
    format!("the listener {listener:?} speaks TLS, as its name says, and there is no certificate")
}

/// Why a listener that was not asked for here, but given by the service manager, cannot be served: it speaks TLS, and
/// there is no certificate.
pub fn inherited_without_certificate(listener: &str) -> String {
    format!("{}; {ADVICE}", without_certificate(listener))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::config::{Config, Machine};
    use crate::program::cli::{self, Command};

    fn config(arguments: &[&str]) -> Result<TlsConfig, String> {
        let arguments = std::iter::once("reborn").chain(arguments.iter().copied()).map(OsString::from);
        let machine = Machine { cores: 2, has_listeners: false };
        match cli::parse(arguments).unwrap() {
            Command::Serve(serve) => {
                Config::new(&serve, machine).map(|config| config.tls).map_err(|error| error.to_string())
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_listener_speaks_tls_by_its_name() {
        for (name, expected) in [
            ("https", true),
            ("https-2", true),
            ("https-", true),
            ("http", false),
            ("httpsx", false),
            ("my-https", false),
            ("HTTPS", false),
            ("", false),
        ] {
            assert_eq!(speaks_tls(name), expected, "{name}");
        }
    }

    #[test]
    fn certificates_and_keys_are_paired_in_their_order() {
        let args = ["--tls-certificate=a.pem", "--tls-certificate=b.pem", "--tls-key=a.key", "--tls-key=b.key"];
        let pair = |name: &str| CertificateFiles {
            certificate: format!("{name}.pem").into(),
            key: format!("{name}.key").into(),
        };
        assert_eq!(config(&args).unwrap().certificates, [pair("a"), pair("b")]);
        assert_eq!(config(&["--tls-certificate=", "--tls-key="]).unwrap().certificates, []);
    }

    #[test]
    fn nothing_is_spoken_unless_it_is_asked_for() {
        let seconds = Duration::from_secs;
        let expected = TlsConfig {
            certificates: vec![],
            self_signed: false,
            min_version: TlsVersion::V1_2,
            redirect: None,
            hsts: None,
            handshake_timeout: seconds(10),
            handshakes: 1024,
        };
        assert_eq!(config(&[]).unwrap(), expected);
        let args =
            ["--tls-self-signed", "--tls-min-version=1.3", "--hsts=365days", "--redirect-https", "--handshakes=7"];
        let expected = TlsConfig {
            self_signed: true,
            min_version: TlsVersion::V1_3,
            redirect: Some(RedirectPort::Listener),
            hsts: Some(seconds(365 * 24 * 60 * 60)),
            handshakes: 7,
            ..expected
        };
        assert_eq!(config(&args).unwrap(), expected);
        assert_eq!(
            config(&["--tls-self-signed", "--hsts=0s"]).unwrap().hsts,
            Some(Duration::ZERO),
            "browsers forget it"
        );
    }

    #[test]
    fn clients_are_sent_to_the_listeners_port_or_to_the_one_that_is_said() {
        for (text, expected) in [
            ("--redirect-https=true", Some(RedirectPort::Listener)),
            ("--redirect-https=false", None),
            ("--redirect-https=", None),
            ("--redirect-https=443", Some(RedirectPort::Outside(443))),
            ("--redirect-https=65535", Some(RedirectPort::Outside(65535))),
        ] {
            assert_eq!(config(&["--tls-self-signed", text]).unwrap().redirect, expected, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_give() {
        let pair = ["--tls-certificate=a.pem", "--tls-key=a.key"];
        let cases: [(&[&str], &str); 13] = [
            (&["--tls-certificate=a.pem"], r#"--tls-certificate "a.pem": has no key; give a --tls-key FILE"#),
            (&["--tls-key=a.key"], r#"--tls-key "a.key": has no certificate; give a --tls-certificate FILE"#),
            (&["--tls-certificate=b.pem", pair[0], pair[1]], r#"--tls-certificate "a.pem": has no key"#),
            (&["--tls-min-version=1.1"], r#"--tls-min-version "1.1": not spoken; write 1.2 or 1.3"#),
            (&["--listen=https=@x"], r#"--listen "https=@x": the listener "https" speaks TLS, as its name says, and"#),
            (&["--listen=@y", "--listen=https-b=@x"], r#"--listen "https-b=@x": the listener "https-b" speaks TLS"#),
            (&["--redirect-https"], r#"--redirect-https "true": there is no certificate"#),
            (&["--redirect-https=443"], r#"--redirect-https "443": there is no certificate"#),
            (&["--redirect-https=70000"], r#"--redirect-https "70000": neither true, false nor a port"#),
            (
                &["--hsts=1h"],
                r#"--hsts "1h": there is no certificate, so that nothing is served by HTTPS; give --tls-certificate"#,
            ),
            (&["--hsts=20years"], r#"--hsts "20years": out of range; write a duration from 0s to"#),
            (&["--handshake-timeout=0s"], r#"--handshake-timeout "0s": out of range"#),
            (
                &["--tls-self-signed", pair[0], pair[1]],
                r#"--tls-self-signed "true": there are certificates from files"#,
            ),
        ];
        for (arguments, expected) in cases {
            let error = config(arguments).unwrap_err();
            assert!(error.starts_with(expected) && error.contains("; "), "{error}");
        }
        for needs in ["--listen=https=@x", "--redirect-https", "--hsts=1h"] {
            assert!(config(&[needs, "--tls-self-signed"]).is_ok() && config(&[needs, pair[0], pair[1]]).is_ok());
        }
        let behind = |needs: &str| config(&[needs, "--trusted-proxy=unix"]);
        assert!(behind("--hsts=1h").is_ok(), "the proxy has the certificate");
        assert!(behind("--redirect-https").is_err(), "nobody knows where");
    }
}
