//! WASI preview 1: arguments, environment, clocks, randomness, output, exit; and the way to [files](crate::wasi_files).
//!
//! wasmtime-wasi is the base. This file stands in front of it for three kinds of functions:
//!
//! * those that can wait or work for long, which must notice that the execution is stopped: `poll_oneoff`, `fd_write`,
//!   `random_get`, `sched_yield`;
//! * those that wasmtime-wasi runs on an asynchronous runtime with threads of its own, which is never started: descriptors
//!   0 to 2 are served here, and those above by [`crate::wasi_files`], if the guest was given directories;
//! * `proc_exit`, whose code is an outcome, and the clocks, which `poll_oneoff` has to agree with.

use std::time::{SystemTime, UNIX_EPOCH};

use sandgate_wire::grants::Clock;
use sandgate_wire::message::Stream;
use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1 as _;
use wiggle::GuestMemory;

use crate::ending::Exit;
use crate::guest::Guest;
use crate::guest_memory::{self as memory, Fault, number};
use crate::hostcalls::parts;
use crate::imports::WASI;
use crate::wasi_files::{self, OWN_DESCRIPTORS, at_once, files, original};
use crate::{randomness, stdin, wasi_poll};

/// Numbers of WASI's errors.
pub(crate) mod errno {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const BADF: i32 = 8;
    pub(crate) const FAULT: i32 = 21;
    pub(crate) const INVAL: i32 = 28;
    pub(crate) const NOTSUP: i32 = 58;
    pub(crate) const SPIPE: i32 = 70;
}

/// Most buffers of one `fd_write` or `fd_read`, as on Linux.
pub(crate) const MAX_BUFFERS: u32 = 1024;
/// Bytes that are handed to the output at a time.
const WRITE_BYTES: usize = 4096;
/// Random bytes that are made between two looks for a stop.
const RANDOM_BYTES: usize = 256 << 10;

const RIGHT_FD_READ: u64 = 1 << 1;
const RIGHT_FD_WRITE: u64 = 1 << 6;

pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p1::add_to_linker_sync(linker, |guest: &mut Guest| guest.wasi())?;
    linker.allow_shadowing(true);
    linker
        .func_wrap(WASI, "clock_res_get", clock_res_get)?
        .func_wrap(WASI, "clock_time_get", clock_time_get)?
        .func_wrap(WASI, "fd_close", fd_close)?
        .func_wrap(WASI, "fd_fdstat_get", fd_fdstat_get)?
        .func_wrap(WASI, "fd_filestat_get", fd_filestat_get)?
        .func_wrap(WASI, "fd_read", fd_read)?
        .func_wrap(WASI, "fd_renumber", fd_renumber)?
        .func_wrap(WASI, "fd_seek", fd_seek)?
        .func_wrap(WASI, "fd_tell", fd_tell)?
        .func_wrap(WASI, "fd_write", fd_write)?
        .func_wrap(WASI, "poll_oneoff", wasi_poll::poll_oneoff)?
        .func_wrap(WASI, "proc_exit", proc_exit)?
        .func_wrap(WASI, "random_get", random_get)?
        .func_wrap(WASI, "sched_yield", sched_yield)?;
    wasi_files::define(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn result(result: Result<i32, Fault>) -> i32 {
    result.unwrap_or(errno::FAULT)
}

/// Ends the call, and with it the guest, if the execution is to stop.
pub(crate) fn check_stop(guest: &Guest) -> wasmtime::Result<()> {
    match guest.worker.check(&guest.execution) {
        Some(stop) => Err(stop.into()),
        None => Ok(()),
    }
}

/// Nanoseconds of one of the two clocks there are, in steps of the resolution, or the error's number. The clocks of
/// processor time do not exist.
pub(crate) fn now(guest: &mut Guest, clock: u32) -> Result<u64, i32> {
    let resolution = resolution(guest, clock)?;
    if let Clock::Fixed { step } = guest.grants.clock {
        let now = guest.fixed_time;
        guest.fixed_time = now.saturating_add(step);
        return Ok(now);
    }
    let nanoseconds = match clock {
        0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        _ => guest.worker.started.elapsed(),
    }
    .as_nanos();
    let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
    Ok(nanoseconds - nanoseconds % resolution)
}

/// What a guest's clock counts in.
pub(crate) fn resolution(guest: &Guest, clock: u32) -> Result<u64, i32> {
    if clock > 1 {
        return Err(errno::INVAL);
    }
    let nanoseconds = match guest.grants.clock {
        Clock::Coarse(resolution) => u64::try_from(resolution.as_nanos()).unwrap_or(u64::MAX),
        Clock::Fixed { step } => step,
        _ => return Err(errno::NOTSUP),
    };
    Ok(nanoseconds.max(1))
}

fn clock_res_get(mut caller: Caller<'_, Guest>, clock: i32, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    match resolution(guest, number(clock)) {
        Ok(resolution) => {
            result(memory::write(memory, number(out), &resolution.to_le_bytes()).map(|()| errno::SUCCESS))
        }
        Err(error) => error,
    }
}

fn clock_time_get(mut caller: Caller<'_, Guest>, clock: i32, _precision: i64, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    match now(guest, number(clock)) {
        Ok(now) => result(memory::write(memory, number(out), &now.to_le_bytes()).map(|()| errno::SUCCESS)),
        Err(error) => error,
    }
}

/// Whether the guest still has this one of its three descriptors.
pub(crate) fn is_open(guest: &Guest, descriptor: u32) -> bool {
    usize::try_from(descriptor).ok().and_then(|index| guest.open_descriptors.get(index)) == Some(&true)
}

fn fd_close(mut caller: Caller<'_, Guest>, descriptor: i32) -> wasmtime::Result<i32> {
    if number(descriptor) >= OWN_DESCRIPTORS {
        return files!(caller, fd_close(descriptor));
    }
    Ok(own_close(caller, descriptor))
}

fn own_close(mut caller: Caller<'_, Guest>, descriptor: i32) -> i32 {
    let guest = caller.data_mut();
    if !is_open(guest, number(descriptor)) {
        return errno::BADF;
    }
    guest.open_descriptors[number(descriptor) as usize] = false;
    errno::SUCCESS
}

fn fd_fdstat_get(mut caller: Caller<'_, Guest>, descriptor: i32, out: i32) -> wasmtime::Result<i32> {
    if number(descriptor) >= OWN_DESCRIPTORS {
        return files!(caller, fd_fdstat_get(descriptor, out));
    }
    Ok(own_fdstat_get(caller, descriptor, out))
}

fn own_fdstat_get(mut caller: Caller<'_, Guest>, descriptor: i32, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    let descriptor = number(descriptor);
    if !is_open(guest, descriptor) {
        return errno::BADF;
    }
    let rights = if descriptor == 0 { RIGHT_FD_READ } else { RIGHT_FD_WRITE };
    // File type (unknown: neither a terminal nor a file), flags, rights, inherited rights.
    let mut stat = [0; 24];
    stat[8..16].copy_from_slice(&rights.to_le_bytes());
    stat[16..24].copy_from_slice(&rights.to_le_bytes());
    result(memory::write(memory, number(out), &stat).map(|()| errno::SUCCESS))
}

fn fd_filestat_get(mut caller: Caller<'_, Guest>, descriptor: i32, out: i32) -> wasmtime::Result<i32> {
    if number(descriptor) >= OWN_DESCRIPTORS {
        return files!(caller, fd_filestat_get(descriptor, out));
    }
    Ok(own_filestat_get(caller, descriptor, out))
}

fn own_filestat_get(mut caller: Caller<'_, Guest>, descriptor: i32, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    if !is_open(guest, number(descriptor)) {
        return errno::BADF;
    }
    result(memory::write(memory, number(out), &[0; 64]).map(|()| errno::SUCCESS))
}

fn fd_read(
    mut caller: Caller<'_, Guest>,
    descriptor: i32,
    buffers: i32,
    count: i32,
    out: i32,
) -> wasmtime::Result<i32> {
    if number(descriptor) >= OWN_DESCRIPTORS {
        return files!(caller, fd_read(descriptor, buffers, count, out));
    }
    Ok(own_read(caller, descriptor, buffers, count, out))
}

fn own_read(mut caller: Caller<'_, Guest>, descriptor: i32, buffers: i32, count: i32, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    if descriptor != 0 || !is_open(guest, 0) {
        return errno::BADF;
    }
    stdin::read(memory, guest, buffers, count, out)
}

fn fd_renumber(mut caller: Caller<'_, Guest>, from: i32, to: i32) -> wasmtime::Result<i32> {
    if number(from) >= OWN_DESCRIPTORS && number(to) >= OWN_DESCRIPTORS {
        return files!(caller, fd_renumber(from, to));
    }
    Ok(own_renumber(caller, from, to))
}

fn own_renumber(mut caller: Caller<'_, Guest>, from: i32, to: i32) -> i32 {
    let guest = caller.data_mut();
    match [from, to].map(|descriptor| is_open(guest, number(descriptor))) {
        [true, true] => errno::NOTSUP,
        _ => errno::BADF,
    }
}

fn fd_seek(
    mut caller: Caller<'_, Guest>,
    descriptor: i32,
    offset: i64,
    whence: i32,
    out: i32,
) -> wasmtime::Result<i32> {
    if number(descriptor) >= OWN_DESCRIPTORS {
        return files!(caller, fd_seek(descriptor, offset, whence, out));
    }
    Ok(own_seek(caller, descriptor, offset, whence, out))
}

fn own_seek(mut caller: Caller<'_, Guest>, descriptor: i32, _offset: i64, _whence: i32, _out: i32) -> i32 {
    no_position(caller.data_mut(), descriptor)
}

fn fd_tell(mut caller: Caller<'_, Guest>, descriptor: i32, out: i32) -> wasmtime::Result<i32> {
    if number(descriptor) >= OWN_DESCRIPTORS {
        return files!(caller, fd_tell(descriptor, out), std::convert::identity);
    }
    Ok(no_position(caller.data_mut(), descriptor))
}

fn no_position(guest: &Guest, descriptor: i32) -> i32 {
    if is_open(guest, number(descriptor)) { errno::SPIPE } else { errno::BADF }
}

fn fd_write(
    mut caller: Caller<'_, Guest>,
    descriptor: i32,
    buffers: i32,
    count: i32,
    out: i32,
) -> wasmtime::Result<i32> {
    let raw = descriptor;
    let (memory, guest) = parts(&mut caller);
    let descriptor = number(descriptor);
    let stream = match descriptor {
        0 => return Ok(errno::BADF),
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return files!(caller, fd_write(raw, buffers, count, out)),
    };
    if !is_open(guest, descriptor) {
        return Ok(errno::BADF);
    }
    if number(count) > MAX_BUFFERS {
        return Ok(errno::INVAL);
    }
    let Ok((ranges, total)) = buffers_of(memory, number(buffers), number(count)) else {
        return Ok(errno::FAULT);
    };
    let Ok(total) = u32::try_from(total) else {
        return Ok(errno::INVAL);
    };
    if memory::range(memory, number(out), 4, 1).is_err() {
        return Ok(errno::FAULT);
    }
    check_stop(guest)?;
    for range in ranges {
        for bytes in memory[range].chunks(WRITE_BYTES) {
            if guest.output.is_truncated() {
                break;
            }
            guest.output.write(&guest.worker, &guest.execution, stream, bytes)?;
        }
    }
    Ok(result(memory::write_numbers(memory, number(out), &[total]).map(|()| errno::SUCCESS)))
}

type Ranges = Vec<std::ops::Range<usize>>;

/// The checked ranges of an array of pointers and lengths, and how many bytes they are together.
pub(crate) fn buffers_of(memory: &[u8], pointer: u32, count: u32) -> Result<(Ranges, u64), Fault> {
    memory::range(memory, pointer, count, 8)?;
    let numbers = memory::read_numbers(memory, pointer, count * 2)?;
    let mut total = 0;
    let ranges = numbers
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[pointer, length]| {
            total += u64::from(*length);
            memory::range(memory, *pointer, *length, 1)
        })
        .collect::<Result<_, _>>()?;
    Ok((ranges, total))
}

fn proc_exit(_caller: Caller<'_, Guest>, code: i32) -> wasmtime::Result<()> {
    Err(Exit(code).into())
}

fn random_get(mut caller: Caller<'_, Guest>, pointer: i32, length: i32) -> wasmtime::Result<i32> {
    let (memory, guest) = parts(&mut caller);
    let Ok(range) = memory::range(memory, number(pointer), number(length), 1) else {
        return Ok(errno::FAULT);
    };
    // Straight into the guest's memory: nothing is allocated for its length.
    for bytes in memory[range].chunks_mut(RANDOM_BYTES) {
        check_stop(guest)?;
        if guest.random.is_none() {
            guest.random = randomness::source(guest.grants.random);
        }
        match &mut guest.random {
            Some(fill) => fill(bytes),
            None => return Ok(errno::NOTSUP),
        }
    }
    Ok(errno::SUCCESS)
}

fn sched_yield(caller: Caller<'_, Guest>) -> wasmtime::Result<i32> {
    check_stop(caller.data())?;
    std::thread::yield_now();
    Ok(errno::SUCCESS)
}
