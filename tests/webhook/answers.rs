//! What is answered to whom.

use anyhow::{Result, ensure};
use bed::webhook::admission_review;
use hyper::Method;
use serde_json::{Value, json};

use crate::fixture::{Webhook, annotated, denial, patched, pod};

#[tokio::test]
async fn an_annotated_pod_is_changed_and_a_changed_one_is_not() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let pod = annotated();
    let review = admission_review(&pod);
    let answer = client.post(review.to_string()).await?;
    let response = answer.response()?;
    ensure!(response["allowed"] == true && response["patchType"] == "JSONPatch", "{response}");
    ensure!(response["uid"] == review["request"]["uid"], "{response}");
    let changed = patched(&pod, &answer)?;
    let names: Vec<_> =
        changed["spec"]["initContainers"].as_array().into_iter().flatten().map(|c| &c["name"]).collect();
    ensure!(names == ["coffer"], "{changed}");

    let again = client.review(&changed).await?;
    ensure!(again.patch()?.is_none(), "a changed pod is changed again: {}", again.text());
    ensure!(webhook.admissions("injected").await? == 1.0 && webhook.admissions("complete").await? == 1.0);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_asks_for_nothing_is_left_alone() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    for pod in [pod(&[]), pod(&[("inject", "false"), ("nonsense", "x")])] {
        let response = client.review(&pod).await?.response()?;
        ensure!(
            response["allowed"] == true && response["patch"].is_null() && response["warnings"].is_null(),
            "{response}"
        );
    }
    // Without a word of annotations, and with a spec that is none.
    for pod in [json!({"metadata": {}}), json!({"metadata": {"annotations": null}, "spec": 5})] {
        let response = client.review(&pod).await?.response()?;
        ensure!(response["allowed"] == true && response["patch"].is_null(), "{response}");
    }
    ensure!(webhook.admissions("untouched").await? == 4.0);
    Ok(())
}

#[tokio::test]
async fn one_thousand_reviews_have_one_patch() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let pod = annotated();
    let first = client.review(&pod).await?.response()?["patch"].clone();
    ensure!(first.is_string());
    for _ in 0..1000 {
        let patch = client.review(&pod).await?.response()?["patch"].clone();
        ensure!(patch == first, "another patch");
    }
    Ok(())
}

#[tokio::test]
async fn a_denial_tells_every_problem_by_its_annotation() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let answer = client.review(&pod(&[("inject", "true"), ("moode", "init"), ("path", "relative")])).await?;
    let (text, response) = (denial(&answer)?, answer.response()?);
    ensure!(response["status"]["code"] == 422 && response["patch"].is_null(), "{response}");
    for wanted in ["coffer.dev/moode: ", "`coffer.dev/mode`", "coffer.dev/path: "] {
        ensure!(text.contains(wanted), "no {wanted} in {text}");
    }
    ensure!(webhook.admissions("denied").await? == 1.0);
    Ok(())
}

#[tokio::test]
async fn what_is_not_the_creation_of_a_pod_is_left_alone_with_a_warning() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let with = |pointer: &str, value: Value| {
        let mut review = admission_review(&annotated());
        review["request"][pointer] = value;
        review
    };
    for (review, wanted) in [
        (with("operation", json!("UPDATE")), "nothing is done on UPDATE of v1/pods"),
        (with("subResource", json!("ephemeralcontainers")), "CREATE of v1/pods/ephemeralcontainers"),
        (
            with("resource", json!({"group": "apps", "version": "v1", "resource": "deployments"})),
            "CREATE of apps/v1/deployments",
        ),
    ] {
        let response = client.post(review.to_string()).await?.response()?;
        ensure!(response["allowed"] == true && response["patch"].is_null(), "{response}");
        let warning = response["warnings"][0].as_str().unwrap_or_default();
        ensure!(warning.contains(wanted) && warning.contains("rules of the MutatingWebhookConfiguration"), "{warning}");
    }
    ensure!(webhook.admissions("misdirected").await? == 3.0);
    Ok(())
}

#[tokio::test]
async fn what_is_no_review_is_told_what_is_wrong() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let mut old = admission_review(&annotated());
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut nameless = admission_review(&annotated());
    nameless["request"]["uid"] = json!("");
    for (body, wanted) in [
        (String::new(), "the JSON ends too early"),
        ("{".to_owned(), "the JSON ends too early"),
        ("apiVersion: v1".to_owned(), "the body is no JSON (line 1, column 1)"),
        ("[]".to_owned(), "the JSON is no AdmissionReview"),
        ("{}".to_owned(), "this is `` of ``"),
        (r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#.to_owned(), "has no `request`"),
        (old.to_string(), "`AdmissionReview` of `admission.k8s.io/v1beta1`: set `admissionReviewVersions: [v1]`"),
        (annotated().to_string(), "this is `Pod` of `v1`"),
        (nameless.to_string(), "`request.uid` is to have 1 to 128 bytes"),
    ] {
        let answer = client.post(body.clone()).await?;
        ensure!(answer.status == 400 && answer.text().contains(wanted), "{body}: {answer:?}");
    }
    ensure!(webhook.admissions("invalid").await? == 9.0);
    Ok(())
}

#[tokio::test]
async fn a_review_of_what_cannot_be_a_pod_is_denied_with_the_reason() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let mut deep = "0".to_owned();
    for _ in 0..500 {
        deep = format!("[{deep}]");
    }
    let deep = admission_review(&json!({"metadata": {}, "deep": "here"})).to_string().replace("\"here\"", &deep);
    for (body, wanted) in [
        (admission_review(&Value::Null).to_string(), "`request.object` is no object"),
        (admission_review(&json!("pod")).to_string(), "`request.object` is no object"),
        (admission_review(&json!({"kind": "Service", "metadata": {}})).to_string(), "is `Service`, not a Pod"),
        (
            admission_review(&json!({"metadata": {}})).to_string().replace("{}", r#"{"a": 1e999}"#),
            "the pod cannot be read: number out of range",
        ),
        (admission_review(&json!({"metadata": {}, "a": vec![0; 60_000]})).to_string(), "reads at most 50000"),
        (deep, "the pod cannot be read: recursion limit exceeded"),
    ] {
        let answer = client.post(body).await?;
        let (text, response) = (denial(&answer)?, answer.response()?);
        ensure!(answer.status == 200 && response["status"]["code"] == 400 && text.contains(wanted), "{response}");
        ensure!(response["uid"].as_str().is_some_and(|uid| !uid.is_empty()), "{response}");
    }
    for missing in ["operation", "resource"] {
        let mut review = admission_review(&annotated());
        review["request"][missing].take();
        let text = denial(&client.post(review.to_string()).await?)?;
        ensure!(text == format!("the review has no `request.{missing}`"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_of_the_wrong_shape_is_denied_and_not_patched() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    for spec in [
        json!(null),
        json!([]),
        json!({}),
        json!({"containers": {}}),
        json!({"containers": []}),
        json!({"containers": ["app"]}),
        json!({"containers": [{"image": "x"}]}),
        json!({"containers": [{"name": "app"}], "volumes": "none"}),
        json!({"containers": [{"name": "app"}], "initContainers": {"name": "x"}}),
        json!({"containers": [{"name": "app", "volumeMounts": "none"}]}),
        json!({"containers": [{"name": "app", "env": [5]}], "securityContext": []}),
    ] {
        let mut pod = annotated();
        pod["spec"] = spec;
        let answer = client.review(&pod).await?;
        let response = answer.response()?;
        // Whatever is made of it, the API server refuses it with words of its own.
        ensure!(answer.status == 200 && response["allowed"].is_boolean(), "{pod}: {response}");
        patched(&pod, &answer)?;
    }
    Ok(())
}

#[tokio::test]
async fn other_ways_to_ask_are_told_the_right_one() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let body = admission_review(&annotated()).to_string();
    let answer = client.request(Method::GET, "/mutate", "").await?;
    ensure!(answer.status == 405 && answer.text().contains("by POST"), "{answer:?}");
    for path in ["/", "/mutate/", "/healthz", "/mutate/../mutate"] {
        let answer = client.request(Method::POST, path, body.clone()).await?;
        ensure!(answer.status == 404 && answer.text().contains("nothing here but /mutate"), "{path}: {answer:?}");
    }
    for path in ["/mutate", "/mutate/required?timeout=5s"] {
        let answer = client.request(Method::POST, path, body.clone()).await?;
        ensure!(answer.status == 200 && answer.patch()?.is_some(), "{path}: {answer:?}");
    }
    let (status, text) = webhook.get("/livez").await?;
    ensure!(status == 200 && text == "ok\n");
    Ok(())
}
