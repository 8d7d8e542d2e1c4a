//! Measures the scenarios that it is asked for, in rounds, and writes `tests/BENCHMARKS.md` with its figures.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bench::{
    growth::growth,
    lasting::lasting,
    machine, page,
    peer::{Peer, set_threads},
    plot,
    reload::{Clients, reload},
    results::Results,
    secured::secured,
    steady,
};
use clap::{Parser, ValueEnum};

/// The starts of each program in one round.
const STARTS: u32 = 5;

/// Compare reborn with what a user would pick instead; without scenarios: all of them
#[derive(Parser, Debug)]
struct Settings {
    /// What to measure
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How often each peer is measured, in turn
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// The seconds of each load at full speed
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// With how many threads each peer serves; the load has half as many
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Only these peers, by name
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Of `growth`, only this series: memory, connections, tls, listeners, requests or generations
    #[arg(long)]
    series: Option<String>,
    /// Where the page, the figures and the drawings go: a folder as `tests`
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Throughput,
    Syscalls,
    Latency,
    Memory,
    Start,
    Reload,
    ReloadFull,
    Lasting,
    Tls,
    Growth,
    /// Nothing: writes the page from the figures that there are
    Page,
}

fn main() -> ExitCode {
    match run(&Settings::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<(), Box<dyn Error>> {
    set_threads(settings.threads);
    let file = settings.folder.join("bench/results.json");
    fs::create_dir_all(settings.folder.join("bench/figures"))?;
    let mut results = Results::load(&file)?;
    let peers: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| is_asked_for(settings, *peer)).collect();
    let all: Vec<Scenario> = Scenario::value_variants().iter().copied().filter(|s| *s != Scenario::Page).collect();
    let scenarios = if settings.scenarios.is_empty() { &all } else { &settings.scenarios };
    for scenario in scenarios.iter().filter(|scenario| **scenario != Scenario::Page) {
        results.begin(&name(*scenario), command(settings, *scenario));
        results.machine = machine::describe();
        let rounds = if *scenario == Scenario::Growth { 1 } else { settings.rounds };
        for round in 1..=rounds {
            eprintln!("bench: {}, round {round} of {rounds}", name(*scenario));
            measure(settings, *scenario, &mut results, &peers);
        }
        results.store(&file)?;
    }
    write_page(&results, &settings.folder)
}

fn measure(settings: &Settings, scenario: Scenario, results: &mut Results, peers: &[Peer]) {
    match scenario {
        Scenario::Throughput => steady::throughput(results, peers, settings.seconds),
        Scenario::Syscalls => steady::syscalls(results, peers, settings.seconds),
        Scenario::Latency => steady::latency(results, peers, settings.seconds),
        Scenario::Memory => steady::memory(results, peers),
        Scenario::Start => steady::start(results, peers, STARTS),
        Scenario::Reload => reload(results, peers, Clients::Paced),
        Scenario::ReloadFull => reload(results, peers, Clients::Full),
        Scenario::Lasting => lasting(results, peers),
        Scenario::Tls => secured(results, peers, settings.seconds),
        Scenario::Growth => growth(results, settings.series.as_deref()),
        Scenario::Page => {}
    }
}

fn write_page(results: &Results, folder: &Path) -> Result<(), Box<dyn Error>> {
    plot::draw(results, &folder.join("bench/figures"))?;
    fs::write(folder.join("BENCHMARKS.md"), page::page(results))?;
    Ok(())
}

fn is_asked_for(settings: &Settings, peer: Peer) -> bool {
    settings.peers.is_empty() || settings.peers.iter().any(|name| peer.name().eq_ignore_ascii_case(name))
}

fn name(scenario: Scenario) -> String {
    scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn command(settings: &Settings, scenario: Scenario) -> String {
    let Settings { rounds, seconds, threads, .. } = settings;
    let threads = if *threads == 2 { String::new() } else { format!(" --threads {threads}") };
    format!("just bench {} --rounds {rounds} --seconds {seconds}{threads}", name(scenario))
}
