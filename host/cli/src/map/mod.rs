//! `sandgate map`: a task for each input, on every core.
#![expect(dead_code, reason = "the parts are there before the whole")]

mod input;
mod journal;
