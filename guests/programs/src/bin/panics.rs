//! Sends `0u32`, `1`, `2` and panics with "boom at item 3".

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    for item in 0u32.. {
        if item == 3 {
            panic!("boom at item {item}");
        }
        channel.send(&item)?;
    }
    Ok(())
}
