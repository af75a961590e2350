//! The functions of the guest ABI; `sandgate_abi` says what each does.
//!
//! Each checks its handle, then its pointers, then its sizes, and only then waits or takes anything. Guest bytes are copied
//! outside the hub's lock. A function returns an error, which ends the guest, only when its execution was stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandgate_abi::{
    IMPORT_MODULE, MAX_MESSAGE_CHANNELS, MAX_REPORT_BYTES, MEMORY_EXPORT, TASK_CHANNEL, import, report, status,
};
use sandgate_wire::account::cost;
use sandgate_wire::limits::LimitName;
use sandgate_wire::message::Close;
use sandgate_wire::outbox::Written;
use sandgate_wire::{ChannelId, Message, Outbox};
use wasmtime::{Caller, Extern, Linker};

use crate::channel::Sending;
use crate::execution::Stop;
use crate::guest::{Guest, Report};
use crate::guest_memory::{self as memory, Fault, number};
use crate::{channel::Endpoint, ending};

mod receiving;

use receiving::{Buffer, Size, receive};

/// Channels that one `channel_wait` can name, even if its guest may not have as many.
const MIN_WAIT_HANDLES: u32 = 1024;
/// Bytes that are copied between two looks for a stop.
const COPY_BYTES: usize = 1 << 20;

pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker
        .func_wrap(IMPORT_MODULE, import::CHANNEL_SEND, channel_send)?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_RECEIVE, channel_receive)?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_WAIT, channel_wait)?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_CLOSE, channel_close)?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_ERROR, channel_error)?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_NEW, channel_new)?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_DROP, channel_drop)?
        .func_wrap(IMPORT_MODULE, import::CALL_ARGS, call_args)?
        .func_wrap(IMPORT_MODULE, import::TASK_REPORT, task_report)?;
    Ok(())
}

/// Puts refusals in the place of all functions that need a task: an init function has its input and its last word.
pub(crate) fn refuse_channels(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let refused = status::NOT_ALLOWED;
    linker.allow_shadowing(true);
    linker
        .func_wrap(IMPORT_MODULE, import::CHANNEL_SEND, move |_: i32, _: i32, _: i32, _: i32, _: i32, _: i64| -> i32 {
            refused
        })?
        .func_wrap(
            IMPORT_MODULE,
            import::CHANNEL_RECEIVE,
            move |_: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i64| -> i32 { refused },
        )?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_WAIT, move |_: i32, _: i32, _: i64| -> i32 { refused })?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_CLOSE, move |_: i32, _: i32, _: i32, _: i32| -> i32 { refused })?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_ERROR, move |_: i32, _: i32, _: i32, _: i32| -> i32 { refused })?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_NEW, move || -> i32 { refused })?
        .func_wrap(IMPORT_MODULE, import::CHANNEL_DROP, move |_: i32| -> i32 { refused })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What ends a function early: a status for the guest, or the end of the guest.
enum Early {
    Status(i32),
    End(wasmtime::Error),
}

type Answer = wasmtime::Result<i32>;

impl From<Fault> for Early {
    fn from(_: Fault) -> Early {
        Early::Status(status::FAULT)
    }
}

impl From<Stop> for Early {
    fn from(stop: Stop) -> Early {
        Early::End(stop.into())
    }
}

fn answer(result: Result<i32, Early>) -> Answer {
    match result {
        Ok(value) => Ok(value),
        Err(Early::Status(status)) => Ok(status),
        Err(Early::End(error)) => Err(error),
    }
}

/// The guest's memory and its state. A guest without memory has no bytes.
pub(crate) fn parts<'a>(caller: &'a mut Caller<'_, Guest>) -> (&'a mut [u8], &'a mut Guest) {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        // Before the instance is made, while its `start` function runs.
        None => match caller.get_export(MEMORY_EXPORT) {
            Some(Extern::Memory(memory)) => memory,
            _ => return (&mut [], caller.data_mut()),
        },
    };
    memory.data_and_store_mut(caller)
}

/// Begins every function but `task_report`: the guest went on after an error it had reported.
fn enter<'a>(caller: &'a mut Caller<'_, Guest>) -> (&'a mut [u8], &'a mut Guest) {
    let (memory, guest) = parts(caller);
    if guest.report.as_ref().is_some_and(|it| it.kind == report::ERROR) {
        guest.report = None;
    }
    (memory, guest)
}

fn channel(guest: &Guest, handle: i32) -> Result<ChannelId, Early> {
    guest.handles.get(number(handle)).ok_or(Early::Status(status::BAD_HANDLE))
}

/// The moment a timeout in nanoseconds ends; `None` for never.
fn deadline(timeout: i64) -> Option<Instant> {
    let timeout = u64::try_from(timeout).ok()?;
    Instant::now().checked_add(Duration::from_nanos(timeout))
}

fn channel_send(
    mut caller: Caller<'_, Guest>,
    handle: i32,
    pointer: i32,
    length: i32,
    channels: i32,
    channel_count: i32,
    timeout: i64,
) -> Answer {
    let (memory, guest) = enter(&mut caller);
    answer(send(memory, guest, handle, [pointer, length, channels, channel_count].map(number), timeout))
}

fn send(
    memory: &mut [u8],
    guest: &mut Guest,
    handle: i32,
    [pointer, length, channels_pointer, channel_count]: [u32; 4],
    timeout: i64,
) -> Result<i32, Early> {
    let id = channel(guest, handle)?;
    let bytes = memory::range(memory, pointer, length, 1)?;
    memory::range(memory, channels_pointer, channel_count, 4)?;
    let length = u64::from(length);
    let most = guest.execution.limits.message_bytes;
    if length > most {
        guest.refused = Some((LimitName::Message, most));
    }
    if length > most || channel_count > MAX_MESSAGE_CHANNELS {
        return Err(Early::Status(status::TOO_LARGE));
    }
    let mut refused = None;
    let channels = memory::read_numbers(memory, channels_pointer, channel_count)?
        .into_iter()
        .map(|handle| guest.handles.get(handle))
        .collect::<Option<Vec<_>>>()
        .ok_or(Early::Status(status::BAD_HANDLE))?;
    let small = Some(&memory[bytes.clone()]).filter(|bytes| channels.is_empty() && Outbox::is_small(bytes));
    let granted = guest.worker.wait(&guest.execution, deadline(timeout), |hub| {
        let sending = match small {
            Some(bytes) => hub.send_small(id, &guest.execution, bytes),
            None => hub.start_sending(id, &guest.execution, length),
        };
        match sending {
            Sending::Started => return Some(Ok(())),
            Sending::Closed => return Some(Err(status::CLOSED)),
            Sending::TooLarge(most) => {
                refused = Some((LimitName::Message, most));
                return Some(Err(status::TOO_LARGE));
            }
            Sending::NoCredit => {}
            Sending::NoRoom => hub.want_credit(&guest.execution),
            Sending::Never => {
                guest.execution.set_stop(Stop::Limit(LimitName::Memory));
                return Some(Err(status::LIMIT));
            }
        }
        None
    })?;
    guest.refused = refused.or(guest.refused);
    match granted {
        Some(Ok(())) => guest.got(LimitName::Message),
        // The one limit that ends the guest.
        Some(Err(status)) => return Err(stop_or(guest, Early::Status(status))),
        None => return Err(Early::Status(status::TIMEOUT)),
    }
    if small.is_some() {
        return Ok(status::OK);
    }
    let from = &memory[bytes];
    // Of the guest's own channel, which ends with the guest if that is stopped within the message.
    let own = id == guest.execution.id && channels.is_empty();
    if let Some(direct) = own.then(|| guest.worker.outbox.begin(id, from.len())).flatten() {
        let keep = |position: usize| copy_out(guest, &from[position..]).ok().map(Bytes::from);
        let written = direct.write(from, || look(guest).is_ok(), keep);
        guest.worker.hub.lock().sent(id);
        return match written {
            Written::All => Ok(status::OK),
            Written::GivenUp => look(guest).map(|()| status::CLOSED).map_err(Early::from),
        };
    }
    let copied = copy_out(guest, from);
    let mut hub = match copied {
        Ok(bytes) => {
            // If the connection is gone the worker ends in a moment.
            let _ = guest.worker.outbox.push_message(id, Message { bytes: bytes.into(), channels });
            guest.worker.hub.lock()
        }
        Err(stop) => {
            let mut hub = guest.worker.hub.lock();
            hub.not_sent(id, &guest.execution, length);
            hub.sent(id);
            return Err(stop.into());
        }
    };
    hub.sent(id);
    Ok(status::OK)
}

/// The end of the guest if it is to stop, or else this.
fn stop_or(guest: &Guest, early: Early) -> Early {
    guest.execution.stop_reason().map_or(early, Early::from)
}

/// Copies a guest's bytes, and looks for a stop as it does.
fn copy_out(guest: &Guest, from: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut copy = Vec::with_capacity(from.len());
    for bytes in from.chunks(COPY_BYTES) {
        look(guest)?;
        copy.extend_from_slice(bytes);
    }
    Ok(copy)
}

/// Copies bytes to a guest, and looks for a stop as it does.
fn copy_in(guest: &Guest, to: &mut [u8], from: &[u8]) -> Result<(), Stop> {
    for (to, from) in to.chunks_mut(COPY_BYTES).zip(from.chunks(COPY_BYTES)) {
        look(guest)?;
        to.copy_from_slice(from);
    }
    Ok(())
}

fn look(guest: &Guest) -> Result<(), Stop> {
    guest.worker.check(&guest.execution).map_or(Ok(()), Err)
}

#[expect(clippy::too_many_arguments, reason = "the ABI's")]
fn channel_receive(
    mut caller: Caller<'_, Guest>,
    handle: i32,
    pointer: i32,
    capacity: i32,
    channels: i32,
    channels_capacity: i32,
    size: i32,
    timeout: i64,
) -> Answer {
    let (memory, guest) = enter(&mut caller);
    let buffer = [pointer, capacity, channels, channels_capacity, size].map(number);
    answer(receive(memory, guest, handle, Buffer(buffer), timeout))
}

fn channel_wait(mut caller: Caller<'_, Guest>, handles: i32, count: i32, timeout: i64) -> Answer {
    let (memory, guest) = enter(&mut caller);
    answer(wait(memory, guest, number(handles), number(count), timeout))
}

fn wait(memory: &mut [u8], guest: &mut Guest, pointer: u32, count: u32, timeout: i64) -> Result<i32, Early> {
    memory::range(memory, pointer, count, 4)?;
    // Each look takes as long as there are handles, while everybody else waits.
    if count > guest.execution.limits.channels.max(MIN_WAIT_HANDLES) {
        return Err(Early::Status(status::TOO_LARGE));
    }
    let channels = memory::read_numbers(memory, pointer, count)?
        .into_iter()
        .map(|handle| guest.handles.get(handle))
        .collect::<Option<Vec<_>>>()
        .ok_or(Early::Status(status::BAD_HANDLE))?;
    let first = match channels.len() {
        0 => 0,
        length => guest.next_wait % length,
    };
    let order = || (first..channels.len()).chain(0..first);
    let execution = &guest.execution;
    let found = guest.worker.wait(execution, deadline(timeout), |hub| {
        let is_ready = |id: &ChannelId| {
            let is_at_hand = *id == execution.id && !execution.pocket.lock().is_empty();
            is_at_hand || hub.channels.get(id).is_none_or(Endpoint::is_ready)
        };
        order().find(|position| is_ready(&channels[*position]))
    })?;
    match found {
        Some(position) => {
            guest.next_wait = position + 1;
            Ok(i32::try_from(position).unwrap_or(status::TOO_LARGE))
        }
        None => Ok(status::TIMEOUT),
    }
}

fn channel_close(mut caller: Caller<'_, Guest>, handle: i32, error: i32, length: i32, has_error: i32) -> Answer {
    let (memory, guest) = enter(&mut caller);
    answer(close(memory, guest, handle, number(error), number(length), has_error != 0))
}

fn close(
    memory: &mut [u8],
    guest: &mut Guest,
    handle: i32,
    error: u32,
    length: u32,
    has_error: bool,
) -> Result<i32, Early> {
    let id = channel(guest, handle)?;
    if number(handle) == TASK_CHANNEL || id == guest.execution.id {
        return Err(Early::Status(status::NOT_ALLOWED));
    }
    let error = if has_error { Some(text(memory, error, length)?) } else { None };
    let close = Close { error, sending_only: false };
    guest.worker.hub.lock().close_by_guest(id, close);
    Ok(status::OK)
}

/// The guest's text, as much of it as a report may have.
fn text(memory: &[u8], pointer: u32, length: u32) -> Result<String, Early> {
    memory::range(memory, pointer, length, 1)?;
    let bytes = memory::read(memory, pointer, length.min(MAX_REPORT_BYTES))?;
    let text = String::from_utf8_lossy(&bytes);
    // A character that was cut in two is no character any more, and replacements are longer than what they replace.
    let text = match length > MAX_REPORT_BYTES {
        true => text.trim_end_matches(char::REPLACEMENT_CHARACTER),
        false => &text,
    };
    Ok(ending::capped(text, MAX_REPORT_BYTES as usize))
}

fn channel_error(mut caller: Caller<'_, Guest>, handle: i32, pointer: i32, capacity: i32, size: i32) -> Answer {
    let (memory, guest) = enter(&mut caller);
    answer(error(memory, guest, handle, [pointer, capacity, size].map(number)))
}

fn error(memory: &mut [u8], guest: &mut Guest, handle: i32, [pointer, capacity, size]: [u32; 3]) -> Result<i32, Early> {
    let id = channel(guest, handle)?;
    Buffer([pointer, capacity, 0, 0, size]).check(memory)?;
    let error = guest
        .worker
        .hub
        .lock()
        .channels
        .get(&id)
        .and_then(|endpoint| endpoint.error.clone())
        .ok_or(Early::Status(status::CLOSED))?;
    Size::new(error.len(), 0).write(memory, size)?;
    if error.len() as u64 > u64::from(capacity) {
        return Ok(status::TOO_SMALL);
    }
    memory::write(memory, pointer, error.as_bytes())?;
    // Again, in case the text lies over it.
    Size::new(error.len(), 0).write(memory, size)?;
    Ok(status::OK)
}

fn channel_new(mut caller: Caller<'_, Guest>) -> Answer {
    let (_, guest) = enter(&mut caller);
    if guest.channels_left() == 0 || guest.execution.has_many_unanswered() {
        // Channels that it has given back count until the host has settled them, which is worth waiting for.
        let most = guest.most_made();
        if guest.handles.made() >= most {
            guest.refuse_channels();
            return Ok(status::LIMIT);
        }
        let execution = Arc::clone(&guest.execution);
        let room = |_: &mut _| (execution.channels_made() < most && execution.has_few_unanswered()).then_some(());
        guest.worker.wait(&execution, None, room)?;
    }
    let Some(channel) = guest.worker.hub.lock().make(&guest.execution) else {
        return Ok(status::LIMIT);
    };
    guest.got(LimitName::Channels);
    let handle = guest.handles.add_made(channel);
    Ok(i32::try_from(handle).unwrap_or(status::LIMIT))
}

fn channel_drop(mut caller: Caller<'_, Guest>, handle: i32) -> Answer {
    let (_, guest) = enter(&mut caller);
    let handle = number(handle);
    if handle == TASK_CHANNEL {
        return Ok(status::NOT_ALLOWED);
    }
    let Some(channel) = guest.handles.remove(handle) else {
        return Ok(status::BAD_HANDLE);
    };
    guest.worker.hub.lock().drop_handle(channel, &guest.execution);
    Ok(status::OK)
}

fn call_args(
    mut caller: Caller<'_, Guest>,
    pointer: i32,
    capacity: i32,
    channels: i32,
    channels_capacity: i32,
    size: i32,
) -> Answer {
    let (memory, guest) = enter(&mut caller);
    let buffer = [pointer, capacity, channels, channels_capacity, size].map(number);
    answer(arguments(memory, guest, Buffer(buffer)))
}

fn arguments(memory: &mut [u8], guest: &mut Guest, buffer: Buffer) -> Result<i32, Early> {
    buffer.check(memory)?;
    let channels_left = guest.channels_left();
    let Some(message) = &guest.arguments else {
        return Ok(status::CLOSED);
    };
    if let Err(kept) = buffer.fits(message.into(), channels_left) {
        Size::of(message.into()).write(memory, buffer.size_pointer())?;
        if kept == status::LIMIT {
            guest.refuse_channels();
        }
        return Ok(kept);
    }
    let message = guest.arguments.take().unwrap_or_default();
    guest.execution.account.received(cost(message.bytes.len() as u64));
    {
        let mut hub = guest.worker.hub.lock();
        for channel in &message.channels {
            hub.hold(*channel, &guest.execution);
        }
    }
    buffer.write(memory, guest, &message)
}

fn task_report(mut caller: Caller<'_, Guest>, kind: i32, pointer: i32, length: i32) -> Answer {
    let (memory, guest) = parts(&mut caller);
    if ![report::ERROR, report::PANIC, report::BAD_ARGUMENTS].contains(&kind) {
        return Ok(status::NOT_ALLOWED);
    }
    answer(text(memory, number(pointer), number(length)).map(|text| {
        guest.report = Some(Report { kind, text });
        status::OK
    }))
}
