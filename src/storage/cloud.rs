//! Remote places: S3 and what speaks its API, Google Cloud Storage, Azure Blob Storage.
//!
//! Credentials come from the options, the environment, the shared credentials file (`AWS_PROFILE`) and the instance
//! role, in that order. They are handed to object_store and kept nowhere else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use tokio::runtime::Handle;
use url::Url;

use super::backend::StorageBackend;
use crate::{Error, Result};

/// Tries at one request in all, and how long: long enough for a server's restart, short enough that a person waits.
const RETRY: RetryConfig = RetryConfig {
    backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 },
    max_retries: 6,
    retry_timeout: Duration::from_secs(60),
};

/// What object_store says of a container without one.
const NO_ACCOUNT: &str = "Account must be specified";

/// A bucket behind the S3 API.
#[derive(Debug)]
pub struct S3Backend(Remote);

impl S3Backend {
    /// Opens the bucket and prefix of `url`, like `s3://bucket/prefix`.
    ///
    /// Options: `endpoint`, `region`, `path_style`, `allow_http`, `access_key_id`, `secret_access_key`, `session_token`,
    /// and every `aws_…` key of object_store.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] for an unknown option.
    pub fn open(url: &Url, options: &BTreeMap<String, String>, io: &Handle) -> Result<Self> {
        let bucket = bucket(url)?;
        let mut builder = with_profile(AmazonS3Builder::from_env())
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RETRY)
            .with_http_connector(SpawnedReqwestConnector::new(io.clone()));
        for (key, value) in options {
            builder = match key.as_str() {
                "path_style" => builder.with_virtual_hosted_style_request(!flag(key, value)?),
                "allow_http" => builder.with_allow_http(flag(key, value)?),
                "endpoint" => builder.with_endpoint(endpoint(value)?),
                _ => builder.with_config(known::<AmazonS3ConfigKey>(key)?, value),
            };
        }
        if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
            builder = builder.with_region("us-east-1");
        }
        let allows_http = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
        if let Some(address) = builder.get_config_value(&AmazonS3ConfigKey::Endpoint)
            && address.starts_with("http://")
            && allows_http.is_none_or(|value| flag("allow_http", &value).is_ok_and(|allows| !allows))
        {
            return Err(Error::invalid(format!(
                "{address} is http and not https: give the storage option allow_http=true"
            )));
        }
        Remote::new(url, builder.build()?).map(Self)
    }
}

/// An address that requests can go to.
fn endpoint(value: &str) -> Result<&str> {
    let is_address = Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if is_address {
        return Ok(value);
    }
    Err(Error::invalid(format!("endpoint cannot be '{value}': write an address like https://s3.example.org:9000")))
}

impl StorageBackend for S3Backend {
    fn location(&self) -> String {
        self.0.location.clone()
    }

    fn is_local(&self) -> bool {
        false
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0.store)
    }
}

/// A bucket of Google Cloud Storage or a container of Azure Blob Storage.
#[derive(Debug)]
pub(crate) struct CloudBackend(Remote);

impl CloudBackend {
    pub(crate) fn open(url: &Url, options: &BTreeMap<String, String>, io: &Handle) -> Result<Self> {
        match url.scheme() {
            "gs" => google(url, options, io),
            _ => azure(url, options, io),
        }
        .map(Self)
    }
}

impl StorageBackend for CloudBackend {
    fn location(&self) -> String {
        self.0.location.clone()
    }

    fn is_local(&self) -> bool {
        false
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0.store)
    }
}

#[derive(Debug)]
struct Remote {
    location: String,
    store: Arc<dyn ObjectStore>,
}

impl Remote {
    fn new(url: &Url, bucket: impl ObjectStore) -> Result<Self> {
        let prefix = Path::from_url_path(url.path()).map_err(object_store::Error::from)?;
        let store: Arc<dyn ObjectStore> =
            if prefix.is_root() { Arc::new(bucket) } else { Arc::new(PrefixStore::new(bucket, prefix)) };
        Ok(Self { location: without_secrets(url.as_str()), store })
    }
}

fn google(url: &Url, options: &BTreeMap<String, String>, io: &Handle) -> Result<Remote> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket(url)?)
        .with_retry(RETRY)
        .with_http_connector(SpawnedReqwestConnector::new(io.clone()));
    for (key, value) in options {
        builder = builder.with_config(known::<GoogleConfigKey>(key)?, value);
    }
    Remote::new(url, builder.build()?)
}

fn azure(url: &Url, options: &BTreeMap<String, String>, io: &Handle) -> Result<Remote> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(bucket(url)?)
        .with_retry(RETRY)
        .with_http_connector(SpawnedReqwestConnector::new(io.clone()));
    for (key, value) in options {
        builder = match key.as_str() {
            "allow_http" => builder.with_allow_http(flag(key, value)?),
            _ => builder.with_config(known::<AzureConfigKey>(key)?, value),
        };
    }
    let container = builder.build().map_err(|error| match error.to_string().contains(NO_ACCOUNT) {
        true => Error::invalid(format!(
            "{} needs an account: give the storage option account_name",
            without_secrets(url.as_str())
        )),
        false => error.into(),
    })?;
    Remote::new(url, container)
}

/// Access keys of the shared credentials file, when neither the environment nor a role gives others.
fn with_profile(builder: AmazonS3Builder) -> AmazonS3Builder {
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        return builder;
    }
    let file = std::env::var_os("AWS_SHARED_CREDENTIALS_FILE")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".aws/credentials")));
    let Some(text) = file.and_then(|f| std::fs::read_to_string(f).ok()) else {
        return builder;
    };
    let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".into());
    profile_entries(&text, &profile)
        .filter_map(|(key, value)| Some((key.parse::<AmazonS3ConfigKey>().ok()?, value)))
        .fold(builder, |builder, (key, value)| builder.with_config(key, value))
}

/// The `key = value` lines of `[profile]` in an INI text.
fn profile_entries<'a>(text: &'a str, profile: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let header = format!("[{profile}]");
    text.lines()
        .map(str::trim)
        .skip_while(move |line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
}

fn bucket(url: &Url) -> Result<&str> {
    url.host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| Error::invalid(format!("storage {:?} names no bucket: write {0}://bucket/prefix", url.scheme())))
}

fn known<K: std::str::FromStr>(key: &str) -> Result<K> {
    key.parse().map_err(|_| {
        Error::invalid(format!(
            "storage option '{key}' is unknown: use endpoint, region, path_style, allow_http, access_key_id, secret_access_key or a key of object_store"
        ))
    })
}

pub(super) fn flag(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(Error::invalid(format!("storage option '{key}' is '{value}': use true or false"))),
    }
}

/// The URL without user, password and query, which can hold keys and signatures.
pub(crate) fn without_secrets(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else {
        return url.split(['?', '@']).next_back().unwrap_or_default().to_string();
    };
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_the_url() {
        assert_eq!(without_secrets("s3://key:secret@bucket/p?X-Amz-Signature=abc"), "s3://bucket/p");
    }

    #[test]
    fn a_profile_is_read_up_to_the_next() {
        let text = "[a]\naws_access_key_id = 1\n[b]\naws_access_key_id=2\nregion = x\n[c]\n";
        assert_eq!(profile_entries(text, "b").collect::<Vec<_>>(), [("aws_access_key_id", "2"), ("region", "x")]);
    }
}
