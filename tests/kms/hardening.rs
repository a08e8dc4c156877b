//! Under the seccomp profile that goes with it, which every plugin of these tests has: what no other test of it does.

use anyhow::{Result, ensure};
use bed::{Program, seccomp::confined};
use serde_json::json;

use crate::fixture::{Fixture, SOON};

/// Hands a socket on as systemd does: it is number 3, and the environment says whose it is and what it is called.
const ACTIVATE: &str = r#"
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "kms"}
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[tokio::test]
async fn a_socket_of_systemds_is_served_and_the_doctor_is_content() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let socket = fixture.socket(0);
    let mut wrapper = vec!["python3".into(), "-c".into(), ACTIVATE.into(), socket.clone().into_os_string()];
    wrapper.extend(confined("coffer-kms")?.map(Into::into));
    let program = fixture.program(&[]).under(wrapper).args(["--key", &key, "--listen=fd:kms"]);
    let plugin = fixture.start(program).await?;
    let field = |name| plugin.process.proc().status_field(name);
    ensure!(field("Seccomp")? == "2" && field("NoNewPrivs")? == "1");
    plugin.api.becomes("ok").await?;
    let encrypted = plugin.api.encrypt(b"seed").await?;
    ensure!(plugin.api.decrypt(&encrypted.ciphertext, &encrypted.key_id).await? == b"seed");
    ensure!(plugin.healthz(200).await? == "OK");

    let config = socket.with_file_name("encryption.yaml");
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [
            {"kms": {"apiVersion": "v2", "name": "kms-1", "endpoint": format!("unix://{}", socket.display())}},
            {"identity": {}},
        ]}],
    });
    std::fs::write(&config, text.to_string())?;
    let doctor = Program::new("coffer-kms").under(confined("coffer-kms")?).args(["doctor", "--encryption-config"]);
    let doctor = doctor.arg(config).start()?;
    let status = doctor.wait(SOON).await?;
    ensure!(status.success() && doctor.stdout().contains("Decrypt took"), "{}{}", doctor.stdout(), doctor.stderr());
    Ok(())
}
