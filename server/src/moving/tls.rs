//! What of TLS travels with a connection: the format `tls/1`, beside whatever else the connection is in.
//!
//! What was frozen opens the connection to whoever reads it. It is behind the description, never in it, and each copy that
//! is made here is overwritten.

use serde::{Deserialize, Serialize};

use super::fields::Sections;
use crate::http::transport::secured::Sealed;
use crate::http::transport::tls::frozen::Frozen;
use crate::http::transport::tls::secret::Secret;
use crate::http::{Established, Tls};

/// How TLS is spoken on a connection. Numbers named `bytes` are lengths of what stands behind the description, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TlsDescription {
    version: String,
    suite: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
    frozen_bytes: usize,
    /// What was received and not opened.
    received_bytes: usize,
    /// What was sealed and not sent.
    sealed_bytes: usize,
}

impl TlsDescription {
    /// Describes it, and gives the bytes that belong to it.
    pub(super) fn of(established: Established) -> (TlsDescription, Secret) {
        let Established { tls, sealed: Sealed { frozen, received, unsent } } = established;
        let frozen = frozen.into_bytes();
        let description = TlsDescription {
            version: tls.version().to_owned(),
            suite: tls.suite().to_owned(),
            server_name: tls.server_name().map(str::to_owned),
            resumed: tls.resumed(),
            frozen_bytes: frozen.expose().len(),
            received_bytes: received.len(),
            sealed_bytes: unsent.len(),
        };
        (description, Secret::from_vec([frozen.expose(), &received, &unsent].concat()))
    }

    /// Reads it, with the bytes that belong to it.
    pub(super) fn read(self, bytes: &mut Sections<'_>) -> Result<Established, String> {
        let frozen = Secret::copy_of(bytes.take(self.frozen_bytes)?);
        let frozen = Frozen::from_bytes(&frozen).map_err(|error| error.to_string())?;
        let received = bytes.take(self.received_bytes)?.to_vec();
        let unsent = bytes.take(self.sealed_bytes)?.to_vec();
        let tls = Tls::new(self.version, self.suite, self.server_name, self.resumed);
        Ok(Established { tls, sealed: Sealed { frozen, received, unsent } })
    }
}
