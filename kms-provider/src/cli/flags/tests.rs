use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
#[command(args_override_self = true)]
struct All {
    #[command(flatten)]
    keys: KeyFlags,
    #[command(flatten)]
    sockets: SocketFlags,
    #[command(flatten)]
    formats: FormatFlags,
    #[command(flatten)]
    health: HealthFlags,
}

fn parse(flags: &[&str]) -> Result<All, String> {
    All::try_parse_from(std::iter::once(&"coffer-kms").chain(flags)).map_err(|error| error.to_string())
}

fn plan(flags: &[&str]) -> Result<(KeyPlan, Vec<Address>), String> {
    let all = parse(flags)?;
    let keys = all.keys.plan().map_err(|error| error.to_string())?;
    let addresses = all.sockets.addresses(keys.writers.len()).map_err(|error| error.to_string())?;
    Ok((keys, addresses))
}

fn names(keys: &[NamedKey]) -> Vec<&str> {
    keys.iter().map(|key| key.name.as_str()).collect()
}

#[test]
fn one_key_takes_the_default_socket() {
    let (keys, addresses) = plan(&["--key", "alias/etcd"]).unwrap();
    assert_eq!(names(&keys.writers), ["alias/etcd"]);
    assert_eq!(addresses, ["/var/run/kmsplugin/socket.sock".parse().unwrap()]);
    assert_eq!(keys.policy, Policy::Any);
    let all = parse(&["--key", "k"]).unwrap();
    let hosts = all.health.health_port.candidates();
    assert_eq!(hosts, ["[::]:8080".parse().unwrap(), "0.0.0.0:8080".parse().unwrap()]);
    assert_eq!((all.health.healthz_path.as_str(), all.health.livez_path.as_str()), ("/healthz", "/livez"));
    assert_eq!(all.health.status_version, "v2beta1");
}

#[test]
fn lists_repeat_and_hold_commas() {
    for flags in [
        &["--key=a,b", "--listen=/a.sock,/b.sock"][..],
        &["--key", "a", "--key", "b", "--listen", "/a.sock", "--listen=/b.sock"],
        &["--key", "a", "--key", "b", "--listen", "/a.sock,unix:///b.sock"],
    ] {
        let (keys, addresses) = plan(flags).unwrap();
        assert_eq!(names(&keys.writers), ["a", "b"]);
        assert_eq!(addresses, ["/a.sock".parse().unwrap(), "/b.sock".parse().unwrap()]);
    }
}

#[test]
fn contexts_go_with_keys_by_their_place() {
    let flags = ["--key=a,b", "--listen=/a,/b", "--encryption-context", "x=1,y=2", "--encryption-context", ""];
    let (keys, _) = plan(&flags).unwrap();
    assert_eq!(keys.writers[0].context, "x=1,y=2".parse().unwrap());
    assert!(keys.writers[1].context.is_empty());
}

#[test]
fn what_does_not_go_together_is_an_error_that_says_how_it_would() {
    for (flags, text) in [
        (&[][..], "--key is missing"),
        (&["--key", ""], "--key is missing"),
        (&["--key=a,,b", "--listen=/a,/b,/c"], "no key is named"),
        (&["--key=a,b"], "--listen is there once and --key twice"),
        (&["--key=a", "--listen=/a,/b,/c"], "--listen is there 3 times and --key once"),
        (&["--key=a,b", "--listen=/a,/a"], "twice"),
        (&["--key=a", "--listen=a.sock"], "--listen"),
        (
            &["--key=a,b", "--listen=/a,/b", "--encryption-context=x=1"],
            "--encryption-context is there once and --key twice",
        ),
        (&["--key=a", "--encryption-context=x"], "'x' is not KEY=VALUE"),
        (&["--key=arn:aws:s3:::b"], "not the ARN of a KMS key"),
        (&["--key=a", "--decrypt-context=x=1"], "--decrypt-context is there once and --decrypt-key missing"),
        (&["--key=a", "--replica-region=eu-west-2"], "multi-region"),
        (&["--key=a", "--source-arn=b"], "--source-arn: 'b' is not an ARN"),
        (&["--key=a", "--qps-limit=5"], "--burst-limit"),
        (&["--key=a", "--kms-endpoint=localhost:4566"], "--kms-endpoint"),
        (&["--key=a", "--health-kms-version=v3"], "v3"),
        (&["--key=a", "--health-port=8080"], ":PORT"),
        (&["--key=a", "--healthz-path=/metrics"], "taken"),
        (&["--key=a", "--max-inflight=0"], "--max-inflight"),
        (&["--key=a", "--kms-endpoint=http:/x"], "--kms-endpoint"),
        (&["--key=a", "--decrypt-cache-size=1000000000000"], "--decrypt-cache-size"),
        (&["--key=a", "--max-inflight=18446744073709551615"], "--max-inflight"),
        (&["--key=a", "--probe-interval=0"], "a second is the least"),
        (&["--key=a", "--activation-delay=9999years"], "a year is the most"),
        (&["--key=a", "--decrypt-cache-ttl=5"], "30s, 5m or 1h"),
        (&["--key=a", "--external-id=x"], "--role-arn"),
        (&["--key=a", "--lisen=/a"], "--listen"),
    ] {
        let error = plan(flags).unwrap_err();
        assert!(error.contains(text), "{flags:?}: {error}");
    }
}

#[test]
fn the_other_plugins_flags_are_taken_as_pflag_takes_them() {
    let flags = "--key=a --region= --kms-endpoint= --qps-limit=0 --burst-limit=-1 --retry-token-capacity=0 --source-arn= \
                 --health-kms-version=v2 --debug --health-port=127.0.0.1:8083";
    plan(&flags.split_whitespace().collect::<Vec<_>>()).unwrap();
    for (flag, debug) in [("--debug", true), ("--debug=true", true), ("--debug=T", true), ("--debug=false", false)] {
        assert_eq!(parse(&["--key=a", flag]).unwrap().health.debug, debug, "{flag}");
    }
    plan(&["--key=a", "--qps-limit=5", "--burst-limit=10"]).unwrap();
    let twice = parse(&["--key=a", "--region=a", "--region=b", "--retry-token-capacity=-1"]).unwrap();
    assert_eq!(twice.keys.region, "b");
}

#[test]
fn a_key_to_decrypt_with_restricts_to_what_is_listed() {
    let (keys, _) = plan(&["--key=a", "--decrypt-key=b,c", "--decrypt-context=x=1", "--decrypt-context="]).unwrap();
    assert_eq!((names(&keys.readers), keys.policy), (vec!["b", "c"], Policy::Listed));
    assert_eq!(plan(&["--key=a", "--decrypt-key=b", "--decrypt-policy=any"]).unwrap().0.policy, Policy::Any);
    assert_eq!(plan(&["--key=a", "--decrypt-policy=listed"]).unwrap().0.policy, Policy::Listed);
}
