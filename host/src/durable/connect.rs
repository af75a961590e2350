//! From settings to a connection that makes itself again.

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use nkeys::{KeyPair, KeyPairType};
use tokio::sync::watch;
use tokio::time::sleep;

use super::error::{Cause, DurableError};
use super::settings::{Login, Notice, Settings};

/// How long the first connection is tried, if patience allows.
const FIRST_ATTEMPTS: Duration = Duration::from_secs(10);
/// The least and the most time for one attempt.
const LEAST_ATTEMPT: Duration = Duration::from_secs(1);
const MOST_ATTEMPT: Duration = Duration::from_secs(5);
/// The least and the longest time between two attempts.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Largest file with credentials, and in PEM.
const MAX_LOGIN_BYTES: u64 = 64 << 10;
const MAX_PEM_BYTES: u64 = 4 << 20;
/// Messages that wait to be taken from one subscription. What is asked for at once is less.
const SUBSCRIPTION_MESSAGES: usize = 1 << 16;

/// What is known of the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// How often it was made.
    pub(super) generation: u64,
    pub(super) is_up: bool,
    /// What the server has said last that is not permitted, and when.
    pub(super) denied: Option<(Instant, String)>,
}

/// The first connection. Refused connections are tried again for a while, refused credentials are not.
pub(super) async fn connect(settings: &Settings) -> Result<(Client, watch::Receiver<Standing>), DurableError> {
    let (sender, standing) = watch::channel(Standing::default());
    let ours = settings.clone();
    let options = options(settings).await?.event_callback(move |event| {
        happened(&event, &sender, &ours);
        std::future::ready(())
    });
    let (started, mut pause, mut is_told) = (Instant::now(), BACKOFF.0, false);
    loop {
        let error = match options.clone().connect(&settings.addresses[..]).await {
            Ok(client) => return Ok((client, standing)),
            Err(error) => error,
        };
        let is_final =
            !matches!(error.kind(), ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns)
                || is_of_tls(&error);
        let left = FIRST_ATTEMPTS.min(settings.patience).saturating_sub(started.elapsed());
        if is_final || left.is_zero() {
            return Err(refusal(settings, &error));
        }
        if !is_told && started.elapsed() > Duration::from_millis(500) {
            settings.tell(Notice::NotReached);
            is_told = true;
        }
        // The last attempt is at the very end.
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// The connection says what has become of it.
fn happened(event: &Event, standing: &watch::Sender<Standing>, settings: &Settings) {
    match event {
        Event::Connected => {
            let mut is_back = false;
            standing.send_modify(|standing| {
                standing.generation += 1;
                standing.is_up = true;
                is_back = standing.generation > 1;
            });
            if is_back {
                settings.tell(Notice::Back);
            }
        }
        Event::Disconnected | Event::Closed => {
            let mut was_up = false;
            standing.send_modify(|standing| was_up = std::mem::take(&mut standing.is_up));
            if was_up {
                settings.tell(Notice::Lost);
            }
        }
        Event::ServerError(ServerError::Other(text)) if text.to_ascii_lowercase().contains("permissions violation") => {
            let text = Cause::text(text).to_string();
            standing.send_modify(|standing| standing.denied = Some((Instant::now(), text)));
        }
        _ => {}
    }
}

async fn options(settings: &Settings) -> Result<ConnectOptions, DurableError> {
    let mut options = ConnectOptions::new()
        .name("sandgate")
        .connection_timeout(settings.patience.clamp(LEAST_ATTEMPT, MOST_ATTEMPT))
        .subscription_capacity(SUBSCRIPTION_MESSAGES)
        .ping_interval(Duration::from_secs(20))
        .require_tls(settings.tls)
        .reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.min(6)).unwrap_or(6);
            (BACKOFF.0 * 2_u32.pow(doublings)).min(BACKOFF.1)
        });
    if let Some(inbox) = &settings.inbox {
        options = options.custom_inbox_prefix(inbox.as_str());
    }
    if settings.tls_first {
        options = options.tls_first();
    }
    for file in &settings.roots {
        check_certificates(file)?;
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &settings.client_certificate {
        check_certificates(certificate)?;
        check_key(key)?;
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(match &settings.login {
        Login::Nobody => options,
        Login::User(user, password) => options.user_and_password(user.0.clone(), password.0.clone()),
        Login::Token(token) => options.token(token.0.clone()),
        Login::Credentials(file) => {
            // What the parser says might repeat what it has read.
            let wrong =
                || bad_login("credentials file", file, Cause::text("it is no file of credentials as `nsc` makes them"));
            options.credentials(&read("credentials file", file, MAX_LOGIN_BYTES)?).map_err(|_| wrong())?
        }
        Login::Nkey(file) => {
            let seed = read("NKey file", file, MAX_LOGIN_BYTES)?;
            let seed = seed.lines().map(str::trim).find(|line| line.starts_with('S')).unwrap_or_default();
            // What the library says of a seed might repeat it.
            let wrong = || bad_login("NKey file", file, Cause::text("it has no seed of a user's key"));
            let pair = KeyPair::from_seed(seed).ok().filter(|pair| pair.key_pair_type() == KeyPairType::User);
            pair.ok_or_else(wrong)?;
            options.nkey(seed.to_owned())
        }
    })
}

fn bad_login(what: &'static str, path: &Path, source: Cause) -> DurableError {
    DurableError::Credentials { what, path: path.to_owned(), source }
}

fn read(what: &'static str, path: &Path, most: u64) -> Result<String, DurableError> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| bad_login(what, path, Cause::of(&error)))?;
    file.take(most).read_to_string(&mut text).map_err(|error| bad_login(what, path, Cause::of(&error)))?;
    Ok(text)
}

/// Whether a file has certificates. The client library finds out later, and then it cannot be told from what goes wrong with the
/// server.
fn check_certificates(path: &Path) -> Result<(), DurableError> {
    let wrong = |cause| bad_login("certificate file", path, cause);
    let text = read("certificate file", path, MAX_PEM_BYTES)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(Cause::text("it has no certificate in PEM"))),
        Ok(_) => Ok(()),
        Err(_) => Err(wrong(Cause::text("it is no PEM"))),
    }
}

/// Whether a file has a key. What is wrong with it might repeat it.
fn check_key(path: &Path) -> Result<(), DurableError> {
    let text = read("key file", path, MAX_PEM_BYTES)?;
    let found = PrivateKeyDer::from_pem_slice(text.as_bytes()).map(drop);
    found.map_err(|_| bad_login("key file", path, Cause::text("it has no private key in PEM")))
}

/// Whether TLS is what has failed, however the client calls it.
fn is_of_tls(error: &ConnectError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let is_rustls = |error: &(dyn std::error::Error + 'static)| error.is::<async_nats::rustls::Error>();
        if is_rustls(error) || within.is_some_and(|within| is_rustls(within)) {
            return true;
        }
        source = error.source();
    }
    error.kind() == ConnectErrorKind::Tls
}

fn refusal(settings: &Settings, error: &ConnectError) -> DurableError {
    let servers = settings.servers();
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => DurableError::Denied { servers },
        _ if is_of_tls(error) => DurableError::Tls { servers, source: Cause::of(error) },
        _ => DurableError::Unreachable { servers, source: Cause::of(error) },
    }
}
