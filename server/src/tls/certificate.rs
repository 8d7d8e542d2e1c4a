//! A certificate from its two files: read, and checked as a client would, before anybody depends on it.
//!
//! What a client would refuse anyway is refused here, with the file, the cause and what to do: a wrong key, a date that is
//! over, no name. What it takes today and may not take soon is a warning. Who issued it is for the client to judge.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use super::names::{self, Name};
use crate::config::CertificateFiles;

/// A longer file is neither a chain of certificates nor a key.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A certificate that expires within this time is warned of: those that renew by themselves have done so a week before.
pub(super) const EXPIRES_SOON: Duration = Duration::from_secs(21 * DAY_SECONDS);

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// What anybody on the machine may read (`S_IROTH`).
const READABLE_BY_OTHERS: u32 = 0o004;

/// A certificate that can be shown, with its chain and its key.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) names: Vec<Name>,
    pub(super) not_after: SystemTime,
}

/// Why a certificate cannot be used.
#[derive(Debug)]
pub struct Error {
    /// Which of the certificates that were asked for, from 0.
    index: usize,
    part: Part,
    path: PathBuf,
    cause: Cause,
    advice: &'static str,
}

/// One of the files of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate with its chain.
    Certificate,
    /// Its key.
    Key,
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Content(String),
}

impl Error {
    /// Which of the certificates that were asked for it is about, from 0, and which of its files.
    pub fn which(&self) -> (usize, Part) {
        (self.index, self.part)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error of the system, where the file could not be read.
    pub fn io(&self) -> Option<&io::Error> {
        if let Cause::Io(error) = &self.cause { Some(error) } else { None }
    }

    /// What is wrong.
    pub fn cause(&self) -> String {
        match &self.cause {
            Cause::Io(error) => error.to_string(),
            Cause::Content(text) => text.clone(),
        }
    }

    /// What would be right.
    pub fn advice(&self) -> &'static str {
        self.advice
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}; {}", self.path.display(), self.cause(), self.advice)
    }
}

impl std::error::Error for Error {}

/// What is wrong with a file, and what would be right.
struct Wrong(Cause, &'static str);

impl Wrong {
    fn content(cause: impl Into<String>, advice: &'static str) -> Wrong {
        Wrong(Cause::Content(cause.into()), advice)
    }
}

const PEM: &str = "give a PEM file with the site's certificate, and behind it those that lead to its root";
const KEY_PEM: &str = "give the PEM file with the certificate's private key";
const RENEW: &str = "renew it, or look at the clock";

/// Reads a certificate and its key, and checks at `now` whether a client would take them. The warnings come with it.
pub(super) fn load(
    index: usize,
    files: &CertificateFiles,
    now: SystemTime,
) -> Result<(Certificate, Vec<String>), Error> {
    let wrong = |part, path: &Path| {
        let path = path.to_owned();
        move |Wrong(cause, advice)| Error { index, part, path, cause, advice }
    };
    let (path, key_path) = (&files.certificate, &files.key);
    let chain = chain(path).map_err(wrong(Part::Certificate, path))?;
    let leaf = chain.first().expect("a chain has a certificate").clone();
    let (names, not_after) = read(&leaf, now).map_err(wrong(Part::Certificate, path))?;
    let (key, is_exposed) = key(key_path).map_err(wrong(Part::Key, key_path))?;
    let key = matching(key, chain).map_err(wrong(Part::Key, key_path))?;
    let expires = expires_soon(not_after, now).map(|soon| format!("{}: {soon}", path.display()));
    let exposed = is_exposed.then(|| {
        format!("{}: everybody on this machine can read this key; take that right away (chmod o=)", key_path.display())
    });
    let certificate = Certificate { key: Arc::new(key), names, not_after };
    Ok((certificate, expires.into_iter().chain(exposed).collect()))
}

/// What is said of a certificate that expires soon.
pub(super) fn expires_soon(not_after: SystemTime, now: SystemTime) -> Option<String> {
    let left = not_after.duration_since(now).unwrap_or_default();
    let date = format_rfc3339_seconds(not_after);
    (left < EXPIRES_SOON).then(|| match left.as_secs() / DAY_SECONDS {
        0 => format!("this certificate expires within a day ({date}); renew it, and reload"),
        days => format!("this certificate expires in {days} days ({date}); renew it, and reload"),
    })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let (text, _) = contents(path, PEM)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(chain) if chain.is_empty() => Err(Wrong::content("there is no certificate in it", PEM)),
        Ok(chain) => Ok(chain),
        Err(error) => Err(Wrong::content(not_pem(&error), PEM)),
    }
}

/// The key, and whether everybody can read it.
fn key(path: &Path) -> Result<(Zeroizing<PrivateKeyDer<'static>>, bool), Wrong> {
    let (text, mode) = contents(path, "let the user of this service read it")?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        _ if text.windows(9).any(|part| part == b"ENCRYPTED") => Wrong::content(
            "this key is encrypted, and nobody is there to be asked for its passphrase",
            "give it without one (openssl pkey -in FILE -out NEW), readable by the service only",
        ),
        pem::Error::NoItemsFound => Wrong::content("there is no private key in it", KEY_PEM),
        error => Wrong::content(not_pem(&error), KEY_PEM),
    })?;
    Ok((Zeroizing::new(key), mode & READABLE_BY_OTHERS != 0))
}

fn not_pem(error: &pem::Error) -> String {
    format!("not PEM ({error:?})")
}

/// A file and its mode. It is wiped, as it may be a key.
fn contents(path: &Path, advice: &'static str) -> Result<(Zeroizing<Vec<u8>>, u32), Wrong> {
    let failed = |error| Wrong(Cause::Io(error), advice);
    // A pipe would wait for a writer, and the next generation would find it empty.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(Wrong::content("no regular file", advice));
    }
    // Room for all of it, so that no piece stays behind where it grows.
    let room = usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or_default() + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Wrong::content(format!("longer than {FILE_BYTES_MAX} bytes"), advice));
    }
    Ok((bytes, metadata.mode()))
}

/// The names and the last instant of a certificate that is valid at `now`.
fn read(leaf: &CertificateDer<'_>, now: SystemTime) -> Result<(Vec<Name>, SystemTime), Wrong> {
    let (certificate, not_before, not_after) = dates(leaf)?;
    if now < not_before {
        return Err(Wrong::content(format!("not valid before {}", format_rfc3339_seconds(not_before)), RENEW));
    }
    if now > not_after {
        return Err(Wrong::content(format!("expired on {}", format_rfc3339_seconds(not_after)), RENEW));
    }
    let names = names::names(&certificate).map_err(|cause| Wrong::content(cause, PEM))?;
    if names.is_empty() {
        let advice = "have it issued with subject alternative names: clients look at nothing else";
        return Err(Wrong::content("it is for no name", advice));
    }
    Ok((names, not_after))
}

fn dates(leaf: &CertificateDer<'_>) -> Result<(CertificateInner<Raw>, SystemTime, SystemTime), Wrong> {
    let certificate = CertificateInner::<Raw>::from_der(leaf)
        .map_err(|error| Wrong::content(format!("the first certificate cannot be read ({error})"), PEM))?;
    let validity = certificate.tbs_certificate.validity;
    let at = |time: x509_cert::time::Time| UNIX_EPOCH + time.to_unix_duration();
    Ok((certificate, at(validity.not_before), at(validity.not_after)))
}

/// The chain with its key, where they belong together.
fn matching(
    key: Zeroizing<PrivateKeyDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
) -> Result<CertifiedKey, Wrong> {
    let signing = any_supported_type(&key).map_err(|error| {
        Wrong::content(
            format!("this key cannot be used ({error})"),
            "give an ECDSA or Ed25519 key, or an RSA key of at least 2048 bits",
        )
    })?;
    drop(key);
    let is_for = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], Arc::clone(&signing)).keys_match()
    };
    let first = is_for(&chain[0]);
    match first {
        Ok(()) => Ok(CertifiedKey::new(chain, signing)),
        Err(_) if chain[1..].iter().any(|other| is_for(other).is_ok()) => Err(Wrong::content(
            "it belongs to a certificate that is not the first in its file",
            "put the site's certificate first, and those that lead to its root behind it",
        )),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Wrong::content(
            "it is the key of another certificate",
            "give the key that this certificate was issued for, or the certificate of this key",
        )),
        Err(error) => Err(Wrong::content(format!("its certificate cannot be shown ({error})"), PEM)),
    }
}

impl Certificate {
    /// A certificate and its key in DER, made by this program; nothing where they are not fit to be shown at `now`.
    pub(super) fn from_der(certificate: Vec<u8>, key: &[u8], now: SystemTime) -> Option<Certificate> {
        let leaf = CertificateDer::from(certificate);
        let (names, not_after) = read(&leaf, now).ok()?;
        let key = Zeroizing::new(PrivateKeyDer::Pkcs8(key.to_vec().into()));
        let key = matching(key, vec![leaf]).ok()?;
        Some(Certificate { key: Arc::new(key), names, not_after })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::{Made, days};
    use super::*;

    fn loaded(files: &CertificateFiles) -> Result<(Certificate, Vec<String>), Error> {
        load(3, files, SystemTime::now())
    }

    #[track_caller]
    fn assert_refused(files: &CertificateFiles, part: Part, expected: &str) {
        let error = loaded(files).map(drop).unwrap_err();
        let text = error.to_string();
        let path = if part == Part::Key { &files.key } else { &files.certificate };
        assert!(text.starts_with(&format!("{}: {expected}", path.display())) && text.contains("; "), "{text}");
        assert_eq!((error.which(), error.path()), ((3, part), path.as_path()));
    }

    #[test]
    fn a_certificate_that_fits_its_key_is_loaded_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, warnings) = loaded(&Made::new(&["one.org"]).write(folder.path(), "one")).unwrap();
        assert_eq!(certificate.names, [Name::Host("one.org".into())]);
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn what_a_client_would_refuse_is_refused_with_file_cause_and_advice() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let good = Made::new(&["one.org"]).write(folder, "good");
        let other = Made::new(&["one.org"]).write(folder, "other");
        let expired = Made::valid(&["one.org"], days(-20), days(-10)).write(folder, "expired");
        assert_refused(&expired, Part::Certificate, "expired on 20");
        let early = Made::valid(&["one.org"], days(10), days(20)).write(folder, "early");
        assert_refused(&early, Part::Certificate, "not valid before 20");
        assert_refused(&Made::new(&[]).write(folder, "nameless"), Part::Certificate, "it is for no name");
        let with_key_of = |other: &CertificateFiles| CertificateFiles { key: other.key.clone(), ..good.clone() };
        assert_refused(&with_key_of(&other), Part::Key, "it is the key of another certificate");

        let write = |name: &str, text: &[u8]| {
            fs::write(folder.join(name), text).unwrap();
            folder.join(name)
        };
        let read = |path: &Path| fs::read(path).unwrap();
        let chained = [read(&other.certificate), read(&good.certificate)].concat();
        let reversed = CertificateFiles { certificate: write("chain", &chained), ..good.clone() };
        assert_refused(&reversed, Part::Key, "it belongs to a certificate that is not the first in its file");
        let certificate = |path: PathBuf| CertificateFiles { certificate: path, ..good.clone() };
        assert_refused(&certificate(good.key.clone()), Part::Certificate, "there is no certificate in it");
        assert_refused(&certificate(folder.join("no")), Part::Certificate, "No such file or directory");
        assert_refused(&certificate(folder.to_owned()), Part::Certificate, "no regular file");
        assert_refused(&certificate(write("empty", b"")), Part::Certificate, "there is no certificate in it");
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_refused(
            &certificate(write("broken", broken)),
            Part::Certificate,
            "the first certificate cannot be read",
        );
        let open = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert_refused(&certificate(write("open", open)), Part::Certificate, "not PEM (");
        let long = vec![b'\n'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
        assert_refused(&certificate(write("long", &long)), Part::Certificate, "longer than");
        let key = |path: PathBuf| CertificateFiles { key: path, ..good.clone() };
        assert_refused(&key(good.certificate.clone()), Part::Key, "there is no private key in it");
        assert_refused(&key(folder.join("no")), Part::Key, "No such file or directory");
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_refused(&key(write("encrypted", encrypted)), Part::Key, "this key is encrypted");
        let encrypted = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n";
        assert_refused(&key(write("encrypted", encrypted)), Part::Key, "this key is encrypted");
        let broken = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_refused(&key(write("broken key", broken)), Part::Key, "this key cannot be used");
    }

    #[test]
    fn a_file_may_have_the_key_and_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let good = Made::new(&["one.org"]).write(folder.path(), "good");
        let (both, read) = (folder.path().join("both"), |path: &Path| fs::read(path).unwrap());
        fs::write(&both, [read(&good.key), read(&good.certificate), read(&good.certificate)].concat()).unwrap();
        let (certificate, _) = loaded(&CertificateFiles { certificate: both.clone(), key: both }).unwrap();
        assert_eq!(certificate.key.cert.len(), 2);
    }

    #[test]
    fn what_will_be_refused_soon_and_what_others_may_read_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let soon = Made::valid(&["one.org"], days(-1), days(20)).write(folder.path(), "soon");
        fs::set_permissions(&soon.key, fs::Permissions::from_mode(0o644)).unwrap();
        let (_, warnings) = loaded(&soon).unwrap();
        assert!(warnings[0].contains("soon.pem: this certificate expires in 19 days (20"), "{warnings:?}");
        assert!(warnings[1].contains("soon.key: everybody on this machine can read this key"), "{warnings:?}");
        fs::set_permissions(&soon.key, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(loaded(&soon).unwrap().1.len(), 1, "a group of its own may read it");
        let today =
            Made::valid(&["one.org"], days(-1), days(0) + Duration::from_secs(60)).write(folder.path(), "today");
        assert!(loaded(&today).unwrap().1[0].contains("expires within a day"));
    }
}
