//! Each way by which a NATS server knows who connects: it works, whoever has something else is refused, and nothing that is
//! secret is told. Passwords, tokens and certificates alone are in [`secrets`](crate::secrets).

use std::fs;
use std::time::SystemTime;

use nkeys::KeyPair;
use sandgate_tests::start;
use serde_json::{Value, json};

use crate::commands::{Came, LIMIT, run};
use crate::server::Server;

/// What is signed by one key and says something of another.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, expires: Option<u64>, nats: &Value) -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({
        "jti": name, "iat": seconds - 10, "iss": issuer.public_key(), "name": name, "sub": subject.public_key(), "nats": nats,
    });
    if let Some(expires) = expires {
        claims["exp"] = json!(seconds + expires - 5);
    }
    let header = base64_of(json!({ "typ": "JWT", "alg": "ed25519-nkey" }).to_string().as_bytes());
    let signed = format!("{header}.{}", base64_of(claims.to_string().as_bytes()));
    let signature = base64_of(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// Base64 as tokens have it: for addresses, without padding.
fn base64_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        for at in 0..=chunk.len() {
            let digit = bits >> (18 - 6 * at) & 63;
            text.push(char::from(DIGITS[usize::try_from(digit).unwrap()]));
        }
    }
    text
}

#[test]
fn base64_without_padding_is_what_it_is() {
    assert_eq!(
        (base64_of(b"abc\xff"), base64_of(b"ab"), base64_of(b"\xfb\xff")),
        ("YWJj_w".into(), "YWI".into(), "-_8".into())
    );
}

/// A file as `nsc` makes them.
fn credentials(server: &Server, name: &str, token: &str, seed: &str) -> String {
    let path = server.file(name);
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n\
         ------END USER NKEY SEED------\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A job goes through all three commands.
fn works(url: &str, options: &[&str], secrets: &[&str]) {
    let as_user = |command: &[&str], input: &[u8]| {
        let words = [command, &["--nats", url], options].concat();
        discreet(run(&words, input, &[], LIMIT), secrets)
    };
    let job = as_user(&["submit", "@wasi_filter"], b"in\n").well();
    let worked = as_user(&["work", "--stop-when-idle", "1s"], b"");
    assert!(worked.code == Some(0) && worked.stderr.contains("1 tasks done"), "{worked:?}");
    assert_eq!(as_user(&["collect", job.trim()], b"").well(), "IN\n");
}

/// Each of the commands is refused, with a word that says so.
fn is_refused(url: &str, options: &[&str], secrets: &[&str], expected: &str) {
    ends_with(3, url, options, secrets, expected);
}

/// A file cannot be used, which is wrong with the command line.
fn is_wrong(url: &str, options: &[&str], secrets: &[&str], expected: &str) {
    ends_with(2, url, options, secrets, expected);
}

fn ends_with(code: i32, url: &str, options: &[&str], secrets: &[&str], expected: &str) {
    for command in [&["submit", "@wasi_filter"][..], &["work"], &["collect", "x"]] {
        let words = [command, &["--nats", url, "--patience", "1s"], options].concat();
        let came = discreet(run(&words, b"in\n", &[], LIMIT), secrets);
        assert_eq!((came.code, came.stdout.as_str()), (Some(code), ""), "{words:?}: {came:?}");
        assert!(came.stderr.contains(expected), "{words:?}: {came:?}");
    }
}

#[track_caller]
fn discreet(came: Came, secrets: &[&str]) -> Came {
    for secret in secrets {
        assert!(!came.stdout.contains(secret) && !came.stderr.contains(secret), "{came:?}");
    }
    came
}

const DENIED: &str = "does not accept these credentials";

#[test]
fn users_with_tokens_of_an_operator_get_in() {
    let (operator, account, system) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = |key: &KeyPair, name: &str, limits: &Value| {
        token(&operator, key, name, None, &json!({ "limits": limits, "type": "account", "version": 2 }))
    };
    let system_limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1 });
    let config = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}",
        token(&operator, &operator, "O", None, &json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        account.public_key(),
        of_account(&account, "A", &limits),
        system.public_key(),
        of_account(&system, "SYS", &system_limits),
    );
    let Some(server) = Server::start(&config) else { return };
    let url = server.url();
    let user = KeyPair::new_user();
    let (seed, user_claims) =
        (user.seed().unwrap(), json!({ "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 }));
    let good = token(&account, &user, "u", Some(3600), &user_claims);
    let secrets = [seed.as_str(), good.as_str(), &good[good.len() - 40..]];
    let file = credentials(&server, "good.creds", &good, &seed);
    works(&url, &["--creds", &file], &secrets);

    let others_seed = KeyPair::new_user().seed().unwrap();
    let other_account = KeyPair::new_account();
    let foreign = token(&other_account, &user, "u", None, &user_claims);
    let expired = token(&account, &user, "u", Some(0), &user_claims);
    let mut changed = good.clone();
    changed.replace_range(
        changed.len() - 10..changed.len() - 9,
        if changed.as_bytes()[changed.len() - 10] == b'A' { "B" } else { "A" },
    );
    for (name, token, seed) in [
        ("another-seed", &good, &others_seed),
        ("another-account", &foreign, &seed),
        ("expired", &expired, &seed),
        ("changed", &changed, &seed),
    ] {
        let file = credentials(&server, name, token, seed);
        let all = [&secrets[..], &[seed.as_str(), token.as_str()]].concat();
        is_refused(&url, &["--creds", &file], &all, DENIED);
    }
    is_refused(&url, &[], &[], DENIED);
    // What is cut off is told by the file's name alone.
    let cut = server.file("cut");
    fs::write(&cut, &fs::read_to_string(&file).unwrap()[..200]).unwrap();
    is_wrong(
        &url,
        &["--creds", cut.to_str().unwrap()],
        &[&good[..100]],
        "it is no file of credentials as `nsc` makes them",
    );
}

#[test]
fn keys_get_in_and_other_ones_do_not() {
    let (user, other) = (KeyPair::new_user(), KeyPair::new_user());
    let Some(server) = Server::start(&format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key()))
    else {
        return;
    };
    let (seed, others) = (user.seed().unwrap(), other.seed().unwrap());
    let file = |name: &str, text: &str| {
        fs::write(server.file(name), text).unwrap();
        server.file(name).to_str().unwrap().to_owned()
    };
    let secrets = [seed.as_str(), others.as_str()];
    let ours = file("ours", &format!("# a comment\n{seed}\n"));
    works(&server.url(), &["--nkey", &ours], &secrets);
    is_refused(&server.url(), &["--nkey", &file("theirs", &others)], &secrets, DENIED);
    is_refused(&server.url(), &[], &secrets, DENIED);
    // Of the right form, but with a checksum that is not.
    let at = seed.len() - 1;
    let damaged = format!("{}{}", &seed[..at], if seed.ends_with('A') { 'B' } else { 'A' });
    is_wrong(&server.url(), &["--nkey", &file("damaged", &damaged)], &[&seed[..at]], "NKey file");
    // An account's key is nobody's who may connect.
    let account = KeyPair::new_account().seed().unwrap();
    is_wrong(&server.url(), &["--nkey", &file("account", &account)], &[&account], "it has no seed of a user's key");
}

#[test]
fn tokens_get_in_and_other_ones_do_not() {
    let Some(server) = Server::start("authorization { token: \"t0p-s3cret\" }") else { return };
    let file = |name: &str, text: &str| {
        fs::write(server.file(name), text).unwrap();
        server.file(name).to_str().unwrap().to_owned()
    };
    works(&server.url(), &["--token-file", &file("token", "t0p-s3cret\n")], &["t0p-s3cret"]);
    is_refused(&server.url(), &["--token-file", &file("other", "oth3r-s3cret")], &["oth3r-s3cret"], DENIED);
    is_refused(&server.url(), &[], &[], DENIED);
}

#[test]
fn certificates_that_name_a_user_get_in() {
    let Some(server) = Server::start(
        "tls { cert_file: \"@/server.pem\", key_file: \"@/server.key\", ca_file: \"@/ca.pem\", verify_and_map: true }\n\
         authorization { users: [ { user: \"CN=client\" } ] }",
    ) else {
        return;
    };
    let at = |name: &str| server.file(name).to_str().unwrap().to_owned();
    let (ca, certificate, key) = (at("ca.pem"), at("client.pem"), at("client.key"));
    let url = format!("tls://127.0.0.1:{}", server.port);
    works(&url, &["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key], &[]);
    // Vouched for as well, and nobody's who is known.
    let (other, others) = (at("server.pem"), at("server.key"));
    is_refused(&url, &["--tls-ca", &ca, "--tls-cert", &other, "--tls-key", &others], &[], DENIED);
    // One's certificate with another one's key.
    is_refused(&url, &["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &others], &[], "no TLS connection");
}

/// As with a server of 2.10 and newer that has `handshake_first`, or behind whatever ends TLS: here openssl does.
#[test]
fn tls_comes_first_where_it_is_asked_for() {
    let Some(server) = Server::start("# @") else { return };
    let at = |name: &str| server.file(name).to_str().unwrap().to_owned();
    let ca = at("ca.pem");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{}; exec openssl s_server -quiet -naccept 1 -accept 127.0.0.1:{port} -cert {} -key {} <&3 >&3",
        server.port,
        at("server.pem"),
        at("server.key"),
    );
    let _front = start("bash", &["-c", &script], &[]);
    let words = [
        "submit",
        "--job",
        "first",
        "@wasi_filter",
        "--nats",
        &format!("tls://127.0.0.1:{port}"),
        "--tls-first",
        "--tls-ca",
        &ca,
    ];
    let _ = run(&words, b"a\n", &[], LIMIT).well();
    assert_eq!(crate::client::Client::to(&server).messages("sandgate_tasks"), 1);
    // A server that speaks first does not understand it.
    is_refused(&server.url(), &["--tls-first", "--tls-ca", &ca], &[], "no TLS connection to the NATS server");
}
