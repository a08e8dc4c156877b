//! The flags, and what they come to once they are looked at together.
//!
//! Those of the AWS Encryption Provider have its names, defaults and forms (its `cmd/server/main.go`):
//! lists repeat a flag or hold commas, and keys, sockets and contexts belong together by their place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use coffer_kms::cache::CacheSettings;
use coffer_kms::kek::Limits;
use coffer_kms::key::{EncryptionContext, KeyName, csv_fields};
use coffer_kms::metrics::ApiVersion;
use coffer_kms::remote::{KmsSettings, RetrySettings, SourceArn};
use coffer_kms::route::Policy;
use coffer_runtime::aws::RoleStep;
use coffer_runtime::telemetry::{EmfNamespace, LogFormat, LogLevel};
use coffer_unix_grpc::{Access, Address, Group, Mode, Peers, User};

/// The SDK's own budget of retries (`DefaultRetryRateTokens` of the AWS SDK for Go v2).
const RETRY_TOKENS: u32 = 500;
/// The AWS Encryption Provider's own.
const DEFAULT_SOCKET: &str = "/var/run/kmsplugin/socket.sock";

/// Which keys, under which identity.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys")]
pub(super) struct KeyFlags {
    /// KMS key to encrypt with: id, ARN or alias. One for each --listen; repeat it, or separate by commas
    #[arg(long, value_name = "KEY")]
    pub(super) key: Vec<String>,

    /// Encryption context of the key at the same place, as a=b,c=d; "" for none. Repeat it, one for each key
    #[arg(long, value_name = "PAIRS")]
    encryption_context: Vec<String>,

    /// Another key that data may still be encrypted under, on all sockets; repeat it, or separate by commas
    #[arg(long, value_name = "KEY")]
    decrypt_key: Vec<String>,

    /// Encryption context of the --decrypt-key at the same place
    #[arg(long, value_name = "PAIRS")]
    decrypt_context: Vec<String>,

    /// Which keys may decrypt: any that the identity is allowed to, or only those listed by --key and
    /// --decrypt-key [default: listed with a --decrypt-key, else any]
    #[arg(long, value_name = "POLICY")]
    decrypt_policy: Option<PolicyFlag>,

    /// Region where multi-region keys (mrk-…) decrypt when their own region does not; repeat it
    #[arg(long, value_name = "REGION")]
    replica_region: Vec<String>,

    /// Region of keys that are not named by ARN [default: AWS_REGION, the profile, the instance]
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true)]
    pub(super) region: String,

    /// KMS endpoint to use instead of AWS's own, for all regions
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    kms_endpoint: String,

    /// Resource on whose behalf KMS is called, for key policies with aws:SourceArn
    #[arg(long, value_name = "ARN", default_value = "", hide_default_value = true)]
    source_arn: String,

    /// Role to assume with the credentials of the environment
    #[arg(long, value_name = "ARN")]
    role_arn: Option<String>,

    /// What that role's trust policy asks for in sts:ExternalId
    #[arg(long, value_name = "ID", requires = "role_arn")]
    external_id: Option<String>,

    /// Tokens for second tries; each takes 5, and successes give them back [default: 500]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    retry_token_capacity: i64,

    /// Deprecated: with --burst-limit, the sum is the tokens for second tries, one each
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    qps_limit: i64,

    /// Deprecated: see --qps-limit
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    burst_limit: i64,
}

/// Where the API server comes in.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sockets")]
pub(super) struct SocketFlags {
    /// Socket for the key at the same place: a path, unix:///PATH, @NAME for an abstract one, fd:NAME for
    /// one of systemd's. Repeat it, or separate by commas [default: /var/run/kmsplugin/socket.sock]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// Mode of the sockets' files
    #[arg(long, value_name = "MODE", default_value = "0600")]
    socket_mode: Mode,

    /// Owner of the sockets' files [default: who runs this]
    #[arg(long, value_name = "USER")]
    socket_owner: Option<User>,

    /// Group of the sockets' files
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<Group>,

    /// User who may connect; repeat it [default: whom the mode lets in; at an abstract socket root and
    /// who runs this]
    #[arg(long, value_name = "USER")]
    allow_uid: Vec<User>,

    /// How long requests may take to end after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(super) shutdown_grace: Duration,
}

/// How data is written, and what is kept in memory.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Formats and caches")]
pub(super) struct FormatFlags {
    /// How new data is written; both formats are always read. The AWS Encryption Provider reads only aep
    #[arg(long, value_name = "FORMAT", default_value = "aep")]
    pub(super) write_format: FormatFlag,

    /// How long a local KEK encrypts
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    local_kek_max_age: Duration,

    /// How many encryptions one local KEK makes
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    local_kek_max_uses: u64,

    /// How often KMS has to unwrap a local KEK anew: how long a disabled key still works through it
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    local_kek_revalidate: Duration,

    /// How long a local KEK serves while KMS cannot be reached
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    local_kek_max_unverified: Duration,

    /// How long a decrypted value is kept: how long a disabled key can still be read through it; 0 for no cache
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    decrypt_cache_ttl: Duration,

    /// How many decrypted values are kept
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    decrypt_cache_size: u32,

    /// How much longer they are kept while KMS cannot be reached
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    decrypt_cache_max_stale: Duration,

    /// How many Decrypts are at KMS at once, for each key
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) max_inflight: u16,

    /// Let the key_id tell which key an alias stands for and which material encrypts, so that the API
    /// server learns of a rotation. Needs kms:DescribeKey, and kms:ListAliases for an alias
    #[arg(long)]
    pub(super) follow_key: bool,

    /// How long after a change the new key_id is used: every replica should have seen it by then
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(super) activation_delay: Duration,
}

/// Health, and what is told of it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Health and logs")]
pub(super) struct HealthFlags {
    /// Address of health and metrics; without a host, on all of them
    #[arg(long, value_name = "[HOST]:PORT", default_value = ":8080")]
    pub(super) health_port: HttpAddress,

    /// Path that tells whether every key works
    #[arg(long, value_name = "PATH", default_value = "/healthz", value_parser = http_path)]
    pub(super) healthz_path: String,

    /// Path for a liveness probe: fails only when a restart would help
    #[arg(long, value_name = "PATH", default_value = "/livez", value_parser = http_path)]
    pub(super) livez_path: String,

    /// v1 or v2: what probes count as in the AWS Encryption Provider's metrics. Both Encrypt and Decrypt are
    /// always tested
    #[arg(long, value_name = "VERSION", default_value = "v1", value_parser = api_version)]
    pub(super) health_kms_version: ApiVersion,

    /// How often a key is probed that nobody uses; every 10 s while it fails
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = interval)]
    pub(super) probe_interval: Duration,

    /// API version that Status of v2 tells; changing it takes an API server's restart
    #[arg(long, value_name = "VERSION", default_value = "v2beta1", value_parser = status_version)]
    pub(super) status_version: &'static str,

    /// When Status fails as a call, so that an API server stops writing after 3 minutes
    #[arg(long, value_name = "WHEN", default_value = "never")]
    pub(super) fail_status_on: FailStatusFlag,

    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "COFFER_LOG_LEVEL", default_value = "info")]
    log_level: LogLevel,

    /// text or json
    #[arg(long, value_name = "FORMAT", env = "COFFER_LOG_FORMAT", default_value = "json")]
    pub(super) log_format: LogFormat,

    /// Tell CloudWatch the metrics, under this namespace: a few lines of JSON a minute on standard output, in
    /// the embedded metric format [default: none are told]
    #[arg(long, value_name = "NAME", env = "COFFER_EMF_NAMESPACE")]
    pub(super) emf_namespace: Option<EmfNamespace>,

    /// The same as --log-level debug
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = clap::ArgAction::Set, hide_default_value = true)]
    debug: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyFlag {
    /// Whatever the identity is allowed to decrypt
    Any,
    /// Only keys that are listed
    Listed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatFlag {
    /// The AWS Encryption Provider's: KMS encrypts each DEK or seed
    Aep,
    /// Sealed with a local KEK that KMS has wrapped
    LocalKek,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FailStatusFlag {
    /// Its healthz tells all
    Never,
    /// KMS refuses the key
    KeyDisabled,
}

/// Flags that do not go together, or a value that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(String);

/// One key to encrypt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedKey {
    pub(super) name: KeyName,
    pub(super) context: EncryptionContext,
}

/// What the key flags come to.
#[derive(Debug)]
pub(super) struct KeyPlan {
    /// At least one.
    pub(super) writers: Vec<NamedKey>,
    pub(super) readers: Vec<NamedKey>,
    pub(super) policy: Policy,
    pub(super) replicas: Vec<String>,
    pub(super) kms: KmsSettings,
}

impl KeyFlags {
    /// What is needed to serve.
    pub(super) fn plan(&self) -> Result<KeyPlan, UsageError> {
        let plan = self.plan_for(&self.key)?;
        if plan.writers.is_empty() {
            let text = "--key is missing: name the KMS key to encrypt with, by id, ARN or alias";
            return Err(UsageError(text.to_owned()));
        }
        Ok(plan)
    }

    /// What is needed to decrypt: without a `--key`, the name that stands in the data says where, and KMS
    /// knows the rest.
    pub(super) fn plan_to_read(&self, named_in_data: &str) -> Result<KeyPlan, UsageError> {
        if list("--key", &self.key)?.is_empty() {
            return self.plan_for(&[named_in_data.to_owned()]);
        }
        self.plan_for(&self.key)
    }

    fn plan_for(&self, keys: &[String]) -> Result<KeyPlan, UsageError> {
        let writers = named("--key", keys, "--encryption-context", &self.encryption_context)?;
        let readers = named("--decrypt-key", &self.decrypt_key, "--decrypt-context", &self.decrypt_context)?;
        let policy = match self.decrypt_policy {
            Some(PolicyFlag::Any) => Policy::Any,
            Some(PolicyFlag::Listed) => Policy::Listed,
            None if readers.is_empty() => Policy::Any,
            None => Policy::Listed,
        };
        let keys = || writers.iter().chain(&readers);
        if !self.replica_region.is_empty() && !keys().any(|key| key.name.is_multi_region()) {
            let text =
                "--replica-region: none of the keys is a multi-region key, named by its id mrk-… or the ARN of it";
            return Err(UsageError(text.to_owned()));
        }
        let source_arn = match self.source_arn.as_str() {
            "" => None,
            text => Some(text.parse::<SourceArn>().map_err(|error| UsageError(format!("--source-arn: {error}")))?),
        };
        if !self.kms_endpoint.is_empty() && !is_url(&self.kms_endpoint) {
            let text = format!("--kms-endpoint '{}': give a URL such as https://HOST", self.kms_endpoint);
            return Err(UsageError(text));
        }
        Ok(KeyPlan {
            writers,
            readers,
            policy,
            replicas: self.replica_region.clone(),
            kms: KmsSettings {
                region: Some(self.region.clone()).filter(|region| !region.is_empty()),
                endpoint: Some(self.kms_endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
                source_arn,
                role: self
                    .role_arn
                    .clone()
                    .map(|role_arn| RoleStep { role_arn, external_id: self.external_id.clone() }),
                retries: self.retries()?,
            },
        })
    }

    fn retries(&self) -> Result<RetrySettings, UsageError> {
        if self.retry_token_capacity > 0 {
            return Ok(RetrySettings::new(u32::try_from(self.retry_token_capacity).unwrap_or(u32::MAX)));
        }
        if self.qps_limit <= 0 {
            return Ok(RetrySettings::new(RETRY_TOKENS));
        }
        if self.burst_limit <= 0 {
            return Err(UsageError(
                "--qps-limit takes a --burst-limit above 0; better use --retry-token-capacity".to_owned(),
            ));
        }
        Ok(RetrySettings::one_by_one(
            u32::try_from(self.qps_limit.saturating_add(self.burst_limit)).unwrap_or(u32::MAX),
        ))
    }
}

fn is_url(text: &str) -> bool {
    let parsed = text.parse::<axum::http::Uri>();
    parsed.is_ok_and(|url| url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https")))
}

/// Keys with their contexts: none at all, or one for each.
fn named(
    key_flag: &str,
    keys: &[String],
    context_flag: &str,
    contexts: &[String],
) -> Result<Vec<NamedKey>, UsageError> {
    let keys = list(key_flag, keys)?;
    if !contexts.is_empty() && contexts.len() != keys.len() {
        return Err(UsageError(format!(
            "{context_flag} is there {} and {key_flag} {}: give one for each key, in the same order, \"\" for none",
            times(contexts.len()),
            times(keys.len()),
        )));
    }
    let with_context = |(place, key): (usize, &String)| {
        let name: KeyName = key.parse().map_err(|error| UsageError(format!("{key_flag}: {error}")))?;
        let context = contexts.get(place).map_or(Ok(EncryptionContext::default()), |text| text.parse());
        let context = context.map_err(|error| UsageError(format!("{context_flag} '{}': {error}", contexts[place])))?;
        Ok(NamedKey { name, context })
    };
    keys.iter().enumerate().map(with_context).collect()
}

impl SocketFlags {
    /// One address for each key.
    pub(super) fn addresses(&self, keys: usize) -> Result<Vec<Address>, UsageError> {
        let mut addresses = self.named()?;
        if addresses.is_empty() {
            addresses.push(Address::Path(DEFAULT_SOCKET.into()));
        }
        if addresses.len() != keys {
            return Err(UsageError(format!(
                "--listen is there {} and --key {}: each key takes a socket of its own, in the same order",
                times(addresses.len()),
                times(keys)
            )));
        }
        Ok(addresses)
    }

    /// The addresses that are given, without the default.
    pub(super) fn named(&self) -> Result<Vec<Address>, UsageError> {
        let mut addresses: Vec<Address> = Vec::new();
        for text in list("--listen", &self.listen)? {
            let address: Address = text.parse().map_err(|error| UsageError(format!("--listen: {error}")))?;
            if addresses.contains(&address) {
                return Err(UsageError(format!(
                    "--listen {address} is there twice: each key takes a socket of its own"
                )));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    pub(super) fn access(&self) -> Access {
        Access {
            mode: self.socket_mode,
            owner: self.socket_owner,
            group: self.socket_group,
            peers: (!self.allow_uid.is_empty()).then(|| Peers::only(self.allow_uid.iter().copied())),
        }
    }
}

impl FormatFlags {
    pub(super) fn cache(&self) -> CacheSettings {
        CacheSettings {
            ttl: self.decrypt_cache_ttl,
            max_stale: self.decrypt_cache_max_stale,
            size: usize::try_from(self.decrypt_cache_size).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_uses: self.local_kek_max_uses,
            max_age: self.local_kek_max_age,
            revalidate: self.local_kek_revalidate,
            max_unverified: self.local_kek_max_unverified,
            ..Limits::default()
        }
    }
}

impl HealthFlags {
    pub(super) fn log_level(&self) -> LogLevel {
        if self.debug { LogLevel::DEBUG } else { self.log_level }
    }
}

/// The values of a flag that repeats and holds commas: each a line of CSV, as pflag's `StringSlice` is.
fn list(flag: &str, values: &[String]) -> Result<Vec<String>, UsageError> {
    let mut all = Vec::new();
    for value in values.iter().filter(|value| !value.is_empty()) {
        let fields =
            csv_fields(value).ok_or_else(|| UsageError(format!("{flag} '{value}': its quotes do not match")))?;
        all.extend(fields);
    }
    Ok(all)
}

fn times(count: usize) -> String {
    match count {
        0 => "missing".to_owned(),
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

/// An address as Go's `net/http` takes it: the host may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpAddress {
    host: Option<IpAddr>,
    port: u16,
}

impl HttpAddress {
    /// In the order in which to try: a host without IPv6 has only the last.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        match self.host {
            Some(host) => vec![SocketAddr::new(host, self.port)],
            None => [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)]
                .map(|host| SocketAddr::new(host, self.port))
                .to_vec(),
        }
    }
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is not an address: give :PORT for all hosts, or HOST:PORT as in 127.0.0.1:8080");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = match host.trim_start_matches('[').trim_end_matches(']') {
            "" => None,
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => Some(host.parse().map_err(|_| wrong())?),
        };
        Ok(Self { host, port })
    }
}

fn api_version(text: &str) -> Result<ApiVersion, String> {
    match text {
        "v1" => Ok(ApiVersion::V1),
        "v2" => Ok(ApiVersion::V2),
        _ => Err("give v1 or v2".to_owned()),
    }
}

fn status_version(text: &str) -> Result<&'static str, String> {
    match text {
        "v2beta1" => Ok("v2beta1"),
        "v2" => Ok("v2"),
        _ => Err("give v2beta1 or v2".to_owned()),
    }
}

fn http_path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    match text {
        "/metrics" | "/readyz" => Err("that path is taken".to_owned()),
        _ if text.starts_with('/') && text.chars().all(plain) => Ok(text.to_owned()),
        _ => Err("give a path such as /healthz".to_owned()),
    }
}

/// Longer than anyone means, and far from where arithmetic with times ends.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 30s, 5m or 1h"))?;
    if time > LONGEST { Err("a year is the most".to_owned()) } else { Ok(time) }
}

/// KMS is called once in it at least, and each call is billed.
fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_secs(1) => Err("a second is the least".to_owned()),
        time => Ok(time),
    }
}

/// What Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("give true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests;
