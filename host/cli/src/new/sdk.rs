//! The SDK's sources, which this binary carries: it stands in no registry, and a new project needs it.
//!
//! They become a workspace of their own inside the project, with manifests as they are here. Its root manifest is made of
//! this repository's: the parts that the others refer to.

/// Where the SDK lies in a project.
pub(crate) const DIRECTORY: &str = "sandgate-sdk";

macro_rules! files {
    ($($path:literal),* $(,)?) => { &[$(($path, include_str!(concat!("../../../../", $path)))),*] };
}

/// Paths from the root of this repository, and what is in the files.
pub(crate) const FILES: &[(&str, &str)] = files![
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "guest-sdk/Cargo.toml",
    "guest-sdk/abi/Cargo.toml",
    "guest-sdk/abi/src/lib.rs",
    "guest-sdk/abi/src/schema.rs",
    "guest-sdk/macros/Cargo.toml",
    "guest-sdk/macros/src/attributes.rs",
    "guest-sdk/macros/src/init.rs",
    "guest-sdk/macros/src/lib.rs",
    "guest-sdk/macros/src/schema.rs",
    "guest-sdk/macros/src/task.rs",
    "guest-sdk/schema/Cargo.toml",
    "guest-sdk/schema/src/compare.rs",
    "guest-sdk/schema/src/impls.rs",
    "guest-sdk/schema/src/lib.rs",
    "guest-sdk/schema/src/model.rs",
    "guest-sdk/schema/src/read.rs",
    "guest-sdk/schema/src/section.rs",
    "guest-sdk/schema/src/tests.rs",
    "guest-sdk/schema/src/types.rs",
    "guest-sdk/schema/src/write.rs",
    "guest-sdk/src/args.rs",
    "guest-sdk/src/channel.rs",
    "guest-sdk/src/error.rs",
    "guest-sdk/src/init.rs",
    "guest-sdk/src/lib.rs",
    "guest-sdk/src/message.rs",
    "guest-sdk/src/operation.rs",
    "guest-sdk/src/serve.rs",
    "guest-sdk/src/startup.rs",
    "guest-sdk/src/sys.rs",
    "guest-sdk/src/sys/loopback.rs",
    "guest-sdk/src/sys/native.rs",
    "guest-sdk/src/sys/wasm.rs",
    "guest-sdk/src/task.rs",
];

/// This repository's own root manifest.
const ROOT: &str = include_str!("../../../../Cargo.toml");

/// The root manifest of the SDK as a workspace.
pub(crate) fn manifest() -> String {
    let manifests: Vec<_> = FILES.iter().filter(|(path, _)| path.ends_with("/Cargo.toml")).collect();
    let members = manifests.iter().filter_map(|(path, _)| path.strip_suffix("/Cargo.toml"));
    let members: Vec<String> = members.map(|member| format!("{member:?}")).collect();
    let is_needed = |line: &str| {
        let inherited = format!("{}.workspace = true", line.split([' ', '=', '.']).next().unwrap_or_default());
        manifests.iter().any(|(_, text)| text.lines().any(|line| line == inherited))
    };
    let dependencies: String =
        table(ROOT, "workspace.dependencies").filter(|line| is_needed(line)).map(|line| format!("{line}\n")).collect();
    let whole = |name: &str| table(ROOT, name).map(|line| format!("{line}\n")).collect::<String>();
    format!(
        "# The sources of sandgate's SDK for guests, as `sandgate new` of version {} has brought them.\n\
         [workspace]\nresolver = \"3\"\nmembers = [{}]\n\n\
         [workspace.package]\n{}\n\
         [workspace.dependencies]\n{dependencies}\n\
         [workspace.lints.rust]\n{}\n\
         [workspace.lints.clippy]\n{}",
        env!("CARGO_PKG_VERSION"),
        members.join(", "),
        whole("workspace.package"),
        whole("workspace.lints.rust"),
        whole("workspace.lints.clippy"),
    )
}

/// The lines of a table of a manifest that have something in them. The manifest is this repository's: no line of it that
/// begins with a bracket is anything but a table's head.
fn table<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let head = format!("[{name}]");
    let lines = manifest.lines().skip_while(move |line| *line != head).skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn all_of_the_sdk_is_carried() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let found = walkdir::WalkDir::new(root.join("guest-sdk")).into_iter().flatten();
        let found = found.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path());
        let found = found.filter_map(|path| Some(path.strip_prefix(root).ok()?.to_str()?.to_owned()));
        // What cargo makes of it when it is built alone.
        let found: BTreeSet<String> =
            found.filter(|path| !path.contains("/target/") && !path.ends_with("/Cargo.lock")).collect();
        let carried = FILES.iter().map(|(path, _)| (*path).to_owned()).filter(|path| path.starts_with("guest-sdk/"));
        assert_eq!(found, carried.collect(), "the list in {}", file!());
    }

    #[test]
    fn the_manifest_has_what_its_members_inherit() {
        let manifest = manifest();
        for (path, text) in FILES.iter().filter(|(path, _)| path.ends_with("/Cargo.toml")) {
            let dependencies = text.lines().skip_while(|line| !line.starts_with("[dependencies]"));
            for line in dependencies.filter_map(|line| line.strip_suffix(".workspace = true")) {
                assert!(manifest.lines().any(|it| it.starts_with(&format!("{line} = "))), "{path}: {line}\n{manifest}");
            }
        }
        assert!(manifest.contains("edition = ") && manifest.contains("unused_lifetimes = "), "{manifest}");
        assert!(!manifest.contains("wasmtime"), "{manifest}");
    }
}
