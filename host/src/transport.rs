//! Which transport a gateway has, and how both ends of it are made.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use sandgate_wire::ring::{self, RingReceiveHalf, RingSendHalf};
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
    connect_by(asked_for.map_or_else(default, |transport| Ok(Some(transport)))?, ring::offer)
}

type Offered = Result<(RingSendHalf, RingReceiveHalf), (io::Error, OwnedFd)>;

fn connect_by(wanted: Option<Transport>, offer: impl FnOnce(OwnedFd) -> Offered) -> Result<Connected, LaunchError> {
    let (line, theirs) = socket_pair().map_err(LaunchError::Resources)?;
    let line = match wanted {
        Some(Transport::Socket) => line,
        wanted => match offer(line) {
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

    /// Bytes cross both ways, over so many descriptors.
    fn assert_connected(connected: Connected, descriptors: usize, what: &str) {
        let Connected { ours: (send, mut receive), theirs } = connected;
        let hello = [7; 20];
        send.try_write(&[IoSlice::new(&hello)], None).unwrap();
        let mut worker = ring::accept(theirs).unwrap();
        let mut buffer = [0; 32];
        assert_eq!(worker.receive.read(&mut buffer, true).unwrap(), hello.len(), "{what}");
        assert_eq!(worker.descriptors.len(), descriptors, "{what}");
        worker.send.try_write(&[IoSlice::new(b"back")], None).unwrap();
        assert_eq!(receive.read(&mut buffer, true).unwrap(), 4, "{what}");
    }

    #[test]
    fn without_shared_memory_a_ring_fails_and_what_was_left_open_is_a_socket() {
        let no_memory = |line| Err((io::Error::from(io::ErrorKind::OutOfMemory), line));
        let refused = connect_by(Some(Transport::Ring), no_memory).unwrap_err();
        assert!(matches!(&refused, LaunchError::Ring(source) if source.kind() == io::ErrorKind::OutOfMemory));
        assert!(refused.to_string().contains("`transport=socket`"), "{refused}");
        assert_connected(connect_by(None, no_memory).unwrap(), 1, "left open");
        let not_asked = |_| panic!("a socket needs no memory");
        assert_connected(connect_by(Some(Transport::Socket), not_asked).unwrap(), 1, "socket");
    }

    #[test]
    fn both_ends_of_each_transport_belong_together() {
        for transport in Transport::ALL {
            let descriptors = if transport == Transport::Ring { 2 } else { 1 };
            assert_connected(connect(Some(transport)).unwrap(), descriptors, transport.name());
        }
    }
}
