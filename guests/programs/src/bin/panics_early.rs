//! Panics with "the hook is told" before it calls anything of the SDK: the hook is in place before `main`.

fn main() -> sandgate_guest::Result {
    panic!("the hook is told");
}
