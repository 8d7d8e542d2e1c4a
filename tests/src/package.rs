//! The Debian package, as `just deb` builds it but with the program under test, and its versions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    CommandOutput, binary,
    lab::{Lab, Said},
    skip::skip,
};

/// How long a build of the package may take, where the program is built already.
const PACKAGE_MAX: Duration = Duration::from_secs(300);

/// A package that cargo-deb made, unpacked, from which the versions of a test are built.
#[derive(Debug)]
pub struct Package {
    folder: tempfile::TempDir,
}

impl Package {
    /// Builds the package as `just deb` does, with the program under test; nothing where cargo-deb is missing.
    pub fn build() -> Option<Package> {
        if Command::new("cargo-deb").arg("--version").output().is_err() {
            skip("cargo-deb is not installed (cargo install cargo-deb)");
            return None;
        }
        binary::reborn();
        let (target, profile) = binary::build_place();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        CommandOutput::of(Command::new(binary::example("pages")).arg(root.join("target/pages"))).assert_success();
        let made = folder.path().join("made.deb");
        let mut build = Command::new("cargo-deb");
        build.args(["--package", "server", "--no-build", "--fast", "--profile", &profile, "--output"]).arg(&made);
        build.current_dir(&root).env("CARGO_TARGET_DIR", target);
        CommandOutput::within(PACKAGE_MAX, &mut build).assert_success();
        run("dpkg-deb", &["--raw-extract".as_ref(), &made, &folder.path().join("tree")]);
        Some(Package { folder })
    }

    /// The package with another version number and, behind its program's last byte or instead of it, other bytes.
    pub fn version(&self, number: u32, program: impl FnOnce(Vec<u8>) -> Vec<u8>) -> PathBuf {
        let tree = self.folder.path().join(format!("tree-{number}"));
        run("cp", &["--archive".as_ref(), &self.folder.path().join("tree"), &tree]);
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control).expect("a package has a control file");
        let lines = text.lines().map(|line| match line.strip_prefix("Version: ") {
            Some(_) => format!("Version: 0.0.{number}-1\n"),
            None => format!("{line}\n"),
        });
        fs::write(&control, lines.collect::<String>()).expect("the folder is the test's own");
        let file = tree.join("usr/bin/reborn");
        let bytes = program(fs::read(&file).expect("the package has the program"));
        fs::write(&file, bytes).expect("the folder is the test's own");
        let package = self.folder.path().join(format!("reborn-{number}.deb"));
        run("dpkg-deb", &["-Znone".as_ref(), "--root-owner-group".as_ref(), "--build".as_ref(), &tree, &package]);
        package
    }

    /// Copies a package into the lab and has dpkg install it.
    pub fn install(lab: &Lab, package: &Path) -> Said {
        lab.write("/root/reborn.deb", fs::read(package).expect("the package was built"));
        lab.exec(["dpkg", "--force-confold", "--install", "/root/reborn.deb"])
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&Path]) {
    CommandOutput::within(PACKAGE_MAX, Command::new(program).args(arguments)).assert_success();
}
