//! The command line: which commands and flags there are, their environment variables, their keys in the configuration
//! file, and the help that teaches them.
//!
//! It decides nothing about values. Each stays the text that was typed, together with where it came from, so that
//! `config` can refuse it by the name that the user knows.

mod blame;
mod command;
mod effective;
mod file;
mod parse;
mod tables;

pub(crate) use command::command_of;
pub use command::{ClientArgs, Command, ReloadArgs, StatusArgs, command};
pub use file::keys;
pub use parse::parse;
#[cfg(any(test, fuzzing))]
pub(crate) use parse::parse_with_file;
pub(crate) use parse::{CommandLine, read, serves};

pub use crate::config::{AppArgs, FilePosition, Given, ServeArgs, TlsArgs, ValueSource};

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::time::Duration;
    use std::{env, process};

    use super::*;
    use crate::program::configuration::checked;
    use crate::program::exit;
    use crate::program::package::Package;

    fn parse_words(words: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("reborn").chain(words.split_whitespace()).map(OsString::from))
    }

    fn serve(words: &str) -> ServeArgs {
        match parse_words(words).unwrap() {
            Command::Serve(serve) => *serve,
            other => panic!("{words} is {other}"),
        }
    }

    /// Parses in a process of its own, because the environment of this one belongs to all tests.
    fn parse_with_environment(words: &str, environment: &[(&str, &str)]) -> String {
        let output = process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "program::cli::tests::child_that_parses", "--ignored", "--nocapture"])
            .env("TEST_WORDS", words)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let (_, result) = stdout.split_once("RESULT ").unwrap_or_else(|| panic!("no result in {stdout}"));
        result.split_once(" END").unwrap().0.to_owned()
    }

    #[test]
    #[ignore = "other tests run it in a process of its own"]
    fn child_that_parses() {
        let words = env::var("TEST_WORDS").unwrap_or_default();
        match parse_words(&words) {
            Ok(Command::Serve(serve)) => match checked(&serve) {
                Ok(config) => println!("RESULT {config:?} END"),
                Err(error) => println!("RESULT {error} END"),
            },
            other => println!("RESULT {other:?} END"),
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_command_line() {
        command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        let demo = |words: &str| serve(words).app.demo.map(|given| given.text().clone());
        assert_eq!(demo(""), None);
        assert_eq!(demo("--demo").as_deref(), Some("true"));
        assert_eq!(demo("serve --demo").as_deref(), Some("true"));
        let listen = serve("--demo --listen a=@b --listen c").listen;
        assert_eq!(listen.iter().map(Given::text).collect::<Vec<_>>(), ["a=@b", "c"]);
    }

    #[test]
    fn g_is_taken_wherever_a_reload_or_a_person_puts_it() {
        for words in ["-g", "-g serve", "-g --demo", "-g serve --demo", "serve -g", "--demo -g", "-g -g serve -g"] {
            assert!(serve(words).graceful, "{words}");
        }
        assert!(!serve("--demo").graceful);
        assert!(parse_words("-g reload").is_err(), "a client command takes over nothing");
    }

    #[test]
    fn client_commands_have_their_flags() {
        let Command::Reload(reload) = parse_words("reload --control /run/a").unwrap() else { panic!() };
        assert_eq!((reload.client.control(), reload.wait), (Some(std::path::Path::new("/run/a")), None));
        for (words, seconds) in [("reload --wait", 60), ("reload --wait=2s", 2), ("reload --wait=0s", 0)] {
            let Command::Reload(reload) = parse_words(words).unwrap() else { panic!() };
            assert_eq!(reload.wait, Some(Duration::from_secs(seconds)), "{words}");
        }
        let Command::Stop(client) = parse_words("stop --control=").unwrap() else { panic!() };
        assert_eq!(client.control(), None);
        let Command::Status(status) = parse_words("status --json").unwrap() else { panic!() };
        assert!(status.json);
        assert!(parse_words("reload --demo").is_err());
    }

    #[test]
    fn a_usage_error_exits_with_its_code_and_help_with_success() {
        for words in [
            "reload --wait=soon",
            "reload --wait soon",
            "bogus",
            "--bogus",
            "serve bogus",
            "--root",
            "-g reload",
            "help bogus",
        ] {
            assert_eq!(parse_words(words).unwrap_err().exit_code(), i32::from(exit::USAGE), "{words}");
        }
        for words in [
            "--help",
            "-h",
            "--version",
            "-V",
            "serve --help",
            "--demo --help",
            "reload -h",
            "-g --help",
            "help",
            "help serve",
        ] {
            assert_eq!(parse_words(words).unwrap_err().exit_code(), i32::from(exit::OK), "{words}");
        }
    }

    #[test]
    fn words_of_other_servers_lead_to_the_right_ones() {
        let cases = [
            ("--port 8081", "--listen 127.0.0.1:8081"),
            ("serve -p 8081", "--listen 127.0.0.1:8081"),
            (":8081", "--listen 127.0.0.1:8081"),
            ("serve localhost:8081", "--listen 127.0.0.1:8081"),
            ("8081", "--listen 127.0.0.1:8081"),
            ("/tmp", "reborn --root /tmp"),
            ("serve .", "reborn --root ."),
            ("restart", "reborn reload"),
            ("--directory x", "--root DIR"),
        ];
        for (words, right) in cases {
            let error = parse_words(words).unwrap_err().to_string();
            assert!(error.contains("tip: ") && error.contains(right), "{words}: {error}");
            assert!(!error.contains("tip: to pass"), "{words}: {error}");
        }
    }

    #[test]
    fn an_argument_that_is_no_text_is_kept_where_a_path_may_be() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(vec![b'/', 0xff]);
        let arguments = ["reborn".into(), "--root".into(), path.clone()];
        let Command::Serve(serve) = parse(arguments).unwrap() else { panic!() };
        assert_eq!(serve.app.site.root.unwrap().text(), &path);
        assert!(parse(["reborn".into(), OsString::from_vec(vec![0xff])]).is_err());
    }

    #[test]
    fn the_help_teaches_the_first_steps_and_the_exit_codes() {
        let help = command().render_long_help().to_string();
        for part in ["reborn --demo", "reborn reload", "--root /srv/www"] {
            assert!(help.contains(part), "{part} in {help}");
        }
        for (code, meaning) in exit::TABLE {
            assert!(help.contains(&format!("{code}  {meaning}")), "{code} in {help}");
        }
    }

    #[test]
    fn every_flag_of_serve_has_its_variable_and_a_default_or_none_by_nature() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_help().to_string();
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        for flag in serve.get_arguments().filter(|flag| flag.get_long().is_some_and(|long| long != "help")) {
            let id = flag.get_id().as_str();
            assert_eq!(flag.get_env().unwrap().to_str().unwrap(), format!("REBORN_{}", id.to_uppercase()));
            assert_eq!(flag.get_long().unwrap(), id.replace('_', "-"));
            let text = flag.get_help().unwrap().to_string();
            let off = [
                "config",
                "root",
                "follow_symlinks",
                "list",
                "compress",
                "headers",
                "redirect",
                "fallback",
                "types",
                "demo",
                "metrics",
                "pid_file",
                "reload_signal",
                "foreground",
                "access_log",
                "tls_certificate",
                "tls_key",
                "trusted_proxy",
                "proxy_protocol",
                "tls_self_signed",
                "redirect_https",
                "hsts",
            ];
            let has_default = !flag.get_default_values().is_empty() || text.contains("[default: ");
            assert!(has_default != off.contains(&id), "{id}: {text}");
        }
    }

    #[test]
    fn a_variable_is_as_good_as_its_flag_and_the_flag_wins() {
        let environment = [
            ("REBORN_DEMO", "1"),
            ("REBORN_LISTEN", "a=127.0.0.1:1, b=@two"),
            ("REBORN_HEAD_BYTES", "2KiB"),
            ("REBORN_IDLE_TIMEOUT", "3s"),
        ];
        let config = parse_with_environment("--idle-timeout 4s", &environment);
        for part in [
            "demo: true",
            r#"name: "a", address: Tcp(127.0.0.1:1)"#,
            r#"name: "b", address: UnixAbstract("two")"#,
            "head_bytes: 2048",
            "idle_timeout: 4s",
            "graceful: false",
        ] {
            assert!(config.contains(part), "{part} in {config}");
        }
        assert!(parse_with_environment("reload", &[("REBORN_CONTROL", "/run/c")]).contains("/run/c"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let environment =
            ["ROOT", "DEMO", "LISTEN", "IDLE_TIMEOUT", "THREADS", "LOG", "CONTROL", "PID_FILE", "RELOAD_SIGNAL"]
                .map(|name| format!("REBORN_{name}"));
        let environment = environment.each_ref().map(|name| (name.as_str(), ""));
        let empty = parse_with_environment("", &environment);
        assert_eq!(empty, format!("{:?}", checked(&serve("")).unwrap()));
        assert!(parse_with_environment("stop", &[("REBORN_CONTROL", "")]).contains("None"));
    }

    #[test]
    fn a_bad_variable_is_named_and_an_empty_flag_undoes_it() {
        let bad = parse_with_environment("", &[("REBORN_ROOT", "/nonexistent")]);
        assert!(bad.starts_with(r#"REBORN_ROOT "/nonexistent": No such file"#), "{bad}");
        let bad = parse_with_environment("", &[("REBORN_LISTEN", "a=@a,")]);
        assert!(bad.starts_with(r#"REBORN_LISTEN "a=@a,": "" is no address"#), "{bad}");
        let bad = parse_with_environment("", &[("REBORN_DEMO", "maybe")]);
        assert!(bad.starts_with(r#"REBORN_DEMO "maybe": neither true nor false"#), "{bad}");
        let undone = parse_with_environment("--root=", &[("REBORN_ROOT", "/nonexistent")]);
        assert!(undone.contains("sites: []"), "{undone}");
        let undone = parse_with_environment("--demo=false", &[("REBORN_DEMO", "true")]);
        assert!(undone.contains("demo: false"), "{undone}");
    }

    #[test]
    fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reborn.toml");
        std::fs::write(&file, "idle-timeout = \"1s\"\nhead-timeout = \"1s\"\nbody-timeout = \"1s\"\n").unwrap();
        let environment =
            [("REBORN_CONFIG", file.to_str().unwrap()), ("REBORN_IDLE_TIMEOUT", "2s"), ("REBORN_HEAD_TIMEOUT", "2s")];
        let config = parse_with_environment("--idle-timeout 3s", &environment);
        for part in ["idle_timeout: 3s", "head_timeout: 2s", "body_timeout: 1s", "write_timeout: 20s"] {
            assert!(config.contains(part), "{part} in {config}");
        }
    }

    #[test]
    fn a_refused_value_of_the_file_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reborn.toml");
        std::fs::write(&file, "demo = true\nidle-timeout = 10\n").unwrap();
        let words = format!("--config {}", file.display());
        let error = checked(&serve(&words)).unwrap_err().to_string();
        let expected = format!(r#"{}:2: idle-timeout "10": not a duration"#, file.display());
        assert!(error.starts_with(&expected) && error.contains("such as 300ms"), "{error}");
        std::fs::write(&file, "deno = true\n").unwrap();
        let error = parse_words(&words).unwrap_err();
        let expected = format!("error: {}:1: unknown key \"deno\"; did you mean \"demo\"?\n", file.display());
        assert_eq!((error.to_string(), error.exit_code()), (expected, i32::from(exit::USAGE)));
        assert!(serve("--config=").config.is_some(), "an empty path names no file");
    }

    #[test]
    fn every_flag_of_serve_but_those_about_the_start_is_a_key_of_the_file() {
        let command = command();
        let serve = command.find_subcommand("serve").unwrap();
        let is_key = |flag: &clap::Arg| file::keys(serve).any(|key| key.get_id() == flag.get_id());
        let others: Vec<_> = serve.get_arguments().filter(|flag| !is_key(flag)).map(clap::Arg::get_id).collect();
        assert_eq!(others, ["config", "graceful"], "no other flag lacks a key");
        let folder = tempfile::tempdir().unwrap();
        let (path, reborn) = (folder.path().join("reborn.toml"), Package::reborn());
        for key in file::keys(serve) {
            let long = key.get_long().unwrap();
            std::fs::write(&path, format!("\n\n{long} = \"7\"\n")).unwrap();
            let line = read(&reborn, ["reborn".into(), "--config".into(), path.clone().into()]).unwrap();
            let shown = line.effective(&reborn);
            assert!(shown.lines().any(|line| is_shown(line, long, &path)), "{long} of {}:3 in {shown}", path.display());
            let Command::Serve(serve) = line.command else { panic!("it serves") };
            // Only what is given there is refused by the name of its place.
            let fields = format!("{serve:?}");
            let name = format!("name: \"{}:3: {long}\"", path.display());
            assert_eq!(fields.matches("text: \"7\"").count(), 1, "{long} in {fields}");
            assert_eq!(fields.matches(&name).count(), 1, "{name} in {fields}");
        }
    }

    fn is_shown(line: &str, long: &str, path: &std::path::Path) -> bool {
        let value = format!("{long} = ");
        let (left, source) = line.split_once(" # ").unwrap_or_default();
        let is_value = |text: &str| ["\"7\"", "[\"7\"]"].contains(&text.trim());
        left.strip_prefix(&value).is_some_and(is_value) && source == format!("{}:3", path.display())
    }
}
