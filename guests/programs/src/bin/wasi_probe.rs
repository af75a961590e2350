//! Sends what it sees of the system, as one [`WasiView`].

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, io, net, thread};

use guest_protocol::WasiView;

fn main() -> sandgate_guest::Result {
    let before = Instant::now();
    thread::sleep(Duration::from_millis(1));
    let view = WasiView {
        args: env::args().collect(),
        env: env::vars().collect(),
        wall_clock: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos(),
        monotonic_advances: before.elapsed() >= Duration::from_millis(1),
        random_differs: RandomState::new().hash_one(0) != RandomState::new().hash_one(0),
        current_dir: list(Path::new(".")),
        root_dir: list(Path::new("/")),
        passwd: text(fs::metadata("/etc/passwd").map(|metadata| metadata.len())),
        create: text(fs::write("/tmp/sandgate-probe", b"x")),
        stdin: text(io::stdin().read_to_end(&mut Vec::new()).map(|len| len as u64)),
        connect: text(net::TcpStream::connect(("127.0.0.1", 80)).map(drop)),
    };
    sandgate_guest::channel().send(&view)?;
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<String>, String> {
    let entries: io::Result<Vec<String>> = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
    });
    text(entries)
}

fn text<T>(result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}
