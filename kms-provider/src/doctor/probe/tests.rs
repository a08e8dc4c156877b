use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use coffer_unix_grpc::Address;
use tokio::net::UnixListener;
use tonic::codegen::tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::doctor::{Level, Place};
use crate::proto::v1beta1::key_management_service_server as v1_server;
use crate::proto::v2::key_management_service_server as v2_server;
use crate::proto::{v1beta1, v2};

/// A plugin that "encrypts" by putting a byte in front, and can be wrong in every way.
#[derive(Clone)]
struct Fake {
    version: &'static str,
    healthz: &'static str,
    key_id: String,
    encrypts_as: Option<&'static str>,
    padding: usize,
    annotation: Option<(&'static str, usize)>,
    status: Option<Code>,
    encrypt: Option<(Code, &'static str)>,
    decrypt: Option<(Code, &'static str)>,
    garbles: bool,
    delay: Duration,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            version: "v2beta1",
            healthz: "ok",
            key_id: "alias/etcd".to_owned(),
            encrypts_as: None,
            padding: 1,
            annotation: None,
            status: None,
            encrypt: None,
            decrypt: None,
            garbles: false,
            delay: Duration::ZERO,
        }
    }
}

impl Fake {
    fn encrypt(&self, plaintext: Vec<u8>) -> Result<Vec<u8>, Status> {
        match self.encrypt {
            Some((code, text)) => Err(Status::new(code, text)),
            None => Ok([vec![b'1'; self.padding], plaintext].concat()),
        }
    }

    fn decrypt(&self, ciphertext: &[u8]) -> Result<Vec<u8>, Status> {
        match self.decrypt {
            Some((code, text)) => Err(Status::new(code, text)),
            None if self.garbles => Ok(vec![7; 32]),
            None => Ok(ciphertext[self.padding..].to_vec()),
        }
    }
}

#[tonic::async_trait]
impl v2_server::KeyManagementService for Fake {
    async fn status(&self, _: Request<v2::StatusRequest>) -> Result<Response<v2::StatusResponse>, Status> {
        tokio::time::sleep(self.delay).await;
        if let Some(code) = self.status {
            return Err(Status::new(code, "status fails"));
        }
        Ok(Response::new(v2::StatusResponse {
            version: self.version.to_owned(),
            healthz: self.healthz.to_owned(),
            key_id: self.key_id.clone(),
        }))
    }

    async fn encrypt(&self, request: Request<v2::EncryptRequest>) -> Result<Response<v2::EncryptResponse>, Status> {
        let request = request.into_inner();
        assert!(!request.uid.is_empty() && request.plaintext.len() == 32);
        Ok(Response::new(v2::EncryptResponse {
            ciphertext: self.encrypt(request.plaintext)?,
            key_id: self.encrypts_as.map_or(self.key_id.clone(), str::to_owned),
            annotations: self.annotation.iter().map(|(key, size)| ((*key).to_owned(), vec![0; *size])).collect(),
        }))
    }

    async fn decrypt(&self, request: Request<v2::DecryptRequest>) -> Result<Response<v2::DecryptResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.annotations.len(), self.annotation.iter().count());
        assert_eq!(request.key_id, self.encrypts_as.unwrap_or(&self.key_id));
        Ok(Response::new(v2::DecryptResponse { plaintext: self.decrypt(&request.ciphertext)? }))
    }
}

#[tonic::async_trait]
impl v1_server::KeyManagementService for Fake {
    async fn version(&self, _: Request<v1beta1::VersionRequest>) -> Result<Response<v1beta1::VersionResponse>, Status> {
        Ok(Response::new(v1beta1::VersionResponse {
            version: if self.version == "v2beta1" { "v1beta1".to_owned() } else { self.version.to_owned() },
            runtime_name: "fake".to_owned(),
            runtime_version: "0.0.1".to_owned(),
        }))
    }

    async fn encrypt(
        &self,
        request: Request<v1beta1::EncryptRequest>,
    ) -> Result<Response<v1beta1::EncryptResponse>, Status> {
        Ok(Response::new(v1beta1::EncryptResponse { cipher: self.encrypt(request.into_inner().plain)? }))
    }

    async fn decrypt(
        &self,
        request: Request<v1beta1::DecryptRequest>,
    ) -> Result<Response<v1beta1::DecryptResponse>, Status> {
        Ok(Response::new(v1beta1::DecryptResponse { plain: self.decrypt(&request.into_inner().cipher)? }))
    }
}

/// A folder of sockets.
struct Sockets(tempfile::TempDir);

impl Sockets {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        Self(folder)
    }

    fn stanza(&self, name: &str, api: KmsApi) -> Stanza {
        Stanza {
            place: Place { line: 7, column: 9 },
            name: name.to_owned(),
            api,
            socket: Address::Path(self.0.path().join(name)),
            timeout: Duration::from_secs(3),
            group: 0,
        }
    }

    fn serve(&self, name: &str, fake: Fake) {
        let listener = UnixListener::bind(self.0.path().join(name)).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(v2_server::KeyManagementServiceServer::new(fake.clone()))
            .add_service(v1_server::KeyManagementServiceServer::new(fake))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(server);
    }
}

/// What was found, as lines, without the path of the folder.
async fn found(sockets: &Sockets, stanzas: &[Stanza]) -> Vec<String> {
    let findings = probe(stanzas).await;
    let folder = sockets.0.path().display().to_string();
    findings
        .into_iter()
        .map(|Finding { level, place, what, fix }| {
            assert_eq!(place, Some(Place { line: 7, column: 9 }));
            let level = match level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            let fix = if fix.is_empty() { String::new() } else { format!(" — {fix}") };
            format!("{level}: {what}{fix}").replace(&folder, "DIR")
        })
        .collect()
}

/// What is not well with such a plugin over v2.
async fn wrong(fake: Fake) -> Vec<String> {
    wrong_over(KmsApi::V2, fake).await
}

async fn wrong_over(api: KmsApi, fake: Fake) -> Vec<String> {
    let sockets = Sockets::new();
    sockets.serve("aws", fake);
    let mut stanza = sockets.stanza("aws", api);
    stanza.timeout = Duration::from_millis(400);
    found(&sockets, &[stanza]).await.into_iter().filter(|line| !line.starts_with("ok")).collect()
}

#[tokio::test]
async fn a_sound_plugin_over_both_apis() {
    let sockets = Sockets::new();
    sockets.serve("kms", Fake { annotation: Some(("kek.kms.example.com", 250)), ..Fake::default() });
    let both =
        [sockets.stanza("kms", KmsApi::V2), sockets.stanza("kms", KmsApi::V1), sockets.stanza("kms", KmsApi::V2)];
    let lines = found(&sockets, &both).await;
    let starts = [
        "ok: DIR/kms: mode 0",
        "ok: `kms`: Status is ok after ",
        "ok: `kms`: Encrypt took ",
        "ok: `kms`: Decrypt took ",
        "ok: `kms`: fake 0.0.1 speaks KMS v1beta1",
        "ok: `kms`: Encrypt took ",
        "ok: `kms`: Decrypt took ",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    assert!(lines[1].ends_with(", version v2beta1, key_id `alias/etcd`"), "{}", lines[1]);
}

#[tokio::test]
async fn status_that_an_api_server_does_not_take() {
    assert_eq!(
        wrong(Fake { version: "v3", ..Fake::default() }).await,
        [
            "FAIL: `aws`: the version in Status is `v3`, and an API server only takes v2 and v2beta1 — bring the plugin up to date"
        ]
    );
    assert_eq!(
        wrong(Fake { healthz: "KMS cannot use the key: DisabledException", ..Fake::default() }).await,
        [
            "FAIL: `aws`: the plugin says that it is not well: KMS cannot use the key: DisabledException — enable the key, or cancel \
          its deletion: `aws kms describe-key` tells its state"
        ]
    );
    for length in [0, 1025] {
        assert_eq!(
            wrong(Fake { key_id: "k".repeat(length), ..Fake::default() }).await,
            [format!(
                "FAIL: `aws`: the key_id in Status has {length} bytes, and an API server takes 1 to 1024 — bring the plugin up to \
                 date, or give it a shorter --key"
            )]
        );
    }
    assert_eq!(
        wrong(Fake { status: Some(Code::Unimplemented), ..Fake::default() }).await,
        [
            "FAIL: `aws`: Status failed: UNIMPLEMENTED: status fails — the plugin does not speak KMS v2: bring it up to date, or \
          write `apiVersion: v1`"
        ]
    );
}

#[tokio::test]
async fn answers_to_encrypt_that_an_api_server_throws_away() {
    assert_eq!(
        wrong(Fake { encrypts_as: Some("alias/new"), ..Fake::default() }).await,
        [
            "FAIL: `aws`: Encrypt answers with the key_id `alias/new` and Status with `alias/etcd`: an API server throws such an \
          answer away — wait for a rotation under way and look again; else see that one plugin alone listens there"
        ]
    );
    assert_eq!(
        wrong(Fake { padding: 993, ..Fake::default() }).await,
        ["FAIL: `aws`: Encrypt gave 1025 bytes, and an API server takes 1 to 1024 — bring the plugin up to date"]
    );
    assert_eq!(
        wrong(Fake { annotation: Some(("kek", 1)), ..Fake::default() }).await,
        [
            "FAIL: `aws`: Encrypt answers with the annotation `kek`, whose name is no domain name: an API server refuses it — bring \
          the plugin up to date"
        ]
    );
    assert_eq!(
        wrong(Fake { annotation: Some(("kek.example.com", 32 * 1024)), ..Fake::default() }).await,
        [
            "FAIL: `aws`: Encrypt answers with annotations of 32783 bytes, of which 32768 are allowed: an API server refuses it — \
          bring the plugin up to date"
        ]
    );
}

#[tokio::test]
async fn what_iam_does_not_allow_is_told_for_each_call() {
    for (api, encrypt, decrypt, expected) in [
        (
            KmsApi::V2,
            Some((Code::PermissionDenied, "KMS refuses: AccessDeniedException")),
            None,
            "Encrypt failed: PERMISSION_DENIED: KMS refuses: AccessDeniedException — allow kms:Encrypt on the key to the role of the \
             plugin, in IAM and in the key's policy",
        ),
        (
            KmsApi::V2,
            None,
            Some((Code::Unknown, "failed to decrypt AccessDeniedException: no")),
            "Decrypt failed: UNKNOWN: failed to decrypt AccessDeniedException: no — allow kms:Decrypt on the key to the role of the \
             plugin, in IAM and in the key's policy",
        ),
        (
            KmsApi::V1,
            None,
            Some((Code::InvalidArgument, "InvalidCiphertextException")),
            "Decrypt failed: INVALID_ARGUMENT: InvalidCiphertextException — look at --encryption-context, --key and --decrypt-key of \
             the plugin",
        ),
        (
            KmsApi::V1,
            Some((Code::Unauthenticated, "no credentials")),
            None,
            "Encrypt failed: UNAUTHENTICATED: no credentials — give the plugin credentials that AWS accepts: the role of the \
             instance, a web identity, or --role-arn",
        ),
        (
            KmsApi::V2,
            Some((Code::Unavailable, "connection refused")),
            None,
            "Encrypt failed: UNAVAILABLE: connection refused — see that the plugin reaches KMS: --region, --kms-endpoint, proxy, route",
        ),
    ] {
        let lines = wrong_over(api, Fake { encrypt, decrypt, ..Fake::default() }).await;
        assert_eq!(lines, [format!("FAIL: `aws`: {expected}")]);
    }
}

#[tokio::test]
async fn bytes_that_do_not_come_back() {
    for api in [KmsApi::V1, KmsApi::V2] {
        assert_eq!(
            wrong_over(api, Fake { garbles: true, ..Fake::default() }).await,
            [
                "FAIL: `aws`: Decrypt gave other bytes than had been encrypted — do not write with this plugin: nothing could be read \
              again"
            ]
        );
    }
}

#[tokio::test]
async fn the_wrong_version_of_v1() {
    assert_eq!(
        wrong_over(KmsApi::V1, Fake { version: "v1", ..Fake::default() }).await,
        ["FAIL: `aws`: the plugin speaks KMS `v1`, and an API server only v1beta1 — bring the plugin up to date"]
    );
}

#[tokio::test]
async fn slow_and_too_slow() {
    let slow = wrong(Fake { delay: Duration::from_millis(250), ..Fake::default() }).await;
    assert_eq!(slow.len(), 1, "{slow:#?}");
    assert!(
        slow[0].contains("Status needs more than half of the timeout of 400ms — raise `timeout`, or"),
        "{}",
        slow[0]
    );
    assert_eq!(
        wrong(Fake { delay: Duration::from_secs(2), ..Fake::default() }).await,
        [
            "FAIL: `aws`: Status failed: DEADLINE_EXCEEDED: no answer within 400ms — see that the plugin reaches KMS (--region, \
          --kms-endpoint, proxy, route), or raise the `timeout` of 400ms"
        ]
    );
}

#[tokio::test]
async fn sockets_that_are_none() {
    let sockets = Sockets::new();
    let path = |name: &str| sockets.0.path().join(name);
    std::fs::create_dir(path("folder")).unwrap();
    std::fs::write(path("file"), "").unwrap();
    drop(UnixListener::bind(path("left")).unwrap());
    for (name, expected) in [
        (
            "none",
            "FAIL: there is no socket at DIR/none: the server is not running, or listens elsewhere — start the plugin with --listen \
             DIR/none",
        ),
        (
            "no/socket",
            "FAIL: there is no socket at DIR/no/socket: the server is not running, or listens elsewhere — make its folder DIR/no, or \
             mount it here, and start the plugin with --listen DIR/no/socket",
        ),
        (
            "folder",
            "FAIL: DIR/folder is not a socket — remove this folder: a hostPath without `type` makes one where the socket is not \
             there yet; mount the folder that the socket is in instead",
        ),
        ("file", "FAIL: DIR/file is not a socket — remove it, then start the plugin with --listen DIR/file"),
    ] {
        assert_eq!(found(&sockets, &[sockets.stanza(name, KmsApi::V2)]).await, [expected]);
    }
    assert_eq!(
        found(&sockets, &[sockets.stanza("left", KmsApi::V2)]).await[1..],
        [
            "FAIL: nobody listens at DIR/left: the server that left it there was killed — start the plugin with --listen DIR/left"
        ]
    );
    let mut stanza = sockets.stanza("abstract", KmsApi::V2);
    stanza.socket = Address::Abstract(format!("coffer-{}", std::process::id()));
    let lines = found(&sockets, &[stanza]).await;
    assert!(lines[0].starts_with("FAIL: there is no socket at @coffer-"), "{lines:#?}");
    assert!(lines[0].ends_with(", in the network namespace of the API server (hostNetwork: true)"), "{lines:#?}");
}

#[tokio::test]
async fn who_is_no_plugin() {
    let sockets = Sockets::new();
    let listener = UnixListener::bind(sockets.0.path().join("other")).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    assert_eq!(
        found(&sockets, &[sockets.stanza("other", KmsApi::V2)]).await[1..],
        [
            "FAIL: `other`: who listens closed the connection on Status — let this user in with --allow-uid, and see that it is a KMS \
          plugin which listens there: `ss -xlp`"
        ]
    );
}

#[tokio::test]
async fn a_socket_for_everyone() {
    let sockets = Sockets::new();
    sockets.serve("aws", Fake::default());
    let path = sockets.0.path().join("aws");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let stanzas = [sockets.stanza("aws", KmsApi::V2)];
    assert!(found(&sockets, &stanzas).await[0].starts_with("ok: DIR/aws: mode 0777, owner "), "its folder is shut");
    std::fs::set_permissions(sockets.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        found(&sockets, &stanzas).await[0],
        "FAIL: DIR/aws has mode 0777: every user of this host may have everything decrypted — give the plugin --socket-mode 0600, \
         or shut its folder with `chmod 0700`"
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(sockets.0.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(
        found(&sockets, &stanzas).await[0],
        "FAIL: the folder of DIR/aws lets every user of this host put another socket there — shut it with `chmod 0700`"
    );
}

#[tokio::test]
async fn two_plugins_with_one_key() {
    let sockets = Sockets::new();
    sockets.serve("old", Fake::default());
    sockets.serve("new", Fake::default());
    let mut stanzas = [sockets.stanza("new", KmsApi::V2), sockets.stanza("old", KmsApi::V2)];
    assert_eq!(
        *found(&sockets, &stanzas).await.last().unwrap(),
        "warn: `new` and `old` both answer with the key_id `alias/etcd`: to go from the one to the other rotates nothing — give \
         each plugin a --key of its own"
    );
    stanzas[1].group = 1;
    assert!(found(&sockets, &stanzas).await.iter().all(|line| line.starts_with("ok")));
}
