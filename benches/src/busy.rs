//! Modules that compute for a given time, and how long that is on this machine.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use sandgate::Module;

use crate::bare;

/// Turns by which the machine's speed is found.
const MANY: u64 = 20_000_000;

/// A module whose `_start` counts for so many turns.
pub(crate) fn bytes(turns: u64) -> Result<Vec<u8>> {
    let text = format!(
        r#"(module (func (export "_start") (local $n i64) (local $x i64)
            (local.set $n (i64.const {turns}))
            (loop $l
                (local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
                (br_if $l (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))
            (if (i64.eq (local.get $x) (i64.const 1)) (then unreachable))))"#
    );
    Ok(wat::parse_str(text)?)
}

/// The same as a module of ours.
pub(crate) fn module(turns: u64) -> Result<Module> {
    Ok(Module::from_bytes(bytes(turns)?)?)
}

/// How many turns take so many microseconds, found once by the bare engine: the least time of five.
pub(crate) fn turns(micros: u32) -> Result<u64> {
    static TURNS_PER_SECOND: OnceLock<f64> = OnceLock::new();
    let per_second = match TURNS_PER_SECOND.get() {
        Some(known) => *known,
        None => {
            let tasks = bare::Tasks::compile(&bytes(MANY)?, 1)?;
            let mut least = f64::INFINITY;
            for _ in 0..5 {
                least = least.min(1.0 / tasks.per_second(1, 1).context("calibration")?);
            }
            *TURNS_PER_SECOND.get_or_init(|| MANY as f64 / least)
        }
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of turns is neither")]
    Ok((per_second * f64::from(micros) * 1e-6).max(1.0) as u64)
}
