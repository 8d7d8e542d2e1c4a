//! A site: for which hosts it is, and what is served there, in which order: redirects, files, the headers of both.
//!
//! What stands outside of the `[[site]]` tables of the file, in flags and variables as well, is a site too: the first one, for
//! all hosts that no table names. How files are served, their types and the headers hold for all sites; a root, a fallback and
//! redirects are each site's own.

use std::collections::HashMap;
use std::path::PathBuf;

use super::files::{self, FilesConfig};
use super::flags::{AppArgs, SiteArgs};
use super::given::{Error, Given, ValueSource, non_empty};
use super::headers::HeaderRule;
use super::redirect::{self, Redirect};
use super::values::optional;

/// What is served under some hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteConfig {
    /// The hosts. The first site has none if it is that outside of the tables.
    pub hosts: Vec<Host>,
    /// Where paths have moved. The first that is about a path holds, before any file.
    pub redirects: Vec<Redirect>,
    /// The files.
    pub files: Option<FilesConfig>,
    /// Which answers get which headers, in this order.
    pub headers: Vec<HeaderRule>,
}

/// A host that a site is for, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// This one.
    Name(String),
    /// All below this domain.
    Below(String),
}

impl AppArgs {
    /// What each site was asked for with, the hosts first.
    pub(crate) fn sites(&self) -> impl Iterator<Item = (&[Given], &SiteArgs)> {
        let is_site = non_empty(self.site.root.as_ref()).is_some() || !self.site.redirect.is_empty();
        let own = is_site.then_some((&[][..], &self.site));
        own.into_iter().chain(self.sites.iter().map(|table| (&table.host[..], &table.site)))
    }
}

/// All sites, of which the first is for the hosts that no other names.
pub(super) fn sites(args: &AppArgs) -> Result<Vec<SiteConfig>, Error> {
    let mut sites = vec![];
    let mut known = HashMap::new();
    for (hosts, own) in args.sites() {
        let site = SiteConfig::new(hosts, own, &args.site)?;
        for (given, host) in hosts.iter().zip(&site.hosts) {
            if let Some(earlier) = known.insert(host.clone(), given.name().to_owned()) {
                return Err(given.refuse(format!("{earlier} has it as well"), "name each host once"));
            }
        }
        sites.push(site);
    }
    let SiteArgs { headers, types, fallback, .. } = &args.site;
    if sites.iter().all(|site| site.files.is_none()) {
        const WHY: (&str, &str) = ("no files are served", "give --root DIR as well, or leave it out");
        if let Some(given) = headers.first().or(types.first()).filter(|_| sites.is_empty()) {
            return Err(given.refuse(WHY.0, WHY.1));
        }
        if let Some(given) = non_empty(fallback.as_ref()) {
            return Err(given.refuse(WHY.0, WHY.1));
        }
    }
    Ok(sites)
}

impl SiteConfig {
    /// The site that `own` is about, where for all sites hold these of the `common` ones that it does not have itself.
    fn new(hosts: &[Given], own: &SiteArgs, common: &SiteArgs) -> Result<SiteConfig, Error> {
        let is_table = !std::ptr::eq(own, common);
        let inherited = |list: fn(&SiteArgs) -> &Vec<Given>| {
            let before = if is_table { &list(common)[..] } else { &[] };
            before.iter().chain(list(own))
        };
        let etag = if *own.etag.source() == ValueSource::Default { &common.etag } else { &own.etag };
        let is_on = |flag: fn(&SiteArgs) -> Option<&Given>| {
            non_empty(flag(own)).or(flag(common)).map_or(Ok(false), Given::boolean)
        };
        let files = FilesConfig {
            follow_symlinks: is_on(|args| args.follow_symlinks.as_ref())?,
            compress: files::compress(if own.compress.is_empty() { &common.compress } else { &own.compress })?,
            list: is_on(|args| args.list.as_ref())?,
            etag: files::etag(etag)?,
            fallback: optional(own.fallback.as_ref(), files::fallback)?,
            types: inherited(|args| &args.types).map(files::media_type).collect::<Result<_, _>>()?,
            root: PathBuf::new(),
        };
        let root = optional(own.root.as_ref(), |given| Ok(given.text().into()))?;
        if let (None, Some(given)) = (&root, non_empty(own.fallback.as_ref())) {
            return Err(given.refuse("this site has no root, in which it would be", "give it one, or leave this out"));
        }
        let redirects = own.redirect.iter().map(Redirect::parse).collect::<Result<Vec<_>, _>>()?;
        if let Some(at) = redirect::circular(&redirects) {
            return Err(own.redirect[at].refuse(
                "where it leads to is redirected again, without end",
                "put a rule for that path before it, or lead elsewhere",
            ));
        }
        Ok(SiteConfig {
            hosts: hosts.iter().map(Host::parse).collect::<Result<_, _>>()?,
            redirects,
            files: root.map(|root| FilesConfig { root, ..files }),
            headers: inherited(|args| &args.headers).map(HeaderRule::parse).collect::<Result<_, _>>()?,
        })
    }
}

impl Host {
    fn parse(given: &Given) -> Result<Host, Error> {
        const ADVICE: &str = "write a name, such as example.org, or *.example.org for all below it";
        let host = given.text().strip_suffix('.').unwrap_or(given.text()).to_ascii_lowercase();
        if !host.is_ascii() {
            return Err(given.refuse("has letters beyond ASCII", "write it as clients send it: xn--..., in Punycode"));
        }
        let (name, is_below) = host.strip_prefix("*.").map_or((host.as_str(), false), |domain| (domain, true));
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        let is_address =
            address.contains(':') && address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        match (is_below, is_address) {
            (false, true) if address.matches(':').count() > 1 => Ok(Host::Name(address.to_owned())),
            _ if name.contains(':') => Err(given.refuse("has a port, and a site is the same on all of them", ADVICE)),
            _ if !name.split('.').all(is_label) => Err(given.refuse("no name of a host", ADVICE)),
            (true, _) => Ok(Host::Below(name.to_owned())),
            (false, _) => Ok(Host::Name(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Etag, Machine};
    use crate::program::cli::{self, Command};

    fn config(text: &str) -> Result<Vec<SiteConfig>, String> {
        let machine = Machine { cores: 1, has_listeners: false };
        match cli::parse_with_file(text).map_err(|error| error.to_string())? {
            Command::Serve(args) => {
                Config::new(&args, machine).map(|config| config.sites).map_err(|error| error.to_string())
            }
            other => panic!("{other}"),
        }
    }

    fn name(name: &str) -> Host {
        Host::Name(name.to_owned())
    }

    #[test]
    fn a_root_alone_is_one_site_for_all_hosts() {
        let sites = config("root = \"/srv\"").unwrap();
        let files = FilesConfig { root: "/srv".into(), ..FilesConfig::default() };
        assert_eq!(sites, [SiteConfig { files: Some(files), ..SiteConfig::default() }]);
        assert_eq!(config("").unwrap(), []);
    }

    #[test]
    fn each_table_is_a_site_and_what_stands_outside_is_the_first_or_holds_for_all() {
        let text = "etag = \"size-mtime\"\nfollow-symlinks = true\nheaders = [\"/* A: b\"]\n[types]\nx = \"a/x\"\n\
                    [[site]]\nhost = [\"One.org\", \"*.one.org\"]\nroot = \"/1\"\nheaders = [\"/* C: d\"]\nfallback = \"/i.html\"\n\
                    [[site]]\nhost = \"two.org.\"\nroot = \"/2\"\netag = \"state\"\nfollow-symlinks = false\ntypes = { x = \"b/x\" }\n\
                    [[site]]\nhost = [\"[::1]\"]\n[[site.redirect]]\nfrom = \"/a b\"\nto = \"https://one.org/\"\nstatus = 308\n";
        let sites = config(text).unwrap();
        assert_eq!(sites[0].hosts, [name("one.org"), Host::Below("one.org".to_owned())]);
        let first = sites[0].files.as_ref().unwrap();
        assert_eq!(
            (first.etag, first.follow_symlinks, first.fallback.as_deref()),
            (Etag::SizeMtime, true, Some("i.html".as_ref()))
        );
        assert_eq!(sites[0].headers.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        let second = sites[1].files.as_ref().unwrap();
        assert_eq!((second.etag, second.follow_symlinks), (Etag::State, false));
        assert_eq!(second.types.last().unwrap().1, "b/x");
        assert_eq!((&sites[2].hosts[..], &sites[2].files, sites[2].redirects.len()), (&[name("::1")][..], &None, 1));
        let sites = config("root = \"/0\"\n[[site]]\nhost = \"one.org\"\nroot = \"/1\"\n").unwrap();
        assert_eq!((&sites[0].hosts[..], sites.len()), (&[][..], 2));
    }

    #[test]
    fn what_cannot_be_a_site_is_refused_by_its_line() {
        for (text, expected) in [
            ("[[site]]\nroot = \"/\"", "reborn.toml:1: site: a table has no host; "),
            ("[[site]]\nhost = []\nroot = \"/\"", "reborn.toml:1: site: a table has no host; "),
            ("[site]\nroot = \"/\"", "reborn.toml:1: site: no array of tables; "),
            ("[[site]]\nhost = \"a\"\nrot = \"/\"", "reborn.toml:3: unknown key \"rot\"; did you mean \"root\"?"),
            ("[[site]]\nhost = \"a\"\nfoo = true", "reborn.toml:3: unknown key \"foo\"; the keys of a site are host, "),
            (
                "[[site]]\nhost = \"a\"\nlisten = \"[::]:80\"",
                "reborn.toml:3: unknown key \"listen\"; it is about the whole server: write it above the first table",
            ),
            ("[[site]]\nhost = \"a:80\"", "reborn.toml:2: host \"a:80\": has a port"),
            ("[[site]]\nhost = \"a/b\"", "reborn.toml:2: host \"a/b\": no name of a host"),
            ("[[site]]\nhost = \"*\"", "reborn.toml:2: host \"*\": no name of a host"),
            ("[[site]]\nhost = \"\u{fc}.org\"", "reborn.toml:2: host \"\u{fc}.org\": has letters beyond ASCII"),
            (
                "[[site]]\nhost = \"a\"\n[[site]]\nhost = [\n\"b\",\n\"A\"]",
                "reborn.toml:6: host \"A\": reborn.toml:2: host has it as well",
            ),
            ("[[site]]\nhost = \"a\"\nfallback = \"x\"", "reborn.toml:3: fallback \"x\": this site has no root"),
            (
                "[[site]]\nhost = \"a\"\n[[site.headers]]\npath = \"/\"\nset = { date = \"x\" }",
                "reborn.toml:3: headers \"/ date: x\": date cannot",
            ),
            (
                "[[site]]\nhost = \"a\"\n\n[[site.redirect]]\nfrom = \"/a\"\nto = \"//b\"",
                "reborn.toml:4: redirect \"/a //b\": ",
            ),
            (
                "redirect = [\"/a /b\",\n\"/b /a\"]",
                "reborn.toml:1: redirect \"/a /b\": where it leads to is redirected again",
            ),
            ("redirect = [\"/a /b\",\n\"/b //a\"]", "reborn.toml:2: redirect \"/b //a\": "),
            ("headers = [\"/ a: b\"]", "reborn.toml:1: headers \"/ a: b\": no files are served; give --root DIR"),
            ("\ntypes = { a = \"b/c\" }", "reborn.toml:2: types \"a=b/c\": no files are served; "),
            ("fallback = \"a\"", "reborn.toml:1: fallback \"a\": no files are served; "),
            ("root = \"/\"\nfallback = \"../a\"", "reborn.toml:2: fallback \"../a\": no file below the root; "),
            ("root = \"/\"\nfallback = \"a/\"", "reborn.toml:2: fallback \"a/\": no file below the root; "),
        ] {
            let error = config(text).unwrap_err();
            let error = error.strip_prefix("error: ").unwrap_or(&error);
            assert!(error.starts_with(expected) && error.contains("; "), "{error}");
        }
    }
}
