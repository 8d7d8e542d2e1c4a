# reborn's tasks. `just` alone lists them; `just ci` is what a change must pass.

# What .ci/run installed comes first.
export PATH := justfile_directory() / "target/tools/bin:" + env("PATH")

# List the recipes.
default:
    @just --list --unsorted

# All that a change must pass: format, lints, documentation, tests, package, licences and bans. The same as `.ci/run`.
ci: fmt-check lint features doc test package cost deny

# `ci` with what takes longer: the interface since the last release, the newer systemd, Chromium and the storm.
ci-full: ci semver (test-systemd "trixie") test-clients storm

# Format the sources.
fmt:
    cargo fmt --all

[private]
fmt-check:
    cargo fmt --all --check

# Clippy on everything, warnings denied.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo clippy --manifest-path tests/bench/Cargo.toml --target-dir target --all-targets --locked -- -D warnings

# The library with each set of its features: none, each by itself, each left out.
features:
    cargo clippy --package restart-core --lib --locked --no-default-features -- -D warnings
    cargo clippy --package restart-core --lib --locked --no-default-features --features control -- -D warnings
    cargo clippy --package restart-core --lib --locked --no-default-features --features systemd -- -D warnings
    cargo clippy --package restart-core --lib --locked --no-default-features --features supervisor -- -D warnings
    cargo clippy --package restart-core --lib --locked --no-default-features --features control,systemd -- -D warnings

# Documentation, warnings denied.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked

# All tests.
test:
    cargo test --workspace

# The library as it would be published, which builds on its own.
package:
    cargo package --package restart-core --locked --allow-dirty

# Instructions and system calls a request, against tests/cost.json; `just cost --renew` stores what it counts.
cost *args:
    cargo build --release --locked --bin reborn
    cargo run --release --locked -- --version
    # The account of sealed records is for tests of debug builds.
    ! grep -q REBORN_TEST_SEALED_RECORDS target/release/reborn
    REBORN_TEST_BINARY=target/release/reborn cargo run --quiet --package tests --bin cost -- {{ args }}

# The cache lines that two teams share for a request, of which there should be none: a trace of every access to memory.
shared:
    cargo build --release --locked --bin reborn
    REBORN_TEST_BINARY=target/release/reborn cargo run --quiet --package tests --bin shared

# Licences, bans and sources of the dependencies (cargo-deny; `.ci/run` installs it).
deny:
    cargo-deny --locked check licenses bans sources

# What a dependent of the library would have to change since the last release (cargo install cargo-semver-checks, which
# takes minutes, so that `just ci` leaves it out). It is silent while the version is to be a major step from that release.
semver *args:
    cargo semver-checks --package restart-core --all-features \
        --baseline-rev "$(grep -v '^#' tests/releases | tail -n 1 | cut -d ' ' -f 2)" {{ args }}

# Replace the running server by what is at its path now (built first, where it runs from here); fails when that fails.
reload *args:
    cargo run --release --quiet -- reload {{ args }}

# What runs, however it was started: generation, pids, listeners.
status *args:
    cargo run --release --quiet -- status {{ args }}

# Serve on 127.0.0.1:8080, rebuild and reload on a change of the sources; a build that fails changes nothing.
dev *args:
    deploy/dev {{ args }}

# Build and install the binary and its systemd units below PREFIX (DESTDIR is honoured).
install prefix="/usr/local":
    cargo build --release --locked
    deploy/install "{{ prefix }}"

# Remove what `just install` installed.
uninstall prefix="/usr/local":
    deploy/install --remove "{{ prefix }}"

# Make the man pages, the completions and the commented configuration, in target/pages.
pages:
    cargo run --quiet --package server --example pages -- target/pages

# Build the Debian package in target/debian (cargo install cargo-deb).
deb *args: pages
    cargo build --release --locked --bin reborn
    cargo-deb --package server --no-build {{ args }}

# Draw the timeline in README from a real run.
timeline:
    cargo run --release --package tests --bin timeline -- tests/timeline.svg

# The benchmark: reloads under heavy load, and what each of them cost.
storm *args:
    cargo run --release --package tests --bin storm -- {{ args }}

# What it costs to move idle connections, 1,000 to as many as the hard limit of open files allows, and what the others
# notice.
idle *args:
    cargo run --release --package tests --bin idle -- {{ args }}

# The same for slow downloads, from a file and from memory, beside as many idle connections.
slow-downloads *args:
    cargo run --release --package tests --bin idle -- --kind idle --kind file --kind memory \
        --count 100 --count 300 --count 1000 {{ args }}

# The campaigns of the tests, so many times as long as in CI: 20 is 1,000 reloads back to back, and 24,000 clients that
# do something in the instant of a drain.
endurance scale="20":
    REBORN_TEST_SCALE={{ scale }} cargo test --release --package tests --test moving_clients -- --nocapture

# A download of 500 MB over 30 s, and whatever else a connection can be in the middle of, through a reload a second.
nothing-cut:
    REBORN_TEST_CUT=full cargo test --release --package tests --test nothing_cut -- --nocapture

# Real clients across reloads, Chromium included, which is too large for `ci` (Debian's package chromium).
test-clients:
    cargo test --package tests --test clients -- --include-ignored

# reborn beside hyper, Go, nginx, HAProxy, pingora and ecdysis; writes tests/BENCHMARKS.md. `just bench reload --rounds 3`.
bench *args:
    tests/bench/run {{ args }}

# The interleavings of a team's threads and of its poller, walked for minutes instead of seconds.
model:
    REBORN_TEST_MODEL=long cargo test --release --package server --test team_model

# Moving, draining and stopping as two teams of four threads do it, whatever this machine has.
test-teams:
    REBORN_TEST_THREADS=8 cargo test --package tests --test teams --test moving --test reloads --test stops \
        --test draining --test nothing_cut --test overload --test https

# Clients that want all of a server's memory, at full size: what each of them took.
abuse:
    REBORN_TEST_ABUSE=full cargo test --release --package tests --test abuse -- --nocapture --test-threads 1

# Fuzz each target for so many minutes; what is found goes to target/fuzz.
fuzz minutes="10":
    #!/usr/bin/env bash
    set -euo pipefail
    export RUSTC_BOOTSTRAP=1    # The fuzzer's instrumentation is an unstable flag of a stable compiler.
    command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --root target/tools
    for crate in restart-core server; do
        for target in $(cargo fuzz list --fuzz-dir "$crate/fuzz"); do
            corpus=target/fuzz/corpus/$target
            mkdir -p "$corpus"
            cargo fuzz run --fuzz-dir "$crate/fuzz" --target-dir target/fuzz --sanitizer none "$target" "$corpus" \
                "$crate/fuzz/seeds/$target" -- "-max_total_time=$(({{ minutes }} * 60))" -max_len=4096 -timeout=10
        done
    done

# The units under a real systemd: the machine's own, or a Debian release's (`just test-systemd trixie`).
test-systemd release="host":
    #!/usr/bin/env bash
    set -euo pipefail
    if [ "{{ release }}" != host ]; then
        export REBORN_LAB_ROOT="$PWD/target/lab/{{ release }}"
        tests/systemd/debian-root "{{ release }}" "$REBORN_LAB_ROOT"
    fi
    cargo build --bin reborn
    cargo test --package tests --test 'systemd*'
