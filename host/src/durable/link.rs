//! The one place where asynchronous code runs: a thread with a runtime, which the client library needs. Whoever calls waits on
//! a channel for what was started there.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread that runs what it is given. Dropping it ends whatever runs there.
#[derive(Debug)]
pub(super) struct Link {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    pub(super) fn start() -> io::Result<Link> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let body = move || {
            let _ = runtime.block_on(stopped);
            // A file that is being read, at most: nothing to wait for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("sandgate-nats".to_owned()).spawn(body)?;
        Ok(Link { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs it there and waits for what it gives; `None` if it has panicked or the thread is gone.
    pub(super) fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _ = sender.send(future.await);
        });
        receiver.recv().ok()
    }

    /// Runs it there, until it ends or this is dropped.
    pub(super) fn start_task(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(future);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a connection to NATS panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_there_ends_alone() {
        let link = Link::start().unwrap();
        assert_eq!(link.wait(async { 1 }), Some(1));
        assert_eq!(
            link.wait(async {
                if true {
                    panic!("on purpose")
                }
            }),
            None
        );
        assert_eq!(link.wait(async { 2 }), Some(2));
    }
}
