use super::*;

#[test]
fn throttling_is_seen_behind_http_400() {
    for code in ["ThrottlingException", "Throttling", "TooManyRequestsException", "LimitExceededException", "SlowDown"]
    {
        assert_eq!(Class::of_code(code, 400), Class::Throttled, "{code}");
    }
}

#[test]
fn an_unknown_code_is_judged_by_its_status() {
    assert_eq!(Class::of_code("Whatever", 503), Class::Transient);
    assert_eq!(Class::of_code("Whatever", 429), Class::Throttled);
    assert_eq!(Class::of_code("Whatever", 400), Class::Invalid);
}

#[test]
fn an_answer_without_a_code_is_not_of_aws() {
    let read = |status| error::without_code(status);
    assert_eq!((read(502).0, read(502).1.as_str()), (Class::Transient, "HTTP502"));
    assert_eq!((read(429).0, read(429).1.as_str()), (Class::Throttled, "HTTP429"));
    for status in [200, 302, 403, 407] {
        assert_eq!((read(status).0, read(status).1.as_str()), (Class::Transient, "UnreadableAnswer"), "{status}");
    }
}

#[test]
fn a_message_of_aws_stays_on_one_bounded_line() {
    let error = AwsError::new("ssm:GetParameters", Class::Denied, "AccessDeniedException", &"a\nb\u{1b}".repeat(900));
    assert!(error.to_string().lines().count() == 1 && error.message.len() <= 600, "{error}");
    assert!(!error.message.contains('\u{1b}'));
}

#[test]
fn a_session_name_is_what_sts_takes() {
    let name = |vars: &[(&str, &str)]| {
        session_name(&|key| vars.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()))
    };
    assert_eq!(name(&[("POD_NAMESPACE", "shop"), ("POD_NAME", "web-1"), ("HOSTNAME", "h-1")]), "shop.web-1");
    assert_eq!(name(&[("HOSTNAME", "ip-10 é")]), "ip-10--");
    assert_eq!(name(&[("HOSTNAME", "x")]), "xcoffer");
    assert_eq!(name(&[("AWS_ROLE_SESSION_NAME", "mine"), ("HOSTNAME", "h-1")]), "mine");
    let long = "n".repeat(80);
    assert_eq!(name(&[("POD_NAMESPACE", &long), ("POD_NAME", "p")]).len(), 64);
    assert!(name(&[]).len() >= 2);
}

#[test]
fn a_ca_bundle_that_cannot_be_used_is_named() {
    let missing = tls_context(Some("/nonexistent/ca.pem".into())).unwrap_err().to_string();
    assert!(missing.starts_with("AWS_CA_BUNDLE: cannot read /nonexistent/ca.pem"), "{missing}");
    assert_eq!(check_certificates(b"").unwrap_err(), "holds no certificate");
    let bogus = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(check_certificates(bogus).unwrap_err().starts_with("certificate 1 cannot be used"));
}
