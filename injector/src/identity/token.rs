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

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::super::{AddressType, Kind};
    use super::*;

    fn key(kind: Kind) -> Key {
        Key { namespace: "shop".into(), service_account: "api".into(), kind }
    }

    fn web() -> Key {
        key(Kind::WebIdentity { role_arn: "arn:aws:iam::123456789012:role/app".into() })
    }

    fn jwt(claims: &str) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{\"alg\":\"RS256\"}"), part(claims), part("signature"))
    }

    fn tokens(token: &str) -> Tokens {
        let entry =
            serde_json::json!({"sts.amazonaws.com": {"token": token, "expirationTimestamp": "2030-01-01T00:00:00Z"}});
        Tokens::from_json(&entry.to_string()).unwrap()
    }

    fn map(text: &str) -> HashMap<String, String> {
        HashMap::from([(TOKENS_KEY.to_owned(), text.to_owned())])
    }

    #[test]
    fn the_secrets_go_before_the_context() {
        let given = |token: &str| format!("{{\"sts.amazonaws.com\":{{\"token\":\"{token}\"}}}}");
        let read = |secrets, context| {
            let token = Tokens::parse(&secrets, &context).unwrap().of(&web()).unwrap();
            String::from_utf8(token.secret.expose().to_vec()).unwrap()
        };
        assert_eq!(read(map(&given("a")), map(&given("b"))), "a");
        assert_eq!(read(HashMap::new(), map(&given("b"))), "b");
        assert_eq!(read(map(""), map(&given("b"))), "b");
    }

    #[test]
    fn each_kind_has_its_audience() {
        let text = r#"{"sts.amazonaws.com": {"token": "s", "expirationTimestamp": "2030-01-01T00:00:00Z"},
                       "pods.eks.amazonaws.com": {"token": "p", "expirationTimestamp": "soon"}}"#;
        let tokens = Tokens::from_json(text).unwrap();
        let sts = tokens.of(&web()).unwrap();
        assert_eq!(sts.secret.expose(), b"s");
        assert_eq!(sts.expires, Some(UNIX_EPOCH + Duration::from_secs(1_893_456_000)));
        let pods = tokens.of(&key(Kind::PodIdentity { address: AddressType::Auto })).unwrap();
        assert_eq!((pods.secret.expose(), pods.expires), (&b"p"[..], None));
    }

    #[test]
    fn what_is_missing_is_told_in_the_words_that_people_search_for() {
        let text = |error: TokenError| error.to_string();
        let none = text(Tokens::parse(&HashMap::new(), &map("")).unwrap_err());
        assert!(
            none.starts_with(
                "CSI token error: serviceAccount.tokens not provided - ensure tokenRequests is configured in CSIDriver spec"
            ),
            "{none}"
        );
        let garbage = text(Tokens::from_json("{\"sts.amazonaws.com\": \"hunter2\"}").unwrap_err());
        assert!(garbage.starts_with("CSI token error: ") && !garbage.contains("hunter2"), "{garbage}");
        assert!(garbage.contains(" - ensure tokenRequests is configured in CSIDriver spec"), "{garbage}");
        for empty in ["{}", "null", "{\"pods.eks.amazonaws.com\": {\"token\": \"p\"}}"] {
            let missing = text(Tokens::from_json(empty).unwrap().of(&web()).unwrap_err());
            assert!(missing.starts_with("token for audience \"sts.amazonaws.com\" not found - "), "{missing}");
        }
        for empty in ["{}", "null", "{\"token\": \" \"}"] {
            let tokens = Tokens::from_json(&format!("{{\"sts.amazonaws.com\": {empty}}}")).unwrap();
            assert_eq!(tokens.of(&web()).unwrap_err(), TokenError::Empty { audience: "sts.amazonaws.com" });
        }
    }

    #[test]
    fn a_token_of_somebody_else_is_refused() {
        let own = jwt(r#"{"sub": "system:serviceaccount:shop:api", "aud": ["sts.amazonaws.com"]}"#);
        assert_eq!(tokens(&format!("{own}\n")).of(&web()).unwrap().secret.expose(), own.as_bytes());
        for other in [
            "system:serviceaccount:shop:admin",
            "system:serviceaccount:other:api",
            "",
            "system:serviceaccount:shop:api2",
        ] {
            let error = tokens(&jwt(&serde_json::json!({"sub": other}).to_string())).of(&web()).unwrap_err();
            assert!(matches!(&error, TokenError::Foreign { found, .. } if found == other), "{error}");
        }
        let error = tokens(&jwt(r#"{"sub": 7}"#)).of(&web()).unwrap_err().to_string();
        assert!(error.contains("is of `7`, and the pod runs as `system:serviceaccount:shop:api`"), "{error}");
        let long = jwt(&serde_json::json!({"sub": "\n".repeat(5000)}).to_string());
        let error = tokens(&long).of(&web()).unwrap_err().to_string();
        assert!(error.len() < 1000 && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn what_is_no_jwt_is_for_aws_to_judge() {
        for token in ["opaque", "a.b.c", "a.b", "a.b.c.d", &jwt("no json"), &jwt("{}"), &jwt("{\"sub\": null}")] {
            assert!(tokens(token).of(&web()).is_ok(), "{token}");
        }
        let error = tokens(&"x".repeat(LONGEST + 1)).of(&web()).unwrap_err();
        assert_eq!(error, TokenError::TooLong { audience: "sts.amazonaws.com", length: LONGEST + 1 });
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,300}", token in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tokens::from_json(&text).map(|tokens| tokens.of(&web()).is_ok());
            let _ = subject(&token);
        }

        #[test]
        fn garbage_in_the_kubelets_form_never_panics(
            token in ".{0,80}", end in ".{0,40}", claims in "[ -~]{0,80}",
        ) {
            let entry = serde_json::json!({"sts.amazonaws.com": {"token": token, "expirationTimestamp": end}});
            let _ = Tokens::from_json(&entry.to_string()).unwrap().of(&web());
            let _ = tokens(&jwt(&claims)).of(&web());
            let deep = "[".repeat(10_000);
            prop_assert!(Tokens::from_json(&deep).is_err());
            let _ = tokens(&jwt(&deep)).of(&web());
        }
    }
}
