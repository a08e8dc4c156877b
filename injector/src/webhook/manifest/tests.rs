use super::*;

fn cluster() -> Cluster {
    let settings = Settings {
        image: "coffer:0.1.0".to_owned(),
        pull_policy: None,
        run_as_user: Some(10002),
        seccomp_profile: None,
        env: Vec::new(),
        token_audience: "sts.amazonaws.com".to_owned(),
    };
    Cluster { settings, native_sidecars: true, role: None }
}

fn rendered(text: &str) -> Vec<Rendered<'_>> {
    render(documents(text).unwrap(), &cluster())
}

fn template(kind: &str, place: &[&str]) -> String {
    let asks = "{annotations: {coffer.dev/inject: 'true', coffer.dev/file.db: 'secretsmanager:prod/db'}}";
    let pod = format!("metadata: {asks}, spec: {{containers: [{{name: api, image: x}}]}}");
    let nested = place.iter().rev().fold(pod, |inner, key| format!("{key}: {{{inner}}}"));
    match place.is_empty() {
        true => format!("{{kind: {kind}, {nested}}}\n"),
        false => format!("{{kind: {kind}, metadata: {{name: api, namespace: shop}}, {nested}}}\n"),
    }
}

#[test]
fn pods_are_found_in_every_kind() {
    let template_of = ["spec", "template"];
    for (kind, place) in [
        ("Pod", &[][..]),
        ("PodTemplate", &["template"]),
        ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
        ("Deployment", &template_of),
        ("StatefulSet", &template_of),
        ("DaemonSet", &template_of),
        ("ReplicaSet", &template_of),
        ("Job", &template_of),
        ("ReplicationController", &template_of),
        ("Rollout", &template_of),
    ] {
        let text = template(kind, place);
        let rendered = rendered(&text);
        assert_eq!(rendered.len(), 1);
        let object = rendered[0].object.as_ref().unwrap_or_else(|| panic!("{kind}"));
        let pointer = format!("/{}", place.join("/"));
        let pod = if place.is_empty() { object } else { object.pointer(&pointer).unwrap() };
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "coffer", "{kind}");
        let name = if place.is_empty() { "Pod (without a name)".to_owned() } else { format!("{kind} shop/api") };
        assert_eq!(rendered[0].pods[0].name, name);
    }
}

#[test]
fn lists_are_looked_into_and_the_rest_stays() {
    let text = format!(
        "kind: List\nitems:\n- {{kind: Service, spec: {{}}}}\n- {}- {}",
        template("Deployment", &["spec", "template"]),
        template("Job", &["spec", "template"])
    );
    let rendered = rendered(&text);
    assert_eq!(rendered[0].pods.len(), 2);
    let object = rendered[0].object.as_ref().unwrap();
    assert_eq!(object["items"][0], serde_json::json!({ "kind": "Service", "spec": {} }));
    assert_eq!(object["items"][2]["spec"]["template"]["spec"]["initContainers"][0]["name"], "coffer");
    assert!(rendered[0].patch().iter().all(|step| format!("{step:?}").contains("/items/")));
}

#[test]
fn documents_keep_their_text_and_place() {
    let text = "# head\n---\na: |\n  ---\n  b\n--- # two\nc: 1\n---\n# nothing\n---\n{d: 2}\n...\n";
    let texts: Vec<_> = documents(text).unwrap().into_iter().map(|d| (d.line, d.text, d.object.is_some())).collect();
    let expected = [
        (1, "# head\n", false),
        (2, "\na: |\n  ---\n  b\n", true),
        (6, "# two\nc: 1\n", true),
        (8, "\n# nothing\n", false),
        (10, "\n{d: 2}\n...\n", true),
    ];
    assert_eq!(texts, expected);
    assert_eq!(documents("").unwrap().len(), 0);
    assert_eq!(documents("%YAML 1.1\n---\na: 1\n").unwrap().len(), 1);
    let json = "{\"a\": 1}\n\n{\"b\": 2.50}\n";
    let texts: Vec<_> = documents(json).unwrap().into_iter().map(|d| (d.line, d.text)).collect();
    assert_eq!(texts, [(1, "{\"a\": 1}"), (3, "{\"b\": 2.50}")]);
    assert!(documents("{a: 1, b: [c]}").unwrap()[0].object.is_some(), "YAML that begins as JSON does");
}

#[test]
fn faults_have_their_place_in_the_whole() {
    let fault = documents("a: 1\n---\nb: 2\n---\nc: [\n").unwrap_err();
    assert!(fault.place.line >= 5, "{fault}");
    let fault = documents("a: 1\n...\nb: 2\n").unwrap_err();
    assert_eq!((fault.place.line, fault.text.as_str()), (3, "a second document begins here without `---` before it"));
}

#[test]
fn a_service_account_among_them_gives_its_role() {
    let account = |namespace: &str, role: &str| {
        format!(
            "kind: ServiceAccount\nmetadata: {{name: default{namespace}, annotations: {{eks.amazonaws.com/role-arn: \
             'arn:aws:iam::123456789012:role/{role}'}}}}\n---\n"
        )
    };
    let role = |text: &str| {
        let text = format!("{text}{}", template("Deployment", &["spec", "template"]));
        let object = rendered(&text).pop().unwrap().object.unwrap().to_string();
        ["here", "there", "open"].into_iter().find(|role| object.contains(&format!(":role/{role}"))).map(str::to_owned)
    };
    let (here, there, open) =
        (account(", namespace: shop", "here"), account(", namespace: other", "there"), account("", "open"));
    assert_eq!(role(&format!("{there}{open}{here}")).as_deref(), Some("here"));
    assert_eq!(role(&format!("{there}{open}")).as_deref(), Some("open"));
    assert_eq!(role(&there), None);
}

#[test]
fn a_denied_pod_leaves_its_object_as_it_is() {
    let rendered = rendered(
        "{kind: Pod, metadata: {name: a, annotations: {coffer.dev/modus: x}}, spec: {containers: [{name: a}]}}",
    );
    assert!(rendered[0].object.is_none() && rendered[0].pods[0].outcome.is_err());
    assert!(rendered[0].patch().is_empty());
}

#[test]
fn annotations_at_the_wrong_level_are_told() {
    let told = |text: &str| {
        documents(text).unwrap().iter().filter_map(|d| d.object.as_ref()).flat_map(misplaced).collect::<Vec<_>>()
    };
    let ours = "{coffer.dev/inject: 'true'}";
    assert_eq!(
        told(&format!(
            "{{kind: Deployment, metadata: {{name: api, annotations: {ours}, labels: {ours}}}, spec: {{template: {{metadata: \
             {{labels: {ours}}}, spec: {{containers: [{{name: a}}]}}}}}}}}"
        )),
        [
            "Deployment api: `coffer.dev/inject` stands in the Deployment's own metadata, where nobody reads it; write it in spec.template.metadata.annotations",
            "Deployment api: `coffer.dev/inject` stands among the Deployment's own labels, where nobody reads it; write it in spec.template.metadata.annotations",
            "Deployment api: `coffer.dev/inject` stands among the labels of its pods, where nobody reads it; write it in spec.template.metadata.annotations",
        ]
    );
    assert_eq!(
        told(&format!("{{kind: List, items: [{{kind: Pod, metadata: {{name: a, labels: {ours}}}, spec: {{}}}}]}}")),
        [
            "Pod a: `coffer.dev/inject` stands among the pod's labels, where nobody reads it; write it in metadata.annotations"
        ]
    );
    let cron = "{kind: CronJob, metadata: {name: a, annotations: {coffer.dev/inject: 'true'}}, spec: {jobTemplate: {spec: {template: {spec: {}}}}}}";
    assert!(told(cron)[0].ends_with("write it in spec.jobTemplate.spec.template.metadata.annotations"));
    for kind in ["Deployment", "Pod"] {
        let place: &[&str] = if kind == "Pod" { &[] } else { &["spec", "template"] };
        assert_eq!(told(&template(kind, place)), Vec::<String>::new());
    }
}

#[test]
fn claims_of_a_stateful_set_are_volumes_of_its_pods() {
    let set = |claims: &str| {
        let asks = "{annotations: {coffer.dev/inject: 'true', coffer.dev/file.db: 'secretsmanager:prod/db'}}";
        let template = format!("{{metadata: {asks}, spec: {{containers: [{{name: pg, image: x}}]}}}}");
        format!("{{kind: StatefulSet, metadata: {{name: pg}}, spec: {{template: {template}{claims}}}}}\n")
    };
    let text = set(", volumeClaimTemplates: [{metadata: {name: data}}]");
    let object = rendered(&text)[0].object.clone().unwrap();
    let pod = &object["spec"]["template"]["spec"];
    assert!(pod["securityContext"].is_null(), "the kubelet would change the owners of the data: {pod}");
    assert!(!pod["volumes"].to_string().contains("persistentVolumeClaim"), "{pod}");
    let text = set("");
    let object = rendered(&text)[0].object.clone().unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["securityContext"]["fsGroup"], 10001);
}
