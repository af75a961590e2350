//! The least of a NATS client, in the protocol's own words: what looks into a server from outside, and puts things there that
//! no command of ours would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::Server;

/// How long the server may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    next: u64,
}

impl Client {
    pub(crate) fn to(server: &Server) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut client = Client { reader: BufReader::new(stream.try_clone().unwrap()), writer: stream, next: 0 };
        assert!(client.line().starts_with("INFO "));
        client.say("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        client
    }

    fn say(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line of the server");
        line.trim_end().to_owned()
    }

    /// Publishes to a subject and waits for what comes back.
    pub(crate) fn ask(&mut self, subject: &str, payload: &[u8]) -> Vec<u8> {
        self.next += 1;
        let inbox = format!("_INBOX.test.{}", self.next);
        self.say(&format!("SUB {inbox} {0}\r\nUNSUB {0} 1\r\nPUB {subject} {inbox} {1}\r\n", self.next, payload.len()));
        self.writer.write_all(payload).unwrap();
        self.say("\r\n");
        self.message()
    }

    /// Takes so many tasks, as a worker does that is never heard of again.
    pub(crate) fn take_tasks(&mut self, count: u64) {
        self.take(count);
    }

    /// Takes so many tasks, and gives them back.
    pub(crate) fn take_and_return(&mut self, count: u64) {
        for reply in self.take(count) {
            self.say(&format!("PUB {reply} 4\r\n-NAK\r\n"));
        }
    }

    /// Takes so many tasks; where each is acknowledged.
    fn take(&mut self, count: u64) -> Vec<String> {
        self.next += 1;
        let asked = json!({ "batch": count, "expires": 10_000_000_000_u64 }).to_string();
        self.say(&format!(
            "SUB _INBOX.test.{0} {0}\r\nPUB $JS.API.CONSUMER.MSG.NEXT.sandgate_tasks.workers _INBOX.test.{0} {1}\r\n{asked}\r\n",
            self.next,
            asked.len()
        ));
        let replies = (0..count).map(|_| self.delivery().0).collect();
        self.say(&format!("UNSUB {}\r\n", self.next));
        replies
    }

    /// The next message.
    fn message(&mut self) -> Vec<u8> {
        self.delivery().1
    }

    /// The next message: where it is answered, and what it says.
    fn delivery(&mut self) -> (String, Vec<u8>) {
        loop {
            let line = self.line();
            match line.split(' ').next() {
                Some("PING") => self.say("PONG\r\n"),
                Some("MSG") => {
                    let words: Vec<&str> = line.split(' ').collect();
                    let length: usize = words.last().unwrap().parse().unwrap();
                    let mut payload = vec![0; length + 2];
                    self.reader.read_exact(&mut payload).unwrap();
                    payload.truncate(length);
                    return (words[3].to_owned(), payload);
                }
                Some("+OK" | "INFO") => {}
                _ => panic!("the server says `{line}`"),
            }
        }
    }

    /// A call of JetStream's.
    pub(crate) fn call(&mut self, what: &str, asked: &Value) -> Value {
        let answer = self.ask(&format!("$JS.API.{what}"), asked.to_string().as_bytes());
        serde_json::from_slice(&answer).unwrap()
    }

    /// Messages of a stream.
    pub(crate) fn messages(&mut self, stream: &str) -> u64 {
        self.call(&format!("STREAM.INFO.{stream}"), &json!({}))["state"]["messages"].as_u64().unwrap_or(0)
    }

    /// Tasks that workers have.
    pub(crate) fn pending(&mut self) -> u64 {
        let info = self.call("CONSUMER.INFO.sandgate_tasks.workers", &json!({}));
        info["num_ack_pending"].as_u64().unwrap_or(0)
    }

    /// Deliveries of tasks so far.
    pub(crate) fn delivered(&mut self) -> u64 {
        let info = self.call("CONSUMER.INFO.sandgate_tasks.workers", &json!({}));
        info["delivered"]["consumer_seq"].as_u64().unwrap_or(0)
    }

    /// Requests for tasks that wait.
    pub(crate) fn requests(&mut self) -> u64 {
        let info = self.call("CONSUMER.INFO.sandgate_tasks.workers", &json!({}));
        info["num_waiting"].as_u64().unwrap_or(0)
    }

    /// The record of a job.
    pub(crate) fn job(&mut self, job: &str) -> Value {
        let subject = format!("sandgate.job.{job}");
        let found = self.call("STREAM.MSG.GET.sandgate_jobs", &json!({ "last_by_subj": subject }));
        let data = found["message"]["data"].as_str().unwrap_or_default().to_owned();
        serde_json::from_slice(&unbase64(&data)).unwrap_or(Value::Null)
    }

    /// The headers of a stream's first message.
    pub(crate) fn first_headers(&mut self, stream: &str) -> String {
        let first = self.call(&format!("STREAM.INFO.{stream}"), &json!({}))["state"]["first_seq"].clone();
        let found = self.call(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": first }));
        String::from_utf8(unbase64(found["message"]["hdrs"].as_str().unwrap_or_default())).unwrap()
    }
}

/// Base64 as JetStream has it in its answers.
pub(crate) fn unbase64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | u32::from(value(byte));
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    bytes
}

#[test]
fn base64_is_what_it_is() {
    assert_eq!(unbase64("YWJj/w=="), b"abc\xff");
}
