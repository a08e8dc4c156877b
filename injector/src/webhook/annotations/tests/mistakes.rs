//! Every mistake that a user can make, as the text that tells it.

mod lists;

use super::{DB, read};

/// Each set of annotations with all that is said of it.
fn told(cases: &[(&[(&str, &str)], &str)]) {
    let mut wrong = String::new();
    for (pairs, expected) in cases {
        let found = read(pairs).map_or_else(|error| error, |wish| format!("{wish:?}"));
        if found != *expected {
            wrong.push_str(&format!("{pairs:?}\n  found {found}\n  for   {expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_word_that_is_wrong_names_its_annotation_and_the_fix() {
    let role = "arn:aws:iam::123456789012:role/app";
    told(&[
        // inject
        (
            &[("inject", "yes"), DB],
            "coffer.dev/inject: takes `true` or `false` in quotes, not `yes`; did you mean `\"true\"`?",
        ),
        (&[("inject", ""), DB], "coffer.dev/inject: takes `true` or `false` in quotes, not ``"),
        (
            &[DB],
            "coffer.dev/inject: is missing beside `coffer.dev/file.db`; add `coffer.dev/inject: \"true\"`, or \"false\" to leave the pod as it is",
        ),
        (
            &[("inject", "true")],
            "coffer.dev/inject: nothing says which secrets the pod is to get; add `coffer.dev/file.NAME: REFERENCE` for each file, a list in `coffer.dev/files`, or the name of a ConfigMap in `coffer.dev/config`",
        ),
        (
            &[("inject", "True"), DB],
            "coffer.dev/inject: takes `true` or `false` in quotes, not `True`; did you mean `\"true\"`?",
        ),
        (
            &[("inject", "1"), DB],
            "coffer.dev/inject: takes `true` or `false` in quotes, not `1`; did you mean `\"true\"`?",
        ),
        (
            &[("inject", "Off"), DB],
            "coffer.dev/inject: takes `true` or `false` in quotes, not `Off`; did you mean `\"false\"`?",
        ),
        // names
        (
            &[("inject", "true"), DB, ("rol-arn", role)],
            "coffer.dev/rol-arn: there is no such annotation; did you mean `coffer.dev/role-arn`?",
        ),
        (
            &[("inject", "true"), DB, ("roleArn", role)],
            "coffer.dev/roleArn: there is no such annotation; did you mean `coffer.dev/role-arn`?",
        ),
        (
            &[("inject", "true"), DB, ("on_change", "restart")],
            "coffer.dev/on_change: there is no such annotation; did you mean `coffer.dev/on-change`?",
        ),
        (
            &[("inject", "true"), DB, ("files.key", "x")],
            "coffer.dev/files.key: there is no such annotation; did you mean `coffer.dev/file.key`?",
        ),
        (
            &[("inject", "true"), DB, ("secret-volume", "x")],
            "coffer.dev/secret-volume: there is no such annotation; known under `coffer.dev/` are inject, files, file.NAME, config, mode, containers, path, role-arn, region, isolate-identity, on-change, refresh, resources, image, position, size-limit, listen, metrics",
        ),
        (
            &[("inject", "true"), DB, ("", "x")],
            "coffer.dev/: there is no such annotation; known under `coffer.dev/` are inject, files, file.NAME, config, mode, containers, path, role-arn, region, isolate-identity, on-change, refresh, resources, image, position, size-limit, listen, metrics",
        ),
        // words
        (
            &[("inject", "true"), DB, ("mode", "sidcar")],
            "coffer.dev/mode: `sidcar` is no mode; did you mean `sidecar`?",
        ),
        (
            &[("inject", "true"), DB, ("mode", "daemon")],
            "coffer.dev/mode: `daemon` is no mode; write `sidecar`, `init` or `exec`",
        ),
        (
            &[("inject", "true"), DB, ("mode", " ")],
            "coffer.dev/mode: is empty; it takes `sidecar`, `init` or `exec`; write that, or remove the annotation",
        ),
        (
            &[("inject", "true"), DB, ("isolate-identity", "yes")],
            "coffer.dev/isolate-identity: takes `true` or `false`, not `yes`",
        ),
        (
            &[("inject", "true"), DB, ("containers", "app,,web")],
            "coffer.dev/containers: there is no name between two commas, or after the last; remove the comma",
        ),
        (
            &[("inject", "true"), DB, ("containers", "app, web,app")],
            "coffer.dev/containers: `app` stands twice; remove one of them",
        ),
        (
            &[("inject", "true"), DB, ("containers", "app web")],
            "coffer.dev/containers: `app web` is no name of a container; write names as they stand in the pod, with commas between",
        ),
        (
            &[("inject", "true"), DB, ("path", "run/app")],
            "coffer.dev/path: `run/app` is relative; write an absolute path, such as `/run/secrets/coffer`",
        ),
        (
            &[("inject", "true"), DB, ("role-arn", "app")],
            "coffer.dev/role-arn: `app` is no role's ARN; write it as `arn:aws:iam::123456789012:role/NAME`",
        ),
        (
            &[("inject", "true"), DB, ("region", "Ireland")],
            "coffer.dev/region: `Ireland` is no AWS region; write one such as `eu-west-1`",
        ),
        (
            &[("inject", "true"), DB, ("region", "eu-west-1a")],
            "coffer.dev/region: `eu-west-1a` is an availability zone; did you mean `eu-west-1`?",
        ),
        (
            &[("inject", "true"), DB, ("refresh", "60")],
            "coffer.dev/refresh: `60` is no time from 1s to 30days; write one such as `60s` or `5m`",
        ),
        (
            &[("inject", "true"), DB, ("position", "fist")],
            "coffer.dev/position: `fist` is no position; did you mean `first`?",
        ),
        (
            &[("inject", "true"), DB, ("position", "before:app")],
            "coffer.dev/position: `before:app` is no position; write `first`, `last` or `after:NAME`",
        ),
        (
            &[("inject", "true"), DB, ("position", "after:")],
            "coffer.dev/position: `` is no name of a container; write the name of an init container of the pod, such as `after:migrate`",
        ),
        (
            &[("inject", "true"), DB, ("position", "after: istio")],
            "coffer.dev/position: there is a blank after the colon; write `after:istio`",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "7Ei")],
            "coffer.dev/size-limit: `7Ei` is more than a volume may have, 64Gi: it is of the node's memory, and secrets are small; write one such as `4Mi`",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "9223372036854775807")],
            "coffer.dev/size-limit: `9223372036854775807` is more than a volume may have, 64Gi: it is of the node's memory, and secrets are small; write one such as `4Mi`",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "64m")],
            "coffer.dev/size-limit: `64m` is no whole number of bytes (`m` is a thousandth); did you mean `64Mi`?",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "4")],
            "coffer.dev/size-limit: `4` is 4 bytes, too few for a volume; did you mean `4Mi`?",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "4MiB")],
            "coffer.dev/size-limit: `4MiB` is no quantity; did you mean `4Mi`?",
        ),
        (
            &[("inject", "true"), DB, ("listen", "0.0.0.0:9465")],
            "coffer.dev/listen: `0.0.0.0:9465` is not on loopback, and it would tell the network which secrets the pod has; write one such as `127.0.0.1:9466`",
        ),
        (
            &[("inject", "true"), DB, ("listen", "9466")],
            "coffer.dev/listen: `9466` is no address with a port; write one such as `127.0.0.1:9466`",
        ),
        (
            &[("inject", "true"), DB, ("listen", "127.0.0.1:80")],
            "coffer.dev/listen: `127.0.0.1:80`: a port from 1024 is needed, as Coffer is not root; write one such as `127.0.0.1:9466`",
        ),
        (
            &[("inject", "true"), DB, ("metrics", "true")],
            "coffer.dev/metrics: `true` is no port and no address with one; write one such as `9467`",
        ),
        (
            &[("inject", "true"), DB, ("metrics", "99999")],
            "coffer.dev/metrics: `99999` is no port and no address with one; write one such as `9467`",
        ),
        (
            &[("inject", "true"), DB, ("metrics", "127.0.0.1:9467")],
            "coffer.dev/metrics: `127.0.0.1:9467` is on loopback, where no Prometheus can ask; write one such as `9467`",
        ),
        (
            &[("inject", "true"), DB, ("metrics", "80")],
            "coffer.dev/metrics: `80`: a port from 1024 is needed, as Coffer is not root; write one such as `9467`",
        ),
        (
            &[("inject", "true"), DB, ("metrics", "9465")],
            "coffer.dev/metrics: the port 9465 is where Coffer's container serves health and status by itself; write another, such as `9467`",
        ),
        (
            &[("inject", "true"), DB, ("metrics", "[::]:9466"), ("listen", "127.0.0.1:9466")],
            "coffer.dev/metrics: the port 9466 is that of `coffer.dev/listen` too; write another, such as `9467`",
        ),
        (
            &[("inject", "true"), ("config", "App")],
            "coffer.dev/config: `App` is no name of a ConfigMap; write the name of a ConfigMap in the pod's namespace, or NAME/KEY",
        ),
        (
            &[("inject", "true"), ("config", "app/../x")],
            "coffer.dev/config: `../x` is no key of a ConfigMap; write one of its keys after the slash, such as `app/coffer.yaml`",
        ),
        (
            &[("inject", "true"), DB, ("image", "Coffer")],
            "coffer.dev/image: `Coffer` is no reference of an image: its name has small letters, digits, `.`, `_` and `-`, with slashes between; write one such as `registry.example.com/coffer:1.0`",
        ),
        (
            &[("inject", "true"), DB, ("image", "https://registry.example.com/coffer:1.0")],
            "coffer.dev/image: `https://registry.example.com/coffer:1.0` is no reference of an image: write it without `https://`, as `registry.example.com/coffer:1.0`",
        ),
    ]);
}
