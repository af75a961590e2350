//! `poll_oneoff`: sleep, and wait for descriptors that are always ready.
//!
//! ```text
//!  subscription, 48 bytes                      event, 32 bytes
//!   0 userdata u64                              0 userdata u64
//!   8 tag u8: 0 clock, 1 read, 2 write          8 error u16
//!  16 clock u32   │ 16 descriptor u32          10 type u8
//!  24 timeout u64 │                            16 nbytes u64
//!  32 precision u64                            24 flags u16
//!  40 flags u16: 1 absolute
//! ```
//!
//! 1. Every subscription is read and turned into a moment: now for descriptors and errors, later for clocks.
//! 2. The guest waits for the earliest, where it can be stopped.
//! 3. All that are due by then become events.

use std::time::{Duration, Instant};

use sandgate_wire::grants::Clock;
use wasmtime::Caller;

use crate::guest::Guest;
use crate::guest_memory::{self as memory, Fault, number};
use crate::hostcalls::parts;
use crate::wasi::{check_stop, errno, is_open, now, resolution};
use crate::wasi_files::OWN_DESCRIPTORS;

const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
/// Most subscriptions of one call.
const MAX_SUBSCRIPTIONS: u32 = 4096;

const CLOCK: u8 = 0;
const READ: u8 = 1;
const WRITE: u8 = 2;
const ABSOLUTE: u16 = 1;
const HANG_UP: u16 = 1;

struct Subscription {
    userdata: u64,
    tag: u8,
    error: i32,
    /// When it is due, from now.
    after: Duration,
}

pub(crate) fn poll_oneoff(
    mut caller: Caller<'_, Guest>,
    subscriptions: i32,
    events: i32,
    count: i32,
    out: i32,
) -> wasmtime::Result<i32> {
    let (memory, guest) = parts(&mut caller);
    let [pointer, events, count, out] = [subscriptions, events, count, out].map(number);
    if count == 0 || count > MAX_SUBSCRIPTIONS {
        return Ok(errno::INVAL);
    }
    let start = Instant::now();
    let subscriptions = match read(memory, guest, pointer, events, count, out) {
        Ok(Ok(subscriptions)) => subscriptions,
        Ok(Err(error)) => return Ok(error),
        Err(Fault) => return Ok(errno::FAULT),
    };
    let first = subscriptions.iter().map(|it| it.after).min();
    if let (Clock::Fixed { .. }, Some(first)) = (guest.grants.clock, first) {
        // Time passes because it is slept.
        check_stop(guest)?;
        let slept = u64::try_from(first.as_nanos()).unwrap_or(u64::MAX);
        guest.fixed_time = guest.fixed_time.saturating_add(slept);
        let due = subscriptions.iter().filter(|it| it.after <= first);
        return Ok(write(memory, events, out, due).unwrap_or(errno::FAULT));
    }
    // A moment beyond the end of time is never.
    let moment = first.and_then(|after| start.checked_add(after));
    guest.worker.wait(&guest.execution, moment, |_| None::<()>)?;
    let passed = start.elapsed();
    let due = subscriptions.iter().filter(|it| it.after <= passed);
    Ok(write(memory, events, out, due).unwrap_or(errno::FAULT))
}

/// All subscriptions, or the number of the error if one of them is malformed.
fn read(
    memory: &[u8],
    guest: &mut Guest,
    pointer: u32,
    events: u32,
    count: u32,
    out: u32,
) -> Result<Result<Vec<Subscription>, i32>, Fault> {
    memory::range(memory, events, count, EVENT_BYTES)?;
    memory::range(memory, out, 4, 1)?;
    let range = memory::range(memory, pointer, count, SUBSCRIPTION_BYTES)?;
    Ok(memory[range]
        .as_chunks::<{ SUBSCRIPTION_BYTES as usize }>()
        .0
        .iter()
        .map(|bytes| Subscription::read(bytes, guest))
        .collect())
}

impl Subscription {
    fn read(bytes: &[u8; 48], guest: &mut Guest) -> Result<Subscription, i32> {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let tag = bytes[8];
        let (error, after) = match tag {
            CLOCK => {
                let timeout = u64_at(24);
                let nanoseconds = if u16::from_le_bytes([bytes[40], bytes[41]]) & ABSOLUTE != 0 {
                    timeout.saturating_sub(now(guest, u32_at(16))?)
                } else {
                    // A guest that cannot tell the time can still sleep.
                    match resolution(guest, u32_at(16)) {
                        Ok(_) | Err(errno::NOTSUP) => timeout,
                        Err(error) => return Err(error),
                    }
                };
                (errno::SUCCESS, Duration::from_nanos(nanoseconds))
            }
            READ | WRITE => {
                let descriptor = u32_at(16);
                // Files are always ready, and whether it is one shows when it is used.
                let file = descriptor >= OWN_DESCRIPTORS && guest.has_directories;
                let fits = file || is_open(guest, descriptor) && (tag == READ) == (descriptor == 0);
                let error = if fits { errno::SUCCESS } else { errno::BADF };
                (error, Duration::ZERO)
            }
            _ => return Err(errno::INVAL),
        };
        Ok(Subscription { userdata: u64_at(0), tag, error, after })
    }

    fn event(&self) -> [u8; EVENT_BYTES as usize] {
        let mut event = [0; EVENT_BYTES as usize];
        event[0..8].copy_from_slice(&self.userdata.to_le_bytes());
        event[8..12].copy_from_slice(&self.error.to_le_bytes());
        event[10] = self.tag;
        if self.tag == READ {
            // Standard input is at its end.
            event[24..26].copy_from_slice(&HANG_UP.to_le_bytes());
        } else if self.tag == WRITE {
            event[16..24].copy_from_slice(&1_u64.to_le_bytes());
        }
        event
    }
}

fn write<'a>(
    memory: &mut [u8],
    events: u32,
    out: u32,
    due: impl Iterator<Item = &'a Subscription>,
) -> Result<i32, Fault> {
    let bytes: Vec<[u8; EVENT_BYTES as usize]> = due.map(Subscription::event).collect();
    let count = u32::try_from(bytes.len()).map_err(|_| Fault)?;
    memory::write(memory, events, bytes.as_flattened())?;
    memory::write_numbers(memory, out, &[count])?;
    Ok(errno::SUCCESS)
}
