//! WASI preview 1 for a guest to which nothing is granted: arguments, environment, clocks, randomness, output, exit.
//!
//! wasmtime-wasi is the base. This file stands in front of it for three kinds of functions:
//!
//! * those that can wait or work for long, which must notice that the execution is stopped: `poll_oneoff`, `fd_write`,
//!   `random_get`, `sched_yield`;
//! * those that wasmtime-wasi runs on an asynchronous runtime with threads of its own. The only descriptors are 0 to 2, so
//!   they have little to do, and no runtime is ever started;
//! * `proc_exit`, whose code is an outcome, and the clocks, which `poll_oneoff` has to agree with.

use std::time::{SystemTime, UNIX_EPOCH};

use sandgate_wire::message::Stream;
use wasmtime::{Caller, FuncType, Linker, Val, ValType};

use crate::ending::Exit;
use crate::guest::Guest;
use crate::guest_memory::{self as memory, Fault, number};
use crate::hostcalls::parts;
use crate::imports::{WASI, signature};
use crate::wasi_poll;

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
const MAX_BUFFERS: u32 = 1024;
/// Bytes that are handed to the output at a time.
const WRITE_BYTES: usize = 4096;
/// Random bytes that are made between two looks for a stop.
const RANDOM_BYTES: usize = 1 << 20;

/// What a guest's clocks count in. Finer ones would help it to measure its neighbours.
const CLOCK_RESOLUTION_NANOSECONDS: u64 = 1_000;

const RIGHT_FD_READ: u64 = 1 << 1;
const RIGHT_FD_WRITE: u64 = 1 << 6;

/// Functions whose descriptors can only be files or directories, of which there are none.
const WITHOUT_FILES: [&str; 18] = [
    "fd_advise",
    "fd_datasync",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_pwrite",
    "fd_readdir",
    "fd_sync",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
];

pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p1::add_to_linker_sync(linker, |guest: &mut Guest| &mut guest.wasi)?;
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
    for name in WITHOUT_FILES {
        let (parameters, results) = signature(WASI, name).unwrap_or_default();
        let types = |letters: &'static str| {
            letters.chars().map(|letter| match letter {
                'I' => ValType::I64,
                _ => ValType::I32,
            })
        };
        let ty = FuncType::new(linker.engine(), types(parameters), types(results));
        linker.func_new(WASI, name, ty, |_, _, results| {
            results[0] = Val::I32(errno::BADF);
            Ok(())
        })?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

fn result(result: Result<i32, Fault>) -> i32 {
    result.unwrap_or(errno::FAULT)
}

/// Ends the call, and with it the guest, if the execution is to stop.
pub(crate) fn check_stop(guest: &Guest) -> wasmtime::Result<()> {
    match guest.execution.stop_reason() {
        Some(stop) => Err(stop.into()),
        None => Ok(()),
    }
}

/// Nanoseconds of one of the two clocks there are, in steps of the resolution.
pub(crate) fn now(guest: &Guest, clock: u32) -> Option<u64> {
    let nanoseconds = match clock {
        0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        1 => guest.worker.started.elapsed(),
        _ => return None,
    }
    .as_nanos();
    let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
    Some(nanoseconds - nanoseconds % CLOCK_RESOLUTION_NANOSECONDS)
}

fn clock_res_get(mut caller: Caller<'_, Guest>, clock: i32, out: i32) -> i32 {
    let (memory, _) = parts(&mut caller);
    if number(clock) > 1 {
        return errno::INVAL;
    }
    let resolution = CLOCK_RESOLUTION_NANOSECONDS.to_le_bytes();
    result(memory::write(memory, number(out), &resolution).map(|()| errno::SUCCESS))
}

fn clock_time_get(mut caller: Caller<'_, Guest>, clock: i32, _precision: i64, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    let Some(now) = now(guest, number(clock)) else {
        return errno::INVAL;
    };
    result(memory::write(memory, number(out), &now.to_le_bytes()).map(|()| errno::SUCCESS))
}

/// Whether the guest still has this one of its three descriptors.
pub(crate) fn is_open(guest: &Guest, descriptor: u32) -> bool {
    usize::try_from(descriptor).ok().and_then(|index| guest.open_descriptors.get(index)) == Some(&true)
}

fn fd_close(mut caller: Caller<'_, Guest>, descriptor: i32) -> i32 {
    let guest = caller.data_mut();
    if !is_open(guest, number(descriptor)) {
        return errno::BADF;
    }
    guest.open_descriptors[number(descriptor) as usize] = false;
    errno::SUCCESS
}

fn fd_fdstat_get(mut caller: Caller<'_, Guest>, descriptor: i32, out: i32) -> i32 {
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

fn fd_filestat_get(mut caller: Caller<'_, Guest>, descriptor: i32, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    if !is_open(guest, number(descriptor)) {
        return errno::BADF;
    }
    result(memory::write(memory, number(out), &[0; 64]).map(|()| errno::SUCCESS))
}

/// Standard input is empty.
fn fd_read(mut caller: Caller<'_, Guest>, descriptor: i32, _buffers: i32, _count: i32, out: i32) -> i32 {
    let (memory, guest) = parts(&mut caller);
    if descriptor != 0 || !is_open(guest, 0) {
        return errno::BADF;
    }
    result(memory::write_numbers(memory, number(out), &[0]).map(|()| errno::SUCCESS))
}

fn fd_renumber(mut caller: Caller<'_, Guest>, from: i32, to: i32) -> i32 {
    let guest = caller.data_mut();
    match [from, to].map(|descriptor| is_open(guest, number(descriptor))) {
        [true, true] => errno::NOTSUP,
        _ => errno::BADF,
    }
}

fn fd_seek(mut caller: Caller<'_, Guest>, descriptor: i32, _offset: i64, _whence: i32, _out: i32) -> i32 {
    no_position(caller.data_mut(), descriptor)
}

fn fd_tell(mut caller: Caller<'_, Guest>, descriptor: i32, _out: i32) -> i32 {
    no_position(caller.data_mut(), descriptor)
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
    let (memory, guest) = parts(&mut caller);
    let descriptor = number(descriptor);
    let stream = match descriptor {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Ok(errno::BADF),
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
fn buffers_of(memory: &[u8], pointer: u32, count: u32) -> Result<(Ranges, u64), Fault> {
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
        let fill = guest.random.get_or_insert_with(|| {
            let mut random = wasmtime_wasi::random::thread_rng();
            Box::new(move |bytes| random.fill_bytes(bytes))
        });
        fill(bytes);
    }
    Ok(errno::SUCCESS)
}

fn sched_yield(caller: Caller<'_, Guest>) -> wasmtime::Result<i32> {
    check_stop(caller.data())?;
    std::thread::yield_now();
    Ok(errno::SUCCESS)
}
