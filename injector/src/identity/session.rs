//! The name under which CloudTrail lists what a workload did.

use sha2::{Digest, Sha256};

/// Session names in STS have 2 to 64 characters of `[\w+=,.@-]`
/// (STS API reference, AssumeRoleWithWebIdentity, `RoleSessionName`).
const LONGEST: usize = 64;
/// Tells Coffer's sessions from the application's own.
const SUFFIX: &str = "@coffer";
/// Of a name that does not stand as it is: 40 bits, in hexadecimal.
const DIGEST: usize = 10;

/// `NAMESPACE.SERVICEACCOUNT@coffer`; shortened, or cleaned of what STS does not take, with a digest
/// of the whole behind a plus sign, which no name in Kubernetes has.
///
/// Namespaces have no dots, so different pairs have different names; shortened ones do as far as the
/// digest goes.
#[must_use]
pub fn session_name(namespace: &str, service_account: &str) -> String {
    let whole = format!("{namespace}.{service_account}");
    let fits = whole.len() + SUFFIX.len() <= LONGEST;
    if fits && whole.chars().all(allowed) && !whole.contains('+') && !namespace.contains('.') {
        return format!("{whole}{SUFFIX}");
    }
    let digest = Sha256::digest([namespace.as_bytes(), b"\0", service_account.as_bytes()].concat());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let room = LONGEST - SUFFIX.len() - DIGEST - "+.".len();
    let clean = |text: &str, most: usize| -> String {
        text.chars().map(|c| if allowed(c) { c } else { '-' }).take(most).collect()
    };
    // Each has half the room, and what the other leaves of its own.
    let (namespace_len, account_len) = (namespace.chars().count(), service_account.chars().count());
    let namespace = clean(namespace, (room / 2).max(room.saturating_sub(account_len)));
    let account = clean(service_account, (room - room / 2).max(room.saturating_sub(namespace_len)));
    format!("{namespace}.{account}+{}{SUFFIX}", &digest[..DIGEST])
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_session_names_the_workload() {
        assert_eq!(session_name("shop", "api"), "shop.api@coffer");
        let long = session_name(&"n".repeat(63), "default");
        assert!(long.starts_with(&"n".repeat(37)) && long.contains(".default+") && long.len() == 64, "{long}");
        let both = session_name(&"n".repeat(63), &"s".repeat(253));
        assert!(both.starts_with("nnnn") && both.contains(".ssss") && both.len() == 64, "{both}");
    }

    #[test]
    fn names_that_are_cut_alike_stay_apart() {
        let long = "a".repeat(100);
        let pairs =
            [("ns".into(), format!("{long}1")), ("ns".into(), format!("{long}2")), (format!("{long}1"), "sa".into())];
        let names: BTreeSet<String> = pairs.iter().map(|(ns, sa): &(String, String)| session_name(ns, sa)).collect();
        assert_eq!(names.len(), pairs.len());
    }

    proptest! {
        #[test]
        fn sts_takes_every_name(namespace in ".{0,80}", account in ".{0,300}") {
            let name = session_name(&namespace, &account);
            prop_assert!((2..=64).contains(&name.len()) && name.chars().all(allowed), "{}", name);
        }

        #[test]
        fn different_workloads_have_different_names(
            one in ("[a-z0-9-]{1,63}", "[a-z0-9.-]{1,80}"),
            other in ("[a-z0-9-]{1,63}", "[a-z0-9.-]{1,80}"),
        ) {
            prop_assume!(one != other);
            prop_assert_ne!(session_name(&one.0, &one.1), session_name(&other.0, &other.1));
        }
    }
}
