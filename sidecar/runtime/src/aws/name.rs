//! What names in AWS look like, for everything that takes one from a person.

/// Longest name of a region that is taken; the longest there is has 14 characters.
const REGION_MAX: usize = 64;
/// Longest ARN of a role (IAM API reference, Role).
const ROLE_ARN_MAX: usize = 2048;

/// Whether a text can be a region's name. New regions come without a word, so no list of them is kept.
#[must_use]
pub fn is_region(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= REGION_MAX && text.bytes().all(plain)
}

/// Whether a text has the form of a role's ARN, in any partition, with or without a path.
#[must_use]
pub fn is_role_arn(text: &str) -> bool {
    let word = |byte: u8, more: &[u8]| byte.is_ascii_alphanumeric() || byte == b'_' || more.contains(&byte);
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts[..] else { return false };
    let Some(name) = resource.strip_prefix("role/") else { return false };
    text.len() <= ROLE_ARN_MAX
        && !partition.is_empty()
        && partition.bytes().all(|byte| word(byte, b"-"))
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| word(byte, b"+=,.@/-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_role_from_what_is_none() {
        for role in ["arn:aws:iam::123456789012:role/app", "arn:aws-us-gov:iam::123456789012:role/path/to/App_1+=,.@-"]
        {
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
        ] {
            assert!(!is_role_arn(other), "{other}");
        }
    }

    #[test]
    fn tells_a_region_from_what_is_none() {
        assert!(is_region("eu-west-1") && is_region("us-iso-east-1"));
        assert!(!is_region("") && !is_region("EU") && !is_region("eu west 1") && !is_region(&"a".repeat(65)));
    }
}
