//! Selectors and formats, from AWS to the file.

use anyhow::{Result, ensure};
use bed::aws::ParameterType;

use crate::fixture::Fixture;

const JSON: &str =
    r#"{"user": "app", "password": "it's #1 \"quoted\"", "port": 5432, "tags": ["a", "b"], "ratio": 1.50}"#;

#[tokio::test]
async fn a_value_is_selected_from_and_written_as_asked() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", JSON).await?;
    fixture.aws.create_secret("prod/key", &b"\x00\x01\xff"[..]).await?;
    fixture.aws.put_parameter("/prod/json", ParameterType::SecureString, r#"{"nested": {"level": "info"}}"#).await?;
    let files = [
        ("raw", "secretsmanager:prod/db", "", JSON),
        ("json", "secretsmanager:prod/db", ", format: json", JSON),
        ("password", "secretsmanager:prod/db", ", select: password", r#"it's #1 "quoted""#),
        ("password.json", "secretsmanager:prod/db", ", select: password, format: json", r#""it's #1 \"quoted\"""#),
        ("port", "secretsmanager:prod/db", ", select: port", "5432"),
        ("ratio", "secretsmanager:prod/db", ", select: ratio", "1.50"),
        ("tags", "secretsmanager:prod/db", ", select: tags", r#"["a","b"]"#),
        (
            "login.env",
            "secretsmanager:prod/db",
            ", select: '{USER: user, PORT: port}', format: dotenv",
            "USER=app\nPORT=5432\n",
        ),
        (
            "login.yaml",
            "secretsmanager:prod/db",
            ", select: '{user: user, port: port}', format: yaml",
            "\"user\": \"app\"\n\"port\": 5432\n",
        ),
        (
            "login.properties",
            "secretsmanager:prod/db",
            ", select: '{user: user, port: port}', format: properties",
            "user=app\nport=5432\n",
        ),
        ("key.b64", "secretsmanager:prod/key", ", format: base64", "AAH/"),
        ("nested/level", "parameterstore:/prod/json", ", select: nested.level", "info"),
    ];
    fixture.config("1h", files.map(|(name, from, rest, _)| format!("{{name: {name}, from: '{from}'{rest}}}")))?;
    fixture.once().await?;
    for (name, _, _, expected) in files {
        let found = fixture.read(name)?;
        ensure!(found == expected, "{name} holds {found:?}, not {expected:?}");
    }
    Ok(())
}
