//! Takes a number of MiB as its argument (`u32`), allocates and touches them one by one, and sends `()` when it is done.

fn main() -> sandgate_guest::Result {
    let mebibytes: u32 = sandgate_guest::args()?;
    let blocks: Vec<Vec<u8>> = (0..mebibytes).map(|_| vec![1; 1024 * 1024]).collect();
    std::hint::black_box(&blocks);
    sandgate_guest::channel().send(&())?;
    Ok(())
}
