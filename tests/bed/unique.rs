//! Names that no other test uses.

/// A random UUID (version 4), fit for a `ClientRequestToken`.
pub fn unique_id() -> String {
    let bits = fastrand::u128(..);
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48) & 0x3fff,
        low & 0xffff_ffff_ffff
    )
}

/// `prefix-` and eight random characters.
///
/// Eight, because Secrets Manager may take a name that ends in a hyphen and six for part of
/// an ARN.
pub fn unique_name(prefix: &str) -> String {
    format!("{prefix}-{:08x}", fastrand::u32(..))
}

/// A random AWS account number.
///
/// LocalStack keeps accounts apart, and so a test that takes its own can use plain names.
pub fn unique_account() -> String {
    fastrand::u64(100_000_000_000..1_000_000_000_000).to_string()
}
