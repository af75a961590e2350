//! Which crate may depend on which: the arrows of ARCHITECTURE.md, as facts that cargo confirms.
//!
//! ```text
//! cli ──► { host, worker } ──► wire          worker ──► abi ◄── guest-sdk ◄── guests
//!           host ──► schema ──► abi                    schema ◄── guest-sdk
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::tree::{assert_none, metadata};

/// The crates of the workspace that each of them may use outside tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sandgate-cli", &["sandgate", "sandgate-worker"]),
    ("sandgate", &["sandgate-wire", "sandgate-schema", "sandgate-guest-macros"]),
    ("sandgate-worker", &["sandgate-wire", "sandgate-abi"]),
    ("sandgate-wire", &[]),
    ("sandgate-abi", &[]),
    ("sandgate-guest", &["sandgate-abi", "sandgate-guest-macros", "sandgate-schema"]),
    ("sandgate-schema", &["sandgate-abi", "sandgate-guest-macros"]),
    ("sandgate-guest-macros", &[]),
];

/// Crates on which nothing depends, and which may use any other.
const FREE: &[&str] = &["sandgate-tests", "sandgate-benches", "xtask"];

/// What a crate must not reach by any path, even for its tests: the host never parses or compiles untrusted code, and host
/// and worker meet on the wire alone.
const UNREACHABLE: &[(&str, &[&str])] = &[
    ("sandgate", &["sandgate-worker", "wasmtime", "cranelift", "wasmparser"]),
    ("sandgate-wire", &["wasmtime", "cranelift", "wasmparser"]),
    ("sandgate-worker", &["sandgate"]),
];

/// Crates that compile or run WebAssembly, by the beginnings of their names, and the only crates that may name them: the
/// worker, and the benchmarks, which compare it with the bare engine.
const ENGINE: &[&str] = &["wasmtime", "cranelift"];
const ENGINE_USERS: &[&str] = &["sandgate-worker", "sandgate-benches"];

/// The only crates of the main workspace that a guest may name: the SDK, and what types that it shares with hosts need of it.
const GUEST_SDK: &[&str] = &["sandgate-guest", "sandgate-schema"];

#[test]
fn crates_use_only_the_crates_below_them() {
    let crates = Crates::of(&metadata("."));
    let mut offences = Vec::new();
    for name in &crates.members {
        let allowed = ALLOWED.iter().find(|(owner, _)| owner == name).map(|(_, allowed)| *allowed);
        if allowed.is_none() && !FREE.contains(&name.as_str()) {
            offences.push(format!("{name}: a new crate needs its place in {}", file!()));
        }
        for edge in crates.direct(name).filter(|edge| crates.members.contains(&edge.to)) {
            let below = allowed.is_none_or(|allowed| allowed.contains(&edge.to.as_str()));
            if FREE.contains(&edge.to.as_str()) || (!edge.dev && !below) {
                offences.push(format!("{name} must not depend on {}", edge.to));
            }
        }
    }
    assert_none("dependencies point one way", &offences);
}

#[test]
fn host_and_worker_never_see_each_other_nor_the_host_an_engine() {
    let crates = Crates::of(&metadata("."));
    let mut offences = Vec::new();
    for (name, unreachable) in UNREACHABLE {
        for (reached, path) in crates.reachable(name) {
            if unreachable.iter().any(|forbidden| is_of_family(&reached, forbidden)) {
                offences.push(format!("{} reaches {reached}", path.join(" -> ")));
            }
        }
    }
    assert_none("some crates must not meet by any path", &offences);
}

#[test]
fn only_the_worker_and_who_measures_it_name_the_engine() {
    let crates = Crates::of(&metadata("."));
    let mut offences = Vec::new();
    for name in crates.members.iter().filter(|name| !ENGINE_USERS.contains(&name.as_str())) {
        for edge in crates.direct(name) {
            if ENGINE.iter().any(|engine| is_of_family(&edge.to, engine)) {
                offences.push(format!("{name} must not depend on {}", edge.to));
            }
        }
    }
    assert_none(&format!("only {ENGINE_USERS:?} depend on the engine"), &offences);
}

#[test]
fn guests_know_the_sdk_alone() {
    let ours = Crates::of(&metadata(".")).members;
    let guests = Crates::of(&metadata("guests"));
    let mut offences = Vec::new();
    for name in guests.members.iter().filter(|name| !ours.contains(*name)) {
        for edge in guests.direct(name) {
            if ours.contains(&edge.to) && !GUEST_SDK.contains(&edge.to.as_str()) {
                offences.push(format!("the guest {name} must not depend on {}", edge.to));
            }
        }
    }
    assert_none(&format!("guests are written with {GUEST_SDK:?}"), &offences);
}

/// A dependency that a manifest names.
#[derive(Debug)]
struct Edge {
    to: String,
    /// For tests, examples and benchmarks only.
    dev: bool,
}

/// The crates that cargo sees, and what it says each depends on.
#[derive(Debug)]
struct Crates {
    members: BTreeSet<String>,
    /// By the name of the crate that has them.
    edges: BTreeMap<String, Vec<Edge>>,
}

impl Crates {
    fn of(metadata: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let list = |value: &Value| value.as_array().expect("a list").clone();

        let names: BTreeMap<String, String> =
            list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let members = list(&metadata["workspace_members"]).iter().map(|id| names[&text(id)].clone()).collect();
        let mut edges: BTreeMap<String, Vec<Edge>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            // Two versions of a crate count as one: what matters here is a name.
            let own = edges.entry(names[&text(&node["id"])].clone()).or_default();
            for dependency in list(&node["deps"]) {
                let dev = list(&dependency["dep_kinds"]).iter().all(|kind| kind["kind"] == "dev");
                own.push(Edge { to: names[&text(&dependency["pkg"])].clone(), dev });
            }
        }
        Self { members, edges }
    }

    fn direct(&self, name: &str) -> impl Iterator<Item = &Edge> {
        self.edges.get(name).into_iter().flatten()
    }

    /// Every crate that `root` needs, for its tests too, with the path that leads to it.
    fn reachable(&self, root: &str) -> BTreeMap<String, Vec<String>> {
        let mut reached = BTreeMap::new();
        let mut open = vec![(root.to_owned(), Vec::new())];
        while let Some((name, path)) = open.pop() {
            let path: Vec<String> = path.into_iter().chain([name.clone()]).collect();
            for edge in self.direct(&name) {
                // A dependency's own tests are not ours.
                if (edge.dev && name != root) || edge.to == root || reached.contains_key(&edge.to) {
                    continue;
                }
                reached.insert(edge.to.clone(), path.clone());
                open.push((edge.to.clone(), path.clone()));
            }
        }
        reached
    }
}

/// `wasmtime-wasi` is of the family `wasmtime`. Our own crates are no families.
fn is_of_family(name: &str, family: &str) -> bool {
    let rest = name.strip_prefix(family);
    let is_ours = family.starts_with("sandgate");
    rest.is_some_and(|rest| rest.is_empty() || (!is_ours && rest.starts_with('-')))
}

#[test]
fn families_are_told_by_whole_words() {
    let check = |name, family, expected| assert_eq!(is_of_family(name, family), expected, "{name} of {family}");
    check("wasmtime", "wasmtime", true);
    check("wasmtime-wasi", "wasmtime", true);
    check("wasmtimes", "wasmtime", false);
    check("sandgate", "sandgate", true);
    check("sandgate-wire", "sandgate", false);
}
