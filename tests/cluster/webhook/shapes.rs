//! Pods of many shapes, each of which runs and reads its files; and those that are none of ours.

use anyhow::{Context, Result, ensure};
use bed::{Node, cluster::Refusal, eventually, unique_name};
use serde_json::{Value, json};

use super::{Ground, asks_for_password, init_containers, pod};
use crate::fixture::SOON;

#[tokio::test]
async fn a_pod_with_nothing_beyond_its_container_reads_its_files_and_sees_a_rotation() -> Result<()> {
    let ground = Ground::shared().await?;
    let namespace = ground.required().await?;
    ground.aws.create_secret("bare/db", r#"{"password": "one"}"#).await?;
    let mut bare = pod(&json!({
        "coffer.dev/inject": "true",
        "coffer.dev/region": bed::aws::REGION,
        "coffer.dev/refresh": "1s",
        "coffer.dev/file.password": "secretsmanager:bare/db#password",
    }));
    // Else the API server itself gives it a volume, and a mount.
    bare["spec"]["automountServiceAccountToken"] = false.into();
    let bare = ground.create(&namespace, &bare).await?;
    // Its name was made by the API server.
    ensure!(bare.name.starts_with("app-") && bare.name.len() > 4, "{}", bare.name);
    let made = bare.runs().await?;
    ensure!(init_containers(&made) == ["coffer"], "{made}");
    ensure!(bare.read("password").await? == "one");
    bare.own_token("api")?;
    ensure!(bare.shell("touch /run/secrets/coffer/more").await.is_err(), "the application can write");

    ground.aws.put_secret_value("bare/db", r#"{"password": "two"}"#).await?;
    eventually(SOON, async || {
        let found = bare.read("password").await?;
        ensure!(found == "two", "it is still {found:?}");
        Ok(())
    })
    .await?;
    // And nothing of either is in what the API server keeps.
    let kept = bare.object().await?.to_string();
    ensure!(!kept.contains("\"two\"") && !kept.contains("\"one\""), "{kept}");
    Ok(())
}

#[tokio::test]
async fn a_job_ends_by_itself_though_its_sidecar_would_run_on() -> Result<()> {
    let ground = Ground::shared().await?;
    let namespace = ground.required().await?;
    let mut template = pod(&asks_for_password());
    let annotations = template["metadata"]["annotations"].take();
    template["metadata"] = json!({"annotations": annotations});
    template["spec"]["restartPolicy"] = "Never".into();
    template["spec"]["containers"][0]["command"] = json!(["cat", "/run/secrets/coffer/password"]);
    let job = json!({"metadata": {"name": "once"}, "spec": {"backoffLimit": 0, "template": template}});
    let jobs = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
    ground.plane.api().create(&jobs, &job).await?;
    let once = ground.pod_of(&namespace, "job-name=once").await?;
    let ended = once.becomes("Succeeded").await?;
    ensure!(init_containers(&ended) == ["coffer"], "{ended}");
    ensure!(ended["spec"]["initContainers"][0]["restartPolicy"] == "Always", "{ended}");
    ensure!(ground.node.logs(&namespace, &once.name, "app").await? == "one");
    eventually(SOON, async || {
        let job = ground.plane.api().get(&format!("{jobs}/once")).await?;
        ensure!(job["status"]["succeeded"] == 1, "{}", job["status"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_that_the_identity_webhook_came_to_first_is_asked_for_as_that_role() -> Result<()> {
    let ground = Ground::shared().await?;
    let namespace = ground.required().await?;
    // The service account names no role: all that is known of it stands in the container, the mount first.
    ground.account(&namespace, "plain", &json!({})).await?;
    let role = ground.aws.role_arn("from-the-pod");
    for isolated in [false, true] {
        let mut annotations = asks_for_password();
        if isolated {
            annotations["coffer.dev/isolate-identity"] = "true".into();
        }
        let mut wanted = pod(&annotations);
        wanted["spec"]["serviceAccountName"] = "plain".into();
        let token = "/var/run/secrets/eks.amazonaws.com/serviceaccount";
        wanted["spec"]["volumes"] = json!([{"name": "aws-iam-token", "projected": {"sources": [{
            "serviceAccountToken": {"audience": "sts.amazonaws.com", "expirationSeconds": 86400, "path": "token"},
        }]}}]);
        let container = &mut wanted["spec"]["containers"][0];
        container["volumeMounts"] = json!([{"name": "aws-iam-token", "mountPath": token, "readOnly": true}]);
        container["env"] = json!([
            {"name": "AWS_ROLE_ARN", "value": role},
            {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": format!("{token}/token")},
        ]);
        let made = ground.create(&namespace, &wanted).await?;
        made.runs().await?;
        ensure!(made.read("password").await? == "one");
        made.own_token("plain")?;
        let seen = made.shell(&format!("env | grep -c ^AWS_ROLE_ARN; ls {token} 2>/dev/null; true")).await?;
        let expected = if isolated { "0\n" } else { "1\ntoken\n" };
        ensure!(seen == expected, "isolated: {isolated}; it sees {seen}");
    }
    let asked = ground.proxy.calls_to("AssumeRoleWithWebIdentity");
    ensure!(asked.iter().any(|call| call.request["RoleArn"] == *role), "nobody asked for {role}");
    let fetched = ground.proxy.calls();
    ensure!(fetched.iter().any(|call| call.role.as_deref() == Some(&*role)), "nothing was fetched as {role}");
    Ok(())
}

#[tokio::test]
async fn an_isolated_pod_has_its_role_by_the_service_account_and_its_application_none() -> Result<()> {
    let ground = Ground::shared().await?;
    let namespace = ground.required().await?;
    let mut annotations = asks_for_password();
    annotations["coffer.dev/isolate-identity"] = "true".into();
    let isolated = ground.create(&namespace, &pod(&annotations)).await?;
    let made = isolated.runs().await?;
    ensure!(isolated.read("password").await? == "one");
    isolated.own_token("api")?;
    let skipped = &made["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"];
    ensure!(skipped == "app", "{skipped}");
    let seen = isolated.shell("env | grep ^AWS_; ls /var/run/secrets; true").await?;
    ensure!(!seen.contains("AWS_") && !seen.contains("aws"), "{seen}");
    Ok(())
}

#[tokio::test]
async fn exec_gives_the_values_to_the_process_and_to_nobody_else() -> Result<()> {
    let ground = Ground::shared().await?;
    let namespace = ground.required().await?;
    let mut wanted = pod(&json!({
        "coffer.dev/inject": "true",
        "coffer.dev/mode": "exec",
        "coffer.dev/role-arn": ground.aws.role_arn("exec"),
    }));
    let container = &mut wanted["spec"]["containers"][0];
    container["command"] = json!(["sh", "-c"]);
    container["args"] = json!(["echo \"it is $PASSWORD\"; exec sleep 1000"]);
    container["env"] = json!([
        {"name": "PASSWORD", "value": "coffer:secretsmanager:prod/db#password"},
        {"name": "AWS_REGION", "value": bed::aws::REGION},
    ]);
    let made = ground.create(&namespace, &wanted).await?;
    let object = made.runs().await?;
    ensure!(init_containers(&object) == ["coffer-install"], "{object}");
    eventually(SOON, async || {
        let printed = ground.node.logs(&namespace, &made.name, "app").await?;
        ensure!(printed.contains("it is one"), "{printed}");
        Ok(())
    })
    .await?;
    // Another process of the container has the reference, as the pod does.
    ensure!(made.shell("echo $PASSWORD").await? == "coffer:secretsmanager:prod/db#password\n");
    Ok(())
}

#[tokio::test]
async fn an_init_container_of_the_application_reads_the_files_too() -> Result<()> {
    let ground = Ground::shared().await?;
    let namespace = ground.required().await?;
    let mut wanted = pod(&asks_for_password());
    let check = "test \"$(cat /run/secrets/coffer/password)\" = one";
    wanted["spec"]["initContainers"] =
        json!([{"name": "migrate", "image": Node::SHELL, "command": ["sh", "-c", check]}]);
    let made = ground.create(&namespace, &wanted).await?;
    let object = made.runs().await?;
    ensure!(init_containers(&object) == ["coffer", "migrate"], "{object}");
    Ok(())
}

#[tokio::test]
async fn a_pod_without_our_annotations_is_untouched_and_never_sent_to_us() -> Result<()> {
    // Of its own, so that nobody else's pods are counted.
    let ground = Ground::with(&[]).await?;
    let namespace = ground.required().await?;
    let (calls, reviews) = (ground.calls().await?, ground.reviews().await?);
    let mut plain = pod(&json!({"example.com/note": "not ours"}));
    plain["metadata"]["name"] = "plain".into();
    let mut bare = pod(&json!({}));
    bare["metadata"] = json!({"name": "bare"});
    for wanted in [&plain, &bare] {
        let made = ground.create(&namespace, wanted).await?;
        let object = made.runs().await?;
        ensure!(init_containers(&object).is_empty(), "{object}");
        ensure!(!object.to_string().contains("coffer.dev/"), "{object}");
    }
    ensure!(ground.calls().await? == calls && ground.reviews().await? == reviews, "the webhook was called");

    // So that both can count.
    let asked = ground.create(&namespace, &pod(&asks_for_password())).await?;
    asked.runs().await?;
    let (calls_now, reviews_now) = (ground.calls().await?, ground.reviews().await?);
    ensure!(calls_now > calls && reviews_now > reviews, "{calls_now} calls, {reviews_now} reviews");
    Ok(())
}

#[tokio::test]
async fn a_mistake_is_told_to_whoever_makes_the_pod() -> Result<()> {
    let ground = Ground::shared().await?;
    for labels in [json!({}), json!({"coffer.dev/injection": "required"})] {
        let namespace = ground.namespace(labels).await?;
        let wanted =
            pod(&json!({"coffer.dev/inject": "true", "coffer.dev/filse": "[]", "coffer.dev/mode": "sidecars"}));
        let denied = ground.create(&namespace, &wanted).await.err().context("it was taken")?;
        let refusal = denied.downcast_ref::<Refusal>().with_context(|| format!("{denied:#}"))?;
        for named in ["coffer.dev/filse", "coffer.dev/files", "coffer.dev/mode", "sidecar"] {
            ensure!(refusal.message.contains(named), "{named} is not named: {}", refusal.message);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_deployment_in_a_restricted_namespace_comes_up() -> Result<()> {
    let ground = Ground::shared().await?;
    let labels = json!({"coffer.dev/injection": "required", "pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = ground.namespace(labels).await?;
    let mut template = pod(&asks_for_password());
    let annotations = template["metadata"]["annotations"].take();
    template["metadata"] = json!({"annotations": annotations, "labels": {"app": "strict"}});
    template["spec"]["securityContext"] = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let security = &mut template["spec"]["containers"][0]["securityContext"];
    security["allowPrivilegeEscalation"] = false.into();
    security["capabilities"] = json!({"drop": ["ALL"]});
    let deployment = json!({
        "metadata": {"name": unique_name("strict")},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "strict"}}, "template": template},
    });
    ground.plane.api().create(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &deployment).await?;
    for strict in ground.pods_of(&namespace, "app=strict", 2).await? {
        let object: Value = strict.runs().await?;
        ensure!(init_containers(&object) == ["coffer"], "{object}");
        ensure!(strict.read("password").await? == "one");
    }
    Ok(())
}
