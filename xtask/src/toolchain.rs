//! The one place that finds a compiler for guests: something that has the standard library for `wasm32-wasip1`.
//!
//! ```text
//! 1. the cargo that runs us has it                        nothing to do
//! 2. rustup is there                                      rustup target add wasm32-wasip1
//! 3. Debian's or Ubuntu's packages are installed          their cargo builds the library from source
//! 4. apt-get may install them                             the same, after installing
//! ```
//!
//! The first way that works is taken, and one line says which. [`Facts`] are gathered first; [`ways`], which decides, is a
//! function of them alone.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::Step;

/// The target of every guest.
pub(crate) const TARGET: &str = "wasm32-wasip1";

/// Chooses the toolchain, where the first that works is not the one that is wanted.
const CHOICE_VARIABLE: &str = "SANDGATE_GUEST_TOOLCHAIN";

const PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "wasi-libc", "lld"];
const DISTRO_CARGO: &str = "/usr/bin/cargo";
const DISTRO_RUSTC: &str = "/usr/bin/rustc";
/// One file of each package. Without any of them the packages cannot build a guest.
const DISTRO_FILES: [&str; 5] = [
    DISTRO_RUSTC,
    DISTRO_CARGO,
    "/usr/lib/rustlib/src/rust/library/std/Cargo.toml",
    "/usr/lib/wasm32-wasi/crt1-command.o",
    "/usr/bin/wasm-ld",
];
/// `self-contained` would look for the C runtime beside rustc; the distribution has it in its own place.
const DISTRO_RUSTFLAGS: &str = "-C link-self-contained=no -C link-arg=/usr/lib/wasm32-wasi/crt1-command.o \
                                -L native=/usr/lib/wasm32-wasi";

/// What builds guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The cargo that runs us, with the target's standard library installed, as rustup does it.
    Rustup,
    /// The distribution's cargo, which builds the standard library from source. It needs the package registry for the sources of the
    /// library's own dependencies.
    Distro,
}

/// Finds a toolchain, installs what is missing where that can be done without asking, and says what it did in one line.
pub(crate) fn find(root: &Path) -> Result<Toolchain> {
    let facts = Facts::gather(root);
    let ways = ways(&facts, Choice::from_environment()?);
    let mut failures = String::new();
    for way in ways {
        match way.take(root) {
            Ok(toolchain) => {
                eprintln!("==> guests are built with {}", way.outcome());
                return Ok(toolchain);
            }
            Err(error) => failures.push_str(&format!("\n  tried, in vain: {error:#}")),
        }
    }
    if let Some(missing) = &facts.distro_lacks {
        failures.push_str(&format!("\n  the packages cannot be used: {missing}"));
    }
    bail!(
        "no compiler for guests: the standard library for `{TARGET}` is not installed. Install it with\n    \
         rustup target add {TARGET}\n  or, on Debian and Ubuntu, with\n    \
         apt-get install --no-install-recommends {}{failures}",
        PACKAGES.join(" ")
    )
}

impl Toolchain {
    /// A cargo command for guests. `dir` is their workspace, so that its configuration counts.
    pub(crate) fn cargo(self, name: &str, dir: &Path, subcommand: &str) -> Step {
        match self {
            Self::Rustup => Step::cargo(name, dir).args([subcommand, "--target", TARGET]),
            Self::Distro => Step::new(name, DISTRO_CARGO, dir)
                .args([subcommand, "--target", TARGET, "-Zbuild-std=std,panic_abort"])
                // The rustc found first in PATH may be rustup's.
                .env("RUSTC", DISTRO_RUSTC)
                // For `-Zbuild-std`, which a stable cargo refuses otherwise.
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_WASIP1_LINKER", "wasm-ld")
                .env("CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS", DISTRO_RUSTFLAGS)
                // These would replace the target's own flags.
                .env_remove("CARGO_ENCODED_RUSTFLAGS")
                .env_remove("RUSTFLAGS")
                // The other toolchain's: cargo sets them for what it runs, and it runs xtask.
                .env_remove("RUSTUP_TOOLCHAIN")
                .env_remove("LD_LIBRARY_PATH"),
        }
    }
}

/// What this machine has.
#[derive(Debug)]
struct Facts {
    /// The cargo that runs us can compile for the target.
    target_installed: bool,
    /// There is a rustup to ask.
    rustup: bool,
    /// Why the distribution's packages cannot be used as they are, or `None` when they can.
    distro_lacks: Option<String>,
    /// How packages can be installed without asking anybody.
    apt: Apt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apt {
    Unavailable,
    AsRoot,
    WithSudo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    First,
    Rustup,
    Distro,
}

/// One way to a toolchain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ready,
    AddTarget,
    DistroReady,
    InstallDistro { sudo: bool },
}

/// The ways worth trying, in order.
fn ways(facts: &Facts, choice: Choice) -> Vec<Way> {
    let mut ways = Vec::new();
    if choice != Choice::Distro {
        if facts.target_installed {
            ways.push(Way::Ready);
        } else if facts.rustup {
            ways.push(Way::AddTarget);
        }
    }
    if choice != Choice::Rustup {
        match (&facts.distro_lacks, facts.apt) {
            (None, _) => ways.push(Way::DistroReady),
            (Some(_), Apt::AsRoot) => ways.push(Way::InstallDistro { sudo: false }),
            (Some(_), Apt::WithSudo) => ways.push(Way::InstallDistro { sudo: true }),
            (Some(_), Apt::Unavailable) => {}
        }
    }
    ways
}

impl Way {
    fn take(self, root: &Path) -> Result<Toolchain> {
        match self {
            Self::Ready => Ok(Toolchain::Rustup),
            Self::DistroReady => Ok(Toolchain::Distro),
            Self::AddTarget => {
                Step::new("install the guests' target", "rustup", root).args(["target", "add", TARGET]).run_aside()?;
                // It may have gone to another toolchain than the one in use.
                if !target_installed(root) {
                    bail!("rustup added `{TARGET}`, but not to the toolchain in use");
                }
                Ok(Toolchain::Rustup)
            }
            Self::InstallDistro { sudo } => {
                apt_get("update the package lists", sudo, root).arg("update").run_aside()?;
                apt_get("install the guests' packages", sudo, root)
                    .args(["install", "--yes", "--no-install-recommends"])
                    .args(PACKAGES)
                    .run_aside()?;
                match distro_lacks(root) {
                    None => Ok(Toolchain::Distro),
                    Some(missing) => bail!("apt-get installed the packages, and still {missing}"),
                }
            }
        }
    }

    fn outcome(self) -> &'static str {
        match self {
            Self::Ready => "the cargo in use, which has the standard library for `wasm32-wasip1`",
            Self::AddTarget => "the cargo in use; rustup has added the standard library for `wasm32-wasip1`",
            Self::DistroReady => {
                "the distribution's cargo, which builds the standard library for `wasm32-wasip1` itself"
            }
            Self::InstallDistro { .. } => {
                "the distribution's cargo, just installed, which builds the standard library for `wasm32-wasip1` itself"
            }
        }
    }
}

impl Choice {
    fn from_environment() -> Result<Self> {
        match std::env::var(CHOICE_VARIABLE).as_deref() {
            Err(_) | Ok("") => Ok(Self::First),
            Ok("rustup") => Ok(Self::Rustup),
            Ok("distro") => Ok(Self::Distro),
            Ok(other) => {
                bail!("{CHOICE_VARIABLE} is `{other}`, which is neither `rustup` nor `distro`")
            }
        }
    }
}

impl Facts {
    fn gather(root: &Path) -> Self {
        Self {
            target_installed: target_installed(root),
            rustup: Step::new("find rustup", "rustup", root).arg("--version").probe().is_some(),
            distro_lacks: distro_lacks(root),
            apt: apt(root),
        }
    }
}

fn target_installed(root: &Path) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Step::new("find the target's library", rustc, root)
        .args(["--print", "target-libdir", "--target", TARGET])
        .probe()
        .is_some_and(|dir| Path::new(dir.trim_end()).is_dir())
}

fn distro_lacks(root: &Path) -> Option<String> {
    if let Some(missing) = DISTRO_FILES.iter().find(|file| !Path::new(file).exists()) {
        return Some(format!("there is no {missing}"));
    }
    let version = Step::new("find the version of rustc", DISTRO_RUSTC, root)
        .arg("--version")
        .env_remove("LD_LIBRARY_PATH")
        .probe()
        .unwrap_or_default();
    let needed = env!("CARGO_PKG_RUST_VERSION");
    match (minor_version(&version), minor_version(needed)) {
        (Ok(found), Ok(least)) if found >= least => None,
        _ => Some(format!("{DISTRO_RUSTC} is `{}`, older than {needed}", version.trim_end())),
    }
}

/// The `95` of `1.95`, `1.95.0` and `rustc 1.95.0 (..)`.
fn minor_version(text: &str) -> Result<u32> {
    let version = text.split_whitespace().find(|word| word.starts_with("1.")).context("no version")?;
    version.split('.').nth(1).context("no minor version")?.parse().context("not a number")
}

pub(crate) fn apt(root: &Path) -> Apt {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !Path::new("/usr/bin/apt-get").exists() {
        Apt::Unavailable
    } else if is_root {
        Apt::AsRoot
    } else if Step::new("ask for sudo", "sudo", root).args(["-n", "true"]).probe().is_some() {
        Apt::WithSudo
    } else {
        Apt::Unavailable
    }
}

pub(crate) fn apt_get(name: &str, sudo: bool, root: &Path) -> Step {
    // Given as arguments of `env`, because sudo clears the environment.
    let apt_get = ["DEBIAN_FRONTEND=noninteractive", "apt-get"];
    if sudo {
        Step::new(name, "sudo", root).args(["-n", "env"]).args(apt_get)
    } else {
        Step::new(name, "env", root).args(apt_get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_are_tried_from_the_cheapest_to_the_dearest() {
        use Choice::{Distro, First, Rustup};
        let lacks = || Some("there is no file".to_owned());
        let facts = |target_installed, rustup, distro_lacks, apt| Facts { target_installed, rustup, distro_lacks, apt };
        let install = Way::InstallDistro { sudo: false };

        let check = |facts: Facts, choice, expected: &[Way]| {
            assert_eq!(ways(&facts, choice), expected, "{facts:?}, {choice:?}");
        };
        check(facts(true, true, lacks(), Apt::Unavailable), First, &[Way::Ready]);
        check(facts(true, false, None, Apt::Unavailable), First, &[Way::Ready, Way::DistroReady]);
        check(facts(false, true, None, Apt::AsRoot), First, &[Way::AddTarget, Way::DistroReady]);
        check(facts(false, true, lacks(), Apt::AsRoot), First, &[Way::AddTarget, install]);
        check(facts(false, false, lacks(), Apt::WithSudo), First, &[Way::InstallDistro { sudo: true }]);
        check(facts(false, false, lacks(), Apt::Unavailable), First, &[]);

        check(facts(true, true, None, Apt::AsRoot), Rustup, &[Way::Ready]);
        check(facts(false, true, None, Apt::AsRoot), Rustup, &[Way::AddTarget]);
        check(facts(false, false, None, Apt::AsRoot), Rustup, &[]);

        check(facts(true, true, None, Apt::AsRoot), Distro, &[Way::DistroReady]);
        check(facts(true, true, lacks(), Apt::AsRoot), Distro, &[install]);
        check(facts(true, true, lacks(), Apt::Unavailable), Distro, &[]);
    }

    #[test]
    fn versions_are_found_in_what_rustc_says() {
        let check = |text, expected: Option<u32>| assert_eq!(minor_version(text).ok(), expected, "{text}");
        check("1.95", Some(95));
        check("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n", Some(96));
        check("rustc", None);
        check("", None);
    }
}
