//! A fresh instance of a script interpreter that was initialised beforehand, and the first result of a script.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// Seconds from the call to the value of a script.
#[derive(Debug, Serialize)]
pub(crate) struct FreshScript {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
}

impl Question for FreshScript {
    fn measure(&self, _fixtures: &Fixtures) -> Result<Vec<f64>> {
        bail!("this sandgate cannot initialise modules beforehand")
    }
}
