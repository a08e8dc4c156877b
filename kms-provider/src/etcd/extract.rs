//! From what etcdctl printed to objects, with whoever can decrypt a DEK.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use coffer_runtime::Secret;

use super::object::is_whole;
use super::{DekSource, Entry, KmsApi, Plain, Printed, Sealed, Stored, StoredError, manifest};
use crate::{Kind, Trouble};

/// In which form objects are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A manifest for `kubectl apply`; of several objects a `List` of them.
    Json,
    /// The bytes that were encrypted.
    Raw,
}

/// Why objects were not given out.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The value cannot be read.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The DEK cannot be decrypted.
    #[error("the data key cannot be decrypted: {0}")]
    Kms(Trouble),
    /// Whoever reads the output has gone, or its disk is full.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// The bytes of several objects in a row are of no use to anyone.
    #[error(
        "there are {0} values, and their bytes cannot be told apart in one output: use --output json, or get one key"
    )]
    RawOfMany(usize),
    /// Some are in the output, and the notes tell of the others.
    #[error("{failed} of {all} values could not be read{}", if failed == all { "" } else { "; the others are in the output" })]
    Some {
        /// How many are not in the output.
        failed: usize,
        /// How many there were.
        all: usize,
    },
}

impl ExtractError {
    /// Whether another command is needed, and the same one will fail again.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::RawOfMany(_) | Self::Stored(StoredError::NoEtcdKey | StoredError::KeyOfMany(_)))
    }

    /// Whether every other value will meet the same.
    fn concerns_all(&self) -> bool {
        match self {
            Self::Output(_) => true,
            Self::Kms(trouble) => {
                matches!(trouble.kind, Kind::Credentials | Kind::Unreachable | Kind::TimedOut | Kind::Throttled)
            }
            _ => false,
        }
    }
}

/// Writes the objects in `printed` to `output`. `decrypt` is asked for each DEK once. `note` is given what the
/// reader should know besides: that a value was not encrypted, which of several could not be read.
///
/// # Errors
/// Of one value, why it cannot be read. Of several, that some could not, after all others have been written.
pub async fn extract(
    printed: Printed,
    format: Format,
    decrypt: impl AsyncFn(DekSource<'_>) -> Result<Arc<Secret>, Trouble>,
    output: &mut impl Write,
    note: &mut impl FnMut(&str),
) -> Result<(), ExtractError> {
    let mut deks = Deks { decrypt, known: HashMap::new() };
    match (printed, format) {
        (Printed::One(entry), Format::Raw) => {
            output.write_all(deks.object(&entry, note).await?.expose())?;
        }
        (Printed::One(entry), Format::Json) => {
            output.write_all(manifest(&deks.object(&entry, note).await?)?.expose())?;
            output.write_all(b"\n")?;
        }
        (Printed::Many(entries), Format::Raw) => return Err(ExtractError::RawOfMany(entries.len())),
        (Printed::Many(entries), Format::Json) => list(&entries, &mut deks, output, note).await?,
    }
    Ok(output.flush()?)
}

/// One object that cannot be read does not keep the others back: this may be all that is left of a cluster.
async fn list<F: AsyncFn(DekSource<'_>) -> Result<Arc<Secret>, Trouble>>(
    entries: &[Entry],
    deks: &mut Deks<F>,
    output: &mut impl Write,
    note: &mut impl FnMut(&str),
) -> Result<(), ExtractError> {
    output.write_all(b"{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [")?;
    let (mut written, mut failed) = (0, 0);
    for entry in entries {
        let read = deks.object(entry, note).await;
        match read.and_then(|object| Ok(manifest(&object)?)) {
            Ok(text) => {
                output.write_all(if written == 0 { b"\n" } else { b",\n" })?;
                output.write_all(text.expose())?;
                written += 1;
            }
            Err(error) if error.concerns_all() => return Err(error),
            Err(error) => {
                failed += 1;
                note(&format!("{}: {error}", entry.etcd_key.as_deref().unwrap_or("a value")));
            }
        }
    }
    output.write_all(b"\n]}\n")?;
    if failed == 0 { Ok(()) } else { Err(ExtractError::Some { failed, all: entries.len() }) }
}

/// API, key id and ciphertext.
type DekName = (KmsApi, String, Vec<u8>);

/// The DEKs that were asked for. Over v2 an API server has one for as long as it runs, and every call costs, the
/// refused ones as well.
struct Deks<F> {
    decrypt: F,
    known: HashMap<DekName, Result<Arc<Secret>, Trouble>>,
}

impl<F: AsyncFn(DekSource<'_>) -> Result<Arc<Secret>, Trouble>> Deks<F> {
    /// The object in a value. `etcdctl get --print-value-only` ends it with a line break, which any value may
    /// also end with by itself: it is left out when with it nothing can be read.
    async fn object(&mut self, entry: &Entry, note: &mut impl FnMut(&str)) -> Result<Secret, ExtractError> {
        let value = entry.value.expose();
        let whole = self.open(value, entry, note).await;
        let (Err(ExtractError::Stored(error)), Some(shorter)) = (&whole, value.strip_suffix(b"\n")) else {
            return whole;
        };
        // Of two failures, that of the value which has the right form tells more.
        let malformed = matches!(error, StoredError::Damaged(_) | StoredError::CutOff(_));
        match self.open(shorter, entry, note).await {
            Err(_) if !malformed => whole,
            shorter => shorter,
        }
    }

    async fn open(&mut self, value: &[u8], entry: &Entry, note: &mut impl FnMut(&str)) -> Result<Secret, ExtractError> {
        match Stored::parse(value)? {
            Stored::Plain(Plain(object)) => {
                let object = match object.strip_suffix(b"\n") {
                    Some(shorter) if !is_whole(object) && is_whole(shorter) => shorter,
                    _ => object,
                };
                note(&format!("{} is not encrypted in etcd", entry.etcd_key.as_deref().unwrap_or("this value")));
                Ok(Secret::copy_of(object))
            }
            Stored::Sealed(sealed) => {
                // Told before it costs a call.
                if entry.etcd_key.is_none() && sealed.dek_source().api == KmsApi::V2 {
                    return Err(StoredError::NoEtcdKey.into());
                }
                let dek = self.dek(&sealed).await?;
                Ok(sealed.open(&dek, entry.etcd_key.as_deref())?)
            }
        }
    }

    async fn dek(&mut self, sealed: &Sealed<'_>) -> Result<Arc<Secret>, ExtractError> {
        let source = sealed.dek_source();
        let name = (source.api, source.key_id.to_owned(), source.ciphertext.to_vec());
        let dek = match self.known.get(&name) {
            Some(dek) => dek.clone(),
            None => {
                let dek = (self.decrypt)(source).await;
                self.known.insert(name, dek.clone());
                dek
            }
        };
        dek.map_err(ExtractError::Kms)
    }
}
