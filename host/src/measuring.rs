//! For benchmarks only: what has no way in from outside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_wire::transport::{Descriptors, ReceiveHalf, SendHalf, socket_pair, unix_socket};

use crate::connection::{Common, Connection};
use crate::error::{GatewayError, LaunchError};
use crate::group::GroupBuilder;
use crate::pool::{Action, Core, RetryOn, Rules, Verdict};
use crate::spec::Spec;
use crate::workers::Launcher;

/// A pool's decisions without gateways, on so many lanes: each call takes a batch of 64 tasks from their submission to their
/// ends.
pub fn pool_core(lanes: usize) -> impl FnMut() {
    const BATCH: u64 = 64;
    // No decision of these depends on how much time passes.
    let now = Instant::now();
    let rules = Rules {
        max_losses: 3,
        max_in_flight: 64,
        max_far_in_flight: 64,
        retries: 0,
        retry_on: RetryOn::none(),
        start_attempts: 5,
        reach_attempts: 5,
        patience: None,
        grace: Duration::from_secs(1),
        sessions: false,
        watched_deadline: None,
        executions: 1,
    };
    let mut core: Core<u64, u64> = Core::new(rules, lanes, now, false);
    (0..lanes).for_each(|lane| core.lane_up(lane, now));
    let mut next = 0;
    move || {
        (next..next + BATCH).for_each(|task| core.submit(task, task, now));
        next += BATCH;
        while core.unfinished() > 0 {
            core.dispatch(now);
            assert!(!core.actions.is_empty(), "there are tasks and free lanes, and nothing is to be done");
            for action in std::mem::take(&mut core.actions) {
                if let Action::Run { lane, task, run } = action {
                    core.ended(lane, run, Verdict::Value(task), now);
                }
            }
        }
        core.finished.clear();
    }
}

/// A worker over the two halves of a transport; returns when the connection is over.
pub type Serve = fn(Box<dyn SendHalf>, Box<dyn ReceiveHalf>);

/// Groups whose workers are threads of this process: all there is, but for the processes and their sandbox.
pub fn workers_in_threads(mut builder: GroupBuilder, serve: Serve) -> GroupBuilder {
    builder.launcher = Arc::new(Threads { serve });
    builder
}

#[derive(Debug)]
struct Threads {
    serve: Serve,
}

impl Launcher for Threads {
    fn launch(&self, spec: &Spec, common: &Common) -> Result<Arc<Connection>, GatewayError> {
        let id = spec.given_id().unwrap_or_default().to_owned();
        let resources = |error| GatewayError::Launch { id: id.clone(), source: LaunchError::Resources(error) };
        let (ours, theirs) = socket_pair().map_err(resources)?;
        let serve = self.serve;
        let run = move || {
            let (send, receive) = unix_socket(theirs, Descriptors::Accept);
            serve(Box::new(send), Box::new(receive));
        };
        std::thread::Builder::new().name(format!("{id}-worker")).spawn(run).map_err(resources)?;
        let (send, receive) = unix_socket(ours, Descriptors::Refuse);
        let transport = (Box::new(send) as _, Box::new(receive) as _);
        Connection::start(id.clone(), spec.clone(), transport, None, common.clone()).map_err(resources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_goes_on_for_ever() {
        let mut batch = pool_core(2);
        (0..100).for_each(|_| batch());
    }
}
