//! A real object store of another project: started once per test process, on loopback, and gone with it.
//!
//! A shell keeps the server until its standard input closes, which happens when the test process ends, however it ends.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest start: a cold interpreter on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Runs its arguments; their output goes to a file, for whoever wonders why the server did not start.
const KEEPER: &str = r#"
trap "" INT
"$@" >"$FOLDER/log" 2>&1 &
server=$!
cat >/dev/null
kill $server
wait $server
rm -rf "$FOLDER"
"#;

/// A server that runs.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Its standard input is what keeps the server.
    _keeper: Child,
}

impl Server {
    /// Starts the program that the environment variable `variable` names, and waits until it answers `ready`, a request
    /// line without its version. `configure` gets the keeper, the port and a folder, and adds arguments and environment.
    pub(crate) fn start(variable: &str, ready: &str, configure: impl FnOnce(&mut Command, u16, &Path)) -> Self {
        let program = std::env::var_os(variable);
        let program = program.unwrap_or_else(|| panic!("{variable} does not name a program: run `make test`"));
        let folder = tempfile::Builder::new().prefix("apiary-store-").tempdir().unwrap().keep();
        let port = free_port();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(program).env("FOLDER", &folder);
        configure(&mut keeper, port, &folder);
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { port, _keeper: keeper };
        let deadline = Instant::now() + START;
        while server.status(ready).is_err() {
            assert!(Instant::now() < deadline, "{variable} does not answer on port {port}: see {}", folder.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// The status of the answer to a request without a body.
    pub(crate) fn status(&self, request: &str) -> std::io::Result<u16> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let headers = "Host: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close";
        stream.write_all(format!("{request} HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes())?;
        let mut line = [0; 12];
        stream.read_exact(&mut line)?;
        let status = line.get(9..).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        status.ok_or_else(|| std::io::Error::other("no HTTP"))
    }
}

/// Storage options as settings take them.
pub(crate) fn options<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_string(), value.to_string())).into()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
