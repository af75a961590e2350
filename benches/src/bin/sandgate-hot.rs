//! Takes one of the hot paths so often, for whoever counts: `sandgate-hot PATH TIMES`. Without arguments it prints what paths
//! there are. A program of its own, since valgrind takes long to start one with an engine in it.
#![expect(clippy::print_stdout, reason = "this is a program for a terminal")]

#[path = "../hot.rs"]
mod hot;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        hot::PATHS.iter().for_each(|path| println!("{}\t{}", path.name, path.what));
        return Ok(());
    };
    run(&path, arguments.next().context("how often?")?.parse()?)
}

fn run(name: &str, times: u64) -> Result<()> {
    let path =
        hot::PATHS.iter().find(|path| path.name == name).with_context(|| format!("there is no path `{name}`"))?;
    let mut body = (path.make)();
    (0..times).for_each(|_| body());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_can_be_taken_often() {
        hot::PATHS.iter().for_each(|path| run(path.name, 1000).unwrap());
        assert!(run("nowhere", 1).is_err());
    }
}
