//! Which channels there are on one connection, which there were, and which there never were.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use sandgate_wire::limits::{MAX_CONNECTION_CHANNELS, MAX_GUEST_CHANNELS};
use sandgate_wire::{ChannelId, ChannelMap, Outcome, Side, ToWorker};

use crate::channel::Channel;
use crate::connection::Connection;
use crate::endpoint::{Endpoint, Role, Start};
use crate::error::ExecError;

/// The channels of a connection.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) endpoints: ChannelMap<Arc<Endpoint>>,
    /// The host's ids that this worker was told lie between these, the first included.
    pub(crate) first_of_host: u64,
    pub(crate) end_of_host: u64,
    /// The worker is to end when nothing of the host's is open.
    pub(crate) draining: bool,
    /// Executions that are about to be given to it.
    pub(crate) pending: usize,
    /// Those that are past, while a user still holds them: a message may yet name them. Runs of pools are not remembered.
    pub(crate) past: ChannelMap<Weak<Endpoint>>,
    /// The highest id the worker gave out.
    pub(crate) newest_of_worker: u64,
    /// Of each channel that a guest made and that is open, the execution that made it.
    pub(crate) makers: ChannelMap<ChannelId>,
    /// How many open channels each of these executions has made.
    pub(crate) made: ChannelMap<u32>,
    pub(crate) open: bool,
}

/// What a table says about an id.
pub(crate) enum Lookup {
    Found(Arc<Endpoint>),
    /// It existed once; frames for it are late, which is normal.
    Past,
    Never,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table {
            endpoints: ChannelMap::default(),
            first_of_host: u64::MAX,
            end_of_host: 0,
            draining: false,
            pending: 0,
            past: ChannelMap::default(),
            newest_of_worker: 0,
            makers: ChannelMap::default(),
            made: ChannelMap::default(),
            open: true,
        }
    }

    /// Closes the table of a worker that is to end and has nothing left of the host's. Says so once.
    pub(crate) fn close_if_drained(&mut self) -> bool {
        let nothing = self.pending == 0 && self.endpoints.len() == self.makers.len();
        let drained = self.draining && self.open && nothing;
        self.open &= !drained;
        drained
    }

    /// A channel that a guest made is not open any more.
    fn unmake(&mut self, id: ChannelId) {
        if self.makers.is_empty() {
            return;
        }
        let Some(maker) = self.makers.remove(&id) else { return };
        if let Some(made) = self.made.get_mut(&maker) {
            *made -= 1;
            if *made == 0 {
                self.made.remove(&maker);
            }
        }
    }

    /// Whether the host or the worker gave out this id. The host's other workers may have had some of those in between.
    pub(crate) fn existed(&self, id: ChannelId) -> bool {
        match id.side() {
            Side::Host => (self.first_of_host..self.end_of_host).contains(&id.0),
            Side::Worker => id.0 != 0 && id.0 <= self.newest_of_worker,
        }
    }
}

impl Connection {
    pub(crate) fn lookup(&self, id: ChannelId) -> Lookup {
        let table = self.table.lock();
        match table.endpoints.get(&id) {
            Some(endpoint) => Lookup::Found(Arc::clone(endpoint)),
            None if table.existed(id) => Lookup::Past,
            None => Lookup::Never,
        }
    }

    fn past(&self, id: ChannelId) -> Option<Arc<Endpoint>> {
        self.table.lock().past.get(&id)?.upgrade()
    }

    /// The endpoint of a past channel is gone for good.
    pub(crate) fn dropped(&self, id: ChannelId) {
        self.table.lock().past.remove(&id);
    }

    /// The worker says that the execution `parent` made a channel.
    pub(crate) fn opened_by_worker(&self, id: ChannelId, parent: ChannelId) -> Result<(), String> {
        let parent = match self.lookup(parent) {
            Lookup::Found(parent) if parent.role == Role::Execution => parent,
            _ => return Err(format!("channel {id} of an execution {parent} that does not run")),
        };
        let mut table = self.table.lock();
        if id.side() != Side::Worker || id.0 <= table.newest_of_worker {
            return Err(format!("channel id {id} out of order"));
        }
        if table.makers.len() >= MAX_GUEST_CHANNELS {
            return Err(format!("more than {MAX_GUEST_CHANNELS} channels of guests"));
        }
        // The worker, which counts a channel for longer, lets no guest get there.
        let most = parent.limits.channels;
        if table.made.get(&parent.id).is_some_and(|made| *made >= most) {
            return Err(format!("execution {} has more than {most} channels", parent.id));
        }
        table.newest_of_worker = id.0;
        drop(table);
        // Nobody else learns of the id before this thread, which reads the worker, has gone on.
        let endpoint = Endpoint::of_guest(id, &parent);
        let mut table = self.table.lock();
        table.endpoints.insert(id, endpoint);
        table.makers.insert(id, parent.id);
        *table.made.entry(parent.id).or_default() += 1;
        Ok(())
    }

    /// Takes a channel out of the table; its endpoint lives on in its handles.
    pub(crate) fn forget(&self, id: ChannelId) {
        drop(self.forget_if(id, |_| true));
    }

    /// As [`forget`](Self::forget), of a channel that `wanted` picks. Returns its endpoint, or what the table says of the id.
    pub(crate) fn forget_if(&self, id: ChannelId, wanted: impl Fn(&Endpoint) -> bool) -> Result<Arc<Endpoint>, Lookup> {
        let mut table = self.table.lock();
        let endpoint = match table.endpoints.get(&id) {
            Some(endpoint) if wanted(endpoint) => Arc::clone(endpoint),
            Some(other) => return Err(Lookup::Found(Arc::clone(other))),
            None if table.existed(id) => return Err(Lookup::Past),
            None => return Err(Lookup::Never),
        };
        let in_table = table.endpoints.remove(&id);
        table.unmake(id);
        if !endpoint.is_run {
            table.past.insert(id, Arc::downgrade(&endpoint));
        }
        let drained = table.close_if_drained();
        drop(table);
        drop(in_table);
        if drained {
            self.request_terminate(false);
        }
        Ok(endpoint)
    }

    /// The channel of an id that stood in a message. One that has ended and left nothing is an ended channel.
    pub(crate) fn claim(self: &Arc<Self>, id: ChannelId) -> Option<Channel> {
        match self.lookup(id) {
            Lookup::Found(endpoint) => Some(Channel::new(&endpoint)),
            Lookup::Past => {
                if let Some(endpoint) = self.past(id) {
                    return Some(Channel::new(&endpoint));
                }
                let limits = self.spec.limits().clone();
                let endpoint = Endpoint::new(id, Arc::clone(self), Start::plain(limits), None);
                endpoint.end(Outcome::Closed);
                Some(Channel::new(&endpoint))
            }
            Lookup::Never => None,
        }
    }

    /// Makes a channel that belongs to no execution.
    pub(crate) fn new_channel(self: &Arc<Self>) -> Result<Channel, ExecError> {
        let endpoint = self.register(Start::plain(self.spec.limits().clone()), None)?;
        let _ = self.outbox.push_urgent(ToWorker::Open(endpoint.id).encode());
        Ok(Channel::new(&endpoint))
    }

    /// A new channel of the host's, in the place of an endpoint that is used up.
    pub(crate) fn register(
        self: &Arc<Self>,
        start: Start,
        used_up: Option<Arc<Endpoint>>,
    ) -> Result<Arc<Endpoint>, ExecError> {
        let closed = |reason: &str| ExecError::GatewayClosed { gateway: self.id.clone(), reason: reason.to_owned() };
        let mut table = self.table.lock();
        if !table.open {
            return Err(closed("its worker is gone"));
        }
        if table.endpoints.len() - table.makers.len() >= MAX_CONNECTION_CHANNELS {
            return Err(closed(&format!("it has {MAX_CONNECTION_CHANNELS} open channels")));
        }
        // Under the table's lock, so that a lower id is never unknown while a higher one is known.
        let id = ChannelId(self.next_channel.fetch_add(2, Ordering::Relaxed));
        table.first_of_host = table.first_of_host.min(id.0);
        table.end_of_host = id.0 + 1;
        let endpoint = Endpoint::new(id, Arc::clone(self), start, used_up);
        table.endpoints.insert(id, Arc::clone(&endpoint));
        Ok(endpoint)
    }

    pub(crate) fn open_channels(&self) -> usize {
        self.table.lock().endpoints.len()
    }
}
