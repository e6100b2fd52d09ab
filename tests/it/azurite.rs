//! A real server of Azure's blob storage: Microsoft's emulator `azurite`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::OnceLock;

use apiary::Settings;

use crate::server::{self, Server};
use crate::support::small;

const CONTAINER: &str = "meadow";
/// The emulator's account and its key, the same everywhere: <https://learn.microsoft.com/azure/storage/common/storage-use-azurite>.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Makes the container: a request that must be signed.
const MAKE_CONTAINER: &str = r#"
const [port, account, key, container] = process.argv.slice(1);
const date = new Date().toUTCString(), version = "2021-08-06";
const resource = `/${account}/${account}/${container}\nrestype:container`;
const text = `PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:${date}\nx-ms-version:${version}\n${resource}`;
const sign = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
const headers = { "x-ms-date": date, "x-ms-version": version, authorization: `SharedKey ${account}:${sign}` };
fetch(`http://127.0.0.1:${port}/${account}/${container}?restype=container`, { method: "PUT", headers })
  .then((answer) => process.exit(answer.status === 201 ? 0 : 1));
"#;

/// Storage options of the server.
pub(crate) fn options() -> BTreeMap<String, String> {
    let endpoint = format!("http://{}:{}/{ACCOUNT}", Ipv4Addr::LOCALHOST, server().port);
    server::options([
        ("endpoint", endpoint.as_str()),
        ("account_name", ACCOUNT),
        ("account_key", KEY),
        ("allow_http", "true"),
    ])
}

/// A place of the server; each test has a `prefix` of its own.
pub(crate) fn url(prefix: &str) -> String {
    format!("az://{CONTAINER}/{prefix}")
}

/// A small node on that place.
pub(crate) fn settings(prefix: &str) -> Settings {
    Settings { storage_options: options(), ..small(Settings::new(url(prefix))) }
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Server::start("APIARY_AZURITE", "GET /", |command, port, folder| {
            let (host, port) = (Ipv4Addr::LOCALHOST.to_string(), port.to_string());
            command.args(["--blobHost", &host, "--blobPort", &port, "--skipApiVersionCheck", "--silent", "--location"]);
            command.arg(folder);
        });
        let port = server.port.to_string();
        let made = Command::new("node").args(["-e", MAKE_CONTAINER, &port, ACCOUNT, KEY, CONTAINER]).status();
        assert!(made.unwrap().success(), "azurite does not make a container");
        server
    })
}
