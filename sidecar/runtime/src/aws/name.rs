//! What names in AWS look like, for everything that takes one from a person.

/// Longest name of a region that is taken; the longest there is has 14 characters.
const REGION_MAX: usize = 64;
/// Longest ARN of a role (IAM API reference, Role).
const ROLE_ARN_MAX: usize = 2048;

/// Why a text can be no region's name, and the fix. It goes on from the text itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// It has nothing of one.
    #[error("is no AWS region; write one such as `eu-west-1`")]
    Other,
    /// It is one in capitals, or with other signs between its words.
    #[error("is no AWS region; did you mean `{0}`?")]
    Misspelt(String),
    /// It is a part of the region that it names.
    #[error("is an availability zone; did you mean `{0}`?")]
    Zone(String),
}

/// Checks that a text has the form of a region's name: `eu-west-1`, `us-gov-east-1`, `eusc-de-east-1`. New regions come
/// without a word, so no list of them is kept.
///
/// # Errors
/// What it is instead.
pub fn check_region(text: &str) -> Result<(), RegionError> {
    if is_region(text) {
        return Ok(());
    }
    let near = text.trim().to_ascii_lowercase().replace(['_', ' '], "-");
    let zone = near.strip_suffix(|c: char| c.is_ascii_lowercase()).filter(|region| is_region(region));
    Err(match zone {
        Some(region) => RegionError::Zone(region.to_owned()),
        None if is_region(&near) => RegionError::Misspelt(near),
        None => RegionError::Other,
    })
}

/// Whether a text has the form of a region's name.
#[must_use]
pub fn is_region(text: &str) -> bool {
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let parts: Vec<&str> = text.split('-').collect();
    let [place, words @ .., number] = parts.as_slice() else { return false };
    text.len() <= REGION_MAX
        // Four letters in the European Sovereign Cloud.
        && (2..=4).contains(&place.len())
        && is_word(place)
        && !words.is_empty()
        && words.iter().all(is_word)
        && (1..=2).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text has the form of a role's ARN, in any partition, with or without a path (IAM User Guide, "IAM
/// identifiers"): a path may hold any visible character of ASCII, and a name few of them.
#[must_use]
pub fn is_role_arn(text: &str) -> bool {
    let word = |byte: u8, more: &[u8]| byte.is_ascii_alphanumeric() || byte == b'_' || more.contains(&byte);
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts[..] else { return false };
    let Some(named) = resource.strip_prefix("role/") else { return false };
    let (path, name) = named.rsplit_once('/').map_or((None, named), |(path, name)| (Some(path), name));
    text.len() <= ROLE_ARN_MAX
        && !partition.is_empty()
        && partition.bytes().all(|byte| word(byte, b"-"))
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && path.is_none_or(|path| !path.is_empty() && path.bytes().all(|byte| byte.is_ascii_graphic()))
        && !name.is_empty()
        && name.bytes().all(|byte| word(byte, b"+=,.@-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_role_from_what_is_none() {
        for role in [
            "arn:aws:iam::123456789012:role/app",
            "arn:aws-us-gov:iam::123456789012:role/path/to/App_1+=,.@-",
            "arn:aws:iam::123456789012:role/a:b!~*{x}/app",
            "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_x_0123",
        ] {
            assert!(is_role_arn(role), "{role}");
        }
        for other in [
            "",
            "app",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:user/app",
            "arn:aws:iam::12345678901:role/app",
            "arn:aws:iam:eu-west-1:123456789012:role/app",
            "arn::iam::123456789012:role/app",
            "arn:aws:iam::123456789012:role/a b",
            " arn:aws:iam::123456789012:role/app",
            "arn:aws:iam::123456789012:role/x/",
            "arn:aws:iam::123456789012:role//app",
            "arn:aws:iam::123456789012:role/a b/app",
            "arn:aws:iam::123456789012:role/\u{e9}/app",
            "arn:aws:iam::123456789012:role/x/a:b",
        ] {
            assert!(!is_role_arn(other), "{other}");
        }
    }

    #[test]
    fn tells_a_region_from_what_is_none() {
        for region in [
            "eu-west-1",
            "us-gov-west-1",
            "us-iso-east-1",
            "eu-isoe-west-1",
            "cn-north-1",
            "cn-northwest-1",
            "ap-southeast-7",
            "mx-central-1",
            "eusc-de-east-1",
        ] {
            assert_eq!(check_region(region), Ok(()), "{region}");
        }
        for other in [
            "",
            "garbage",
            "---",
            "null",
            "true",
            "frankfurt",
            "eu-1",
            "eu-west",
            "e-west-1",
            "eu--1",
            "eu-west-123",
            "eu-west-1-",
            "us-west-2-lax-1",
            "eu-west-1\n",
            &format!("eu-{}-1", "a".repeat(65)),
        ] {
            assert!(!is_region(other), "{other}");
        }
        for (text, error) in [
            ("frankfurt", "is no AWS region; write one such as `eu-west-1`"),
            ("EU_West 1", "is no AWS region; did you mean `eu-west-1`?"),
            ("eu-west-1a", "is an availability zone; did you mean `eu-west-1`?"),
        ] {
            assert_eq!(check_region(text).unwrap_err().to_string(), error);
        }
    }
}
