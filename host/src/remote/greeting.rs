//! The first words on a link, until there is one: what a launcher connects to is found to be an agent of ours.
//!
//! ```text
//!  host                                      far end
//!   │        noise of launchers and shells ◄──┤
//!   │◄────────────────── PREAMBLE, HELLO ─────┤ agent
//!   ├───────── HELLO: heartbeat, tenant ─────►│
//! ```

use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::link::frame::{FrameEncoder, LinkError, LinkFrame, LinkReader, PREAMBLE};
use sandgate_wire::link::message::{AgentHello, HelloError, HostGreeting, hello_body, kind, read_hello};
use sandgate_wire::message::PROTOCOL_VERSION;
use sandgate_wire::transport::SendHalf;

use super::bootstrap::{self, Binary, Said};
use super::error::ReachError;
use super::launcher::{Heard, Launched};
use super::running::Running;
use crate::deadline::Deadline;
use crate::vetting;

/// Noise that is put up with before the preamble, and what is shown of it.
const MAX_NOISE_BYTES: usize = 64 * 1024;
const SHOWN_NOISE_BYTES: usize = 300;
/// How long what a launcher has said before its end may take to arrive.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(1);

/// A far end that has said hello, and was said hello to.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) send: Box<dyn SendHalf>,
    pub(super) launcher: Arc<Running>,
    pub(super) hello: AgentHello,
    pub(super) reader: LinkReader,
    pub(super) encoder: FrameEncoder,
}

/// Waits for an agent's hello and answers it. A shell that says that there is no agent gets `binary`. Whatever goes wrong,
/// nothing of the launcher is left.
pub(super) fn greet(
    mut launched: Launched,
    binary: Option<&Binary>,
    greeting: &HostGreeting,
    patience: Duration,
) -> Result<Greeted, ReachError> {
    let before = find_preamble(&mut launched, binary, patience)?;
    say_hello(launched, &before, greeting, patience)
}

/// For who plays the far end: greets what a launcher connects to that `base` has started, by ssh if a binary is named. `begin`
/// is called once the launcher was started, before anything is read of it.
#[cfg(any(test, fuzzing))]
pub(crate) fn greet_over<T>(
    base: &Arc<super::RemoteHost>,
    named: Option<&std::path::Path>,
    greeting: &HostGreeting,
    patience: Duration,
    begin: impl FnOnce() -> T,
) -> (Result<AgentHello, ReachError>, T) {
    let launched = super::launcher::start(&["launcher".to_owned()], Some(base), named.is_some());
    let begun = begin();
    let greeted = launched.and_then(|launched| {
        let binary = named.map(|path| Binary::find(Some(path))).transpose()?;
        greet(launched, binary.as_ref(), greeting, patience)
    });
    (greeted.map(|greeted| greeted.hello), begun)
}

/// Reads up to the preamble, and returns what came after it.
fn find_preamble(launched: &mut Launched, binary: Option<&Binary>, patience: Duration) -> Result<Vec<u8>, ReachError> {
    let mut seen = Vec::new();
    let mut deadline = Deadline::after(patience);
    let mut is_provided = false;
    loop {
        if let Some(at) = position(&seen, &PREAMBLE) {
            return Ok(seen.split_off(at + PREAMBLE.len()));
        }
        if let Some(binary) = binary
            && let Some((said, end)) = bootstrap::find(&seen)
        {
            seen.drain(..end);
            match said {
                Said::Need { platform, installed } if !is_provided => {
                    let provided = binary.provide(launched, &platform, &installed, patience);
                    provided.map_err(|error| last_word(launched, seen.split_off(0), error))?;
                    is_provided = true;
                    deadline = Deadline::after(patience);
                }
                Said::Need { .. } => {}
                Said::Fail(problem) => {
                    let words = launched.dismiss();
                    return Err(ReachError::Copy { problem, words });
                }
            }
            continue;
        }
        if seen.len() > MAX_NOISE_BYTES {
            launched.dismiss();
            return Err(ReachError::NotAnAgent { said: shown(&seen) });
        }
        let mut buffer = [0; 4096];
        match launched.read(&mut buffer, deadline)? {
            Heard::Bytes(count) => seen.extend_from_slice(&buffer[..count]),
            Heard::End => {
                let error = launched.has_ended();
                return Err(match error {
                    // It went well for the launcher, only not for us.
                    ReachError::Ended { cause: sandgate_wire::outcome::LossCause::Exited { code: 0 }, .. }
                        if !seen.is_empty() =>
                    {
                        ReachError::NotAnAgent { said: shown(&seen) }
                    }
                    error => error,
                });
            }
            Heard::Nothing => return Err(launched.is_silent(patience)),
        }
    }
}

/// A shell that cannot take the binary has hung up before all of it was sent: what it said before that counts.
fn last_word(launched: &mut Launched, mut seen: Vec<u8>, error: ReachError) -> ReachError {
    let ReachError::Ended { words, .. } = &error else { return error };
    let (deadline, mut buffer) = (Deadline::after(LAST_WORD_PATIENCE), [0; 4096]);
    while seen.len() <= MAX_NOISE_BYTES
        && let Ok(Heard::Bytes(count)) = launched.read(&mut buffer, deadline)
    {
        seen.extend_from_slice(&buffer[..count]);
    }
    match bootstrap::find(&seen) {
        Some((Said::Fail(problem), _)) => ReachError::Copy { problem, words: words.clone() },
        _ => error,
    }
}

fn say_hello(
    mut launched: Launched,
    before: &[u8],
    greeting: &HostGreeting,
    patience: Duration,
) -> Result<Greeted, ReachError> {
    let deadline = Deadline::after(patience);
    let mut reader = LinkReader::new(launched.take_receive(), before);
    let hello: AgentHello = loop {
        let refused = match reader.next_frame() {
            Ok(Some(frame)) => match read_hello(frame) {
                Ok(hello) => break hello,
                Err(HelloError::Version { found }) => launched.refuse(ReachError::Version {
                    theirs: format!("{found} of the link's protocol"),
                    ours: env!("CARGO_PKG_VERSION"),
                }),
                Err(error) => launched.refuse(ReachError::NotAnAgent { said: error.to_string() }),
            },
            Ok(None) if !launched.wait(deadline)? => return Err(launched.is_silent(patience)),
            Ok(None) => match reader.fill(false) {
                Ok(true) => continue,
                Ok(false) | Err(LinkError::Io(_)) => return Err(launched.has_ended()),
                Err(error) => launched.refuse(ReachError::NotAnAgent { said: error.to_string() }),
            },
            Err(error) => launched.refuse(ReachError::NotAnAgent { said: error.to_string() }),
        };
        return Err(refused);
    };
    let hello = vet(hello);
    let ours = env!("CARGO_PKG_VERSION");
    if hello.package_version != ours || hello.protocol != PROTOCOL_VERSION {
        return Err(launched.refuse(ReachError::Version { theirs: hello.package_version, ours }));
    }
    let (mut encoder, mut bytes) = (FrameEncoder::default(), Vec::new());
    encoder.append(LinkFrame { kind: kind::HELLO, stream: 0, payload: &hello_body(greeting) }, &mut bytes);
    if launched.write(&bytes).is_err() {
        return Err(launched.has_ended());
    }
    Ok(Greeted { send: launched.send, launcher: launched.launcher, hello, reader, encoder })
}

/// The hello with its texts capped.
fn vet(mut hello: AgentHello) -> AgentHello {
    vetting::cap(&mut hello.package_version, 64);
    vetting::cap(&mut hello.platform, 64);
    hello
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn shown(noise: &[u8]) -> String {
    let end = noise.len().min(SHOWN_NOISE_BYTES);
    String::from_utf8_lossy(&noise[..end]).into_owned()
}
