//! The names of the kinds of connections that a generation can go on with.
//!
//! Stands alone since both what is said of a generation and what moves between two speak of them. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Error;

/// A format's name may be this long.
pub(crate) const FORMAT_BYTES_MAX: usize = 64;
/// So many formats may a generation take.
pub(crate) const FORMATS_MAX: usize = 32;

/// Names of formats: what one has to know in order to go on with a connection.
///
/// A format says how a blob is to be read, and what has to be done with the connection: `http/1`, say. A change that
/// older readers would misunderstand is a new name. Made from an array of names: `Formats::from(["echo/1"])`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats(Arc<BTreeSet<String>>);

impl Formats {
    /// Whether this one is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether all of these are among them.
    pub(crate) fn cover(&self, needed: &Formats) -> bool {
        needed.0.is_subset(&self.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn to_set(&self) -> BTreeSet<String> {
        BTreeSet::clone(&self.0)
    }

    /// Fails where there are more, or longer ones, than fit into a message beside the connections.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let too_long = |name: &&str| name.is_empty() || name.len() > FORMAT_BYTES_MAX;
        if let Some(name) = self.names().find(too_long) {
            return Err(Error::handover(format!(
                "{name:?} is no name for a format of connections: 1 to {FORMAT_BYTES_MAX} bytes"
            )));
        }
        if self.0.len() > FORMATS_MAX {
            let count = self.0.len();
            return Err(Error::handover(format!("{count} formats of connections are taken, and {FORMATS_MAX} may be")));
        }
        Ok(())
    }
}

impl<S: Into<String>> FromIterator<S> for Formats {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Formats {
        Formats(Arc::new(names.into_iter().map(Into::into).collect()))
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Formats {
    fn from(names: [S; N]) -> Formats {
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_of_a_connection_have_to_be_taken() {
        let taken = Formats::from(["http/1", "response/1"]);
        assert!(taken.cover(&["http/1"].into()) && taken.cover(&Formats::default()));
        assert!(!taken.cover(&["http/1", "tls/1"].into()));
    }

    #[test]
    fn names_that_do_not_fit_into_a_message_are_refused() {
        assert!(Formats::from(["http/1"]).check().is_ok());
        for formats in [Formats::from([""]), [&*"x".repeat(FORMAT_BYTES_MAX + 1)].into()] {
            assert!(formats.check().is_err(), "{formats:?}");
        }
        assert!((0..=FORMATS_MAX).map(|number| number.to_string()).collect::<Formats>().check().is_err());
    }
}
