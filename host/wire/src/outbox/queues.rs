//! What waits to be written, and in which order it goes into a batch.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::batch::Batch;
use super::gathering::{GATHER_BYTES, GATHER_TIME, PATIENT_TIME};
use super::{CreditFor, FEW_ANSWERS, TURN_BYTES};
use crate::assembly::{Message, SEVERAL};
use crate::flow::Credit;
use crate::frame::HEADER_BYTES;
use crate::frame::Header;
use crate::ids::{ChannelId, ChannelMap};
use crate::message::{Encoded, ToWorker, kind};
use crate::messages::{self, MAX_SEVERAL_BYTES};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) urgent: VecDeque<Item>,
    /// Credits that wait, which overtake data as well.
    pub(super) credits: BTreeMap<CreditFor, Credit>,
    /// Messages without a body, each the last one of its channel: kind, flags, channel.
    pub(super) answers: VecDeque<(u8, u8, ChannelId)>,
    pub(super) lanes: ChannelMap<VecDeque<Item>>,
    /// Channels whose lane is not empty, in the order of their turns.
    pub(super) turns: VecDeque<ChannelId>,
    /// Channels within a message whose rest is being copied, and what the message counts.
    pub(super) stalled: Vec<(ChannelId, Credit)>,
    /// The message that a sender writes at this moment, and what it counts.
    pub(super) direct: Option<(ChannelId, Credit)>,
    /// Memory for the next small messages, and for the next runs.
    pub(super) spare: Vec<u8>,
    pub(super) spare_of_runs: Vec<u8>,
    /// The lane at whose end runs were put last.
    pub(super) last_runs: Option<ChannelId>,
    /// The batch being written, unless a thread is at it.
    pub(super) batch: Batch,
    /// Whether a thread is writing right now.
    pub(super) writing: bool,
    /// Whether the writer thread is to go on.
    pub(super) writer_wanted: bool,
    pub(super) closed: bool,
    /// Control messages in `urgent` and `lanes`.
    pub(super) controls: usize,
    /// Closed because the peer does not read.
    pub(super) overflowed: bool,
    /// When the last small message came.
    pub(super) last_small: Option<Instant>,
    /// Since when messages are gathered, if they are, and how many bytes.
    pub(super) gathered_since: Option<Instant>,
    pub(super) gathered_bytes: usize,
    /// It was patient when it began to gather.
    pub(super) gathers_patiently: bool,
    /// The peer is to be woken, should it doze, once all is written.
    pub(super) wakes_peer: bool,
    /// The writer thread looks after what is gathered.
    pub(super) writer_watches: bool,
}

#[derive(Debug)]
pub(super) enum Item {
    Control {
        encoded: Encoded,
        descriptors: VecDeque<OwnedFd>,
        /// It can wait until the peer has nothing else to do.
        lazy: bool,
    },
    Message {
        kind: u8,
        channel: ChannelId,
        message: Message,
        sent: usize,
    },
    /// Small messages of one channel.
    Small(Small),
    /// What runs something, and can wait: each of them on a channel of its own on which nothing was said before.
    Runs(Runs),
    /// What is left of a message whose sender wrote the beginning, and what the whole message counts.
    Rest {
        channel: ChannelId,
        bytes: Bytes,
        message: Credit,
    },
}

/// Small messages of one channel, as the frame that they are written in: of one, or of several.
#[derive(Debug, Default)]
pub(super) struct Small {
    frame: Vec<u8>,
    /// How many, and their bytes without headers.
    pub(super) messages: Credit,
}

// What is full, and one more.
const _: () = assert!(GATHER_BYTES + GATHER_BYTES / 2 + HEADER_BYTES < MAX_SEVERAL_BYTES, "the peer refuses more");

impl Small {
    fn has_room(&self) -> bool {
        self.frame.len() < GATHER_BYTES
    }

    fn add(&mut self, channel: ChannelId, bytes: &[u8]) {
        match self.messages.messages {
            0 => add_small(&mut self.frame, channel, bytes),
            1 => {
                let header = Header { length: 0, kind: kind::DATA, flags: SEVERAL, channel };
                let first = messages::length(self.frame.len() - HEADER_BYTES);
                drop(self.frame.splice(..HEADER_BYTES, header.encode().into_iter().chain(first)));
                messages::add(&mut self.frame, bytes);
            }
            _ => messages::add(&mut self.frame, bytes),
        }
        self.messages.bytes += bytes.len() as u64;
        self.messages.messages += 1;
    }

    /// The frame as it is written.
    pub(super) fn into_frame(mut self) -> Vec<u8> {
        if self.messages.messages > 1 {
            Header::set_length(&mut self.frame);
        }
        self.frame
    }
}

/// Frames of several runs, as they are written, and how many control messages are among them.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) frames: Vec<u8>,
    controls: usize,
    /// The first of their channels and the last one, whose numbers grow.
    channels: Option<(ChannelId, ChannelId)>,
}

impl Runs {
    fn add(&mut self, channel: ChannelId, arguments: Option<&[u8]>, execute: &[u8]) {
        if let Some(arguments) = arguments {
            add_frame(&mut self.frames, kind::ARGUMENTS, channel, arguments);
        }
        add_frame(&mut self.frames, kind::EXECUTE, channel, execute);
        self.controls += 1;
        let (first, last) = self.channels.unwrap_or((channel, channel));
        self.channels = Some((first.min(channel), last.max(channel)));
    }
}

/// Adds the frame of a small message.
pub(super) fn add_small(frames: &mut Vec<u8>, channel: ChannelId, bytes: &[u8]) {
    add_frame(frames, kind::DATA, channel, bytes);
}

fn add_frame(frames: &mut Vec<u8>, kind: u8, channel: ChannelId, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a small message");
    frames.extend_from_slice(&Header { length, kind, flags: 0, channel }.encode());
    frames.extend_from_slice(bytes);
}

/// What a message counts as that is small enough to be gathered: its bytes, and a header of its own.
pub(super) fn small_bytes(bytes: &[u8]) -> Option<usize> {
    (bytes.len() < GATHER_BYTES / 2).then_some(HEADER_BYTES + bytes.len())
}

impl State {
    /// How long messages are gathered at most.
    pub(super) fn gather_time(&self) -> Duration {
        if self.gathers_patiently { PATIENT_TIME } else { GATHER_TIME }
    }

    pub(super) fn has_work(&self) -> bool {
        let waits = !self.urgent.is_empty() || !self.credits.is_empty() || !self.answers.is_empty();
        waits || !self.batch.is_empty() || !self.turns.is_empty()
    }

    /// Whether something of a channel waits, with others' runs or in its own lane.
    pub(super) fn has_waiting(&self, channel: ChannelId) -> bool {
        let with_others = |lane: &VecDeque<Item>| {
            let Some(Item::Runs(Runs { channels: Some((first, last)), .. })) = lane.front() else { return false };
            (*first..=*last).contains(&channel)
        };
        self.lanes.contains_key(&channel) || self.lanes.values().any(with_others)
    }

    pub(super) fn push_lane(&mut self, channel: ChannelId, item: Item) {
        let is_stalled = self.is_stalled(channel);
        let lane = self.lanes.entry(channel).or_default();
        if lane.is_empty() && !is_stalled {
            self.turns.push_back(channel);
        }
        lane.push_back(item);
    }

    pub(super) fn is_stalled(&self, channel: ChannelId) -> bool {
        self.stalled.iter().any(|(other, _)| *other == channel)
    }

    /// Has the channel of the message that is written directly get no turns until [`go_on`](Self::go_on).
    pub(super) fn stall(&mut self, channel: ChannelId) {
        self.turns.retain(|other| *other != channel);
        self.stalled.extend(self.direct.take());
    }

    /// Gives a channel its turns again.
    pub(super) fn go_on(&mut self, channel: ChannelId) {
        self.stalled.retain(|(other, _)| *other != channel);
        if self.lanes.contains_key(&channel) {
            self.turns.push_back(channel);
        }
    }

    /// Puts something before all else of its channel.
    pub(super) fn push_lane_front(&mut self, channel: ChannelId, item: Item) {
        let is_stalled = self.is_stalled(channel);
        let lane = self.lanes.entry(channel).or_default();
        if lane.is_empty() && !is_stalled {
            self.turns.push_back(channel);
        }
        lane.push_front(item);
    }

    /// Puts a small message behind all else of its channel, and together with the small ones that wait there.
    pub(super) fn push_small(&mut self, channel: ChannelId, bytes: &[u8]) {
        if let Some(Item::Small(small)) = self.lanes.get_mut(&channel).and_then(VecDeque::back_mut)
            && small.has_room()
        {
            return small.add(channel, bytes);
        }
        let mut small = Small { frame: std::mem::take(&mut self.spare), ..Small::default() };
        small.add(channel, bytes);
        self.push_lane(channel, Item::Small(small));
    }

    /// Puts what runs something on a channel of its own together with what was put there so before. What is said on that channel
    /// later goes behind it, since that is in a lane whose turn is later.
    pub(super) fn push_run(&mut self, channel: ChannelId, arguments: Option<&[u8]>, execute: &[u8]) {
        debug_assert!(!self.lanes.contains_key(&channel), "a channel begins with its execution");
        self.controls += 1;
        let last = self.last_runs.and_then(|last| self.lanes.get_mut(&last)).and_then(VecDeque::back_mut);
        if let Some(Item::Runs(runs)) = last
            && runs.frames.len() < GATHER_BYTES
        {
            return runs.add(channel, arguments, execute);
        }
        let mut runs = Runs { frames: std::mem::take(&mut self.spare_of_runs), ..Runs::default() };
        runs.add(channel, arguments, execute);
        self.push_lane(channel, Item::Runs(runs));
        self.last_runs = Some(channel);
    }

    /// Takes what comes next. Small messages can wait until the peer looks, if `lazily`.
    pub(super) fn fill_batch(&mut self, lazily: bool) {
        self.batch.clear();
        while self.batch.has_room() {
            let Some(item) = self.urgent.pop_front() else {
                break;
            };
            if let Some(rest) = self.batch.add(item) {
                // It opens the next batch. Lanes wait as well: they may hold what it has to precede.
                self.urgent.push_front(rest);
                return;
            }
            self.controls -= 1;
        }
        while self.batch.has_room() {
            let Some((to, credit)) = self.credits.pop_first() else {
                break;
            };
            let encoded = match to {
                CreditFor::Messages(channel) => ToWorker::Credit(channel, credit).encode(),
                CreditFor::Output(channel) => ToWorker::OutputCredit(channel, credit.bytes).encode(),
            };
            // It is small and has no descriptor, so nothing is left of it.
            let _ = self.batch.add(Item::Control { encoded, descriptors: VecDeque::new(), lazy: false });
        }
        let end_of_turn = self.batch.len() + TURN_BYTES;
        while self.batch.has_room() && self.batch.len() < end_of_turn {
            let Some((kind, flags, channel)) = self.answers.pop_front() else {
                break;
            };
            self.batch.add_frame(kind, flags, channel, &[], Bytes::new());
        }
        if self.answers.is_empty() {
            // There may have been many.
            self.answers.shrink_to(FEW_ANSWERS);
        }
        while self.batch.has_room() {
            let Some(channel) = self.turns.pop_front() else {
                break;
            };
            let Some(lane) = self.lanes.get_mut(&channel) else {
                continue;
            };
            let end_of_turn = self.batch.copied.len() + TURN_BYTES;
            while self.batch.has_room() && self.batch.copied.len() < end_of_turn {
                let Some(item) = lane.pop_front() else { break };
                self.controls -= usize::from(matches!(item, Item::Control { .. }));
                match item {
                    Item::Small(small) => self.spare = self.batch.add_frames(small.into_frame(), lazily),
                    Item::Runs(Runs { frames, controls, .. }) => {
                        self.controls -= controls;
                        self.spare_of_runs = self.batch.add_frames(frames, true);
                    }
                    item => {
                        if let Some(rest) = self.batch.add(item) {
                            lane.push_front(rest);
                            break;
                        }
                    }
                }
            }
            if lane.is_empty() {
                self.lanes.remove(&channel);
            } else {
                self.turns.push_back(channel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Throttled, control, message};
    use super::super::{Bounds, Outbox, Served};
    use super::*;

    #[test]
    fn runs_go_in_their_order_and_before_what_follows_on_their_channels() {
        let transport = Throttled::default();
        transport.open(usize::MAX / 2);
        let bounds = Bounds { controls: 400, answers: 0 };
        let outbox = Outbox::bounded(Box::new(transport.clone()), bounds);
        for round in 0..3 {
            runs_go_in_their_order(&transport, &outbox, 1 + 1000 * round);
        }
    }

    fn runs_go_in_their_order(transport: &Throttled, outbox: &Outbox, first: u64) {
        let written = transport.frames().len();
        let mut expected = Vec::new();
        for channel in (first..first + 600).step_by(2) {
            // Some are too large to be put together with others, some have no arguments.
            let size = if channel % 50 == 1 { 6000 } else { 5 };
            let arguments = (channel % 7 != 0).then(|| message(size));
            expected.extend(arguments.iter().map(|_| (kind::ARGUMENTS, channel, size)));
            expected.push((kind::EXECUTE, channel, 100));
            outbox.place_lazily(ChannelId(channel), arguments, &[3; 100]).unwrap();
        }
        let ended = [first, first + 2, first + 300, first + 304, first + 598];
        for channel in ended {
            assert!(outbox.has_unsent(ChannelId(channel)), "{channel}");
            outbox.place(control(kind::CLOSE, channel)).unwrap();
        }
        assert!(!outbox.has_unsent(ChannelId(first + 600)));
        outbox.write_placed();
        outbox.write_out();
        assert!(!outbox.has_unsent(ChannelId(first + 2)));
        let frames = transport.frames().split_off(written);
        for channel in ended {
            let end = frames.iter().position(|frame| *frame == (kind::CLOSE, channel, 3)).unwrap();
            assert!(frames[..end].contains(&(kind::EXECUTE, channel, 100)), "{channel}");
        }
        let (ends, runs): (Vec<_>, Vec<_>) = frames.into_iter().partition(|frame| frame.0 == kind::CLOSE);
        // A batch may end between the two frames of one that is large; its lane has its next turn behind others then.
        let is_small = |frame: &&(u8, u64, usize)| frame.1 % 50 != 1;
        assert!(runs.iter().filter(is_small).eq(expected.iter().filter(is_small)), "{runs:?}");
        let of = |channel| runs.iter().filter(move |frame| frame.1 == channel);
        let is_whole = |channel| of(channel).eq(expected.iter().filter(|frame| frame.1 == channel));
        assert!((first..first + 600).all(is_whole), "{runs:?}");
        assert_eq!(ends.len(), ended.len());
        assert_eq!(outbox.serve(), Served::Nothing);
    }
}
