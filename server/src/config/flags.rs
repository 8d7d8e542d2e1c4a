//! The flags of `serve`, each declared here and nowhere else: its name, its variable, its key in the file, its default and
//! its help.
//!
//! A field is the text that was given; [`Config`](super::Config) is what it means.

use std::ffi::OsString;

use clap::{ArgAction, Args};

use super::given::Given;

/// The flags of `serve`, as typed.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Read what is neither a flag nor a variable from this TOML file; a reload reads it afresh
    #[arg(long, env = "REBORN_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<Given<OsString>>,

    /// What the default application serves.
    #[command(flatten)]
    pub app: AppArgs,

    /// Listen there; repeat it, in the variable with commas, for more [default: http=127.0.0.1:8080]
    #[arg(long, env = "REBORN_LISTEN", value_name = "[NAME=]ADDR", help_heading = "Where it listens")]
    pub listen: Vec<Given>,

    /// Take commands on this Unix socket [default: in the runtime directory]
    #[arg(long, env = "REBORN_CONTROL", value_name = "PATH", help_heading = "Where it listens")]
    pub control: Option<Given<OsString>>,

    /// Serve /metrics, /healthz and /readyz there
    #[arg(long, env = "REBORN_METRICS", value_name = "ADDR", help_heading = "Where it listens")]
    pub metrics: Option<Given>,

    /// Keep the pid of the serving process in this file
    #[arg(long, env = "REBORN_PID_FILE", value_name = "PATH", help_heading = "Where it listens")]
    pub pid_file: Option<Given<OsString>>,

    /// Proxies in front of it.
    #[command(flatten)]
    pub proxies: ProxyArgs,

    /// How it speaks TLS.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Stay in the foreground as a small supervisor of the generations: for terminals, containers, runit, s6
    #[arg(long, alias = "supervise", env = "REBORN_FOREGROUND", value_name = "BOOL", help_heading = "Reloading")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub foreground: Option<Given>,

    /// Take the sockets over from the predecessor, or one from fd 3 (a reload inserts it)
    #[arg(short = 'g', action = ArgAction::SetTrue, overrides_with = "graceful", help_heading = "Reloading")]
    pub graceful: bool,

    /// A new version must be ready within this time
    #[arg(long, env = "REBORN_READY_TIMEOUT", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "10s")]
    pub ready_timeout: Given,

    /// A new version must live this long before the old one lets go; 0s is allowed
    #[arg(long, env = "REBORN_PROBATION", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "1s")]
    pub probation: Given,

    /// After a reload the old version may finish its requests for this long; 0s cuts them, and whoever has not moved yet
    #[arg(long, env = "REBORN_DRAIN_TIMEOUT", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "10m")]
    pub drain_timeout: Given,

    /// When told to stop, finish requests for this long, those of old versions as well; 0s cuts them
    #[arg(long, env = "REBORN_STOP_TIMEOUT", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "20s")]
    pub stop_timeout: Given,

    /// When told to stop, go on accepting for this long while /readyz fails
    #[arg(long, env = "REBORN_STOP_DELAY", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "0s")]
    pub stop_delay: Given,

    /// So many old versions may finish at the same time, each in a process of its own
    #[arg(long, env = "REBORN_MAX_DRAINING", value_name = "N", help_heading = "Reloading")]
    #[arg(default_value = "16")]
    pub max_draining: Given,

    /// Reload on this signal too, for example INT (then Ctrl-C reloads)
    #[arg(long, env = "REBORN_RELOAD_SIGNAL", value_name = "NAME", help_heading = "Reloading")]
    pub reload_signal: Option<Given>,

    /// The largest request head
    #[arg(long, env = "REBORN_HEAD_BYTES", value_name = "BYTES", help_heading = "Limits")]
    #[arg(default_value = "16KiB")]
    pub head_bytes: Given,

    /// The most headers in a request
    #[arg(long, env = "REBORN_MAX_HEADERS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value = "100")]
    pub max_headers: Given,

    /// The largest request body
    #[arg(long, env = "REBORN_BODY_BYTES", value_name = "BYTES", help_heading = "Limits")]
    #[arg(default_value = "1GiB")]
    pub body_bytes: Given,

    /// The most connections at a time
    #[arg(long, env = "REBORN_CONNECTIONS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value = "16384")]
    pub connections: Given,

    /// The most connections of one IPv4 address or IPv6 /64 [default: half of --connections; none for loopback]
    #[arg(long, env = "REBORN_CONNECTIONS_PER_CLIENT", value_name = "N", help_heading = "Limits")]
    pub connections_per_client: Option<Given>,

    /// The most requests that are handled at a time; further ones are answered with 503 [default: no limit]
    #[arg(long, env = "REBORN_REQUESTS", value_name = "N", help_heading = "Limits")]
    pub requests: Option<Given>,

    /// Worker threads [default: one for each core]
    #[arg(long, env = "REBORN_THREADS", value_name = "N", help_heading = "Limits")]
    pub threads: Option<Given>,

    /// A connection may wait this long between two requests; longer than a load balancer in front keeps it
    #[arg(long, env = "REBORN_IDLE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "75s")]
    pub idle_timeout: Given,

    /// A request head must be complete after this time
    #[arg(long, env = "REBORN_HEAD_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "10s")]
    pub head_timeout: Given,

    /// A request body may be waited for this long; 500 bytes a second earn the time back
    #[arg(long, env = "REBORN_BODY_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "20s")]
    pub body_timeout: Given,

    /// A client may take this long to make room for its response; 500 bytes a second earn the time back
    #[arg(long, env = "REBORN_WRITE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "20s")]
    pub write_timeout: Given,

    /// Log from off, error, warn, info, debug, trace on, or by module: info,server=debug [default: info]
    #[arg(long, env = "REBORN_LOG", value_name = "LEVEL", help_heading = "Logging")]
    pub log: Option<Given>,

    /// Write a line for each request to this file, or with - to standard error; a reload opens the file anew
    #[arg(long, env = "REBORN_ACCESS_LOG", value_name = "PATH", help_heading = "Logging")]
    pub access_log: Option<Given<OsString>>,

    /// How the access log looks: common or combined, in local time, or json
    #[arg(long, env = "REBORN_ACCESS_LOG_FORMAT", value_name = "FORMAT", help_heading = "Logging")]
    #[arg(default_value = "common")]
    pub access_log_format: Given,
}

/// The flags of `serve` that are about proxies in front.
#[derive(Args, Debug)]
pub struct ProxyArgs {
    /// Believe proxies in this network (unix: clients of Unix sockets) on whose requests they bring: Forwarded, X-Forwarded-For,
    /// -Proto, -Host; repeat it for more
    #[arg(long, env = "REBORN_TRUSTED_PROXY", value_name = "CIDR", help_heading = "Behind a proxy")]
    pub trusted_proxy: Vec<Given>,

    /// The listener of this name takes connections only from trusted proxies that begin them with a PROXY header (v1, v2);
    /// repeat it for more
    #[arg(long, env = "REBORN_PROXY_PROTOCOL", value_name = "NAME", help_heading = "Behind a proxy")]
    pub proxy_protocol: Vec<Given>,
}

/// The flags of `serve` that are about TLS.
#[derive(Args, Debug)]
pub struct TlsArgs {
    /// Listeners called https or https-NAME speak TLS with this certificate and its chain (PEM); repeat both for more sites
    #[arg(long, env = "REBORN_TLS_CERTIFICATE", value_name = "FILE", help_heading = "HTTPS")]
    pub tls_certificate: Vec<Given>,

    /// The key of that certificate (PEM), in the same order; in the file each table of "tls" has certificate and key
    #[arg(long, env = "REBORN_TLS_KEY", value_name = "FILE", help_heading = "HTTPS")]
    pub tls_key: Vec<Given>,

    /// For development: make a certificate for localhost and this machine; reloads keep it
    #[arg(long, env = "REBORN_TLS_SELF_SIGNED", value_name = "BOOL", help_heading = "HTTPS")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tls_self_signed: Option<Given>,

    /// The oldest version of TLS that is spoken: 1.2 or 1.3
    #[arg(long, env = "REBORN_TLS_MIN_VERSION", value_name = "VERSION", help_heading = "HTTPS")]
    #[arg(default_value = "1.2")]
    pub tls_min_version: Given,

    /// Send clients of other listeners to HTTPS (308), at its port or, where another one leads there from outside, at
    /// PORT; /.well-known/acme-challenge/ is served
    #[arg(long, env = "REBORN_REDIRECT_HTTPS", value_name = "BOOL|PORT", help_heading = "HTTPS")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub redirect_https: Option<Given>,

    /// Have browsers ask for HTTPS only for this long (Strict-Transport-Security); 0s has them forget it
    #[arg(long, env = "REBORN_HSTS", value_name = "DURATION", help_heading = "HTTPS")]
    pub hsts: Option<Given>,

    /// A TLS handshake must be over after this time
    #[arg(long, env = "REBORN_HANDSHAKE_TIMEOUT", value_name = "DURATION", help_heading = "HTTPS")]
    #[arg(default_value = "10s")]
    pub handshake_timeout: Given,

    /// The most TLS handshakes at a time
    #[arg(long, env = "REBORN_HANDSHAKES", value_name = "N", help_heading = "HTTPS")]
    #[arg(default_value = "1024")]
    pub handshakes: Given,
}

/// The flags of `serve` that are the default application's: a program with one of its own has none of them.
#[derive(Args, Debug)]
pub struct AppArgs {
    /// The site that is served, or what all sites of the file have in common.
    #[command(flatten)]
    pub site: SiteArgs,

    /// Serve /, /fast, /slow, /echo, /bytes, /events, /chat and /live to try reloads with; answers carry x-pid and
    /// x-generation
    #[arg(long, env = "REBORN_DEMO", value_name = "BOOL", help_heading = "What is served")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub demo: Option<Given>,

    /// The sites that the file has tables for.
    #[arg(skip)]
    pub sites: Vec<HostedArgs>,
}

/// The keys of a `[[site]]` table, which have no flags.
#[derive(Args, Debug)]
pub struct HostedArgs {
    /// The hosts that the site is for
    #[arg(long, value_name = "HOST")]
    pub host: Vec<Given>,

    /// What is served there.
    #[command(flatten)]
    pub site: SiteArgs,
}

/// What is served as a site: flags of `serve`, and keys of each `[[site]]` table.
#[derive(Args, Debug)]
pub struct SiteArgs {
    /// Serve the plain files in DIR
    #[arg(long, env = "REBORN_ROOT", value_name = "DIR", help_heading = "What is served")]
    pub root: Option<Given<OsString>>,

    /// Follow symlinks in DIR, also out of it; else what is behind one is not served (DIR itself may be one)
    #[arg(long, env = "REBORN_FOLLOW_SYMLINKS", value_name = "BOOL", help_heading = "What is served")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub follow_symlinks: Option<Given>,

    /// Make entity tags of a file's state (inode, size, times), or of what replicas have in common: size-mtime
    #[arg(long, env = "REBORN_ETAG", value_name = "KIND", help_heading = "What is served")]
    #[arg(default_value = "state")]
    pub etag: Given,

    /// Show what is in a directory that has no index.html, to people as a page, to programs as JSON
    #[arg(long, env = "REBORN_LIST", value_name = "BOOL", help_heading = "What is served")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub list: Option<Given>,

    /// Compress texts as they are asked for, where no compressed sibling is there: gzip, zstd, br, or several with commas
    #[arg(long, env = "REBORN_COMPRESS", value_name = "CODINGS", help_heading = "What is served")]
    pub compress: Vec<Given>,

    /// Set a header of the answers for a path, or with ! NAME remove it; repeat it, in the variable a line each
    #[arg(long, env = "REBORN_HEADERS", value_name = "PATH NAME: VALUE", help_heading = "What is served")]
    pub headers: Vec<Given>,

    /// Send clients elsewhere, as "/old/* /new/:splat 301"; repeat it, in the variable a line each
    #[arg(long, env = "REBORN_REDIRECT", value_name = "FROM TO [STATUS]", help_heading = "What is served")]
    pub redirect: Vec<Given>,

    /// Answer a browser's navigation to what is not there with this file in DIR, for applications of one page
    #[arg(long, env = "REBORN_FALLBACK", value_name = "FILE", help_heading = "What is served")]
    pub fallback: Option<Given<OsString>>,

    /// Serve files of this extension with this media type; repeat it, in the variable with commas
    #[arg(long, env = "REBORN_TYPES", value_name = "EXTENSION=TYPE", help_heading = "What is served")]
    pub types: Vec<Given>,
}
