//! Which transport a gateway has, and how both ends of it are made.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use sandgate_wire::ring;
use sandgate_wire::transport::{Descriptors, ReceiveHalf, SendHalf, socket_pair, unix_socket};

use crate::error::LaunchError;

/// Says which transport gateways have whose spec does not say it.
const VARIABLE: &str = "SANDGATE_TRANSPORT";

/// What carries the bytes between the host and a worker of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Memory that both share, with a ring each way.
    Ring,
    /// A Unix socket.
    Socket,
}

impl Transport {
    pub(crate) const ALL: [Transport; 2] = [Transport::Ring, Transport::Socket];

    /// As in a spec.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Ring => "ring",
            Transport::Socket => "socket",
        }
    }
}

/// Both ends of a connection.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) ours: (Box<dyn SendHalf>, Box<dyn ReceiveHalf>),
    /// What the worker has for its standard input.
    pub(crate) theirs: OwnedFd,
}

/// Makes a connection for a worker that is not there yet. What was asked for is had or fails. What was not asked for is a
/// ring if the system has the memory for it, and a socket otherwise.
pub(crate) fn connect(asked_for: Option<Transport>) -> Result<Connected, LaunchError> {
    let wanted = asked_for.map_or_else(default, |transport| Ok(Some(transport)))?;
    let (line, theirs) = socket_pair().map_err(LaunchError::Resources)?;
    let line = match wanted {
        Some(Transport::Socket) => line,
        wanted => match ring::offer(line) {
            Ok((send, receive)) => return Ok(Connected { ours: (Box::new(send), Box::new(receive)), theirs }),
            Err((source, _)) if wanted.is_some() => return Err(LaunchError::Ring(source)),
            Err((error, line)) => {
                tracing::warn!("a worker has a socket for its transport, since there is no shared memory: {error}");
                line
            }
        },
    };
    let (send, receive) = unix_socket(line, Descriptors::Refuse);
    Ok(Connected { ours: (Box::new(send), Box::new(receive)), theirs })
}

/// What the environment says, which is looked at once.
fn default() -> Result<Option<Transport>, LaunchError> {
    static DEFAULT: OnceLock<Result<Option<Transport>, String>> = OnceLock::new();
    let default = DEFAULT.get_or_init(|| {
        let Some(value) = env::var_os(VARIABLE) else { return Ok(None) };
        let known = Transport::ALL.into_iter().find(|transport| value == transport.name());
        known.map(Some).ok_or_else(|| {
            format!("`{VARIABLE}` is `{}`, which is not `ring` or `socket`", value.to_string_lossy().escape_debug())
        })
    });
    default.clone().map_err(|problem| LaunchError::Resources(io::Error::new(io::ErrorKind::InvalidInput, problem)))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;

    #[test]
    fn both_ends_of_each_transport_belong_together() {
        for transport in Transport::ALL {
            let Connected { ours: (send, mut receive), theirs } = connect(Some(transport)).unwrap();
            let hello = [7; 20];
            send.try_write(&[IoSlice::new(&hello)], None).unwrap();
            let mut worker = ring::accept(theirs).unwrap();
            let mut buffer = [0; 32];
            assert_eq!(worker.receive.read(&mut buffer, true).unwrap(), hello.len(), "{transport:?}");
            assert_eq!(worker.descriptors.len(), if transport == Transport::Ring { 2 } else { 1 });
            worker.send.try_write(&[IoSlice::new(b"back")], None).unwrap();
            assert_eq!(receive.read(&mut buffer, true).unwrap(), 4, "{transport:?}");
        }
    }
}
