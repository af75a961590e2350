//! The end of a worker, which is there in time: whoever stops it may kill it after the grace.
//!
//! 1. Requests are withdrawn, for which there is at most half of the grace, and the server is made to forget them. What no pool has
//!    is given back once none of them can bring it again, or have it lost.
//! 2. What runs has the grace but for its last quarter, at most 2 s. Then it is cancelled and given back. A worker that cannot go
//!    on has a grace of 2 s, and cancels at once.
//! 3. At the end of the grace nothing is waited for any more. What is neither done nor given back by then, since the server does not
//!    answer, is counted; the server gives it to others once the ack wait is over.

use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Crew, Sent};
use crate::durable::name::CONSUMER;
use crate::durable::work::{CannotGoOn, Worked};

/// Time for tasks to be cancelled and given back, and for requests to be withdrawn, if there is as much.
const GIVING_BACK: Duration = Duration::from_secs(2);
/// When what is given back is given to others: once the requests of workers that end at the same moment are forgotten as well.
const LATER: Duration = Duration::from_millis(200);
/// How long one task that the server does not take back is left alone.
const AGAIN: Duration = Duration::from_millis(200);

impl Crew {
    /// Nothing more is taken, what runs comes to its end, the rest is given back.
    pub(super) async fn end(mut self) -> Result<Worked, CannotGoOn> {
        self.is_ending = true;
        self.halt.send_replace(true);
        self.asking.clear();
        let began = Instant::now();
        let grace = if self.fatal.is_some() { GIVING_BACK } else { self.settings.grace };
        // There has to be time left to give back what is there by then.
        let (over, withdrawn) = (began + grace, began + (grace / 2).min(GIVING_BACK));
        let last = if self.fatal.is_some() { grace } else { (grace / 4).min(GIVING_BACK) };
        let mut cancel_at = Some(began + (grace - last));
        let mut standing = self.nats.standing.clone();
        let mut is_asked = false;
        loop {
            let now = Instant::now();
            if cancel_at.is_some_and(|at| now >= at) {
                cancel_at = None;
                self.pools.cancel();
            }
            let is_up = self.nats.standing.borrow().is_up;
            if self.requests == 0 && is_up && !std::mem::replace(&mut is_asked, true) {
                self.have_requests_forgotten();
            }
            // Later, what a request still brings is not waited for.
            let are_withdrawn = self.requests == 0 && (self.are_forgotten || !is_up) || now >= withdrawn;
            if are_withdrawn && is_up {
                self.give_back();
            }
            if now >= over || are_withdrawn && self.is_idle() {
                break;
            }
            let next = [cancel_at, Some(withdrawn).filter(|_| !are_withdrawn)].into_iter().flatten().min();
            let wait = next.unwrap_or(over).min(over).saturating_duration_since(now).min(self.ack_wait / 6);
            self.go_on(&mut standing, wait).await;
        }
        if self.nats.standing.borrow().is_up {
            // The last acknowledgements; one that is lost costs another run.
            let _ = timeout(GIVING_BACK.min(over.saturating_duration_since(Instant::now())), self.nats.client.flush())
                .await;
        }
        self.worked.kept = self.flight.len() as u64;
        match self.fatal {
            Some(source) => Err(CannotGoOn { worked: self.worked, source }),
            None => Ok(self.worked),
        }
    }

    /// A server may keep a request that was withdrawn until it needs one. If what it has for it was given out before, it finds
    /// that nobody wants it, and forgets it until the ack wait is over (seen with 2.9.10: it puts back the newest task instead). It
    /// looks which of its requests somebody still wants when it is asked how the consumer is.
    fn have_requests_forgotten(&mut self) {
        let nats = self.nats.clone();
        self.asking.push(Box::pin(async move {
            let api = format!("CONSUMER.INFO.{}.{CONSUMER}", nats.names.tasks());
            // Whatever the answer is: there is no better way.
            let _ = nats.ask::<IgnoredAny>("look at the workers' consumer", api, &json!({})).await;
            Sent::Forgotten
        }));
    }

    /// Gives what no pool has to whoever asks next, and waits for the server to say so.
    fn give_back(&mut self) {
        for (key, message) in self.flight.leave() {
            self.sending.push(Box::pin(async move {
                let confirmed = message.double_ack_with(AckKind::Nak(Some(LATER))).await.is_ok();
                if !confirmed {
                    sleep(AGAIN).await;
                }
                Sent::Back { key, message, confirmed }
            }));
        }
    }
}
