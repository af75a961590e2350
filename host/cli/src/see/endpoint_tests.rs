//! Clients of the endpoint: those that ask as they should, and all others.

use super::*;

/// How long a client waits for what comes at once.
const LIMIT: Duration = Duration::from_secs(30);
const PAGE: &str = "# TYPE sandgate_tasks_total counter\nsandgate_tasks_total{outcome=\"returned\"} 5\n";

fn endpoint(patience: Duration) -> (Endpoint, Board) {
    let board = Board::default();
    board.put(PAGE);
    let listener = Listen::parse("0").unwrap().bind().unwrap();
    (Endpoint::with_patience(listener, board.clone(), patience).unwrap(), board)
}

fn connect(endpoint: &Endpoint) -> TcpStream {
    let stream = TcpStream::connect(endpoint.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// All that is answered, until the other side ends it. `None` if it is cut off.
fn all(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => Some(String::from_utf8(text).unwrap()),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "not within {LIMIT:?}");
            None
        }
    }
}

fn ask(endpoint: &Endpoint, request: &str) -> String {
    let mut stream = connect(endpoint);
    stream.write_all(request.as_bytes()).unwrap();
    all(&mut stream).expect("an answer")
}

#[test]
fn metrics_are_answered_and_nothing_else() {
    let (endpoint, board) = endpoint(LIMIT);
    let whole = ask(&endpoint, "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n");
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    let head: Vec<&str> = head.split("\r\n").collect();
    let length = format!("Content-Length: {}", PAGE.len());
    let expected = ["HTTP/1.1 200 OK", "Content-Type: text/plain; version=0.0.4; charset=utf-8", &length];
    assert_eq!((&head[..3], body), (&expected[..], PAGE));
    assert!(head.contains(&"Connection: close"));
    board.put("later 1\n");
    assert!(ask(&endpoint, "GET /metrics?x=y HTTP/1.0\n\n").ends_with("\r\n\r\nlater 1\n"));
    let only_head = ask(&endpoint, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(only_head.contains("Content-Length: 8\r\n") && only_head.ends_with("\r\n\r\n"), "{only_head}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("POST / HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405 Method Not Allowed"),
        ("DELETE /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("GET /metrics\r\n\r\n", "400 Bad Request"),
        ("GET /metrics HTTP/2.0\r\n\r\n", "400 Bad Request"),
        ("GET http://x/metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("get /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("\u{16}\u{3}\u{1} a client that speaks TLS", "400 Bad Request"),
    ] {
        let answer = ask(&endpoint, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:?}: {answer}");
    }
    assert!(ask(&endpoint, "PUT /metrics HTTP/1.1\r\n\r\n").contains("\r\nAllow: GET, HEAD\r\n"));
    let long = ask(&endpoint, &format!("GET /{} HTTP/1.1", "a".repeat(MOST_HEAD_BYTES)));
    assert!(long.starts_with("HTTP/1.1 414 "), "{long}");
    let long = ask(&endpoint, &format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MOST_HEAD_BYTES)));
    assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
}

#[test]
fn a_request_may_come_in_pieces() {
    let (endpoint, _) = endpoint(LIMIT);
    let mut stream = connect(&endpoint);
    stream.set_nodelay(true).unwrap();
    for byte in "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert!(all(&mut stream).unwrap().ends_with(PAGE));
}

#[test]
fn who_is_silent_or_slow_is_cut_off_and_keeps_nobody_waiting() {
    let (endpoint, board) = endpoint(Duration::from_millis(300));
    board.put(&"x".repeat(64 << 20));
    let mut silent = connect(&endpoint);
    let mut half = connect(&endpoint);
    half.write_all(b"GET /metrics HT").unwrap();
    // This one asks for more than buffers hold, and does not read it.
    let mut deaf = connect(&endpoint);
    deaf.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    assert!(ask(&endpoint, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "), "meanwhile");
    assert_eq!(all(&mut silent).unwrap_or_default(), "");
    assert_eq!(all(&mut half).unwrap_or_default(), "");
    let cut = all(&mut deaf).map_or(0, |answer| answer.len());
    assert!(cut < 64 << 20, "{cut}");
}

#[test]
fn many_at_once_are_bounded_and_the_oldest_go() {
    let (endpoint, _) = endpoint(LIMIT);
    let mut crowd: Vec<TcpStream> = (0..3 * MOST_CONNECTIONS).map(|_| connect(&endpoint)).collect();
    assert!(ask(&endpoint, "GET /metrics HTTP/1.1\r\n\r\n").ends_with(PAGE), "who comes last is served");
    // That it was, tells that all before were accepted.
    for stream in &mut crowd[..2 * MOST_CONNECTIONS] {
        assert_eq!(all(stream).unwrap_or_default(), "", "it had to go");
    }
    let last = crowd.last_mut().unwrap();
    last.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    assert!(all(last).unwrap().ends_with(PAGE), "it is still there");
}

#[test]
fn its_end_is_prompt_and_gives_the_port_back() {
    let (endpoint, _) = endpoint(LIMIT);
    let (address, mut open) = (endpoint.address(), connect(&endpoint));
    let taken = Listen::parse(&address.port().to_string()).unwrap();
    let error = format!("{:#}", taken.bind().unwrap_err());
    assert!(error.starts_with(&format!("metrics cannot be served at `{address}`: Address already in use")), "{error}");
    let start = Instant::now();
    drop(endpoint);
    assert!(start.elapsed() < LIMIT / 2);
    assert_eq!(all(&mut open).unwrap_or_default(), "");
    taken.bind().unwrap();
}

#[test]
fn a_port_alone_is_of_this_machine_alone() {
    let check = |text: &str, host: &str, port: u16| {
        assert_eq!(Listen::parse(text), Ok(Listen { host: host.to_owned(), port }), "{text}");
    };
    check("9090", "127.0.0.1", 9090);
    check(":0", "127.0.0.1", 0);
    check("0.0.0.0:9090", "0.0.0.0", 9090);
    check("localhost:1", "localhost", 1);
    check("[::1]:9090", "::1", 9090);
    for text in ["", "x", "localhost", "1.2.3.4:", "1:2:3", "::1:9090", "65536", "-1"] {
        assert!(Listen::parse(text).is_err(), "{text}");
    }
}
