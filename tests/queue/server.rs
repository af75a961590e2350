//! A real NATS server with JetStream on a port of this machine, with a store of its own, that can be ended and started again.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use sandgate_tests::{Running, Watched, comes_true, output, skip, start};

/// Where the server is: `SANDGATE_TEST_NATS` if that is set, and then it has to be there.
const VARIABLE: &str = "SANDGATE_TEST_NATS";
const USUAL: &str = "/usr/sbin/nats-server";

pub(crate) struct Server {
    program: PathBuf,
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    process: Option<Running>,
}

impl Server {
    /// Starts a server with these lines more in its configuration; `@` stands for the directory with [`certificates`], if they
    /// are asked for. `None`, and a word about it, where none is installed.
    pub(crate) fn start(more: &str) -> Option<Server> {
        Server::start_on("127.0.0.1", more)
    }

    /// The same at another address, or at all of them.
    pub(crate) fn start_on(address: &str, more: &str) -> Option<Server> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let program = named.clone().unwrap_or_else(|| USUAL.into());
        if !program.exists() {
            assert!(named.is_none(), "{VARIABLE} is set, and there is no `{}`", program.display());
            skip("there is no NATS server here: apt-get install nats-server");
            return None;
        }
        // Between the look for a free port and its use another process may take it.
        (0..5).find_map(|_| Server::try_start(&program, address, more)).or_else(|| panic!("no NATS server starts"))
    }

    fn try_start(program: &Path, address: &str, more: &str) -> Option<Server> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_str().unwrap().to_owned();
        if more.contains('@') {
            certificates(directory.path());
        }
        let config = format!(
            "listen: {address}:{port}\njetstream {{ store_dir: \"{at}/store\" }}\n{}\n",
            more.replace('@', &at)
        );
        fs::write(directory.path().join("nats.conf"), config).unwrap();
        let mut server = Server { program: program.to_owned(), directory, port, process: None };
        server.start_again().then_some(server)
    }

    /// Starts it; whether it answers.
    pub(crate) fn start_again(&mut self) -> bool {
        let config = self.file("nats.conf");
        let log = self.file("log");
        let mut process = start(&self.program, &["-c", config.to_str().unwrap(), "-l", log.to_str().unwrap()], &[]);
        process.close_stdin();
        self.process = Some(process);
        comes_true(Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", self.port)).is_ok())
    }

    /// Ends it at once, as a machine that fails does.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it as whoever looks after it does, and waits for its end.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let mut process = self.process.take().expect("it runs");
        let _ = process.wait(Duration::from_secs(30));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        Watched::new(process.pid()).signal(signal);
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A file of its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// An authority `ca.pem`, and what it vouches for: `server.pem` for 127.0.0.1 and `client.pem`, each with a `.key`; and `other.pem`,
/// which vouches for nothing.
fn certificates(directory: &Path) {
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let result = output("openssl", &words, directory);
        assert!(result.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&result.stderr));
    };
    for name in ["ca", "other"] {
        run(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"
        ));
    }
    fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        run(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        run(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile names"
        ));
    }
}
