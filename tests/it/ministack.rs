//! A real S3 server: `ministack`, started once per test process, on loopback, and gone with it.
//!
//! A shell keeps the server until its standard input closes, which happens when the test process ends, however it ends.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use apiary::Settings;

use crate::support::small;

const BUCKET: &str = "meadow";
/// Longest start: a cold Python on a busy machine.
const START: Duration = Duration::from_secs(60);
const KEEPER: &str = r#"
trap "" INT
"$MINISTACK" >"$FOLDER/log" 2>&1 &
server=$!
cat >/dev/null
kill $server
wait $server
rm -rf "$FOLDER"
"#;

/// Storage options of the server.
pub(crate) fn options() -> BTreeMap<String, String> {
    let endpoint = format!("http://{}:{}", Ipv4Addr::LOCALHOST, server().port);
    let options = [
        ("endpoint", endpoint.as_str()),
        ("region", "us-east-1"),
        ("path_style", "true"),
        ("allow_http", "true"),
        ("access_key_id", "test"),
        ("secret_access_key", "test"),
    ];
    options.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// A place of the server; each test has a `prefix` of its own.
pub(crate) fn url(prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}")
}

/// A small node on that place.
pub(crate) fn settings(prefix: &str) -> Settings {
    let settings = small(Settings::new(url(prefix)));
    options().into_iter().fold(settings, |settings, (key, value)| settings.with_storage_option(key, value))
}

struct Server {
    port: u16,
    /// Its standard input is what keeps the server.
    _keeper: Child,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

impl Server {
    fn start() -> Self {
        let program = std::env::var_os("APIARY_MINISTACK")
            .expect("APIARY_MINISTACK does not name the ministack program: run `make test`");
        let folder = tempfile::Builder::new().prefix("apiary-s3-").tempdir().unwrap().keep();
        let port = free_port();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .env("MINISTACK", program)
            .env("BIND_HOST", Ipv4Addr::LOCALHOST.to_string())
            .env("GATEWAY_PORT", port.to_string())
            .env("SERVICES", "s3")
            .env("S3_PERSIST", "1")
            .env("S3_DATA_DIR", folder.join("data"))
            .env("STATE_DIR", folder.join("state"))
            .env("LOG_LEVEL", "WARNING")
            .env("FOLDER", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { port, _keeper: keeper };
        server.wait_until_ready();
        assert!(server.takes(&format!("PUT /{BUCKET}")), "ministack does not make a bucket");
        server
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + START;
        while !self.takes("GET /_ministack/health") {
            assert!(Instant::now() < deadline, "ministack does not answer on port {}", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it answers a request without a body with 200.
    fn takes(&self, request: &str) -> bool {
        self.status(request).is_ok_and(|status| status == *b"HTTP/1.1 200")
    }

    fn status(&self, request: &str) -> std::io::Result<[u8; 12]> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let headers = "Host: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close";
        stream.write_all(format!("{request} HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes())?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status)
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
