//! Reading a connection: frames of one worker become calls on endpoints. Who does it, and when, is up to [`reading`].
//!
//! Everything that arrives is checked: an unknown id, a message in the wrong state, a chunk without credit end the
//! connection as a protocol violation. Nothing here waits for a user or runs a user's code.
//!
//! The rule for a worker that says too little: half a frame, a byte a second and silence are all the same, a worker that has
//! not said it yet. Such a worker costs the host one frame's buffer, and nobody looks at a clock for its sake. The clocks are
//! with those who wait: for a hello (`hello=`), for a status, for the end of an execution that was killed (`grace=`) or has
//! reached its wall time, for the end of a gateway (the timeout of `terminate`). Each ends the process.
//!
//! [`reading`]: crate::reading

use std::sync::Arc;

use sandgate_wire::frame::{Arrived, Frame, FrameError, FrameReader, Header};
use sandgate_wire::message::{Close, Output, kind};
use sandgate_wire::outcome::LossCause;
use sandgate_wire::{ChannelId, Outcome, ToHost};

use crate::connection::Connection;
use crate::endpoint::{Endpoint, Refused, Role};
use crate::table::Lookup;
use crate::vetting;

/// What one worker says, and how far it has come with it. Whoever has this reads the connection.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) frames: FrameReader,
    greeted: bool,
}

/// What reading once has brought.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Something, and there may be more.
    More,
    /// All that was there.
    Nothing,
    /// The end of the connection, which is a violation of the protocol or none.
    Over(Option<LossCause>),
}

impl Reader {
    pub(crate) fn new(frames: FrameReader) -> Reader {
        Reader { frames, greeted: false }
    }

    /// Whether the worker has said hello.
    pub(crate) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Reads once, without waiting, and does all that it says. No whole frame is left lying.
    pub(crate) fn turn(&mut self, connection: &Arc<Connection>) -> Turn {
        let result = match self.frames.read_here() {
            Ok(Arrived::Bytes { more }) => {
                self.take_all(connection).map(|()| if more { Turn::More } else { Turn::Nothing })
            }
            Ok(Arrived::Nothing) => Ok(Turn::Nothing),
            Ok(Arrived::End) => Ok(Turn::Over(None)),
            Err(error) => Err(error.into()),
        };
        result.unwrap_or_else(Turn::from)
    }

    /// Reads until the connection is over, on a thread of its own: for a stream that only a read can wait for.
    pub(crate) fn run(mut self, connection: &Arc<Connection>) {
        let over = loop {
            let result = match self.frames.wait_for_frame() {
                Ok(true) => self.take_all(connection),
                Ok(false) => break None,
                Err(error) => Err(error.into()),
            };
            if let Err(broken) = result
                && let Turn::Over(over) = broken.into()
            {
                break over;
            }
        };
        connection.finish(over);
    }

    fn take_all(&mut self, connection: &Arc<Connection>) -> Result<(), Broken> {
        let (mut latest, mut begun) = (None, None);
        while let Some(header) = self.frames.next_header()? {
            if self.greeted && header.kind == kind::DATA {
                data_arrived(connection, header.channel, &mut self.frames, &mut latest)?;
                continue;
            }
            let Some(frame) = self.frames.next_here()? else { break };
            if self.greeted {
                dispatch(connection, frame, &mut begun)?;
            } else {
                greet(connection, frame)?;
                self.greeted = true;
            }
        }
        watch(begun);
        if self.greeted
            && let Some(header) = self.frames.announced()?.filter(|header| header.kind == kind::DATA)
        {
            data_announced(connection, header, &mut self.frames, &mut latest)?;
        }
        Ok(())
    }
}

/// Has an execution that has begun watched, unless it has ended since.
fn watch(begun: Option<Arc<Endpoint>>) {
    if let Some(begun) = begun {
        begun.watch();
    }
}

/// Why nothing more can be read.
#[derive(Debug)]
enum Broken {
    Stream(FrameError),
    Rule(String),
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Broken {
        Broken::Stream(error)
    }
}

impl From<String> for Broken {
    fn from(message: String) -> Broken {
        Broken::Rule(message)
    }
}

impl From<Broken> for Turn {
    fn from(broken: Broken) -> Turn {
        let message = match broken {
            // A worker that dies in mid-sentence has not broken a rule.
            Broken::Stream(FrameError::Truncated { .. } | FrameError::Io(_)) => return Turn::Over(None),
            Broken::Stream(error) => error.to_string(),
            Broken::Rule(message) => message,
        };
        Turn::Over(Some(LossCause::ProtocolViolation { message }))
    }
}

fn greet(connection: &Connection, frame: Frame<'_>) -> Result<(), String> {
    match ToHost::decode(frame).map_err(|error| error.to_string())? {
        ToHost::Hello(hello) => {
            vetting::hello(&hello)?;
            connection.hello_arrived(hello);
        }
        _ => return Err("it did not begin with a hello".to_owned()),
    }
    Ok(())
}

/// `begun` is the execution that began last, and is to be watched: the next frame may tell that it has ended.
fn dispatch(connection: &Arc<Connection>, frame: Frame<'_>, begun: &mut Option<Arc<Endpoint>>) -> Result<(), String> {
    match ToHost::decode(frame).map_err(|error| error.to_string())? {
        ToHost::Hello(_) => Err("a second hello".to_owned()),
        ToHost::Data(..) => Ok(()),
        ToHost::Credit(channel, credit) => on_open(connection, channel, |endpoint| {
            endpoint.credit(credit).map_err(|error| format!("on channel {channel}: {error}"))
        }),
        ToHost::CreditWanted(channel) => on_open(connection, channel, |endpoint| {
            endpoint.credit_is_wanted();
            Ok(())
        }),
        ToHost::Open { channel, parent } => connection.opened_by_worker(channel, parent),
        ToHost::Close(channel, close) => on_open(connection, channel, |endpoint| closed(connection, endpoint, close)),
        ToHost::Done(channel, outcome) => done(connection, channel, outcome, begun),
        ToHost::Output(channel, output) => output_arrived(connection, channel, output),
        ToHost::Status(status) => connection.status_arrived(status).map_err(str::to_owned),
        ToHost::Compiled(_) => Err("a worker does not compile".to_owned()),
        ToHost::Initialized(_) => Err("a worker takes no snapshots".to_owned()),
    }
}

/// Takes the frame that is here, and those that follow it on the same channel. `latest` is the channel of those before.
fn data_arrived(
    connection: &Connection,
    channel: ChannelId,
    frames: &mut FrameReader,
    latest: &mut Option<Arc<Endpoint>>,
) -> Result<(), Broken> {
    let Some(endpoint) = found(connection, channel, latest)? else {
        return Ok(frames.next_here().map(drop)?);
    };
    endpoint.arrive(frames).map_err(|refused| match refused {
        Refused::Stream(error) => error.into(),
        Refused::AfterClose => format!("a message on channel {channel} after its close").into(),
        Refused::Message(error) => format!("on channel {channel}: {error}").into(),
    })
}

/// Decides where what is still to come of the frame that is announced is read to.
fn data_announced(
    connection: &Connection,
    header: Header,
    frames: &mut FrameReader,
    latest: &mut Option<Arc<Endpoint>>,
) -> Result<(), Broken> {
    // Whatever is wrong with it is told once it is here.
    let Ok(Some(endpoint)) = found(connection, header.channel, latest) else { return Ok(()) };
    Ok(endpoint.lend(frames, header)?)
}

/// The endpoint of a channel; none if that is past.
fn found<'a>(
    connection: &Connection,
    channel: ChannelId,
    latest: &'a mut Option<Arc<Endpoint>>,
) -> Result<Option<&'a Arc<Endpoint>>, Broken> {
    if latest.as_ref().is_none_or(|endpoint| endpoint.id != channel) {
        match connection.lookup(channel) {
            Lookup::Found(endpoint) => *latest = Some(endpoint),
            Lookup::Past => return Ok(None),
            Lookup::Never => return Err(format!("channel {channel} does not exist").into()),
        }
    }
    Ok(latest.as_ref())
}

/// Does something with a channel's endpoint; a channel that is past is left alone.
fn on_open(
    connection: &Connection,
    channel: ChannelId,
    act: impl FnOnce(&Arc<Endpoint>) -> Result<(), String>,
) -> Result<(), String> {
    match connection.lookup(channel) {
        Lookup::Found(endpoint) => act(&endpoint),
        Lookup::Past => Ok(()),
        Lookup::Never => Err(format!("channel {channel} does not exist")),
    }
}

fn closed(connection: &Connection, endpoint: &Arc<Endpoint>, mut close: Close) -> Result<(), String> {
    if endpoint.role == Role::Execution || close.sending_only {
        return Err(format!("channel {} cannot be closed like that", endpoint.id));
    }
    if endpoint.is_over() {
        return Err(format!("channel {} was closed twice", endpoint.id));
    }
    close.error.iter_mut().for_each(|text| vetting::cap(text, vetting::MAX_TEXT_BYTES));
    if endpoint.peer_closed(close.error) {
        connection.forget(endpoint.id);
    }
    Ok(())
}

fn done(
    connection: &Arc<Connection>,
    channel: ChannelId,
    outcome: Outcome,
    begun: &mut Option<Arc<Endpoint>>,
) -> Result<(), String> {
    let outcome = vetting::outcome(outcome);
    if let Outcome::Closed
    | Outcome::ClosedWithError { .. }
    | Outcome::CallbackFailed { .. }
    | Outcome::WorkerLost { .. } = outcome
    {
        return Err(format!("execution {channel} cannot end as it says: {outcome}"));
    }
    let endpoint = match connection.forget_if(channel, |endpoint| endpoint.role == Role::Execution) {
        Ok(endpoint) => endpoint,
        Err(Lookup::Found(_)) => return Err(format!("channel {channel} is no execution, so it cannot end")),
        Err(_) => return Err(format!("execution {channel} does not run, so it cannot end")),
    };
    if endpoint.had_output() {
        connection.output.end(&endpoint);
    }
    endpoint.end_for_good(outcome);
    if let Some(next) = connection.leave(&endpoint) {
        // Another one may run beside it.
        watch(begun.replace(next));
    }
    connection.execution_ended();
    Ok(())
}

fn output_arrived(connection: &Connection, channel: ChannelId, output: Output<'_>) -> Result<(), String> {
    on_open(connection, channel, |endpoint| {
        if endpoint.role != Role::Execution {
            return Err(format!("channel {channel} is no execution, so it has no output"));
        }
        let output = endpoint.output_arrived(output).map_err(|problem| format!("execution {channel} {problem}"))?;
        if let Some(output) = output
            && !endpoint.keep_output(output)
        {
            connection.output.arrive(endpoint, output);
        }
        Ok(())
    })
}
