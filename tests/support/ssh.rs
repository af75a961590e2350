//! A real OpenSSH server on a port of this machine, with keys, configuration and a home for the cache of its own.
#![expect(clippy::unwrap_used, reason = "what tests call is test code too")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandgate::Spec;

use crate::command::{Running, output, start};
use crate::fixtures::{repository, worker};
use crate::remote::LIMIT;
use crate::waiting::comes_true;

/// Where the server is on Debian and its kin; it wants to be started by its whole path.
const SSHD: &str = "/usr/sbin/sshd";
/// Set where the server, and what makes networks, has to be there: then its absence is a failure.
const REQUIRED: &str = "SANDGATE_TEST_SSHD";

/// The server, and what a client needs to reach it.
#[derive(Debug)]
pub struct SshServer {
    directory: tempfile::TempDir,
    address: String,
    port: u16,
    user: String,
    command: Vec<String>,
    process: Running,
}

impl SshServer {
    /// Starts a server; `None`, and a word about it, where none is installed.
    pub fn start(more: &str) -> Option<SshServer> {
        if let Err(why) = installed(SSHD, "openssh-server") {
            skip(&why);
            return None;
        }
        // Between the look for a free port and its use another process may take it.
        let start = || {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            SshServer::try_start(more, &[], "127.0.0.1", port)
        };
        (0..5).find_map(|_| start()).or_else(|| panic!("no OpenSSH server starts"))
    }

    /// Starts a server in a network of its own, at this address.
    pub fn start_in(namespace: &str, address: &str) -> Option<SshServer> {
        if !Path::new(SSHD).exists() {
            return SshServer::start("");
        }
        SshServer::try_start("", &["ip", "netns", "exec", namespace], address, 2222)
    }

    fn try_start(more: &str, around: &[&str], address: &str, port: u16) -> Option<SshServer> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for key in ["host", "user", "stranger"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", &at(key)]);
        }
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        fs::create_dir(at("cache")).unwrap();
        let host_key = fs::read_to_string(at("host.pub")).unwrap();
        fs::write(at("known"), format!("[{address}]:{port} {host_key}")).unwrap();
        fs::write(at("unknown"), "").unwrap();
        let config = format!(
            "ListenAddress {address}:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             ClientAliveInterval 1\nClientAliveCountMax 3\n\
             SetEnv XDG_CACHE_HOME={} {more}\n",
            at("host"),
            at("authorized"),
            at("cache"),
        );
        fs::write(at("sshd_config"), config).unwrap();
        client(&at("ssh_config"), &at("user"), &at("known"));
        // For whoever reaches the server by another address: the key is the one of the server all the same.
        fs::write(at("anywhere"), format!("* {host_key}")).unwrap();
        client(&at("any_host"), &at("user"), &at("anywhere"));
        client(&at("wrong_key"), &at("stranger"), &at("known"));
        client(&at("wrong_host"), &at("user"), &at("unknown"));
        // The server, when it is root's, wants this directory, which the system's own service would make.
        let _ = fs::create_dir("/run/sshd");
        let config = at("sshd_config");
        let command = [around, &[SSHD, "-D", "-e", "-f", &config]].concat();
        let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        let process = run_server(&command);
        let user = String::from_utf8(output("id", &["-un"], repository()).stdout).unwrap().trim().to_owned();
        let server = SshServer { port, user, directory, address: address.to_owned(), command, process };
        server.listens().then_some(server)
    }

    fn listens(&self) -> bool {
        comes_true(Duration::from_secs(5), || TcpStream::connect((self.address.as_str(), self.port)).is_ok())
    }

    /// Starts it again, after it was killed.
    pub fn start_again(&mut self) {
        self.process = run_server(&self.command);
        assert!(self.listens(), "the server is there again");
    }

    /// A gateway on it, with one of the client's configurations.
    pub fn spec_with(&self, config: &str) -> Spec {
        self.spec_to(&format!("{}:{}", self.address, self.port), config)
    }

    /// A gateway on it, reached by another address.
    pub fn spec_to(&self, address: &str, config: &str) -> Spec {
        let spec = Spec::ssh(&format!("{}@{address}", self.user)).unwrap();
        spec.ssh_config(self.directory.path().join(config)).agent(worker()).with_hello_deadline(LIMIT)
    }

    /// A gateway on it that names no binary to be copied.
    pub fn spec_without_a_binary(&self) -> Spec {
        let spec = Spec::ssh(&format!("{}@{}:{}", self.user, self.address, self.port)).unwrap();
        spec.ssh_config(self.config()).with_hello_deadline(LIMIT)
    }

    /// Where it listens.
    pub fn address(&self) -> (String, u16) {
        (self.address.clone(), self.port)
    }

    /// A gateway on it.
    pub fn spec(&self) -> Spec {
        self.spec_with("ssh_config")
    }

    /// The same as text.
    pub fn spec_text(&self) -> String {
        let escaped = |path: &Path| path.to_str().unwrap().replace('/', "\\/");
        let (config, agent) = (escaped(&self.config()), escaped(worker()));
        format!("ssh={}@{}:{}//ssh_config={config}//agent={agent}", self.user, self.address, self.port)
    }

    /// The configuration of a client that gets in.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("ssh_config")
    }

    /// Whoever has the user's key can run this command from now on, and nothing else.
    pub fn force_command(&self, command: &str) {
        let at = |name: &str| self.directory.path().join(name);
        let key = fs::read_to_string(at("user.pub")).unwrap();
        fs::write(at("authorized"), format!("restrict,command=\"{command}\" {key}")).unwrap();
    }

    /// Where agents are copied.
    pub fn agents(&self) -> PathBuf {
        self.directory.path().join("cache/sandgate/agents")
    }

    /// The agents that were copied there.
    pub fn copied(&self) -> Vec<PathBuf> {
        fs::read_dir(self.agents())
            .map_or_else(|_| Vec::new(), |entries| entries.map(|it| it.unwrap().path()).collect())
    }
}

fn run_server(command: &[String]) -> Running {
    let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();
    start(&command[0], &arguments, &[("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".as_ref())])
}

fn client(path: &str, key: &str, known: &str) {
    let config = format!(
        "Host *\nIdentityFile {key}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {known}\n\
         GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\nConnectTimeout 10\n"
    );
    fs::write(path, config).unwrap();
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let result = output(program, arguments, repository());
    assert!(result.status.success(), "{program}: {}", String::from_utf8_lossy(&result.stderr));
}

/// Whether a program of the system is there, which this package has; or a word about its absence.
///
/// # Panics
///
/// When it is not, and has to be.
pub fn installed(program: &str, package: &str) -> Result<(), String> {
    if Path::new(program).exists() {
        return Ok(());
    }
    assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and there is no {program}");
    Err(format!("there is no {program} here: apt-get install {package}"))
}

/// Says why a test checks nothing.
#[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
}
