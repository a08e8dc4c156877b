//! What the tests start from: an AWS account of their own behind a fault proxy, keys in it, and
//! `coffer-kms` as it runs beside an API server, asked through its sockets.

use std::{collections::HashMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{
    Aws, Call, Fault, FaultProxy, LocalStack, Metrics, Process, Program, Rule, Service, eventually, http_get,
    own_address, seccomp::confined,
};
use coffer_kms::metrics::families;
use coffer_kms::proto::{
    v1beta1::{self, key_management_service_client::KeyManagementServiceClient as V1Client},
    v2::{self, key_management_service_client::KeyManagementServiceClient as V2Client},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Request, Status, transport::Channel};

/// Longer than anything takes that should come about at once, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// What an API server waits for a call, unless told otherwise (k8s.io/apiserver, `encryptionconfig`).
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// A control plane's AWS account.
pub(crate) struct Fixture {
    /// Past the proxy.
    pub(crate) aws: Aws,
    pub(crate) proxy: FaultProxy,
    folder: TempDir,
    listen: SocketAddr,
}

/// A running `coffer-kms`.
pub(crate) struct Plugin {
    pub(crate) process: Process,
    /// The first socket's end.
    pub(crate) api: Api,
    listen: SocketAddr,
}

/// An API server's end of a socket.
#[derive(Clone)]
pub(crate) struct Api {
    v1: V1Client<Channel>,
    v2: V2Client<Channel>,
    /// For each request.
    patience: Duration,
}

impl Fixture {
    pub(crate) async fn new() -> Result<Self> {
        let localstack = LocalStack::shared().await?;
        Ok(Self {
            aws: Aws::new(localstack.url()),
            proxy: FaultProxy::start(localstack.url())?,
            folder: tempfile::tempdir()?,
            listen: (own_address(), 9467).into(),
        })
    }

    /// A new key: its ARN.
    pub(crate) async fn key(&self) -> Result<String> {
        self.key_with(json!({})).await
    }

    /// A new multi-region key, whose ciphertexts here begin with an `m`: its ARN.
    pub(crate) async fn multi_region_key(&self) -> Result<String> {
        self.key_with(json!({"MultiRegion": true})).await
    }

    async fn key_with(&self, request: Value) -> Result<String> {
        let answer = self.kms("CreateKey", request).await?;
        let arn = answer["KeyMetadata"]["Arn"].as_str();
        Ok(arn.with_context(|| format!("no ARN in {answer}"))?.to_owned())
    }

    /// Asks KMS itself, past the proxy.
    pub(crate) async fn kms(&self, operation: &str, request: Value) -> Result<Value> {
        self.aws.call(Service::Kms, operation, request).await
    }

    /// What KMS itself encrypts.
    pub(crate) async fn kms_encrypt(&self, key: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        let answer = self.kms("Encrypt", json!({"KeyId": key, "Plaintext": base64(plaintext)})).await?;
        bytes(&answer, "CiphertextBlob")
    }

    /// What KMS itself decrypts.
    pub(crate) async fn kms_decrypt(&self, blob: &[u8], context: Value) -> Result<Vec<u8>> {
        let request = json!({"CiphertextBlob": base64(blob), "EncryptionContext": context});
        bytes(&self.kms("Decrypt", request).await?, "Plaintext")
    }

    /// Where the socket of that place among the keys is.
    pub(crate) fn socket(&self, place: usize) -> PathBuf {
        self.folder.path().join(format!("{place}.sock"))
    }

    /// `coffer-kms` with the environment of a control plane's host; and always under the profile that is shipped, so
    /// that each test of this suite is one of the profile.
    pub(crate) fn coffer_kms(&self) -> Program {
        let confined = confined("coffer-kms").expect("built with the other programs of the tests");
        Program::new("coffer-kms").under(confined).envs(self.aws.environment(&self.proxy.url()))
    }

    /// `coffer-kms` for these keys, each with a socket.
    pub(crate) fn program(&self, keys: &[&str]) -> Program {
        let program = self.coffer_kms().arg(format!("--health-port={}", self.listen));
        keys.iter()
            .enumerate()
            .fold(program, |program, (place, key)| program.args(["--key", key, "--listen"]).arg(self.socket(place)))
    }

    /// Starts `coffer-kms` for one key, with more flags, and waits until the key is known to work.
    pub(crate) async fn serve(&self, key: &str, flags: &[&str]) -> Result<Plugin> {
        let plugin = self.start(self.program(&[key]).args(flags)).await?;
        plugin.api.becomes("ok").await.with_context(|| plugin.process.stderr())?;
        Ok(plugin)
    }

    /// Starts a variant of [`Self::program`] and waits until it answers.
    pub(crate) async fn start(&self, program: Program) -> Result<Plugin> {
        let process = program.start()?;
        let api = eventually(SOON, async || match process.status()? {
            Some(status) => Ok(Err(status)),
            None => {
                let api = self.api(0).await?;
                api.status().await.map(drop).or_else(|status| if is_own(&status) { Ok(()) } else { Err(status) })?;
                Ok(Ok(api))
            }
        });
        match api.await.with_context(|| format!("does not serve\n{}", process.stderr()))? {
            Ok(api) => Ok(Plugin { process, api, listen: self.listen }),
            Err(status) => bail!("coffer-kms ended ({status})\n{}", process.stderr()),
        }
    }

    /// Connects to the socket of that place among the keys.
    pub(crate) async fn api(&self, place: usize) -> Result<Api> {
        let address = self.socket(place).display().to_string().parse()?;
        Api::connect(&address).await
    }

    /// A fault for all calls to KMS.
    pub(crate) fn fault(&self, fault: Fault) {
        self.proxy.fault(Rule::new(fault).service(Service::Kms));
    }

    /// The calls to one operation of KMS by requests, not by probes: those are for 32 random bytes, and so
    /// are told apart by what they decrypt only if that is known.
    pub(crate) fn decrypts_of(&self, ciphertexts: &[Vec<u8>]) -> Vec<Call> {
        let blobs: Vec<String> = ciphertexts.iter().map(|ciphertext| base64(&ciphertext[1..])).collect();
        let calls = self.proxy.calls_to("Decrypt").into_iter();
        calls.filter(|call| blobs.iter().any(|blob| call.request["CiphertextBlob"] == *blob)).collect()
    }
}

impl Plugin {
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(&format!("http://{}{path}", self.listen)).await
    }

    /// The sum of a metric's samples with these labels; 0 where there is none yet.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Metrics::of_ours(&format!("http://{}/metrics", self.listen), families()).await?.sum(name, labels)
    }

    /// Waits for a status of `/healthz` and gives its body.
    pub(crate) async fn healthz(&self, expected: u16) -> Result<String> {
        eventually(SOON, async || {
            let (status, body) = self.get("/healthz").await?;
            ensure!(status == expected, "{status}: {body}");
            Ok(body)
        })
        .await
    }

    /// Ends it by SIGTERM, which it must take well, and gives what it wrote.
    pub(crate) async fn stop(&self) -> Result<String> {
        let status = self.process.stop().await?;
        let said = self.process.stderr();
        ensure!(status.success(), "{status}\n{said}");
        ensure!(!said.contains("panicked"), "{said}");
        Ok(said)
    }
}

impl Api {
    pub(crate) async fn connect(address: &coffer_unix_grpc::Address) -> Result<Self> {
        let channel = coffer_unix_grpc::connect(address, SOON).await?;
        // As Go's client, which takes 4 MiB.
        let v1 = V1Client::new(channel.clone()).max_decoding_message_size(4 << 20);
        Ok(Self { v1, v2: V2Client::new(channel), patience: PATIENCE })
    }

    /// The same, with another deadline for each request.
    pub(crate) fn within(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    pub(crate) async fn status(&self) -> Result<v2::StatusResponse, Status> {
        let answer = self.v2.clone().status(self.request(v2::StatusRequest {})).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn encrypt(&self, plaintext: &[u8]) -> Result<v2::EncryptResponse, Status> {
        self.encrypt_as(plaintext, "0d4d5d1e-0000-4000-8000-000000000001").await
    }

    pub(crate) async fn encrypt_as(&self, plaintext: &[u8], uid: &str) -> Result<v2::EncryptResponse, Status> {
        let request = v2::EncryptRequest { plaintext: plaintext.to_vec(), uid: uid.to_owned() };
        Ok(self.v2.clone().encrypt(self.request(request)).await?.into_inner())
    }

    pub(crate) async fn decrypt(&self, ciphertext: &[u8], key_id: &str) -> Result<Vec<u8>, Status> {
        self.decrypt_as(ciphertext, key_id, "0d4d5d1e-0000-4000-8000-000000000002").await
    }

    pub(crate) async fn decrypt_as(&self, ciphertext: &[u8], key_id: &str, uid: &str) -> Result<Vec<u8>, Status> {
        let request = v2::DecryptRequest {
            ciphertext: ciphertext.to_vec(),
            uid: uid.to_owned(),
            key_id: key_id.to_owned(),
            annotations: HashMap::new(),
        };
        Ok(self.v2.clone().decrypt(self.request(request)).await?.into_inner().plaintext)
    }

    pub(crate) async fn version(&self) -> Result<v1beta1::VersionResponse, Status> {
        let request = v1beta1::VersionRequest { version: "v1beta1".to_owned() };
        Ok(self.v1.clone().version(self.request(request)).await?.into_inner())
    }

    pub(crate) async fn encrypt_v1(&self, plain: &[u8]) -> Result<Vec<u8>, Status> {
        let request = v1beta1::EncryptRequest { version: "v1beta1".to_owned(), plain: plain.to_vec() };
        Ok(self.v1.clone().encrypt(self.request(request)).await?.into_inner().cipher)
    }

    pub(crate) async fn decrypt_v1(&self, cipher: &[u8]) -> Result<Vec<u8>, Status> {
        let request = v1beta1::DecryptRequest { version: "v1beta1".to_owned(), cipher: cipher.to_vec() };
        Ok(self.v1.clone().decrypt(self.request(request)).await?.into_inner().plain)
    }

    /// Waits until Status answers and its `healthz` contains that, or is `ok`.
    pub(crate) async fn becomes(&self, healthz: &str) -> Result<v2::StatusResponse> {
        eventually(SOON, async || {
            let status = self.status().await?;
            let right = if healthz == "ok" { status.healthz == "ok" } else { status.healthz.contains(healthz) };
            ensure!(right, "healthz is {:?}, not {healthz:?}", status.healthz);
            Ok(status)
        })
        .await
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.patience);
        request
    }
}

/// Whether a refusal is the plugin's own, not the client's who gave up or found nobody.
pub(crate) fn is_own(status: &Status) -> bool {
    !["Timeout expired", "transport error", "error trying to connect"].iter().any(|own| status.message().contains(own))
}

/// Whether a request was refused with that code and all of these words.
pub(crate) fn refused<T: fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) -> Result<()> {
    let status = match answer {
        Ok(answer) => bail!("answered, not refused: {answer:?}"),
        Err(status) => status,
    };
    ensure!(is_own(&status), "no answer came: {status:?}");
    ensure!(status.code() == code, "{:?} and not {code:?}: {}", status.code(), status.message());
    for word in words {
        ensure!(status.message().contains(word), "no {word:?} in {:?}", status.message());
    }
    Ok(())
}

/// As JSON holds bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn bytes(answer: &Value, field: &str) -> Result<Vec<u8>> {
    let text = answer[field].as_str().with_context(|| format!("no {field} in {answer}"))?;
    Ok(BASE64_STANDARD.decode(text)?)
}

/// The bare id of the key of an ARN.
pub(crate) fn id_of(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}
