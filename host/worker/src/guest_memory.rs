//! Checked access to a guest's linear memory.
//!
//! Every pointer and length comes from the guest. A range is checked in `u64` before anything is allocated or touched; no
//! borrow outlives the host function it was made in.

use std::ops::Range;

/// A pointer and length that leave linear memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault;

/// A pointer or a length as the guest passes it.
pub(crate) fn number(value: i32) -> u32 {
    value.cast_unsigned()
}

/// `count` elements of `size` bytes at `pointer`, or the fault. Nothing at all is never a fault.
pub(crate) fn range(memory: &[u8], pointer: u32, count: u32, size: u32) -> Result<Range<usize>, Fault> {
    if count == 0 {
        return Ok(0..0);
    }
    let start = u64::from(pointer);
    let end = start + u64::from(count) * u64::from(size);
    if end > memory.len() as u64 {
        return Err(Fault);
    }
    let [start, end] = [start, end].map(|position| usize::try_from(position).map_err(|_| Fault));
    Ok(start?..end?)
}

/// Copies bytes out.
pub(crate) fn read(memory: &[u8], pointer: u32, length: u32) -> Result<Vec<u8>, Fault> {
    Ok(memory[range(memory, pointer, length, 1)?].to_vec())
}

/// Copies `u32`s out.
pub(crate) fn read_numbers(memory: &[u8], pointer: u32, count: u32) -> Result<Vec<u32>, Fault> {
    let bytes = &memory[range(memory, pointer, count, 4)?];
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

/// Copies bytes in.
pub(crate) fn write(memory: &mut [u8], pointer: u32, bytes: &[u8]) -> Result<(), Fault> {
    let length = u32::try_from(bytes.len()).map_err(|_| Fault)?;
    let range = range(memory, pointer, length, 1)?;
    memory[range].copy_from_slice(bytes);
    Ok(())
}

/// Copies `u32`s in.
pub(crate) fn write_numbers(memory: &mut [u8], pointer: u32, numbers: &[u32]) -> Result<(), Fault> {
    let count = u32::try_from(numbers.len()).map_err(|_| Fault)?;
    let range = range(memory, pointer, count, 4)?;
    for (bytes, number) in memory[range].as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_without_overflow() {
        let memory = [0; 100];
        for (pointer, count, size, expected) in [
            (0, 100, 1, Ok(0..100)),
            (100, 0, 1, Ok(0..0)),
            (u32::MAX, 0, 4, Ok(0..0)),
            (99, 1, 1, Ok(99..100)),
            (99, 2, 1, Err(Fault)),
            (100, 1, 1, Err(Fault)),
            (u32::MAX, 1, 1, Err(Fault)),
            (u32::MAX, u32::MAX, u32::MAX, Err(Fault)),
            (8, u32::MAX, 4, Err(Fault)),
            (4, 24, 4, Ok(4..100)),
            (5, 24, 4, Err(Fault)),
        ] {
            assert_eq!(range(&memory, pointer, count, size), expected, "{pointer} {count} {size}");
        }
    }
}
