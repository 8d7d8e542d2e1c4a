//! The flags of `serve` as they are where nothing was said, and each as it was typed: what a start needs of them, without
//! clap, which takes a third of a millisecond for all that it knows of them.
//!
//! They are declared as clap's, within `flags!`, which makes the one of the other: the name of a flag is that of its field,
//! and its default what clap is told. Whatever is not plain is left to clap.

use std::ffi::OsString;

use super::given::{Given, ValueSource};

/// What is declared of a flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Its name, with underscores for dashes.
    pub(crate) id: &'static str,
    pub(crate) default: Option<&'static str>,
    /// It needs no value, and takes one behind an equals sign only.
    pub(crate) is_switch: bool,
}

/// What was typed for a flag: its name without dashes in front, and what finds its value.
pub(crate) struct Typed<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a mut dyn FnMut(Flag) -> Option<OsString>,
}

/// The value of a flag, or of several.
pub(crate) trait Said: Sized {
    /// Where nothing was said.
    fn unsaid(flag: Flag) -> Self;

    /// Takes what was typed, and says whether it was meant. None where that is not plain.
    fn say(&mut self, flag: Flag, typed: &mut Typed<'_>) -> Option<bool>;
}

impl Flag {
    /// What a person calls it.
    fn name(self) -> String {
        format!("--{}", self.id.replace('_', "-"))
    }

    /// Whether it is what was typed.
    fn is(self, typed: &Typed<'_>) -> bool {
        self.id.bytes().map(|byte| if byte == b'_' { b'-' } else { byte }).eq(typed.name.bytes())
    }

    /// The value that was typed for it.
    fn given<T: Text>(self, typed: &mut Typed<'_>) -> Option<Given<T>> {
        let text = T::of((typed.value)(self)?)?;
        Some(Given::new(text, ValueSource::Flag, self.name()))
    }
}

/// What a value may be made of.
trait Text: Sized {
    fn of(typed: OsString) -> Option<Self>;
}

impl Text for String {
    fn of(typed: OsString) -> Option<String> {
        typed.into_string().ok()
    }
}

impl Text for OsString {
    fn of(typed: OsString) -> Option<OsString> {
        Some(typed)
    }
}

impl Said for Given {
    fn unsaid(flag: Flag) -> Given {
        Given::new(flag.default.unwrap_or_default().to_owned(), ValueSource::Default, flag.name())
    }

    fn say(&mut self, flag: Flag, typed: &mut Typed<'_>) -> Option<bool> {
        if !flag.is(typed) {
            return Some(false);
        }
        // Twice is once too often.
        let is_first = *self.source() == ValueSource::Default;
        *self = flag.given(typed)?;
        is_first.then_some(true)
    }
}

impl<T: Text> Said for Option<Given<T>> {
    fn unsaid(_: Flag) -> Option<Given<T>> {
        None
    }

    fn say(&mut self, flag: Flag, typed: &mut Typed<'_>) -> Option<bool> {
        if !flag.is(typed) {
            return Some(false);
        }
        self.replace(flag.given(typed)?).is_none().then_some(true)
    }
}

impl Said for Vec<Given> {
    fn unsaid(_: Flag) -> Vec<Given> {
        vec![]
    }

    fn say(&mut self, flag: Flag, typed: &mut Typed<'_>) -> Option<bool> {
        if !flag.is(typed) {
            return Some(false);
        }
        self.push(flag.given(typed)?);
        Some(true)
    }
}

/// What has no long name, and is not typed as these are.
impl Said for bool {
    fn unsaid(_: Flag) -> bool {
        false
    }

    fn say(&mut self, _: Flag, _: &mut Typed<'_>) -> Option<bool> {
        Some(false)
    }
}

/// Declares structs of flags as clap derives them, and reads each field by itself as well.
macro_rules! flags {
    ($($(#[$($about:tt)*])* pub struct $name:ident {
        $($(#[$($attribute:tt)*])* pub $field:ident: $kind:ty,)*
    })*) => {$(
        $(#[$($about)*])*
        pub struct $name {
            $($(#[$($attribute)*])* pub $field: $kind,)*
        }

        impl $crate::config::said::Said for $name {
            fn unsaid(_: $crate::config::said::Flag) -> Self {
                use $crate::config::said::{Said, flag};
                Self { $($field: Said::unsaid(flag!($field $(#[$($attribute)*])*)),)* }
            }

            fn say(
                &mut self,
                _: $crate::config::said::Flag,
                typed: &mut $crate::config::said::Typed<'_>,
            ) -> Option<bool> {
                use $crate::config::said::{Said, flag};
                $(if Said::say(&mut self.$field, flag!($field $(#[$($attribute)*])*), typed)? {
                    return Some(true);
                })*
                Some(false)
            }
        }
    )*};
}
pub(crate) use flags;

/// What the attributes of a field declare of its flag.
macro_rules! flag {
    ($field:ident $($attributes:tt)*) => {
        $crate::config::said::Flag {
            id: stringify!($field),
            default: $crate::config::said::default_of!($($attributes)*),
            is_switch: $crate::config::said::is_switch!($($attributes)*),
        }
    };
}
pub(crate) use flag;

macro_rules! default_of {
    (#[arg(default_value = $default:literal)] $($others:tt)*) => { Some($default) };
    (#[$($other:tt)*] $($others:tt)*) => { $crate::config::said::default_of!($($others)*) };
    () => { None };
}
pub(crate) use default_of;

macro_rules! is_switch {
    (#[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")] $($others:tt)*) => { true };
    (#[$($other:tt)*] $($others:tt)*) => { $crate::config::said::is_switch!($($others)*) };
    () => { false };
}
pub(crate) use is_switch;
