//! The cost of a reload does not grow with the process's memory: nothing of it is copied to start a successor.

mod support;

use support::fixture;

const SMALL_MIB: u64 = 10;
const LARGE_MIB: u64 = 4096;
const RUNS: usize = 3;
/// A fork of so much memory takes a hundred times as long; a noisy machine does not.
const RATIO_MAX: f64 = 8.0;

/// How long the spawn step takes in microseconds, the least of some services' first reloads.
fn spawn_us(mebibytes: u64) -> u64 {
    let run = |_| {
        let service = fixture(&["echo=127.0.0.1:0"], &[("FIXTURE_MEMORY_MIB", &mebibytes.to_string())]);
        service.reload_well().stages.spawn_us
    };
    (0..RUNS).map(run).min().expect("there are runs")
}

fn available_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[test]
fn starting_a_successor_takes_as_long_with_4_gib_in_use_as_with_10_mib() {
    if available_mib() < LARGE_MIB + LARGE_MIB / 4 {
        println!("SKIP: {} MiB of memory are available, and {LARGE_MIB} are filled", available_mib());
        return;
    }
    let (small, large) = (spawn_us(SMALL_MIB), spawn_us(LARGE_MIB));
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a few milliseconds")]
    let ratio = large as f64 / small as f64;
    println!("spawn with {SMALL_MIB} MiB: {small} us; with {LARGE_MIB} MiB: {large} us; ratio {ratio:.2}");
    assert!(ratio < RATIO_MAX, "{small} us with {SMALL_MIB} MiB, {large} us with {LARGE_MIB} MiB");
}
