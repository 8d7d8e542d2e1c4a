//! What the program does: serve, check a configuration, or command a running server.
//!
//! The command line and the configuration come before anything exists; what serves is `start`'s, what talks to a running
//! server `commands`'. Every way out passes through here, with its exit code.

pub mod cli;
mod commands;
pub(crate) mod configuration;
pub mod exit;
mod overview;
mod package;
mod progress;
mod start;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use http_types::{Request, Response};
use restart_core::Generation;

use crate::app::{App, AppConfig, Identity};
use crate::config::{Config, ServeArgs};
use crate::http::Handler;
use crate::service::Service;
use crate::version::VERSION;
use cli::{Command, CommandLine};

/// Runs a server whose requests are answered by `handler`, with all that the `reborn` program has: its command line,
/// its subcommands, listeners, reload, drain and log. `--root` and `--demo`, which choose between the applications of
/// `reborn` itself, are refused.
///
/// Call it first thing in `main`, before any thread exists, and return what it returns. It blocks until this process
/// has nothing left to do: the service was stopped, or a newer generation has taken over.
///
/// ```no_run
/// use http_types::{Request, Response};
///
/// fn main() -> std::process::ExitCode {
///     server::run(|request: Request| async move { Ok(Response::from(format!("{}\n", request.url().path()))) })
/// }
/// ```
pub fn run<H: Handler + 'static>(handler: H) -> ExitCode {
    let verify = |config: &Config| {
        let asked = config.files.is_some() || config.demo;
        let refused = "root and demo: this program has an application of its own; leave them out";
        if asked { Err(refused.to_owned()) } else { Ok(()) }
    };
    program(verify, |_, _| Ok(Service::new(handler)))
}

/// Runs the `reborn` program itself, with its default application.
pub fn run_default() -> ExitCode {
    program(
        |_| Ok(()),
        |config, generation| {
            let identity = Identity {
                pid: std::process::id(),
                generation: generation.number(),
                version: VERSION.to_owned(),
                started: Instant::now(),
            };
            let app = App::new(AppConfig { files: config.files.clone(), demo: config.demo, identity })?;
            let decorating = app.clone();
            let mut service = Service::new(move |request: Request| {
                let app = app.clone();
                async move { http_types::Result::<Response>::Ok(app.respond(request).await) }
            });
            if config.demo {
                service.decorate = Some(Box::new(move |request| decorating.signature(request)));
            }
            Ok(service)
        },
    )
}

/// Whether a configuration suits the program's application, and if not, why.
type Verify = fn(&Config) -> Result<(), String>;

fn program<H: Handler + 'static>(
    verify: Verify,
    application: impl FnOnce(&Config, &Generation) -> io::Result<Service<H>>,
) -> ExitCode {
    restart_core::follow_directory();
    let code = match cli::read(std::env::args_os()) {
        Ok(line) => match &line.command {
            Command::Serve(args) => match configuration(args, verify) {
                Ok(config) => start::start(&config, args, application),
                Err(reason) => {
                    start::refuse(&reason);
                    exit::USAGE
                }
            },
            Command::Check(args) => check(&line, args, verify),
            Command::Reload(args) => commands::reload(args),
            Command::Status(args) => commands::status(args),
            Command::Stop(args) => commands::stop(args),
        },
        Err(error) => {
            if error.use_stderr() && tell_predecessor(&error) {
                exit::USAGE
            } else {
                error.exit()
            }
        }
    };
    ExitCode::from(code)
}

fn configuration(args: &ServeArgs, verify: Verify) -> Result<Config, String> {
    let config = configuration::checked(args).map_err(|error| error.to_string())?;
    verify(&config).map(|()| config)
}

/// A command line that this version does not understand, or a file that it cannot read, is the reason why a reload
/// fails; its first line says all.
fn tell_predecessor(error: &clap::Error) -> bool {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    restart_core::decline(line.strip_prefix("error: ").unwrap_or(line))
}

fn check(line: &CommandLine, args: &ServeArgs, verify: Verify) -> u8 {
    match configuration(args, verify) {
        Ok(_) => commands::print(&line.effective()),
        Err(reason) => {
            eprintln!("reborn: {reason}");
            exit::USAGE
        }
    }
}
