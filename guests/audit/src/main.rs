//! A task processor that audits Rust source files: see the protocol in `audit-core`.

use audit_core::{Report, Request, Response, audit_bytes};
use sandgate_guest::task;

/// What one source file consists of.
#[task]
fn audit(source: Vec<u8>) -> Report {
    audit_bytes(&source)
}

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    channel.send(&Response::Ready)?;
    for request in channel.iter::<Request>() {
        let Request::File { index, source } = request? else {
            break;
        };
        channel.send(&Response::Done { index, report: audit_bytes(&source) })?;
    }
    Ok(())
}
