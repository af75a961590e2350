//! A look at machines before there is work for them: each is reached once, all at the same time, and left again.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, channel};

use super::machines::Machines;
use super::result::PoolError;
use crate::error::GatewayError;
use crate::remote::{Hosts, ways};
use crate::spec::Spec;

/// What looks at [`Machines`] find, each as soon as it is known: how many cores a machine has, or why it was not reached.
#[derive(Debug)]
pub struct Looks {
    found: Receiver<Result<usize, GatewayError>>,
}

impl Machines {
    /// Has a look at each of them, for whoever wants to know before there is work. Does not block: each look has a thread, which
    /// ends with it, after the setting `hello=` at the latest; whoever drops what it finds does not end it. This machine is always
    /// there. What specs do not say is as in `defaults`.
    ///
    /// # Errors
    /// [`PoolError::Thread`].
    pub fn look(&self, defaults: &Spec) -> Result<Looks, PoolError> {
        let mut specs: Vec<Spec> = self.all().into_iter().map(|machine| machine.spec.or(defaults)).collect();
        ways::find(&mut specs, HashMap::new()).map_err(PoolError::Gateway)?;
        let hosts = Hosts::new(None, true);
        let (sender, found) = channel();
        for spec in specs {
            let (hosts, sender) = (hosts.clone(), sender.clone());
            let look = move || {
                // Nobody may want to know any more.
                let _ = sender.send(hosts.processors(&spec));
            };
            let name = "sandgate-look".to_owned();
            std::thread::Builder::new().name(name).spawn(look).map_err(PoolError::Thread)?;
        }
        Ok(Looks { found })
    }
}

impl Iterator for Looks {
    type Item = Result<usize, GatewayError>;

    /// Blocks until there is one more; `None` once that was all of them.
    fn next(&mut self) -> Option<Self::Item> {
        self.found.recv().ok()
    }
}
