//! What all targets share: seeds become files before libFuzzer reads the corpus.
//!
//! Seeds are made by the programs that they are for, so that they follow the protocol; none is committed.

use std::fs;
use std::path::Path;

/// Writes a target's seeds into its corpus, `fuzz/corpus/TARGET`.
///
/// # Panics
/// When they cannot be written: a run without seeds is not the run that was asked for.
pub fn plant(target: &str, seeds: Vec<(String, Vec<u8>)>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&directory).expect("the corpus can be written");
    for (name, bytes) in seeds {
        fs::write(directory.join(format!("seed-{name}")), bytes).expect("the corpus can be written");
    }
}
