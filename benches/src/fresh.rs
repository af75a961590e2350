//! The smallest task there is, each time in a fresh instance: how many a second.

use std::time::Instant;

use anyhow::{Result, ensure};
use sandgate::{Module, Pool};
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// The module of both sides: `_start` for us and `wasmtime run`, `run` for extism.
const TEXT: &str = r#"(module (memory (export "memory") 1) (func (export "_start"))
    (func (export "run") (result i32) (i32.const 0)))"#;

/// Tasks a second of a pool with one gateway.
#[derive(Debug, Serialize)]
pub(crate) struct FreshInstances {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
}

/// What a peer is given: the module, too.
#[derive(Debug, Serialize)]
pub(crate) struct OfPeer {
    count: u32,
    warm_up: u32,
    module: Vec<u8>,
}

impl FreshInstances {
    pub(crate) fn of_peer(count: u32, warm_up: u32) -> OfPeer {
        OfPeer { count, warm_up, module: wat::parse_str(TEXT).expect("the text of a module") }
    }
}

impl Question for FreshInstances {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let module = Module::from_bytes(wat::parse_str(TEXT)?)?;
        let pool = Pool::builder(&module).gateways(1).group(fixtures.builder()).build()?;
        let run = |count: u32| -> Result<()> {
            let mut done = 0;
            for result in pool.map_unordered::<_, ()>((0..count).map(|_| ())) {
                result.value?;
                done += 1;
            }
            ensure!(done == count, "{done} of {count} tasks have a result");
            Ok(())
        };
        run(self.warm_up)?;
        let start = Instant::now();
        run(self.count)?;
        Ok(vec![f64::from(self.count) / start.elapsed().as_secs_f64()])
    }
}
