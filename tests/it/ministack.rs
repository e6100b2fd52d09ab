//! A real S3 server: `ministack`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::OnceLock;

use apiary::Settings;

use crate::server::{self, Server};
use crate::support::small;

const BUCKET: &str = "meadow";

/// Storage options of the server.
pub(crate) fn options() -> BTreeMap<String, String> {
    let endpoint = format!("http://{}:{}", Ipv4Addr::LOCALHOST, server().port);
    server::options([
        ("endpoint", endpoint.as_str()),
        ("region", "us-east-1"),
        ("path_style", "true"),
        ("allow_http", "true"),
        ("access_key_id", "test"),
        ("secret_access_key", "test"),
    ])
}

/// A place of the server; each test has a `prefix` of its own.
pub(crate) fn url(prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}")
}

/// A small node on that place.
pub(crate) fn settings(prefix: &str) -> Settings {
    Settings { storage_options: options(), ..small(Settings::new(url(prefix))) }
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Server::start("APIARY_MINISTACK", "GET /_ministack/health", |command, port, folder| {
            command
                .env("BIND_HOST", Ipv4Addr::LOCALHOST.to_string())
                .env("GATEWAY_PORT", port.to_string())
                .env("SERVICES", "s3")
                .env("S3_PERSIST", "1")
                .env("S3_DATA_DIR", folder.join("data"))
                .env("STATE_DIR", folder.join("state"))
                .env("LOG_LEVEL", "WARNING");
        });
        assert_eq!(server.status(&format!("PUT /{BUCKET}")).unwrap(), 200, "ministack does not make a bucket");
        server
    })
}
