//! The program as it runs on this machine, outside of any sandbox: standard input in, standard output out.

use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn it_counts_its_standard_input() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_{{name}}"));
    let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut input = program.stdin.take().expect("a pipe");
    input.write_all(b"one two\nthree\n").expect("the program reads");
    drop(input);
    let output = program.wait_with_output().expect("the program ends");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"2 3 14\n");
}
