//! A pod's projected service-account token.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use tempfile::TempDir;

use crate::{tmpfs_dir, unique_id};

/// How long a token says it is valid: the kubelet's projected tokens for AWS live a day.
const LIFETIME: Duration = Duration::from_secs(86_400);

/// A file with a web-identity token: a JWT in all but its signature, which is made up.
#[derive(Debug)]
pub struct TokenFile {
    folder: TempDir,
    token: String,
}

impl TokenFile {
    /// Writes a token for a subject (`system:serviceaccount:NAMESPACE:NAME`) and an audience
    /// (`sts.amazonaws.com` for AWS).
    pub fn new(subject: &str, audience: &str) -> Result<Self> {
        let mut file = Self { folder: tmpfs_dir()?, token: String::new() };
        file.replace(subject, audience)?;
        Ok(file)
    }

    /// Where the token is: the value for `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// The token that is in the file now. No two are alike.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Puts a new token in the old one's place, in one step.
    pub fn replace(&mut self, subject: &str, audience: &str) -> Result<()> {
        let token = web_identity_token(subject, audience)?;
        write_whole(&self.path(), &token)?;
        self.token = token;
        Ok(())
    }
}

/// A web-identity token of a subject for an audience: a JWT in all but its signature. No two are alike.
pub fn web_identity_token(subject: &str, audience: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let header = json!({"alg": "RS256", "kid": "coffer-test", "typ": "JWT"});
    let claims = json!({
        "iss": "https://oidc.example.test/id/COFFER",
        "sub": subject,
        "aud": [audience],
        "iat": now.as_secs(),
        "nbf": now.as_secs(),
        "exp": (now + LIFETIME).as_secs(),
        "jti": unique_id(),
    });
    let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signature = part(&[0x5a; 256]);
    Ok(format!("{}.{}.{signature}", part(header.to_string().as_bytes()), part(claims.to_string().as_bytes())))
}

/// Makes the file's content `text` so that no reader sees half of it.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot put a token at {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn holds_a_readable_token_and_replaces_it() {
        let mut file = TokenFile::new("system:serviceaccount:shop:api", "sts.amazonaws.com").unwrap();
        let first = fs::read_to_string(file.path()).unwrap();
        assert_eq!(first, file.token());

        let [_, claims, _] = first.split('.').collect::<Vec<_>>()[..] else { panic!("not three parts: {first}") };
        let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:shop:api");
        assert_eq!(claims["aud"][0], "sts.amazonaws.com");

        file.replace("system:serviceaccount:shop:api", "sts.amazonaws.com").unwrap();
        assert_ne!(first, file.token());
        assert_eq!(fs::read_to_string(file.path()).unwrap(), file.token());
    }
}
