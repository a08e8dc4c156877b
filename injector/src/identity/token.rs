//! The tokens that the kubelet gives along with a volume.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use coffer_runtime::Secret;
use serde::Deserialize;

use super::Key;

/// Where the kubelet puts them: in the request's secrets where the CSIDriver says
/// `serviceAccountTokenInSecrets`, else in its volume context.
pub const TOKENS_KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Longest token that STS takes, in characters (STS API reference, AssumeRoleWithWebIdentity,
/// `WebIdentityToken`); the kubelet's have one to three thousand.
const LONGEST: usize = 20_000;
/// Longest part of a strange token's subject that is shown.
const SHOWN: usize = 200;

/// A service account's token for one audience.
#[derive(Debug)]
pub struct Token {
    /// The token itself.
    pub secret: Secret,
    /// When it ends, where the kubelet says so.
    pub expires: Option<SystemTime>,
}

/// The tokens of one request, by audience.
#[derive(Debug)]
pub struct Tokens(BTreeMap<String, Token>);

/// A request has no token to ask AWS with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The kubelet gave none: the CSIDriver does not ask for any.
    #[error(
        "CSI token error: serviceAccount.tokens not provided - ensure tokenRequests is configured in CSIDriver spec; \
         the audiences are sts.amazonaws.com for IRSA and pods.eks.amazonaws.com for EKS Pod Identity"
    )]
    NotProvided,
    /// What was given is not of the kubelet.
    #[error(
        "CSI token error: failed to parse serviceAccount.tokens: no JSON map of audiences to tokens ({at}) - ensure \
         tokenRequests is configured in CSIDriver spec; nobody but the kubelet is to write {TOKENS_KEY}"
    )]
    Unreadable {
        /// Line and column.
        at: String,
    },
    /// The CSIDriver asks for tokens of other audiences only.
    #[error(
        "token for audience \"{audience}\" not found - ensure tokenRequests includes this audience in CSIDriver; add \
         `- audience: {audience}` to the object's spec.tokenRequests"
    )]
    NoAudience {
        /// The audience.
        audience: &'static str,
    },
    /// It has no characters.
    #[error("token for audience \"{audience}\" is empty; the kubelet asks the API server for it, see its log")]
    Empty {
        /// The audience.
        audience: &'static str,
    },
    /// It cannot be a token.
    #[error(
        "token for audience \"{audience}\" has {length} characters, and STS takes {LONGEST}; it is none of the kubelet's"
    )]
    TooLong {
        /// The audience.
        audience: &'static str,
        /// How many it has.
        length: usize,
    },
    /// It speaks for somebody else.
    #[error(
        "token for audience \"{audience}\" is of `{found}`, and the pod runs as `{wanted}`: refused; nobody but the \
         kubelet is to write {TOKENS_KEY}, take it out of the volume's attributes or its nodePublishSecretRef"
    )]
    Foreign {
        /// The audience.
        audience: &'static str,
        /// The subject that the token names.
        found: String,
        /// The pod's.
        wanted: String,
    },
}

impl Tokens {
    /// Reads the tokens of a request: from its `secrets` where they are there, else from its volume
    /// `context`. A pod's author can write either where the kubelet does not, so what is taken out of
    /// them is compared with the pod; see [`Tokens::of`].
    pub fn parse(secrets: &HashMap<String, String>, context: &HashMap<String, String>) -> Result<Self, TokenError> {
        let found = [secrets, context].into_iter().filter_map(|map| map.get(TOKENS_KEY)).find(|text| !text.is_empty());
        Self::from_json(found.ok_or(TokenError::NotProvided)?)
    }

    /// Reads the kubelet's JSON: `{"AUDIENCE": {"token": "…", "expirationTimestamp": "RFC 3339"}}`.
    pub fn from_json(text: &str) -> Result<Self, TokenError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry {
            #[serde(default)]
            token: String,
            #[serde(default)]
            expiration_timestamp: Option<String>,
        }
        // What serde says of a wrong value may quote it: only the place is told.
        let entries: Option<BTreeMap<String, Option<Entry>>> = serde_json::from_str(text).map_err(|error| {
            TokenError::Unreadable { at: format!("line {}, column {}", error.line(), error.column()) }
        })?;
        let token = |entry: Option<Entry>| {
            let (token, end) = entry.map(|entry| (entry.token, entry.expiration_timestamp)).unwrap_or_default();
            Token { secret: Secret::from(token), expires: end.and_then(|end| humantime::parse_rfc3339(&end).ok()) }
        };
        let entries = entries.unwrap_or_default();
        Ok(Self(entries.into_iter().map(|(audience, entry)| (audience, token(entry))).collect()))
    }

    /// The token of that identity: for its kind's audience, and of its service account as far as the
    /// token says whose it is. What is no JWT is for AWS to judge.
    pub fn of(&self, key: &Key) -> Result<Token, TokenError> {
        let audience = key.kind.audience();
        let token = self.0.get(audience).ok_or(TokenError::NoAudience { audience })?;
        let bytes = token.secret.expose().trim_ascii();
        if bytes.is_empty() {
            return Err(TokenError::Empty { audience });
        }
        if bytes.len() > LONGEST {
            return Err(TokenError::TooLong { audience, length: bytes.len() });
        }
        let wanted = key.subject();
        match subject(bytes) {
            Some(found) if found != wanted => Err(TokenError::Foreign { audience, found: shown(&found), wanted }),
            _ => Ok(Token { secret: Secret::copy_of(bytes), expires: token.expires }),
        }
    }
}

/// Whom a JWT is of, as it says itself: nothing here is proven, and AWS checks the signature. `None`
/// for what is no JWT, or names nobody.
fn subject(token: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        sub: Option<serde_json::Value>,
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(_header), Some(claims), Some(_signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    // A subject that is no text is nobody's whom we know, and so is refused as another's.
    claims.sub.map(|sub| sub.as_str().map_or_else(|| sub.to_string(), str::to_owned))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}
