//! The addresses that were asked for: split, and checked against each other.
//!
//! How one address is written is known by `restart_core::Endpoint` alone; here it stays text. What is checked is what
//! only the whole list shows: two listeners of one name, and one address twice.

use super::{Error, Setting, joined};
use crate::cli::Origin;

/// What is listened on where nothing was asked for and no socket was inherited.
pub const DEFAULT_LISTEN: &str = "http=127.0.0.1:8080";

const ADVICE: &str = "write [NAME=]ADDR, such as 127.0.0.1:8080, [::1]:8080, web=unix:/run/web.sock or @abstract";

/// Gives the list as it is wanted: from a variable it comes as one text with commas.
pub(super) fn check(setting: &Setting, given: &[String]) -> Result<Vec<String>, Error> {
    let endpoints: Vec<String> = match setting.origin {
        Origin::Variable => given.iter().flat_map(|text| text.split(',')).map(|part| part.trim().to_owned()).collect(),
        Origin::Flag | Origin::Default => given.to_vec(),
    };
    for (index, endpoint) in endpoints.iter().enumerate() {
        let (name, address) = parse(endpoint);
        if address.is_empty() || name == Some("") {
            let missing = if address.is_empty() { "no address" } else { "no name before =" };
            return Err(setting.refuse(joined(&endpoints), format!("{missing} in {endpoint:?}"), ADVICE));
        }
        for earlier in &endpoints[..index] {
            let (earlier_name, earlier_address) = parse(earlier);
            if name.is_some() && name == earlier_name {
                let cause = format!("two listeners are called {:?}", name.unwrap_or_default());
                return Err(setting.refuse(joined(&endpoints), cause, "give each listener a name of its own"));
            }
            if address == earlier_address {
                let cause = format!("{address:?} is there twice");
                return Err(setting.refuse(joined(&endpoints), cause, "name each address once"));
            }
        }
    }
    Ok(endpoints)
}

/// Splits `[NAME=]ADDR` into its name and a normal form of its address.
fn parse(endpoint: &str) -> (Option<&str>, &str) {
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let (name, address) = match endpoint.split_once('=') {
        Some((name, address)) if is_name(name) => (Some(name), address),
        _ => (None, endpoint),
    };
    (name, address.strip_prefix("unix:").unwrap_or(address))
}
