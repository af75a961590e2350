//! What hostile modules and workers try, row by row: each row is data, and after each of them everything that must hold is
//! checked by one function ([`house`]).
//!
//! A file for each section of the corpus (A to I), and files of rows that are made by rule: every host function with wild
//! arguments ([`wild`]), every trap in every place ([`traps`]), every limit just below, at and just above its value
//! ([`edges`]), everything ten times over ([`many`]).
#![expect(clippy::print_stdout, reason = "how each row ended, for whoever looks at a test that fails")]

mod canary;
mod expected;
mod house;
mod row;
mod visit;
mod wasm;
mod watch;

mod a_control;
mod b_stack;
mod c_memory;
mod d_compiler;
mod directories;
mod e_abi;
mod f_wasi;
mod g_proposals;
mod h_taken_over;
mod i_information;
mod native;

mod edges;
mod many;
mod table;
mod traps;
mod wild;
