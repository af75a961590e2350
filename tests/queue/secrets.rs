//! Who gets in, over what, and that nothing by which they do is ever told.

use std::ffi::OsStr;
use std::fs;
use std::time::{Duration, Instant};

use sandgate_tests::repository;

use crate::commands::{Came, LIMIT, begin, lines, run};
use crate::server::Server;

const PASSWORD: &str = "s3cret-pa55";

/// Whoever could tell it does not.
#[track_caller]
fn discreet(came: Came) -> Came {
    assert!(!came.stdout.contains(PASSWORD) && !came.stderr.contains(PASSWORD), "{came:?}");
    came
}

#[test]
fn passwords_and_tokens_get_in_and_are_never_told() {
    let user = format!("authorization {{ user: alice, password: \"{PASSWORD}\" }}");
    let Some(server) = Server::start(&user) else { return };
    let port = server.port;
    let with = format!("nats://alice:{PASSWORD}@127.0.0.1:{port}");
    let submit = |url: &str, more: &[(&str, &OsStr)], words: &[&str]| {
        discreet(run(&[&["submit", "--nats", url, "@wasi_filter"], words].concat(), b"a\n", more, LIMIT))
    };
    let _ = submit(&with, &[], &["--job", "url"]).well();
    let plain = server.url();
    let password = OsStr::new(PASSWORD);
    let _ =
        submit(&plain, &[("NATS_USER", OsStr::new("alice")), ("NATS_PASSWORD", password)], &["--job", "env"]).well();
    let file = server.file("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let _ = submit(&plain, &[], &["--job", "file", "--user", "alice", "--password-file", &file]).well();
    let worker = begin(&["work", "--nats", &with, "--stop-when-idle", "1s"]);
    for job in ["url", "env", "file"] {
        let came = discreet(run(&["collect", "--nats", &with, job], b"", &[], LIMIT));
        assert_eq!(came.well(), "A\n");
    }
    let (status, said) = { worker }.wait(LIMIT);
    assert!(status.success() && !said.contains(PASSWORD), "{said}");
    for (url, more) in [
        (plain.clone(), vec![]),
        (format!("nats://alice:wrong-{PASSWORD}@127.0.0.1:{port}"), vec![]),
        (format!("nats://{PASSWORD}@127.0.0.1:{port}"), vec![]),
        (plain, vec![("NATS_TOKEN", password)]),
    ] {
        let came = submit(&url, &more, &[]);
        assert_eq!(came.code, Some(3));
        let expected = format!("NATS server at `nats://127.0.0.1:{port}` does not accept these credentials");
        assert!(came.stderr.contains(&expected), "{came:?}");
    }

    let Some(server) = Server::start(&format!("authorization {{ token: \"{PASSWORD}\" }}")) else { return };
    let token = server.file("token");
    fs::write(&token, PASSWORD).unwrap();
    let token = token.to_str().unwrap().to_owned();
    let _ = submit(&server.url(), &[], &["--token-file", &token]).well();
    let _ = submit(&format!("nats://{PASSWORD}@127.0.0.1:{}", server.port), &[], &[]).well();
}

#[test]
fn neither_workers_nor_launchers_get_what_is_secret() {
    let Some(server) = Server::start(&format!("authorization {{ user: alice, password: \"{PASSWORD}\" }}")) else {
        return;
    };
    let url = server.url();
    let secrets = [("NATS_USER", OsStr::new("alice")), ("NATS_PASSWORD", OsStr::new(PASSWORD))];
    let queue =
        |words: &[&str], input: &[u8]| discreet(run(&[words, &["--nats", &url]].concat(), input, &secrets, LIMIT));
    let _ = queue(&["submit", "--job", "tell", "@wasi_filter"], b"a\n").well();
    // A launcher that writes its environment to a file, and goes on as an agent.
    let (launcher, told) = (server.file("launcher"), server.file("environment"));
    let script = format!("#!/bin/sh\nenv > {}\nexec {} agent\n", told.display(), sandgate_tests::worker().display());
    fs::write(&launcher, script).unwrap();
    let gateway = format!("exec=/bin/sh {}", launcher.display());
    // The guest tells its environment on standard error, which is in its result.
    let worked = queue(&["work", "--stop-when-idle", "1s", "--gateway", &gateway.replace("//", "/")], b"");
    assert!(worked.stderr.contains("1 tasks done"), "{worked:?}");
    let environment = fs::read_to_string(&told).unwrap();
    assert!(
        environment.contains("PWD=") && !environment.contains(PASSWORD) && !environment.contains("alice"),
        "{environment}"
    );
    let row = queue(&["collect", "tell", "--output", "json"], b"").well();
    assert!(row.contains("\"stderr\":\"[] []\""), "{row}");
}

#[test]
fn wrong_addresses_and_files_are_told_without_what_is_secret() {
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("bad");
    fs::write(&bad, format!("SU{PASSWORD}\n")).unwrap();
    let bad = bad.to_str().unwrap();
    let none = directory.path().join("none");
    let none = none.to_str().unwrap();
    let url = format!("nats://a:{PASSWORD}@127.0.0.1:1");
    let (other, empty) = (directory.path().join("other"), directory.path().join("empty"));
    fs::write(&other, "-----BEGIN CERTIFICATE-----\n####\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(&empty, "").unwrap();
    let (other, empty) = (other.to_str().unwrap(), empty.to_str().unwrap());
    let nobody = "nats://127.0.0.1:1";
    let cases: [(&[&str], i32, &str); 17] = [
        (
            &["collect", "x", "--nats", &url, "--patience", "100ms"],
            3,
            "no NATS server can be reached at `nats://127.0.0.1:1`",
        ),
        (&["collect", "x", "--nats", &format!("http://a:{PASSWORD}@h")], 2, "--nats: `http://…@h` cannot be used"),
        (&["submit", "none", "--nats", &format!("nats://a:{PASSWORD}%4@h")], 2, "hexadecimal"),
        (&["work", "--nats", &format!("a:{PASSWORD}")], 2, "`a:…` cannot be used as the address of a NATS server"),
        (&["collect", "x", &url], 2, "nats://…@127.0.0.1:1"),
        (&["collect", "x", "--nats", &format!("nats:/a:{PASSWORD}@h")], 2, "--nats: `…@h` cannot be used"),
        (&["work", "--nats", nobody, "--creds", bad], 2, "is no file of credentials"),
        (&["work", "--nats", nobody, "--nkey", bad], 2, "it has no seed of a user's key"),
        (&["work", "--nats", nobody, "--creds", none], 2, "No such file"),
        (&["collect", "x", "--nats", nobody, "--user", "a", "--password-file", none], 2, "No such file"),
        (&["work", "--nats", nobody, "--tls-ca", none], 2, "No such file"),
        (&["work", "--nats", nobody, "--tls-ca", other], 2, "it is no PEM"),
        (&["work", "--nats", nobody, "--tls-cert", bad, "--tls-key", none], 2, "it has no certificate in PEM"),
        (&["submit", none, "--nats", nobody], 2, "No such file"),
        (&["submit", bad, "--nats", nobody], 2, "this is no WebAssembly"),
        (&["submit", empty, "--nats", nobody], 2, "is empty"),
        (&["work", "--nats", "nats://127.0.0.1:1", "--tls-key", bad], 2, "use --tls-cert or $NATS_CERT"),
    ];
    for (words, code, expected) in cases {
        let came = discreet(run(words, b"", &[], LIMIT));
        assert_eq!(came.code, Some(code), "{came:?}");
        assert!(came.stderr.contains(expected), "{words:?}: {came:?}");
    }
}

#[test]
fn a_key_that_is_none_is_told_by_its_file() {
    let Some(server) = Server::start("# @") else { return };
    let at = |name: &str| server.file(name).to_str().unwrap().to_owned();
    fs::write(server.file("bad.key"), format!("{PASSWORD}\n")).unwrap();
    let (certificate, key) = (at("client.pem"), at("bad.key"));
    let words = ["collect", "x", "--nats", &server.url(), "--tls-cert", &certificate, "--tls-key", &key];
    let came = discreet(run(&words, b"", &[], LIMIT));
    assert_eq!(came.code, Some(2), "{came:?}");
    assert!(
        came.stderr.contains(&format!("key file `{key}` cannot be used: it has no private key in PEM")),
        "{came:?}"
    );
}

#[test]
fn a_server_that_is_not_there_is_waited_for_as_long_as_patience_is() {
    let (patience, started) = (Duration::from_secs(2), Instant::now());
    let came = run(&["collect", "x", "--nats", "nats://127.0.0.1:1", "--patience", "2s"], b"", &[], LIMIT);
    let taken = started.elapsed();
    assert_eq!(came.code, Some(3), "{came:?}");
    assert!(taken >= patience && taken < patience * 4, "{taken:?}");
}

#[test]
fn tls_is_what_files_make_it() {
    let Some(server) = Server::start(
        "tls { cert_file: \"@/server.pem\", key_file: \"@/server.key\", ca_file: \"@/ca.pem\", verify: true }",
    ) else {
        return;
    };
    let at = |name: &str| server.file(name).to_str().unwrap().to_owned();
    let (ca, other, certificate, key) = (at("ca.pem"), at("other.pem"), at("client.pem"), at("client.key"));
    let url = format!("tls://127.0.0.1:{}", server.port);
    let ours = ["--nats", &url, "--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key];
    let input = lines(20, |number| number.to_string());
    let words = [&["submit", "--job", "tls", "@wasi_filter"], &ours[..]].concat();
    let _ = run(&words, input.as_bytes(), &[], LIMIT).well();
    let _worker = begin(&[&["work"], &ours[..]].concat());
    assert_eq!(run(&[&["collect", "tls"], &ours[..]].concat(), b"", &[], LIMIT).well(), input);
    let cases: [&[&str]; 3] = [
        &["--nats", &url],
        &["--nats", &url, "--tls-ca", &other, "--tls-cert", &certificate, "--tls-key", &key],
        &["--nats", &url, "--tls-ca", &ca],
    ];
    for words in cases {
        let came = run(&[&["collect", "tls", "--patience", "1s"], words].concat(), b"", &[], LIMIT);
        assert_eq!(came.code, Some(3), "{came:?}");
        assert!(came.stderr.contains("no TLS connection") || came.stderr.contains("no NATS server"), "{came:?}");
    }

    // TLS that is asked for is not gone without.
    let Some(plain) = Server::start("") else { return };
    let url = plain.url();
    let came = run(&["collect", "tls", "--nats", &url, "--tls", "--patience", "1s"], b"", &[], LIMIT);
    assert_eq!(came.code, Some(3), "{came:?}");
    assert!(!came.stderr.contains("there is no job"), "{came:?}");
}

#[test]
fn whoever_may_not_is_told_what() {
    let permissions = "authorization { users: [\n\
        { user: admin, password: a }\n\
        { user: reader, password: r, permissions: { publish: [\"$JS.API.STREAM.INFO.>\"], subscribe: [\"_INBOX.>\"] } }\n\
        ] }";
    let Some(server) = Server::start(permissions) else { return };
    let url = |user: &str| format!("nats://{user}@127.0.0.1:{}", server.port);
    let (admin, reader) = (url("admin:a"), url("reader:r"));
    let _ = run(&["submit", "--job", "x", "--nats", &admin, "@wasi_filter"], b"a\n", &[], LIMIT).well();
    let started = Instant::now();
    let came = run(&["collect", "x", "--nats", &reader], b"", &[], LIMIT);
    // Not only once an answer, which does not come, has had its time of 5 s.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(came.code, Some(3));
    assert!(
        came.stderr.contains("NATS server does not permit it") && came.stderr.contains("STREAM.MSG.GET"),
        "{came:?}"
    );
}

/// The roles of the documentation, as lines of a server's configuration; `admin` has the password `secret-ADMIN`, and so on.
pub(crate) fn documented_roles() -> String {
    let page = fs::read_to_string(repository().join("DURABLE.md")).unwrap();
    let (_, rest) = page.split_once("```nats\n").unwrap();
    let (config, _) = rest.split_once("```").unwrap();
    config.replace("password: \"$", "password: \"secret-")
}

/// The permissions of the documentation are enough for each role, and no more than its own.
#[test]
fn roles_can_do_what_the_documentation_gives_them() {
    let Some(server) = Server::start(&documented_roles()) else { return };
    let as_role = |role: &str, words: &[&str], input: &[u8]| {
        let url = format!("nats://{role}:secret-{}@127.0.0.1:{}", role.to_uppercase(), server.port);
        run(&[words, &["--nats", &url, "--inbox", role]].concat(), input, &[], LIMIT)
    };
    let _ = as_role("admin", &["submit", "@wasi_filter"], b"").well();
    let words = ["submit", "--job", "typed", "--json", "--task", "add", "@pooled"];
    let _ = as_role("submit", &words, b"[1, 2]\nbad\n").well();
    let worked = as_role("work", &["work", "--stop-when-idle", "1s"], b"");
    assert!(worked.code == Some(0) && worked.stderr.contains("1 tasks done"), "{worked:?}");
    let collected = as_role("collect", &["collect", "typed"], b"");
    assert_eq!((collected.code, collected.stdout.as_str()), (Some(1), "3\n"), "{collected:?}");
    for (role, words) in [
        ("collect", &["submit", "--job", "no", "@wasi_filter", "--patience", "20s"][..]),
        ("work", &["submit", "--job", "no", "@wasi_filter", "--patience", "20s"]),
        ("collect", &["work", "--stop-when-idle", "1s", "--patience", "20s"]),
        ("work", &["collect", "typed", "--patience", "20s"]),
    ] {
        let came = as_role(role, words, b"a\n");
        assert_eq!(came.code, Some(3), "{role} {words:?}: {came:?}");
        assert!(came.stderr.contains("NATS server does not permit it"), "{role} {words:?}: {came:?}");
    }
}

#[test]
fn a_server_without_jetstream_is_told() {
    let Some(server) = Server::start("jetstream: false") else { return };
    let url = server.url();
    let came = run(&["work", "--nats", &url, "--patience", "1s"], b"", &[], LIMIT);
    assert_eq!(came.code, Some(3));
    assert!(came.stderr.contains("NATS server has no JetStream"), "{came:?}");
}
