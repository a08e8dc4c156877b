//! Our programs before clients that are not ours. `coffer-kms` before the API server's own Go code, of two
//! releases, and Python's gRPC, boto3 and cryptography; `coffer-injector csi` before the CSI project's suite and
//! the kubelet's clients.
//!
//! Each Go test is a test here, so that one of them fails by its name. The Go binaries start the program
//! themselves, as often as a test needs; LocalStack is AWS. Needs Go.
//!
//! `AEP_BINARY` names an AWS Encryption Provider to compare with (`go build ./cmd/server` of its sources);
//! without one a stand-in of the same rules takes its part. `PLUGIN_KIND=aep` with `PLUGIN_BINARY` runs the tests against
//! it instead of `coffer-kms`, which tests the tests.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bed::{Aws, LocalStack, Process, Program, Service, aws::ParameterType, eventually, tmpfs_dir, unique_name};
use serde_json::json;
use tokio::{process::Command, sync::OnceCell};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/kms.py");

/// What a caller may set to have another plugin tested, or one to compare with.
const PASSED_ON: [&str; 2] = ["PLUGIN_BINARY", "PLUGIN_KIND"];

/// Of one Go test; the slowest waits twice for an API server to ask anew, after 25 s.
const PATIENCE: &str = "3m";

const SOON: Duration = Duration::from_secs(20);

/// Two keys in an account of their own, and how a program finds them.
struct Kms {
    endpoint: &'static str,
    aws: Aws,
    key: String,
    other_key: String,
}

impl Kms {
    async fn new() -> Result<Self> {
        let endpoint = LocalStack::shared().await?.url();
        let aws = Aws::new(endpoint);
        let (key, other_key) = (create_key(&aws).await?, create_key(&aws).await?);
        Ok(Self { endpoint, aws, key, other_key })
    }

    /// What the Go tests read.
    async fn variables(&self) -> Result<Vec<(&'static str, OsString)>> {
        let mut variables = vec![
            ("KMS_ENDPOINT", self.endpoint.into()),
            ("KMS_KEY", self.key.clone().into()),
            ("KMS_OTHER_KEY", self.other_key.clone().into()),
        ];
        variables.extend(self.aws.environment(self.endpoint).map(|(name, value)| (name, value.into())));
        variables.extend(PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        variables.push(("AEP_BINARY", bed::aws_encryption_provider().await?.into()));
        Ok(variables)
    }
}

/// LocalStack begins what it encrypts with the key's id, AWS with a byte 1. An id that begins with the digit 1
/// would look like the AWS Encryption Provider's prefix where none was written, so such a key is not taken.
async fn create_key(aws: &Aws) -> Result<String> {
    loop {
        let created = aws.call(Service::Kms, "CreateKey", json!({})).await?;
        let arn = created["KeyMetadata"]["Arn"].as_str().context("CreateKey gives no ARN")?;
        if !arn.contains(":key/1") {
            return Ok(arn.to_owned());
        }
    }
}

/// Which of our programs a Go module tests.
#[derive(Clone, Copy)]
enum Tested {
    /// `coffer-kms`.
    Plugin,
    /// `coffer-injector csi`.
    Driver,
}

impl Tested {
    /// What the Go tests read.
    async fn variables(self) -> Result<Vec<(&'static str, OsString)>> {
        match self {
            Self::Plugin => {
                let mut variables = vec![("PLUGIN_BINARY", Program::new("coffer-kms").path()?.into())];
                variables.extend(Kms::new().await?.variables().await?);
                Ok(variables)
            }
            Self::Driver => {
                let endpoint = LocalStack::shared().await?.url();
                let aws = Aws::new(endpoint);
                aws.create_secret("conformance/secret", "conformance-secret").await?;
                aws.put_parameter("/conformance/parameter", ParameterType::SecureString, "conformance-parameter")
                    .await?;
                Ok(vec![
                    ("CSI_BINARY", Program::new("coffer-injector").path()?.into()),
                    ("AWS_ENDPOINT_URL", endpoint.into()),
                    ("AWS_REGION", bed::aws::REGION.into()),
                    ("ROLE_ARN", aws.role_arn("conformance").into()),
                ])
            }
        }
    }

    /// What runs a binary of tests. A driver's tests have to see what it mounts, and nobody else does.
    fn command(self, binary: &Path) -> Command {
        match self {
            Self::Plugin => {
                let mut command = Command::new(binary);
                command.arg("-test.parallel=8");
                command
            }
            Self::Driver => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "--"]).arg(binary);
                command
            }
        }
    }
}

/// A Go module of tests, compiled once for this process.
struct GoModule {
    name: &'static str,
    tested: Tested,
    compiled: OnceCell<PathBuf>,
}

impl GoModule {
    const fn new(name: &'static str, tested: Tested) -> Self {
        Self { name, tested, compiled: OnceCell::const_new() }
    }

    async fn run(&self, test: &str) -> Result<()> {
        let variables = self.tested.variables().await?;
        let done = self
            .tested
            .command(self.binary().await?)
            .args(["-test.v", "-test.timeout", PATIENCE, "-test.run", &format!("^{test}$")])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(variables)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let output = written(&done);
        ensure!(done.status.success(), "{test} of {} failed\n{output}", self.name);
        // Go calls it a success when nothing of that name is there.
        ensure!(output.contains(&format!("--- PASS: {test} ")) || output.contains("--- SKIP: "), "{output}");
        Ok(())
    }

    async fn tests(&self) -> Result<BTreeSet<String>> {
        let done = Command::new(self.binary().await?).args(["-test.list", "."]).output().await?;
        ensure!(done.status.success(), "{}", written(&done));
        let names = String::from_utf8(done.stdout)?;
        Ok(names.lines().filter(|name| name.starts_with("Test")).map(str::to_owned).collect())
    }

    async fn binary(&self) -> Result<&Path> {
        self.compiled
            .get_or_try_init(async || {
                let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{}", self.name));
                let done = Command::new("go")
                    .args(["test", "-c", "-mod=readonly", "-o"])
                    .arg(&binary)
                    .arg(".")
                    .current_dir(Path::new(FOLDER).join(self.name))
                    .stdin(Stdio::null())
                    .output()
                    .await
                    .context("cannot run go: install Go 1.26 or newer")?;
                ensure!(done.status.success(), "cannot compile {}:\n{}", self.name, written(&done));
                Ok(binary)
            })
            .await
            .map(PathBuf::as_path)
    }
}

fn written(done: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// Gives each test of a Go module a test of the same name, and one that none is forgotten.
macro_rules! go_tests {
    ($module:ident: $folder:literal, $tested:ident, $($test:ident)*) => {
        #[allow(non_snake_case, reason = "the names are Go's")]
        mod $module {
            use super::{GoModule, Result, Tested};

            static MODULE: GoModule = GoModule::new($folder, Tested::$tested);

            $(#[tokio::test]
            async fn $test() -> Result<()> {
                MODULE.run(stringify!($test)).await
            })*

            #[tokio::test]
            async fn every_test_is_run() -> Result<()> {
                let here = [$(stringify!($test)),*].map(str::to_owned).into();
                assert_eq!(MODULE.tests().await?, here);
                Ok(())
            }
        }
    };
}

go_tests!(
    kms: "kms", Plugin,
    TestAPIServerHoldsThePluginToItsVersion
    TestAPIServerMovesFromV1ToV2
    TestAPIServerNamesTheProviderThatFails
    TestAPIServerReloadsItsConfiguration
    TestAPIServerRotatesBetweenTwoProviders
    TestAPIServerSeesANewKey
    TestAPIServerStartsBeforeKMS
    TestAPIServerTakesNamesAsTheyAre
    TestAPIServerTellsWhatIsWrong
    TestAPIServerWritesAndReads
    TestAnswersAreWithinTheLimits
    TestBadCiphertexts
    TestCodesTellRefusalsApart
    TestConcurrentAccess
    TestDataIsInterchangeableWithTheAWSEncryptionProvider
    TestDataIsInterchangeableWithTheRule
    TestDataOfAnotherKeyIsRead
    TestDataWithoutThePrefix
    TestDeadlines
    TestDecryptOnlyKeys
    TestEnvelopesAreReadByOthers
    TestEqualDecryptsAreOneCall
    TestEveryCallOnAnAbstractSocket
    TestEveryCallWithEveryAuthority
    TestHeadersOfEverySize
    TestKeysFailApart
    TestListensOnWhatAnEndpointSays
    TestLocalKEKIsReadBeforeItIsWritten
    TestLocalKEKSparesCalls
    TestManyCallersOnOneConnection
    TestManyConnections
    TestMessagesOverTheLimit
    TestOneConnectionForManyCalls
    TestPlaintextSizes
    TestPluginGoesAndComesBack
    TestPluginStartsLate
    TestReadsGoOnWithoutKMS
    TestSecondPluginOnALiveSocketGivesUp
    TestStatusDoesNotWaitForKMS
    TestSwapUnderALiveAPIServer
    TestUnknownMethods
);

go_tests!(
    kms_v031: "kms-v031", Plugin,
    TestAPIServerWritesAndReads
    TestV2Client
);

go_tests!(
    csi: "csi", Driver,
    TestAVolumeByTheKubeletsMessages
    TestEveryAuthority
    TestKubeletRegistersTheDriver
    TestSanityWithTokensInSecrets
    TestSanityWithTokensInTheContext
    TestUnknownCallsAreUnimplemented
);

#[tokio::test]
async fn python_asks_and_opens_what_was_written() -> Result<()> {
    const CONTEXT: &str = "cluster=prod,purpose=etcd";
    let kms = Kms::new().await?;
    let folder = tmpfs_dir()?;
    let sockets = ["aep.sock", "local-kek.sock"].map(|name| folder.path().join(name).display().to_string());
    let [aep, local_kek] = &sockets;
    let name = unique_name("@coffer-conformance");
    let _plugins = [
        start_plugin(&kms, CONTEXT, &[aep.clone(), name.clone()], "aep").await?,
        start_plugin(&kms, CONTEXT, std::slice::from_ref(local_kek), "local-kek").await?,
    ];
    let done = Command::new(PYTHON)
        .args(["check", "--kms-endpoint", kms.endpoint, "--key", &kms.key, "--context", CONTEXT])
        .args(["--socket", aep, "--abstract", &name, "--local-kek", local_kek])
        .envs(kms.aws.environment(kms.endpoint))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(done.status.success(), "{}", written(&done));
    Ok(())
}

async fn start_plugin(kms: &Kms, context: &str, sockets: &[String], format: &str) -> Result<Process> {
    let sets = sockets
        .iter()
        .flat_map(|socket| ["--listen", socket, "--key", &kms.key, "--encryption-context", context].map(str::to_owned));
    let plugin = Program::new("coffer-kms")
        .args(["--health-port=127.0.0.1:0", "--write-format", format])
        .args(sets)
        .envs(kms.aws.environment(kms.endpoint))
        .start()?;
    eventually(SOON, async || {
        for socket in sockets.iter().filter(|socket| !socket.starts_with('@')) {
            ensure!(Path::new(socket).exists(), "{socket} is not there:\n{}", plugin.stderr());
        }
        Ok(())
    })
    .await?;
    Ok(plugin)
}
