//! A guest's standard input: bytes that came with its call, all of them there from the start, so that no read waits.

use bytes::Bytes;

use crate::guest::Guest;
use crate::guest_memory::{self as memory, Fault, number};
use crate::wasi::{MAX_BUFFERS, buffers_of, errno};

/// Reads into the buffers of one `fd_read` on descriptor 0. At the end of the input it reads nothing.
pub(crate) fn read(guest_memory: &mut [u8], guest: &mut Guest, buffers: i32, count: i32, out: i32) -> i32 {
    if number(count) > MAX_BUFFERS {
        return errno::INVAL;
    }
    fill(guest_memory, &mut guest.stdin, number(buffers), number(count), number(out)).unwrap_or(errno::FAULT)
}

fn fill(guest_memory: &mut [u8], input: &mut Bytes, buffers: u32, count: u32, out: u32) -> Result<i32, Fault> {
    let (ranges, _) = buffers_of(guest_memory, buffers, count)?;
    memory::range(guest_memory, out, 4, 1)?;
    let mut read = 0_u32;
    for range in ranges {
        let length = range.len().min(input.len());
        // What is read was less than 2^32 bytes before: further buffers wait for the next call.
        let Some(sum) = u32::try_from(length).ok().and_then(|length| read.checked_add(length)) else { break };
        guest_memory[range.start..range.start + length].copy_from_slice(&input.split_to(length));
        read = sum;
    }
    memory::write_numbers(guest_memory, out, &[read])?;
    Ok(errno::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two buffers, of 3 bytes at 100 and 2 at 110, described at 0.
    fn memory() -> Vec<u8> {
        let mut memory = vec![0; 200];
        let numbers: Vec<u8> = [100_u32, 3, 110, 2].iter().flat_map(|number| number.to_le_bytes()).collect();
        memory[..16].copy_from_slice(&numbers);
        memory
    }

    fn check(input: &'static [u8], first: &[u8], second: &[u8], rest: &[u8]) {
        let (mut memory, mut input) = (memory(), Bytes::from_static(input));
        assert_eq!(fill(&mut memory, &mut input, 0, 2, 40).unwrap(), errno::SUCCESS);
        let read = u32::from_le_bytes(memory[40..44].try_into().unwrap());
        assert_eq!(read as usize, first.len() + second.len());
        assert_eq!((&memory[100..100 + first.len()], &memory[110..110 + second.len()]), (first, second));
        assert_eq!(input, rest);
    }

    #[test]
    fn buffers_are_filled_in_their_order() {
        check(b"", b"", b"", b"");
        check(b"ab", b"ab", b"", b"");
        check(b"abcd", b"abc", b"d", b"");
        check(b"abcdefg", b"abc", b"de", b"fg");
    }

    #[test]
    fn buffers_outside_the_memory_are_a_fault_and_take_nothing() {
        let mut input = Bytes::from_static(b"abc");
        for (buffers, count, out) in [(196, 2, 40), (0, 2, 198), (u32::MAX, 1, 40)] {
            assert!(fill(&mut memory(), &mut input, buffers, count, out).is_err());
        }
        assert_eq!(input, b"abc".as_slice());
    }
}
