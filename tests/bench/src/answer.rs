//! What every peer answers, so that they differ in nothing but the server: a short text, bodies of four sizes from
//! memory, and `/fast`, by which a client finds out whose answer it is and who gave it.

/// The content type of everything.
pub const TEXT: &str = "text/plain";

/// The answers to fixed paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// These bytes.
    Bytes(&'static [u8]),
    /// The request's `x-id` and the process, in the body and in headers.
    Tagged,
    /// Nothing is there.
    None,
}

static BODY: [u8; 8 << 20] = [b'x'; 8 << 20];

/// What is at a path.
#[must_use]
pub fn fixed(path: &str) -> Fixed {
    match path {
        "/" => Fixed::Bytes(b"cout\n"),
        "/1k" => Fixed::Bytes(&BODY[..1 << 10]),
        "/100k" => Fixed::Bytes(&BODY[..100 << 10]),
        "/1m" => Fixed::Bytes(&BODY[..1 << 20]),
        "/8m" => Fixed::Bytes(&BODY),
        "/fast" => Fixed::Tagged,
        _ => Fixed::None,
    }
}

/// The body at `/fast`.
#[must_use]
pub fn tagged(id: &str) -> String {
    format!("id={id} pid={}\n", std::process::id())
}
