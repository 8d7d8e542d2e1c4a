//! What the program is called.

/// The name of the control socket's folder.
pub(super) const SERVICE_NAME: &str = "reborn";
