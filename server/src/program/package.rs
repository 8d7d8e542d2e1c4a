//! What a program is called and says of itself, and which flags it has beyond those of any server.
//!
//! The name stands in its help and before its errors, is the folder of its control socket, and in capitals the beginning of
//! its variables.

use clap::Command as Clap;

use crate::version::VERSION;

/// The name that the help is written for.
const NAME: &str = "reborn";

/// What the variables of that program begin with.
const VARIABLE_PREFIX: &str = "REBORN_";

/// A program.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// What it is, in a sentence.
    pub(crate) about: Option<String>,
    /// Whether its application is the default one, whose flags it has then.
    pub(crate) has_default_app: bool,
    /// Adds its own flags to a command.
    pub(crate) flags: fn(Clap) -> Clap,
}

impl Package {
    /// The program of this name, with this crate's version and without flags of its own.
    pub(crate) fn new(name: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: VERSION.to_owned(),
            about: None,
            has_default_app: false,
            flags: |command| command,
        }
    }

    /// `reborn` itself.
    pub(crate) fn reborn() -> Package {
        Package { has_default_app: true, ..Package::new(NAME) }
    }

    /// What is written of `reborn`, said of this program.
    pub(crate) fn named(&self, text: &str) -> String {
        if self.name == NAME {
            return text.to_owned();
        }
        text.replace(NAME, &self.name).replace(VARIABLE_PREFIX, &self.variable_prefix())
    }

    /// The variable for a flag of this id.
    pub(crate) fn variable(&self, id: &str) -> String {
        self.variable_prefix() + &capitals(id)
    }

    /// This program's variable for one of `reborn`.
    pub(crate) fn own_variable(&self, variable: &str) -> String {
        match variable.strip_prefix(VARIABLE_PREFIX) {
            Some(id) if self.name != NAME => self.variable(id),
            _ => variable.to_owned(),
        }
    }

    fn variable_prefix(&self) -> String {
        capitals(&self.name) + "_"
    }
}

/// A name as it stands in a variable's: `MY_SHOP` for `my-shop`.
fn capitals(name: &str) -> String {
    let capital =
        |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_uppercase() } else { '_' };
    name.chars().map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_reborn_is_said_of_a_program_by_its_name() {
        let shop = Package::new("my-shop");
        assert_eq!(
            shop.named("`reborn check`: /run/reborn, REBORN_LISTEN"),
            "`my-shop check`: /run/my-shop, MY_SHOP_LISTEN"
        );
        assert_eq!(
            (shop.variable("greeting"), shop.own_variable("REBORN_LISTEN")),
            ("MY_SHOP_GREETING".into(), "MY_SHOP_LISTEN".into())
        );
        assert_eq!(Package::reborn().own_variable("REBORN_LISTEN"), "REBORN_LISTEN");
    }
}
