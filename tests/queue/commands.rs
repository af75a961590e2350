//! The three commands, as the tests run them.

use std::time::Duration;

use sandgate_tests::Running;
pub(crate) use sandgate_tests::{Came, lines, sandgate as run, start_sandgate as begin};

use crate::server::Server;

/// How long a command may take that takes seconds on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

impl Server {
    #[track_caller]
    pub(crate) fn submit(&self, words: &[&str], input: &str) -> Came {
        let url = self.url();
        run(&[&["submit", "--nats", &url], words].concat(), input.as_bytes(), &[], LIMIT)
    }

    pub(crate) fn collect(&self, words: &[&str]) -> Came {
        let url = self.url();
        run(&[&["collect", "--nats", &url], words].concat(), b"", &[], LIMIT)
    }

    /// Starts a worker.
    pub(crate) fn work(&self, words: &[&str]) -> Running {
        let url = self.url();
        begin(&[&["work", "--nats", &url], words].concat())
    }
}
