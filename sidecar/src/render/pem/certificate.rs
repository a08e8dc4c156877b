//! As much of X.509 (RFC 5280 §4.1) as it takes to put certificates in order.

use std::ops::Range;

use rustls::crypto::aws_lc_rs::default_provider;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;

/// The extension subjectKeyIdentifier, 2.5.29.14.
const SUBJECT_KEY: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0e];

/// The extension authorityKeyIdentifier, 2.5.29.35.
const AUTHORITY_KEY: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];

/// A certificate in DER, with the places of what is asked of it.
#[derive(Clone)]
pub(in crate::render) struct Certificate {
    der: Vec<u8>,
    signed: Range<usize>,
    signature_algorithm: Range<usize>,
    signature: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
    public_key: Range<usize>,
    subject_key: Option<Range<usize>>,
    authority_key: Option<Range<usize>>,
    is_self_signed: bool,
}

impl Certificate {
    /// Reads a certificate. `None` when `der` is not one, or not one alone.
    pub(super) fn parse(der: Vec<u8>) -> Option<Self> {
        let mut file = Reader::of(&der);
        let mut outer = file.only(SEQUENCE)?;
        let start = outer.at;
        let mut body = outer.next_of(SEQUENCE)?;
        let signed = start..outer.at;
        body.optional(0xa0); // version
        body.next_of(INTEGER)?; // serial number
        body.next_of(SEQUENCE)?; // signature algorithm
        let issuer = body.next_of(SEQUENCE)?.range();
        body.next_of(SEQUENCE)?; // validity
        let subject = body.next_of(SEQUENCE)?.range();
        let start = body.at;
        body.next_of(SEQUENCE)?;
        let public_key = start..body.at;
        body.optional(0x81); // unique identifiers
        body.optional(0x82);
        let (mut subject_key, mut authority_key) = (None, None);
        if let Some(mut extensions) = body.optional(0xa3) {
            let mut extensions = extensions.only(SEQUENCE)?;
            while extensions.at < extensions.end {
                let mut extension = extensions.next_of(SEQUENCE)?;
                let start = extension.at;
                extension.next_of(0x06)?;
                let name = &der[start..extension.at];
                extension.optional(0x01); // critical
                let mut value = extension.next_of(OCTET_STRING)?;
                if name == SUBJECT_KEY {
                    subject_key = Some(value.only(OCTET_STRING)?.range());
                } else if name == AUTHORITY_KEY {
                    authority_key = value.only(SEQUENCE)?.optional(0x80).map(|key| key.range());
                }
            }
        }
        let signature_algorithm = outer.next_of(SEQUENCE)?.range();
        let signature = outer.only(BIT_STRING)?.bits()?;
        let mut certificate = Self {
            signed,
            signature_algorithm,
            signature,
            issuer,
            subject,
            public_key,
            subject_key,
            authority_key,
            is_self_signed: false,
            der,
        };
        certificate.is_self_signed = certificate.has_issued(&certificate);
        Some(certificate)
    }

    /// The whole certificate.
    pub(in crate::render) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The SubjectPublicKeyInfo.
    pub(in crate::render) fn public_key(&self) -> &[u8] {
        &self.der[self.public_key.clone()]
    }

    /// Whether the certificate's issuer is itself.
    pub(super) fn is_self_signed(&self) -> bool {
        self.is_self_signed
    }

    /// Whether this certificate has issued `other`: it has the name that `other` gives for its
    /// issuer, and the key. A CA that changes its key may keep its name.
    pub(super) fn has_issued(&self, other: &Self) -> bool {
        if self.der[self.subject.clone()] != other.der[other.issuer.clone()] {
            return false;
        }
        let key = self.subject_key.clone().map(|key| &self.der[key]);
        let named = other.authority_key.clone().map(|key| &other.der[key]);
        match (self.has_signed(other), named) {
            (Some(true), _) => true,
            // By an algorithm of the past, or with a key too short for today.
            (_, Some(named)) if key.is_some() => key == Some(named),
            (signed, _) => signed.is_none(),
        }
    }

    /// Whether the signature of `other` is by this certificate's key. `None` when its algorithm is
    /// none of those that are trusted today.
    fn has_signed(&self, other: &Self) -> Option<bool> {
        let public_key = self.public_key();
        let mut info = Reader::of(public_key).only(SEQUENCE)?;
        let key_algorithm = &public_key[info.next_of(SEQUENCE)?.range()];
        let key = &public_key[info.only(BIT_STRING)?.bits()?];
        let signature_algorithm = &other.der[other.signature_algorithm.clone()];
        let algorithms = default_provider().signature_verification_algorithms.all;
        let mut algorithms = algorithms.iter().filter(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == key_algorithm
                && algorithm.signature_alg_id().as_ref() == signature_algorithm
        });
        let algorithm = algorithms.next()?;
        let (signed, signature) = (&other.der[other.signed.clone()], &other.der[other.signature.clone()]);
        Some(algorithm.verify_signature(key, signed, signature).is_ok())
    }
}

/// The AlgorithmIdentifier at the head of a SubjectPublicKeyInfo.
#[cfg(feature = "pkcs12")]
pub(in crate::render) fn algorithm(public_key: &[u8]) -> Option<&[u8]> {
    let mut info = Reader::of(public_key).only(SEQUENCE)?;
    let start = info.at;
    info.next_of(SEQUENCE)?;
    Some(&public_key[start..info.at])
}

/// Reads elements of DER (X.690 §8.1, §10.1) one after the other.
struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn of(input: &'a [u8]) -> Self {
        Self { input, at: 0, end: input.len() }
    }

    /// What a BIT STRING of whole bytes holds, when this is its content.
    fn bits(&self) -> Option<Range<usize>> {
        let content = self.input.get(self.range())?;
        (content.first() == Some(&0)).then_some(self.at + 1..self.end)
    }

    fn range(&self) -> Range<usize> {
        self.at..self.end
    }

    /// The content of the next element, which has to be of that tag.
    fn next_of(&mut self, tag: u8) -> Option<Self> {
        let (head, rest) = self.input.get(self.at..self.end)?.split_at_checked(2)?;
        if head[0] != tag {
            return None;
        }
        let (size, length) = match head[1] {
            short @ 0..=0x7f => (0, usize::from(short)),
            long @ 0x81..=0x84 => {
                let size = usize::from(long & 0x7f);
                (size, rest.get(..size)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
            }
            _ => return None,
        };
        let at = self.at + 2 + size;
        let end = at.checked_add(length).filter(|end| *end <= self.end)?;
        self.at = end;
        Some(Self { input: self.input, at, end })
    }

    /// The content of the next element if it is of that tag.
    fn optional(&mut self, tag: u8) -> Option<Self> {
        if self.at < self.end && self.input.get(self.at) == Some(&tag) { self.next_of(tag) } else { None }
    }

    /// The content of the one element there is.
    fn only(&mut self, tag: u8) -> Option<Self> {
        let content = self.next_of(tag)?;
        (self.at == self.end).then_some(content)
    }
}
