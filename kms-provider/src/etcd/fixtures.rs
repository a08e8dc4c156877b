//! Values as Kubernetes' own code writes them, in base64, and the DEKs that it drew for them.
//!
//! Made with a Go program on k8s.io/apiserver v0.36.3 (`kmsv2.GenerateTransformer` and `NewEnvelopeTransformer`
//! over a service that gives `1` and 40 times `Z` for any DEK, key id `alias/etcd`, one annotation;
//! `envelope.NewEnvelopeTransformer` with `aes.NewGCMTransformer` and `aes.NewCBCTransformer`) and the protobuf
//! serializer of k8s.io/apimachinery. None of it guards anything.

/// Where etcd would have the Secret.
pub(super) const KEY: &str = "/registry/secrets/prod/db";

/// The Secret that all of the values hold, unencrypted.
pub(super) const SECRET: &str = "\
    azhzAAoMCgJ2MRIGU2VjcmV0EtACCpYCCgJkYhIAGgRwcm9kIgAqJDBmMGUwZDBjLTBiMGEtNDkwOC04NzA2LTA1MDQwMzAyMDEwMDIAOABC\
    CAj+go7NBhAAWg8KC2EuZXhhbXBsZS9iEgBaCgoDYXBwEgN3ZWJiHgoEbm90ZRIWbGluZSBvbmUKbGluZSAidHdvIiDDqWpECgpEZXBsb3lt\
    ZW50GgN3ZWIiJDExMTExMTExLTIyMjItNDMzMy04NDQ0LTU1NTU1NTU1NTU1NSoHYXBwcy92MTABOAByEGV4YW1wbGUuY29tL2tlZXCKATwK\
    B2t1YmVjdGwSBlVwZGF0ZRoCdjEiCAj+go7NBhAAMghGaWVsZHNWMToPCg17ImY6ZGF0YSI6e319QgASCwoEYmxvYhIDAP8KEgkKBWVtcHR5\
    EgASEwoIcGFzc3dvcmQSB2h1bnRlcjIaBk9wYXF1ZSgBGgAiAA==\
";

/// The same, as Go writes it in JSON, without its managedFields.
pub(super) const SECRET_JSON: &str = r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"db","namespace":"prod","uid":"0f0e0d0c-0b0a-4908-8706-050403020100","creationTimestamp":"2026-02-28T23:59:58Z","labels":{"a.example/b":"","app":"web"},"annotations":{"note":"line one\nline \"two\" é"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"web","uid":"11111111-2222-4333-8444-555555555555","controller":true,"blockOwnerDeletion":false}],"finalizers":["example.com/keep"]},"immutable":true,"data":{"blob":"AP8K","empty":"","password":"aHVudGVyMg=="},"type":"Opaque"}"#;

/// A ConfigMap, unencrypted.
pub(super) const CONFIG_MAP: &str = "\
    azhzAAoPCgJ2MRIJQ29uZmlnTWFwEkQKJQoIc2V0dGluZ3MSCXNldHRpbmdzLRoEcHJvZCIAKgAyADgAQgASDQoFbGV2ZWwSBGluZm8aCgoE\
    bG9nbxICiVAgABoAIgA=\
";

/// The same, as Go writes it in JSON.
pub(super) const CONFIG_MAP_JSON: &str = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"settings","generateName":"settings-","namespace":"prod"},"immutable":false,"data":{"level":"info"},"binaryData":{"logo":"iVA="}}"#;

/// A kind that is not known here.
pub(super) const DEPLOYMENT: &str = "\
    azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50EmMKFwoDd2ViEgAaBHByb2QiACoAMgA4AEIAEjoaMAoQCgASABoAIgAqADIAOABCABIcGgAy\
    AEIASgBSAFgAYABoAIIBAIoBAJoBAMIBACICCgAoADgAGgwIABAAGAAgACgAOAAaACIA\
";

/// KMS v2 with a seed, the way of every API server since 1.29; etcd key [`KEY`].
pub(super) const V2_SEED: &str = "\
    azhzOmVuYzprbXM6djI6YXdzOgqlA5AxPRq3HbvhFDD24laYSzKgNAQaoRB84vT/V6FvaIOjf26zmYi54fuCRiX9BGTANE59JJoRIEwCtow9\
    nBLcYWO+AxIOK+TlEDvlY/oM2BtmwbjsdihLOicM1GKzPvfyL1NQsSECdasheF8GeapE2hac4kkpTxjr8cJEkhgsmTtK6VGzytwI+lQ1Ua2C\
    qC766KaF9ucn5bv2kAfGC7JUjAYrgV1wXGaKEXMHGo5Xzl/5fKiK9r3LuzEQIdTxYybs4cgVPa2eKOZq+BFpGgsGBtL2cfatDhXLCuUt+LU9\
    oLNofcCFtxXpwlPKM7VowiLNCt75sonTRV+J0dhBkjinxjoqI4yUgtZbUA1uGNiEex3mx2ldaTUut+fhiGWk1/SkAyLYf+bAk2ctCFN8IJf/\
    vrT/C4lFo49Xy6gA+7mD9VQtb9auIxggfXqL1kUNCkHyW6mp4v5SpoB6NrT5v99z0zURypJmyMNToiv5ZQ0f9iF5Vel6mi6KlDWzgkGOkoFP\
    AKOM9rWm5mo14gKrFDf2DoJ/aKtH+xneh1VhnzWjX1Rg7Os2i9ESCmFsaWFzL2V0Y2QaKTFaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpa\
    WlpaWlpaWlpaWlpaIiMKFnJlZ2lvbi5rbXMuZXhhbXBsZS5jb20SCWV1LXdlc3QtMSgB\
";

pub(super) const V2_SEED_DEK: &str = "7U15VhpQl8mGcfpy0hyNGTlMacISgjO1aZNCL/b9zls=";

/// KMS v2 with the DEK itself, the way of 1.25 to 1.28; etcd key [`KEY`].
pub(super) const V2_KEY: &str = "\
    azhzOmVuYzprbXM6djI6YXdzOgqFA3vJay8Bypo7AAAAAJ2jp3nEZnI7tZQDvLrGOD8VTFzo1dkDhqiqPWTYzmC8Fi3xHIDUOjaA3K7fNely\
    CxyRhgu4MAAlCj6m4ncxsMQaza6vTC+iAdU2iLO9Z2L726T4378uNhwGjUjJeuENLQEc4O/YxKPK9IzjCsw1yuISXkDVCtV47Camw2k6xHi+\
    PtXLnp8IgTD5zMXfkRMs5zMxsGAgwzrIwyjXBm4swzpufcR8jBd/D/YhJP6lVrXvqJmRePpiWOuoUy/6gcpMBoNpKFfQX8gm2nB2dCyw/aj6\
    VgWkiHSk5S/krzCbp+BUOS4rwUTdEMmpi+C7ZldsoM8ek31aFoQNgUdPcIkgcKoL/YylBgyaOosnCWE8OcYFZQrv9ukt02aa/gweYerV9Wlm\
    YwWkeMq/W1M9jXk4Gmdt9zUqslY2vBSq1BrEAtGSKURP5BPi7ntYnDKXNBQPFnGWG4tygXZMbsWAf+NzCa6rC2osqTskXjllYgzP709bwrX7\
    CU8QVzJtEgphbGlhcy9ldGNkGikxWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWiIjChZyZWdpb24ua21zLmV4YW1w\
    bGUuY29tEglldS13ZXN0LTE=\
";

pub(super) const V2_KEY_DEK: &str = "yVtwmaQG6++qCpv7AXCjfoMMApmX5cnrIgx7Vz1bjlU=";

/// KMS v2 over a custom resource, which is stored as JSON; etcd key `/registry/example.com/pandas/bao`.
pub(super) const V2_CRD: &str = "\
    azhzOmVuYzprbXM6djI6YXdzOgqEAciIVxQPsHIX3zd+4vlDxwhThqspV1+Y63LVbKF8Ej0HkQijzA7MwNUB2TjRIls72CV1I7sEuRFj7hZi\
    7IEe0EqsaCKPr1UaC2d8LePifxjCe5RoB2AR/mDG3k1f+n67LW5S4HiFsf0iSxMSsUYR4hkbpjAcyvW9rol+848RtROswObPKxIKYWxpYXMv\
    ZXRjZBopMVpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWloiIwoWcmVnaW9uLmttcy5leGFtcGxlLmNvbRIJZXUtd2Vz\
    dC0xKAE=\
";

pub(super) const V2_CRD_DEK: &str = "7U15VhpQl8mGcfpy0hyNGTlMacISgjO1aZNCL/b9zls=";

/// KMS v1 with AES-GCM; etcd key [`KEY`].
pub(super) const V1_GCM: &str = "\
    azhzOmVuYzprbXM6djE6YXdzLWVuY3J5cHRpb24tcHJvdmlkZXI6ACkxpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWl\
    pQN3jMeRhbahTtzoCi0kgwqEP4kd3hzFP93tYHrz8hx+BshWGXICTE4VEOSuBGrBQV426inTGat7g6inaVzClMwKLMtvJPFCVRTJKGp0xNs8\
    Do2+cTWBHU8D8lJou49/9OV25ATV4ziavJWFRvfM6KjK1wb+VL7U0ALKMvrgMmx86/ye66eEZshw7Lqj8dliHCGd9ddJuJ4GQEm5nNYEPPF4\
    A5YJygPFAlZmfeWEJYVuC2pvgFCTf7Bpjva9B269EOE1qCgTBpWYfw1G4/7pM1UekpumGI7rjCS4t6SVTKbQxBb4psHMjBdpqRB8E8P66LKm\
    xuYNUUijxL3QzqYqJM3J2sJKvPJu4upSlonvguQOKhHR1HtGCRpqcQHJcVC4dcaOEoW62lGk5iC9ipK1pFh6Q9ZYHQ21+S+SeHMBDFxBAk51\
    nxeXFnuG17Zfzf7bIVoiGBzqi4zmIaqBPStdphFo/YkUTHxeH7YjjmWNefb6bCeb88KbKw2fMYGuEqk6ZeTzzI3o\
";

pub(super) const V1_GCM_DEK: &str = "0hbto36xSd8nL8kB6HzVVYyNGlZvsGu/m4+6sSw+jKA=";

/// KMS v1 with AES-CBC, of a provider whose name has a colon in it.
pub(super) const V1_CBC: &str = "\
    azhzOmVuYzprbXM6djE6b2xkOm5hbWU6ACkxpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpYeK/pDvyv+aQkVESK41\
    pyGZzsP1pvDHTaLv3b8PITawtXOl8lVnngz2YQ0gPdtWeBVIyhVzXH6NC8TC2cChc+2YomwZYGqAXAfeMhUtjU5m49G8uYN47/8RExvYhlhW\
    jzptg/SMo+tyXliQijIom2Mnx9FqS9N3YkLl/opUW8dUNR1bOwO58OOXyHWMGzyxfxJvSvkFSP0j6+CJb+qhEJqaGhZrUr8I6zSV46nCZW5h\
    ptmEyEHnNP+5p5il7lBVjQgBBpU4dPDOgG/s/qC3VKTvokfqaKJMAmkIg+6YiAUXKb/84lhV8fRQH/u0ZGek2sYJrLZjD+deNJgeFaoavaz8\
    /J/ZiD9JDtnKfZVeBG1PAEWIp2l2QtaCwJ0xu9G2Gk+Luwi6taAN4Ou8bJn2o5IDub22uYIw1ev2mO0QpVj28SE0P/vF8MMqmLhbGmVlu9h0\
    N/QJEejS4g1NQLeOsOeADweCqdsK4e88ZhKnvFkj/ntkNpKVLtccci+ZZVmipg==\
";

pub(super) const V1_CBC_DEK: &str = "YKt/SRocHt4rlsZlvF5lbEbOwJSV2jSGuYS2jctt6cU=";
