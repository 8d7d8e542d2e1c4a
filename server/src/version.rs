//! Which version of the program this is.

/// This program's version: that of the package, unless the build was given another one in REBORN_VERSION.
pub const VERSION: &str = match option_env!("REBORN_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
