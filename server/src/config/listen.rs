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

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(origin: Origin, given: &[&str]) -> Result<Vec<String>, String> {
        let given = given.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        check(&Setting { id: "listen", origin }, &given).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_keeps_its_order_and_its_text() {
        let given = ["http=127.0.0.1:8080", "[::1]:8080", "unix:/run/a,b=c", "@abstract", "x=@y=z"];
        assert_eq!(checked(Origin::Flag, &given).unwrap(), given);
        assert_eq!(checked(Origin::Default, &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn a_variable_holds_several_with_commas() {
        assert_eq!(checked(Origin::Variable, &["a=@a, b=@b"]).unwrap(), ["a=@a", "b=@b"]);
    }

    #[test]
    fn what_only_the_whole_list_shows_is_refused() {
        let cases: [(&[&str], &str); 5] = [
            (&["a=@x", "b=@y", "a=@z"], r#"--listen "a=@x,b=@y,a=@z": two listeners are called "a""#),
            (&["127.0.0.1:1", "n=127.0.0.1:1"], r#""127.0.0.1:1" is there twice"#),
            (&["/run/x", "unix:/run/x"], r#""/run/x" is there twice"#),
            (&["a="], r#"no address in "a=""#),
            (&["=@x"], r#"no name before = in "=@x""#),
        ];
        for (given, expected) in cases {
            let error = checked(Origin::Flag, given).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(checked(Origin::Variable, &["a=@a,"]).unwrap_err().starts_with("REBORN_LISTEN \"a=@a,\": no address"));
    }
}
