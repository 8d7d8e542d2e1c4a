//! The Kubernetes manifests, as far as they can be tried without a cluster: valid by the published schemas, and true to
//! the program, whose flags, paths and deadlines they repeat.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tests::{CommandOutput, binary, skip::skip};

/// The oldest release whose schemas know all that the manifests use (preStop's sleep), and the newest known one.
const RELEASES: [&str; 2] = ["1.30", "1.37"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes")
}

fn manifests() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("the folder is in the repository");
    entries.map(|entry| entry.expect("it can be read").path()).filter(|path| path.extension().is_some()).collect()
}

/// Whether the validator (the Python package kubernetes-validate) is there; skips if not.
fn has_validator() -> bool {
    let found = Command::new("kubernetes-validate").arg("--version").output().is_ok();
    if !found {
        skip("kubernetes-validate is not installed (pip install kubernetes-validate)");
    }
    found
}

fn validate(release: &str, files: &[PathBuf]) -> CommandOutput {
    let options = ["--strict", "--kubernetes-version", release];
    CommandOutput::of(Command::new("kubernetes-validate").args(options).args(files))
}

/// The manifest of this kind, as JSON: the validator's own Python reads YAML.
#[track_caller]
fn manifest(name: &str) -> Value {
    let validator = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("kubernetes-validate"))
        .find(|path| path.exists())
        .expect("it was found before");
    let script = "import sys, yaml, json; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let python = validator.with_file_name("python");
    let output = CommandOutput::of(Command::new(python).args(["-c", script]).arg(folder().join(name)));
    output.assert_success();
    serde_json::from_str(&output.stdout).expect("it is JSON")
}

#[test]
fn the_manifests_are_valid_in_the_oldest_and_the_newest_release() {
    if !has_validator() {
        return;
    }
    assert_eq!(manifests().len(), 4, "{:?}", manifests());
    for release in RELEASES {
        validate(release, &manifests()).assert_success();
    }
    let text = fs::read_to_string(folder().join("deployment.yaml")).expect("it is there");
    let wrong = tempfile::NamedTempFile::with_suffix(".yaml").expect("a temporary file");
    fs::write(wrong.path(), text.replace("minReadySeconds", "minReadySecond")).expect("it is the test's own");
    assert!(!validate(RELEASES[1], &[wrong.path().to_owned()]).is_success(), "a misspelt field is noticed");
}

#[test]
fn the_deployment_says_what_the_program_understands() {
    if !has_validator() {
        return;
    }
    let deployment = manifest("deployment.yaml");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let text = manifest("configmap.yaml")["data"]["reborn.toml"].as_str().expect("a text").to_owned();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), &text).expect("it is the test's own");

    let arguments: Vec<&str> = container["args"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let (command, flags) = arguments.split_first().expect("there is a command");
    assert_eq!(*command, "serve");
    let flags = flags
        .iter()
        .map(|flag| if *flag == "/etc/reborn/reborn.toml" { file.path().as_os_str() } else { flag.as_ref() });
    let checked = CommandOutput::of(Command::new(binary::reborn()).arg("check").args(flags));
    checked.assert_success();

    let setting = |key: &str| {
        let line = checked.stdout.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap_or_else(|| panic!("no {key} in {checked}")).split('"').nth(1).expect("a text in quotes").to_owned()
    };
    let stop = humantime::parse_duration(&setting("stop-timeout")).expect("a duration");
    let seconds = |value: &Value| Duration::from_secs(value.as_u64().expect("a number"));
    let pause = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
    let grace = seconds(&pod["terminationGracePeriodSeconds"]);
    assert!(grace >= pause + stop + Duration::from_secs(5), "{grace:?} for {pause:?} and {stop:?}");

    for port in container["ports"].as_array().expect("a list") {
        let (name, number) = (port["name"].as_str().expect("a name"), &port["containerPort"]);
        assert!(text.contains(&format!(":{number}\"")), "{name}: nothing of the configuration listens on {number}");
    }
}

/// What a connection takes at the most: a piece of a response, and what the disk has to give for it (deploy/README.md).
const CONNECTION_KIB: u64 = 64 + 128;
/// What a generation that serves nobody takes, and the supervisor.
const GENERATION_KIB: u64 = 16 * 1024;
const SUPERVISOR_KIB: u64 = 8 * 1024;

#[test]
fn the_memory_limit_is_enough_for_all_connections_of_two_generations() {
    let number = |file: &str, before: &str, after: &str| {
        let text = fs::read_to_string(folder().join(file)).expect("it is there");
        let found = text.split_once(before).and_then(|(_, rest)| rest.split_once(after)?.0.trim().parse::<u64>().ok());
        found.unwrap_or_else(|| panic!("no {before:?} with a number in {file}"))
    };
    let connections = number("configmap.yaml", "\n    connections = ", "\n");
    let limit = number("deployment.yaml", "limits: {memory: ", "Mi}") * 1024;
    let needed = 2 * (connections * CONNECTION_KIB + GENERATION_KIB) + SUPERVISOR_KIB;
    assert!(needed <= limit, "{connections} connections need {needed} KiB, and the limit is {limit} KiB");
}
