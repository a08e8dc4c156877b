//! One certificate, and whether a chain verifies: as the API server's own TLS does it.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::crypto::WebPkiSupportedAlgorithms;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

/// A certificate, and from when to when it is good, in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) begins: i64,
    pub(super) ends: i64,
}

impl Certificate {
    /// Reads one, of whatever kind.
    pub(super) fn read(der: CertificateDer<'static>) -> Result<Self, String> {
        let parsed = EndEntityCert::try_from(&der).map_err(|error| format!("no certificate: {error}"))?;
        // The parser keeps the two times to itself, but says them when it is asked about a time outside of them;
        // which it looks at before all else.
        let at = |seconds| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            parsed.verify_for_usage(algorithms(), &[], &[], time, KeyUsage::server_auth(), None, None).err()
        };
        let times = (at(0), at(AFTER_ALL));
        let (Some(Error::CertNotValidYet { not_before, .. }), Some(Error::CertExpired { not_after, .. })) = times
        else {
            return Err("a certificate whose times cannot be".to_owned());
        };
        let (begins, ends) = (seconds(not_before), seconds(not_after));
        Ok(Self { der, begins, ends })
    }

    /// Reads all that are in a PEM file; what else is in it is passed over, as the API server does.
    pub(super) fn read_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        CertificateDer::pem_slice_iter(pem)
            .map(|der| der.map_err(|error| format!("not valid PEM: {error}")).and_then(Self::read))
            .collect()
    }

    pub(super) fn pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        // Base64 is ASCII: no line is cut within a character.
        let lines = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]);
        let body: String = lines.flat_map(|line| [line, "\n"]).collect();
        format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
    }

    pub(super) fn is_valid(&self, now: i64) -> bool {
        self.validity(now).is_ok()
    }

    /// The text is what is wrong at `now`.
    pub(super) fn validity(&self, now: i64) -> Result<(), String> {
        if now < self.begins {
            let early = length(self.begins - now);
            return Err(format!("the certificate is not valid before {early} from now: is the clock right?"));
        }
        if now > self.ends {
            return Err(format!("the certificate ended {} ago", length(now - self.ends)));
        }
        Ok(())
    }

    /// The public key, in DER, as it stands in a certificate; `None` for one that cannot be parsed.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        let parsed = EndEntityCert::try_from(&self.der).ok()?;
        Some(parsed.subject_public_key_info().to_vec())
    }

    /// Whether both are for the same subject: then what the one's key signs is found to be the other's.
    pub(super) fn has_subject_of(&self, other: &Self) -> bool {
        match (EndEntityCert::try_from(&self.der), EndEntityCert::try_from(&other.der)) {
            (Ok(one), Ok(other)) => one.subject() == other.subject(),
            _ => false,
        }
    }
}

/// Whether who trusts `anchors` takes `chain`, leaf first, as a server's of that name. The text says why not.
pub(super) fn verify(
    chain: &[Certificate],
    anchors: &[Certificate],
    name: &ServerName<'_>,
    now: i64,
) -> Result<(), String> {
    let Some((leaf, rest)) = chain.split_first() else {
        return Err("there is no certificate".to_owned());
    };
    leaf.validity(now)?;
    let parsed = EndEntityCert::try_from(&leaf.der).map_err(|error| error.to_string())?;
    let shown = name.to_str();
    parsed
        .verify_is_valid_for_subject_name(name)
        .map_err(|_| format!("the certificate is not for `{shown}`: issue one that names it"))?;
    // Go takes a certificate that is trusted itself, as cert-manager's self-signed ones are.
    if anchors.contains(leaf) {
        return Ok(());
    }
    // Unlike the parser here, Go looks at the times of a CA too.
    let valid: Vec<_> = anchors.iter().filter(|anchor| anchor.is_valid(now)).collect();
    let trusted: Vec<_> = valid.iter().filter_map(|anchor| anchor_from_trusted_cert(&anchor.der).ok()).collect();
    let between: Vec<_> = rest.iter().map(|certificate| certificate.der.clone()).collect();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    let usage = KeyUsage::server_auth();
    match parsed.verify_for_usage(algorithms(), &trusted, &between, time, usage, None, None) {
        Ok(_) => Ok(()),
        Err(Error::UnknownIssuer) => Err("its CA is not among those that are trusted there".to_owned()),
        Err(Error::InvalidSignatureForPublicKey) => {
            Err("a CA of that name is trusted there, but it is not the one that signed it".to_owned())
        }
        Err(error) => Err(format!("{error}")),
    }
}

/// How late it is, in seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A length of time for people: its two largest units are enough.
fn length(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let coarse = match seconds {
        0..3600 => seconds,
        3600..172_800 => seconds - seconds % 60,
        _ => seconds - seconds % 3600,
    };
    humantime::format_duration(Duration::from_secs(coarse)).to_string()
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn algorithms() -> &'static [&'static dyn rustls_pki_types::SignatureVerificationAlgorithm] {
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| default_provider().signature_verification_algorithms);
    ALGORITHMS.all
}

/// Later than a certificate can say: the last second of the year 9999.
const AFTER_ALL: u64 = 253_402_300_800;
