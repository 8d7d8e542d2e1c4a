//! Bytes that must not outlive their use: keys, traffic secrets, and what a frozen connection travels as.
//!
//! They are overwritten when they are dropped, and there is no `Debug`, `Clone` or `PartialEq` by which they could get into
//! a log, a copy or a comparison unnoticed. Whoever needs the bytes asks for them by name.

use zeroize::Zeroize;

/// Secret bytes, overwritten when they are dropped.
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// So many zeros, to be filled in place.
    pub(crate) fn zeros(length: usize) -> Secret {
        Secret(vec![0; length])
    }

    /// Copies bytes that somebody else answers for.
    pub(crate) fn copy_of(bytes: &[u8]) -> Secret {
        Secret(bytes.to_vec())
    }

    /// Takes bytes over: they are this secret's to overwrite. What their vector left behind when it grew is not.
    pub(crate) fn from_vec(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    /// The bytes, to be used and not to be kept.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be filled.
    pub(crate) fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says at compile time that a type lacks a trait: with it, `probe` would have two meanings.
    macro_rules! lacks {
        ($type:ty: $trait:path) => {
            const _: fn() = || {
                trait Probe<Meaning> {
                    fn probe() {}
                }
                struct Has;
                impl<T: ?Sized> Probe<()> for T {}
                impl<T: ?Sized + $trait> Probe<Has> for T {}
                <$type as Probe<_>>::probe();
            };
        };
    }

    lacks!(Secret: std::fmt::Debug);
    lacks!(Secret: Clone);
    lacks!(super::super::frozen::Frozen: std::fmt::Debug);
    lacks!(super::super::frozen::Frozen: Clone);
    lacks!(super::super::records::Records: Clone);

    #[test]
    fn secret_bytes_are_what_they_were_made_of() {
        let mut secret = Secret::zeros(3);
        secret.expose_mut().copy_from_slice(b"key");
        assert_eq!(secret.expose(), Secret::copy_of(b"key").expose());
        assert_eq!(Secret::from_vec(b"key".to_vec()).expose(), b"key");
    }
}
