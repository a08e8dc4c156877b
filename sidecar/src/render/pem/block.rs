//! PEM blocks (RFC 7468), read leniently and written canonically.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use super::{BEGIN, PemError};
use crate::render::json::Out;

/// Bytes of DER on one line of PEM: 64 characters of base64.
const LINE: usize = 48;

/// One block.
pub(super) struct Block {
    /// Which one it is, for errors.
    pub(super) place: String,
    pub(super) content: Content,
}

/// What a block holds, as its label has it.
pub(super) enum Content {
    /// A private key.
    Key(Key),
    /// A certificate in DER.
    Certificate(Vec<u8>),
    /// Parameters, public keys, requests and the like.
    Other,
}

/// A private key in DER, by its encoding.
pub(in crate::render) enum Key {
    /// `PRIVATE KEY` (RFC 5958).
    Pkcs8(Zeroizing<Vec<u8>>),
    /// `RSA PRIVATE KEY` (RFC 8017).
    Pkcs1(Zeroizing<Vec<u8>>),
    /// `EC PRIVATE KEY` (RFC 5915).
    Sec1(Zeroizing<Vec<u8>>),
}

impl Key {
    /// The key in its encoding.
    pub(in crate::render) fn der(&self) -> &[u8] {
        let (Self::Pkcs8(der) | Self::Pkcs1(der) | Self::Sec1(der)) = self;
        der
    }

    /// Writes the key as PEM.
    pub(super) fn write(&self, out: Out<'_>) {
        let label = match self {
            Self::Pkcs8(_) => "PRIVATE KEY",
            Self::Pkcs1(_) => "RSA PRIVATE KEY",
            Self::Sec1(_) => "EC PRIVATE KEY",
        };
        write(label, self.der(), out);
    }
}

/// Reads the blocks of `text`, which stands in `field`. What is between blocks is passed over, and
/// so are all spaces within: line ends are lost or doubled in consoles and shells.
pub(super) fn read(text: &str, field: Option<&str>) -> Result<Vec<Block>, PemError> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let place = place(blocks.len() + 1, field);
        let broken = |reason| PemError::Block { place: place.clone(), reason };
        let (label, body) = rest[start + BEGIN.len()..].split_once("-----").ok_or_else(|| broken(NO_LABEL))?;
        if label.len() > 64 || !label.bytes().all(|byte| byte.is_ascii_uppercase() || b" 0123456789".contains(&byte)) {
            return Err(broken(NO_LABEL));
        }
        let end = format!("-----END {label}-----");
        let (body, after) = body.split_once(&end).ok_or_else(|| broken("its END line is missing"))?;
        if body.contains(BEGIN) {
            return Err(broken("its END line is missing"));
        }
        let content = content(label, body, &place)?;
        blocks.push(Block { place, content });
        rest = after;
    }
    Ok(blocks)
}

/// Writes `der` with LF, 64 characters a line, and a final newline.
pub(super) fn write(label: &str, der: &[u8], out: Out<'_>) {
    let mut line = [0; LINE.div_ceil(3) * 4];
    out(BEGIN);
    out(label);
    out("-----\n");
    for chunk in der.chunks(LINE) {
        let length = STANDARD.encode_slice(chunk, &mut line).expect("the buffer has a line's size");
        out(str::from_utf8(&line[..length]).expect("base64 is ASCII"));
        out("\n");
    }
    out("-----END ");
    out(label);
    out("-----\n");
    line.zeroize();
}

const NO_LABEL: &str = "its BEGIN line is malformed";

fn place(number: usize, field: Option<&str>) -> String {
    match field {
        Some(field) => format!("PEM block {number} of the field {field}"),
        None => format!("PEM block {number}"),
    }
}

fn content(label: &str, body: &str, place: &str) -> Result<Content, PemError> {
    let place = || place.to_owned();
    let is_key = label.ends_with("PRIVATE KEY");
    if is_key && (label.starts_with("ENCRYPTED") || body.contains("ENCRYPTED")) {
        return Err(PemError::EncryptedKey { place: place() });
    }
    let der = || decode(body).map_err(|reason| PemError::Block { place: place(), reason });
    Ok(match label {
        "PRIVATE KEY" => Content::Key(Key::Pkcs8(der()?)),
        "RSA PRIVATE KEY" => Content::Key(Key::Pkcs1(der()?)),
        "EC PRIVATE KEY" => Content::Key(Key::Sec1(der()?)),
        _ if is_key => return Err(PemError::UnusableKey { place: place() }),
        "CERTIFICATE" | "X509 CERTIFICATE" => Content::Certificate(der()?.to_vec()),
        _ => Content::Other,
    })
}

fn decode(body: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut digits = Zeroizing::new(Vec::with_capacity(body.len()));
    let mut bytes = body.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            _ if byte.is_ascii_whitespace() => {}
            // A line end that was escaped once too often.
            b'\\' if bytes.next_if(|next| matches!(next, b'n' | b'r')).is_some() => {}
            _ => digits.push(byte),
        }
    }
    let mut der = Zeroizing::new(vec![0; digits.len().div_ceil(4) * 3]);
    let length = STANDARD.decode_slice(&*digits, &mut der).map_err(|_| "it is not base64")?;
    der.truncate(length);
    if der.is_empty() {
        return Err("it is empty");
    }
    Ok(der)
}
