//! A consumer that gives nothing out although it could, and how it comes to work again.
//!
//! A server that is killed may know of tasks as given out that its stream has no more. It gives them out again for ever, each
//! attempt comes to nothing, and ends all giving until a request comes, a heartbeat is due or a task is stored; what is new comes
//! after them. So others wait, for ever if there are more of them than attempts in an ack wait (seen with 2.9.10). Deleting the
//! consumer and making it anew loses nothing: what is with workers is given out once more, an acknowledgement of what was given
//! before counts all the same, and a second result is dropped.
//!
//! ```text
//! a worker waits ─► a look: can there be anything to give? ─► five more, 1 s apart: does it stand still? ─► deleted, made anew
//!        ▲                    └─ no ─┐                                  └─ no ─┐                              │
//!        └───────────────────────────┴─────────────────────────────────────────┴──────────────────────────────┘
//! ```

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::error::{Cause, DurableError};
use super::name::{self, CONSUMER};
use super::nats::Nats;
use super::settings::Notice;

/// Between two looks that are one examination, and how many there are.
const BETWEEN: Duration = Duration::from_secs(1);
const LOOKS: usize = 6;
/// A consumer that gives out more, in all looks together, has much to do and does it.
const SLOW: u64 = 100;

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    /// Deliveries so far.
    given: u64,
    /// Tasks that were given out again.
    again: u64,
    /// Tasks that nobody was given yet.
    new: u64,
    /// Tasks that workers have.
    out: u64,
    /// Most that they may have.
    most: u64,
    /// Requests.
    waiting: u64,
    /// Tasks in the stream, read after the rest: an acknowledgement meanwhile makes them fewer, nothing counted here makes them more.
    stored: u64,
    is_paused: bool,
}

impl Sight {
    /// Somebody waits, and something is there that may be for him.
    fn is_odd(&self) -> bool {
        self.waiting > 0 && self.stored > 0 && !self.is_paused && (self.new > 0 || self.again > 0 && self.out > 0)
    }

    /// More is given out or to be given out than there is.
    fn has_ghosts(&self) -> bool {
        self.out + self.new > self.stored && self.again > 0
    }

    fn has_room(&self) -> bool {
        self.out < self.most
    }
}

/// Whether what was seen in these looks, over some seconds, is a consumer that does not give what it has.
///
/// One that works gives what is new to whoever waits at once, so that no two looks find both. It may be slow where tasks are
/// large or the disk is; so if it gives anything at all, it takes a proof that it tries to give what is gone.
fn stands_still(sights: &[Sight]) -> bool {
    let [first, .., last] = sights else { return false };
    if !sights.iter().all(Sight::is_odd) || last.given < first.given {
        return false;
    }
    let given = last.given - first.given;
    let has_new = sights.iter().all(|sight| sight.new > 0);
    // What is given again counts as given, unless it was not there. One may have met a request that nobody waits for any more.
    let tried = last.again.saturating_sub(first.again);
    let is_trying = tried >= given + 2;
    let has_ghosts = sights.iter().all(Sight::has_ghosts);
    // More were given again than there are with workers.
    let were_tried = last.again > last.stored.saturating_sub(last.new);
    let is_proved = is_trying || has_ghosts && (has_new || were_tried);
    given < SLOW && is_proved || given == 0 && has_new && sights.iter().all(Sight::has_room)
}

/// What the server says of the consumer.
#[derive(Debug, Deserialize)]
struct Info {
    created: String,
    /// As it is, whatever there is in it.
    config: Value,
    delivered: Delivered,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    num_redelivered: u64,
    #[serde(default)]
    num_waiting: u64,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    paused: bool,
}

#[derive(Debug, Deserialize)]
struct Delivered {
    consumer_seq: u64,
}

#[derive(Debug, Deserialize)]
struct Stream {
    state: Stored,
}

#[derive(Debug, Deserialize)]
struct Stored {
    messages: u64,
}

/// Looks whether the workers' consumer does what it is there for, and makes it anew if it does not; whether it has.
pub(super) async fn look(nats: Nats) -> bool {
    match examine(&nats).await {
        Ok(is_renewed) => is_renewed,
        // Whoever cannot look goes on as if nothing was: if the server is away, others say so.
        Err(error) => {
            tracing::warn!(%error, "the workers' consumer was not looked after");
            false
        }
    }
}

async fn examine(nats: &Nats) -> Result<bool, DurableError> {
    let generation = nats.standing.borrow().generation;
    let (mut sights, mut created) = (Vec::new(), None);
    let info = loop {
        let Some((info, sight)) = see(nats).await? else { return Ok(false) };
        let is_another = created.get_or_insert_with(|| info.created.clone()) != &info.created;
        if is_another || !sight.is_odd() || nats.standing.borrow().generation != generation {
            return Ok(false);
        }
        sights.push(sight);
        if sights.len() == LOOKS {
            break info;
        }
        // Of many workers that find the same, one is the first, and the others see that.
        let millis = if sights.len() + 1 == LOOKS { name::random().map_err(DurableError::System)? % 1000 } else { 0 };
        sleep(BETWEEN + Duration::from_millis(millis)).await;
    };
    if !stands_still(&sights) {
        return Ok(false);
    }
    tracing::warn!(?sights, "the workers' consumer gives nothing out");
    let ours = nats.clone();
    // A worker that ends meanwhile does not leave it half done.
    let renewed = tokio::spawn(async move { renew(&ours, info.config).await });
    renewed.await.unwrap_or(Err(DurableError::Closed))?;
    nats.settings.tell(Notice::Renewed);
    Ok(true)
}

/// One look. `None`: there is no consumer.
async fn see(nats: &Nats) -> Result<Option<(Info, Sight)>, DurableError> {
    let stream = nats.names.tasks();
    let doing = "look at the workers' consumer";
    let info = match nats.ask::<Info>(doing, format!("CONSUMER.INFO.{stream}.{CONSUMER}"), &json!({})).await? {
        Ok(info) => info,
        Err(error) if error.code() == 404 => return Ok(None),
        Err(error) => return Err(DurableError::Refused { doing, source: Cause::of(&error) }),
    };
    let most = info.config["max_ack_pending"].as_u64().filter(|most| *most > 0).unwrap_or(u64::MAX);
    let mut sight = Sight {
        given: info.delivered.consumer_seq,
        again: info.num_redelivered,
        new: info.num_pending,
        out: info.num_ack_pending,
        most,
        waiting: info.num_waiting,
        stored: 1,
        is_paused: info.paused,
    };
    // Most looks end here: nothing is there to be given.
    if sight.is_odd() {
        sight.stored = nats.demand::<Stream>(doing, format!("STREAM.INFO.{stream}"), &json!({})).await?.state.messages;
    }
    Ok(Some((info, sight)))
}

async fn renew(nats: &Nats, config: Value) -> Result<(), DurableError> {
    let stream = nats.names.tasks();
    let doing = "make the workers' consumer anew";
    match nats.ask::<Value>(doing, format!("CONSUMER.DELETE.{stream}.{CONSUMER}"), &json!({})).await? {
        Ok(_) => {}
        // Somebody else was faster.
        Err(error) if error.code() == 404 => {}
        Err(error) => return Err(DurableError::Refused { doing, source: Cause::of(&error) }),
    }
    let asked = json!({ "stream_name": stream, "config": config });
    nats.demand::<Value>(doing, format!("CONSUMER.CREATE.{stream}.{CONSUMER}"), &asked).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker waits, and 300 tasks are out, of which one is there, and 20 are new.
    const STUCK: Sight =
        Sight { given: 300, again: 40, new: 20, out: 300, most: 1 << 16, waiting: 3, stored: 21, is_paused: false };

    /// Looks, with what changes from one to the next.
    fn looks(first: Sight, change: impl Fn(u64, &mut Sight)) -> bool {
        let sights: Vec<Sight> = (0..6)
            .map(|number| {
                let mut sight = first;
                change(number, &mut sight);
                sight
            })
            .collect();
        stands_still(&sights)
    }

    #[test]
    fn a_consumer_stands_still_that_could_give_and_does_not() {
        assert!(looks(STUCK, |_, _| {}));
        // Whatever else its numbers say.
        let plain = Sight { again: 0, out: 3, stored: 23, ..STUCK };
        assert!(looks(plain, |_, _| {}));
        // Something comes now and then.
        assert!(looks(STUCK, |number, sight| sight.given += 3 * number));
        // As many are in the stream again that nobody gets, so that sums hide what is gone.
        assert!(looks(Sight { stored: 400, ..STUCK }, |number, sight| {
            sight.given += number;
            sight.again += 2 * number;
        }));
        // What is gone has all the room there is.
        assert!(looks(Sight { most: 300, ..STUCK }, |_, _| {}));
    }

    #[test]
    fn what_is_to_be_given_again_comes_late_too() {
        let stuck = Sight { new: 0, stored: 5, again: 2, ..STUCK };
        assert!(looks(stuck, |number, sight| sight.again += number));
        assert!(looks(Sight { again: 300, ..stuck }, |_, _| {}));
        // A job that was forgotten while workers have some of its tasks, which is well.
        assert!(!looks(stuck, |_, _| {}));
    }

    #[test]
    fn a_consumer_that_works_is_left_alone() {
        let mut well = vec![
            ("nothing is there", Sight { new: 0, out: 0, again: 0, stored: 0, ..STUCK }),
            ("only what is gone", Sight { new: 0, stored: 0, ..STUCK }),
            ("all are with others", Sight { new: 0, out: 21, again: 0, ..STUCK }),
            ("all are with others, for the second time", Sight { new: 0, out: 21, again: 21, ..STUCK }),
            ("some are in its files again", Sight { new: 0, out: 0, again: 0, stored: 9, ..STUCK }),
            ("nobody waits", Sight { waiting: 0, ..STUCK }),
            ("an administrator has paused it", Sight { is_paused: true, ..STUCK }),
            ("others have as many as they may", Sight { out: 8, most: 8, again: 4, stored: 28, ..STUCK }),
        ];
        for (why, sight) in well.drain(..) {
            assert!(!looks(sight, |_, _| {}), "{why}");
        }
        assert!(!looks(STUCK, |number, sight| sight.given += 1000 * number), "much is given");
        let slow = Sight { out: 8, again: 3, stored: 28, ..STUCK };
        assert!(!looks(slow, |number, sight| sight.given += number), "it is slow");
        assert!(
            !looks(slow, |number, sight| (sight.given, sight.again) = (300 + number, 3 + number)),
            "it gives again"
        );
        assert!(
            !looks(slow, |number, sight| (sight.given, sight.stored) = (300 + number, 28 - u64::from(number == 2))),
            "a task was done between two answers"
        );
        assert!(!looks(STUCK, |number, sight| sight.waiting = number % 2), "whoever waits gets something");
        assert!(!looks(STUCK, |number, sight| sight.given = 300 * u64::from(number == 0)), "the server has forgotten");
        assert!(!stands_still(&[STUCK]) && !stands_still(&[]), "one look is not enough");
    }
}
