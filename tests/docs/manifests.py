"""YAML and JSON: whole manifests, pieces of them, configs, policies; each taken by what would read it."""

import concurrent.futures
import copy
import json
import re
import subprocess
import tempfile
import uuid
from pathlib import Path

from guides import ROOT, Failure, Strict, expect, yaml

import blocks

# Groups of the API that a plain API server does not serve. Nothing here has their products, so that an API server takes
# them by a definition that lets anything through: their names, their place and their YAML hold, their fields do not.
FOREIGN = {
    "argoproj.io": "Argo CD is a program of its own",
    "cert-manager.io": "cert-manager is a program of its own",
    "cilium.io": "Cilium is a program of its own",
    "crd.projectcalico.org": "Calico is a program of its own",
    "external-secrets.io": "the External Secrets operator is a program of its own",
    "monitoring.coreos.com": "the Prometheus operator is a program of its own",
    "networking.istio.io": "Istio is a program of its own",
    "projectcalico.org": "Calico is a program of its own",
    "security-profiles-operator.x-k8s.io": "the Security Profiles Operator is a program of its own",
    "security.istio.io": "Istio is a program of its own",
}
# Kinds that go to no API server: what reads each of them here, by its group.
ELSEWHERE = {
    "apiserver.config.k8s.io": "encryption_config",
    "kubeadm.k8s.io": "only_parsed",
    "kops.k8s.io": "only_parsed",
    "eksctl.io": "only_parsed",
    "kubelet.config.k8s.io": "only_parsed",
    "kustomize.config.k8s.io": "kustomization",
}
WHY_ONLY_PARSED = {
    "kubeadm.k8s.io": "kubeadm is not here; tests/kms-deploy holds its paths and arguments together",
    "kops.k8s.io": "kOps is not here; tests/kms-deploy holds its pod and policy against the other manifests",
    "eksctl.io": "eksctl is not here",
    "kubelet.config.k8s.io": "a kubelet takes it, and there is none here",
}
# What another test reads whole; it names the folder or the file.
HELD = [
    (r"deploy/helm/coffer/(templates/|Chart\.yaml|values\.yaml|values\.schema\.json|crds/|ci/)", "tests/helm-deploy", "deploy/helm"),
    (r"deploy/helm/coffer/monitoring/", "tests/watch", "monitoring"),
    (r"deploy/seccomp/[\w-]+\.json", "tests/sidecar", "seccomp"),
]
# Kinds that come out of the chart, and stand in no manifest.
OF_THE_CHART = [
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("cert-manager.io/v1", "Issuer"),
    ("cert-manager.io/v1", "Certificate"),
]


class Manifests:
    """Takes what stands in files and guides, and hands it to the readers.

    `bed` is what runs; what is only looked at in part goes into `only`, each with the reason.
    """

    def __init__(self, bed):
        self.bed = bed
        self.only = []
        self.taken = {}
        self.failures = []
        self.groups = []
        self.wholes = []

    # What there is.

    def file(self, path):
        """A file under deploy/."""
        place = str(path.relative_to(ROOT))
        for pattern, test, word in HELD:
            if re.match(pattern, place):
                self._held(place, test, word)
                return
        if path.suffix == ".json":
            self._guarded(place, lambda: self.json(place, json.loads(path.read_text()), path))
        else:
            self._guarded(place, lambda: self.yaml(place, path.read_text(), path))

    def block(self, block, language):
        """A block of a guide."""
        place = str(block)
        if language == "json":
            self._guarded(place, lambda: self.json(place, json.loads(block.text), None))
        else:
            self._guarded(place, lambda: self.yaml(place, block.text, None))

    def yaml(self, place, text, path):
        # Its tags are no YAML that anybody else knows.
        if re.search(r"^(AWSTemplateFormatVersion|Resources):", text, re.M):
            self._template(place, text, path)
            return
        documents = [one for one in yaml.load_all(text, Strict) if one is not None]
        expect(documents, f"{place}: nothing in it")
        objects = [one for one in documents if is_object(one)]
        if objects:
            expect(len(objects) == len(documents), f"{place}: some of it is no object of Kubernetes")
            self._objects(place, text, objects, path)
            return
        for one in documents:
            self._piece(place, text, one, path)

    def json(self, place, value, path):
        if is_object(value):
            self._objects(place, json.dumps(value), [value], path)
        elif is_policy(value):
            self._policy(place, value)
        elif isinstance(value, dict) and "containerDefinitions" in value:
            self._aws(place, "a task definition", ["ecs", "register-task-definition"], value)
        elif isinstance(value, dict) and {"defaultAction", "syscalls"} <= set(value):
            self._held(place, "tests/images", "seccomp")
        elif isinstance(value, dict) and "_aws" in value:
            self._metrics(place, value)
        elif isinstance(value, dict) and "$schema" in value:
            self._held(place, "deploy/docs/generate", "schema")
        else:
            raise Failure(f"{place}: JSON of which nothing here knows what it is")

    # Objects of Kubernetes.

    def _objects(self, place, text, objects, path):
        for one in objects:
            group = one["apiVersion"].rpartition("/")[0]
            if group in ELSEWHERE:
                expect(len(objects) == 1 or group == "apiserver.config.k8s.io", f"{place}: more beside a {one['kind']}")
                getattr(self, f"_{ELSEWHERE[group]}")(place, text, one, path)
                self._inner(place, one)
                return
        self.wholes.append((place, text, objects))
        self.took("objects, by the API server", place)
        for one in objects:
            self._inner(place, one)
            group = one["apiVersion"].rpartition("/")[0]
            if group in FOREIGN:
                self.partly(place, f"{one['kind']} of {group}: {FOREIGN[group]}")
        if any(pod_of(one) and asks_for_coffer(one) for one in objects):
            self._later(place, lambda: self._render(place, text))
        if any(one["kind"] == "SecretProviderClass" for one in objects):
            self._later(place, lambda: self._classes(place, text))
        for one in objects:
            self._volumes(place, one, objects)

    def _volumes(self, place, one, objects):
        """The volumes of our driver, as the driver reads their attributes."""
        spec = (pod_of(one) or (None, {}))[1]
        for volume in spec.get("volumes", []):
            csi = volume.get("csi", {})
            if csi.get("driver") == "csi.coffer.dev":
                self._attributes(place, csi.get("volumeAttributes", {}))

    def _attributes(self, place, attributes):
        def read():
            done = self.bed.run("csi-attributes", input=json.dumps(attributes))
            expect(done.returncode == 0, f"{place}: the driver refuses the volume: {done.stderr.strip()}")
            if "spec" in attributes:
                self._config(place, as_config(attributes["spec"]))

        self.took("volumes of the driver, by what reads them there", place)
        self._later(place, read)

    def _render(self, place, text):
        done = self.bed.on_file(["coffer-injector", "render", "--image=coffer:0.1.0"], text)
        expect(done.returncode == 0, f"{place}: the webhook would refuse: {done.stderr.strip()}")
        expect("coffer.dev/status" in done.stdout, f"{place}: the webhook changes nothing")
        self.took("pods, by `coffer-injector render`", place)

    def _classes(self, place, text):
        done = self.bed.on_file(["coffer-injector", "check"], text)
        expect(done.returncode == 0, f"{place}: {(done.stdout + done.stderr).strip()}")
        self.took("classes, by `coffer-injector check`", place)

    def _encryption_config(self, place, text, one, path):
        def read():
            done = self.bed.on_file(["coffer-kms", "doctor", "--offline", "--automatic-reload", "--encryption-config"], text)
            expect(done.returncode == 0, f"{place}: {(done.stdout + done.stderr).strip()}")

        self.took("encryption configs, by `coffer-kms doctor`", place)
        self._later(place, read)

    def _kustomization(self, place, text, one, path):
        expect(path is not None, f"{place}: a kustomization in a text has no folder")

        def read():
            done = self.bed.kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", str(path.parent))
            expect(done.returncode == 0, f"{place}: {done.stderr.strip()}")
            self.wholes.append((place, done.stdout, list(yaml.load_all(done.stdout, Strict))))

        self.took("kustomizations, by kubectl and the API server", place)
        self._later(place, read)

    def _only_parsed(self, place, text, one, path):
        group = one["apiVersion"].rpartition("/")[0]
        expect(isinstance(one.get("spec", one), dict), f"{place}: {one}")
        self.partly(place, f"{one['kind']}: {WHY_ONLY_PARSED[group]}")

    def _inner(self, place, value):
        """Texts within an object that are documents themselves: a config in a ConfigMap, a pod in a cluster's files."""
        for key, text in texts(value):
            if "\n" not in text.strip() or key in ("spec", "script"):
                continue
            try:
                inner = [one for one in yaml.load_all(text, Strict) if one is not None]
            except (yaml.YAMLError, Failure):
                continue
            for one in inner:
                if is_object(one):
                    self.yaml(f"{place} ({key})", text, None)
                    break
                if is_config(one):
                    self._config_later(f"{place} ({key})", text)

    # Pieces.

    def _piece(self, place, text, piece, path):
        if isinstance(piece, list):
            self._list(place, piece)
        elif not isinstance(piece, dict):
            raise Failure(f"{place}: YAML that is no mapping and no list: {piece}")
        elif is_policy(piece):
            self._policy(place, piece)
        elif is_config(piece):
            self._config_later(place, text if "volumes" in piece or "env" in piece else text + as_config("[]"))
        elif set(piece) <= self.bed.values and self.bed.values:
            self._values(place, text)
        elif set(piece) == {"tls_certificate"} or "static_resources" in piece:
            self.partly(place, "Envoy is not here; tests/webhook-deploy holds its paths against the set")
        elif "scrape_configs" in piece:
            self.partly(place, "a Prometheus's own config, which nothing here reads; its names are Prometheus's")
        elif "groups" in piece:
            self._held(place, "tests/watch", "groups")
        elif set(piece) == {"spec"} and "ignoreDifferences" in piece["spec"]:
            self.partly(place, f"a piece of an Application: {FOREIGN['argoproj.io']}")
        elif is_piece_of_pod(piece):
            self._pod(place, piece)
        else:
            raise Failure(f"{place}: YAML of which nothing here knows what it is: {sorted(map(str, piece))}")

    def _list(self, place, items):
        if all(isinstance(item, str) and item.startswith("--") for item in items):
            self._arguments(place, items)
        elif all(isinstance(item, dict) and ("from" in item or "template" in item) for item in items):
            self._config_later(place, as_config(yaml.safe_dump(items)))
        elif all(is_object(item) for item in items):
            self._objects(place, yaml.safe_dump_all(items), items, None)
        else:
            raise Failure(f"{place}: a list of which nothing here knows what it is")

    def _arguments(self, place, arguments):
        """Flags as a container has them: of the program that knows them all."""

        def read():
            said = []
            for command in self.bed.commands():
                done = self.bed.run(*command, *arguments, "--no-such-flag")
                # What comes first is found first; so, with this, all before it is well.
                if done.returncode == 2 and "'--no-such-flag'" in done.stderr:
                    return
                said.append(f"{' '.join(command)}: {done.stderr.strip().splitlines()[0]}")
            raise Failure(f"{place}: no program takes them: {'; '.join(said)}")

        self.took("flags, by the program that takes them", place)
        self._later(place, read)

    def _pod(self, place, piece):
        """A piece of a pod, in a pod."""
        piece = copy.deepcopy(piece)
        spec = piece.pop("spec", {})
        for key in [key for key in piece if key in POD_SPEC]:
            spec[key] = piece.pop(key)
        container = {"name": "app", "image": "app:1"}
        for key in [key for key in piece if key in CONTAINER]:
            container[key] = piece.pop(key)
        containers = spec.get("containers", [])
        for one in containers:
            one.setdefault("image", "app:1")
        if not containers:
            spec["containers"] = [container]
        if "serviceAccountName" not in spec:
            spec["serviceAccountName"] = "api"
        # What is mounted is there, and a volume of the application's own may be anything.
        there = {volume["name"] for volume in spec.get("volumes", [])}
        for one in [*spec.get("initContainers", []), *spec["containers"]]:
            for mount in one.get("volumeMounts", []):
                if mount["name"] not in there:
                    there.add(mount["name"])
                    spec.setdefault("volumes", []).append({"name": mount["name"], "emptyDir": {}})
        metadata = piece.pop("metadata", {})
        expect(not piece, f"{place}: {sorted(piece)} is no part of a pod")
        metadata = {"name": "app", "namespace": "shop"} | metadata
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": spec["serviceAccountName"], "namespace": "shop"}}
        self.took("pieces, made whole", place)
        self._objects(place, yaml.safe_dump_all([account, pod]), [account, pod], None)

    def _values(self, place, text):
        def read():
            done = self.bed.helm_values(text)
            expect(done.returncode == 0, f"{place}: {done.stderr.strip()}")

        self.took("values of the chart, by helm with its schema", place)
        self._later(place, read)

    # Coffer's own.

    def _config_later(self, place, text):
        self.took("configs, by `coffer check`", place)
        self._later(place, lambda: self._config(place, text))

    def _config(self, place, text):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "coffer.yaml"
            file.write_text(text)
            # Templates that lie beside it, for the reader to write.
            for name in re.findall(r"template_file: ([\w./-]+)", text):
                (Path(folder) / name).write_text("{{ 1 }}\n")
            done = self.bed.run("coffer", "check", "--config", str(file))
        expect(done.returncode == 0, f"{place}: {(done.stdout + done.stderr).strip()}")

    # AWS.

    def _policy(self, place, policy):
        """A policy goes where its kind is kept: IAM, a role's trust, a key, a secret."""
        principals = [one.get("Principal") for one in statements(policy)]
        actions = {action for one in statements(policy) for action in listed(one.get("Action", one.get("NotAction", [])))}
        services = {action.split(":")[0] for action in actions}
        text, name = json.dumps(policy), f"docs-{uuid.uuid4().hex[:12]}"
        if not any(principals):
            what, call = "policies, by IAM", ("iam", "CreatePolicy", {"PolicyName": name, "PolicyDocument": text})
        elif services == {"sts"}:
            what, call = "trust policies, by IAM", ("iam", "CreateRole", {"RoleName": name, "AssumeRolePolicyDocument": text})
        elif services == {"kms"}:
            what, call = "key policies, by KMS", ("kms", "TrentService.CreateKey", {"Policy": text})
        elif services == {"secretsmanager"}:
            asked = {"SecretId": "prod/db", "ResourcePolicy": text}
            what, call = "resource policies, by Secrets Manager", ("secretsmanager", "secretsmanager.PutResourcePolicy", asked)
        else:
            what, call = "policies of other resources", None
        self.took(what, place)

        def read():
            for one in statements(policy):
                expect(one.get("Effect") in ("Allow", "Deny"), f"{place}: {one}")
                expect("Action" in one or "NotAction" in one, f"{place}: no action in {one}")
            if call:
                self.bed.call(*call)

        if call is None:
            self.partly(place, f"a policy on {sorted(services)}: statements and effects; tests/aws-deploy has the actions")
        self._later(place, read)

    def _aws(self, place, what, command, value):
        """What the command line tool checks before it asks: every field's name and type."""

        def read():
            done = self.bed.aws(*command, "--cli-input-json", json.dumps(value), "--generate-cli-skeleton=output")
            expect(done.returncode == 0, f"{place}: {done.stderr.strip()}")

        self.took(f"{what}, by the AWS command line tool's own model", place)
        self._later(place, read)

    def _metrics(self, place, value):
        """A line of the embedded metric format: what it declares is in it."""
        for one in value["_aws"]["CloudWatchMetrics"]:
            for name in [metric["Name"] for metric in one["Metrics"]] + [name for names in one["Dimensions"] for name in names]:
                expect(name in value, f"{place}: {name} is declared, and not there")
        self.took("metrics for CloudWatch: what a line declares is in it", place)

    def _template(self, place, text, path):
        if path is not None:
            tests = ("tests/templates", "tests/aws-deploy")
            named = [test for test in tests if (ROOT / test).exists() and path.name in (ROOT / test).read_text()]
            if named:
                self.took(f"CloudFormation, by {named[0]}", place)
                return

        def read():
            done = self.bed.lint(text)
            expect(done.returncode == 0, f"{place}: {done.stdout.strip()}")

        self.took("CloudFormation, by cfn-lint", place)
        self._later(place, read)

    # How it is done.

    def took(self, what, place):
        self.taken.setdefault(what, []).append(place)

    def partly(self, place, why):
        self.took("only parsed, or in part", place)
        self.only.append((place, why))

    def _held(self, place, test, word):
        there = ROOT / test
        texts_ = [file for file in ([there] if there.is_file() else sorted(there.rglob("*.rs"))) if word in file.read_text()]
        if texts_:
            self.took(f"held by {test}", place)
        else:
            self.failures.append((place, f"nothing here knows it, and {test} does not speak of {word}"))

    def _later(self, place, check):
        self.groups.append((place, check))

    def _guarded(self, place, act):
        try:
            act()
        except (Failure, ValueError, KeyError, TypeError, yaml.YAMLError, OSError, subprocess.SubprocessError) as error:
            text = str(error) or type(error).__name__
            self.failures.append((place, text.removeprefix(f"{place}: ")))

    def run(self):
        """Does what was put off, two at once, the API server's part last: it needs what others bring."""
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda one: self._guarded(*one), self.groups))
            self._first()
            list(pool.map(lambda one: self._guarded(one[0], lambda: self._apply(one[0], one[1])), self.wholes))

    def define(self):
        """Kinds that a plain API server has not: ours, by their definition, and those of others."""
        made = {}
        for file in sorted((ROOT / "deploy/csi/crds").glob("*.yaml")):
            for one in yaml.safe_load_all(file.read_text()):
                made[one["metadata"]["name"]] = one
        kinds = [(one["apiVersion"], one["kind"]) for _, _, objects in self.wholes for one in objects]
        for version, kind in [*OF_THE_CHART, *kinds]:
            if version.rpartition("/")[0] in FOREIGN:
                definition = definition_of(version, kind)
                made[definition["metadata"]["name"]] = definition
        self._make(made.values())
        waited = self.bed.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in made))
        expect(waited.returncode == 0, f"the definitions do not come up: {waited.stderr}")

    def _first(self):
        """What objects need to be there: their kinds, namespaces, service accounts."""
        self.define()
        spaces, accounts = set(), set()
        for one in (one for _, _, objects in self.wholes for one in objects):
            namespace = one["metadata"].get("namespace", "default")
            spaces.add(namespace)
            accounts.add((namespace, "default"))
            if pod := pod_of(one):
                accounts.add((namespace, pod[1].get("serviceAccountName", "default")))
        self._make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in sorted(spaces))
        self._make(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": space}}
            for space, name in sorted(accounts)
        )

    def _make(self, objects):
        text = yaml.safe_dump_all(objects)
        if not text:
            return
        done = self.bed.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)
        expect(done.returncode == 0, f"what is needed first cannot be made: {done.stderr.strip()}")

    def _apply(self, place, text):
        done = self.bed.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=text)
        expect(done.returncode == 0, f"{place}: {done.stderr.strip()}")
        expect("unknown field" not in done.stderr, f"{place}: {done.stderr.strip()}")


POD_SPEC = {
    "volumes", "containers", "initContainers", "serviceAccountName", "securityContext", "nodeSelector", "tolerations",
    "affinity", "priorityClassName", "terminationGracePeriodSeconds", "shareProcessNamespace", "hostNetwork",
}  # fmt: skip
CONTAINER = {
    "env", "args", "command", "volumeMounts", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle",
    "image", "name", "ports",
}  # fmt: skip
# The top of Coffer's config file.
CONFIG = {
    "region", "role_arn", "external_id", "refresh", "mode", "uid", "gid", "listen", "probes", "metrics", "rate_limits", "volumes", "env",
    "push", "api", "debounce", "on_change", "values",
}  # fmt: skip


def is_object(value):
    return isinstance(value, dict) and isinstance(value.get("apiVersion"), str) and isinstance(value.get("kind"), str)


def is_policy(value):
    return isinstance(value, dict) and "Statement" in value


def is_config(value):
    """A config of Coffer's, and no piece of a pod, which has volumes too."""
    if not isinstance(value, dict) or not value or not set(value) <= CONFIG:
        return False
    volumes, env = value.get("volumes", []), value.get("env", [])
    if not isinstance(volumes, list) or not isinstance(env, list):
        return False
    ours = all(isinstance(one, dict) and "path" in one for one in volumes)
    return ours and all(isinstance(one, dict) and "from" in one for one in env)


def is_piece_of_pod(value):
    return set(value) <= POD_SPEC | CONTAINER | {"metadata", "spec"}


def as_config(files):
    """A list of files, or a volume without its path, as a whole config; in its own spelling, so that YAML's odds are kept."""
    is_list = isinstance(yaml.load(files, Strict), list)
    if files.strip() == "[]":
        return '\nvolumes: [{path: /run/secrets/app, files: [{name: a, from: "secretsmanager:a"}]}]\n'
    indent = " " * (6 if is_list else 4)
    lines = "".join(indent + line for line in files.splitlines(keepends=True))
    return f"volumes:\n  - path: /run/secrets/app\n{'    files:' + chr(10) if is_list else ''}{lines}\n"


def pod_of(value):
    """Metadata and spec of the pods that an object stands for; nothing where it stands for none."""
    spec = value.get("spec", {})
    if value["kind"] == "Pod":
        return value["metadata"], spec
    if value["kind"] == "CronJob":
        spec = spec.get("jobTemplate", {}).get("spec", {})
    template = spec.get("template") if isinstance(spec, dict) else None
    if isinstance(template, dict) and "spec" in template and "containers" in template["spec"]:
        return template.get("metadata", {}), template["spec"]
    return None


def asks_for_coffer(value):
    annotations = (pod_of(value)[0].get("annotations")) or {}
    return str(annotations.get("coffer.dev/inject", "")).lower() == "true"


def definition_of(version, kind):
    """A definition that takes anything of that kind."""
    group, _, version = version.rpartition("/")
    plural = kind.lower()
    plural = plural[:-1] + "ies" if plural.endswith("y") else plural + ("es" if plural.endswith("s") else "s")
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    scope = "Cluster" if kind.startswith(("Cluster", "Global")) else "Namespaced"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "scope": scope,
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}],
        },
    }


def texts(value, key=""):
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from texts(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, key)


def statements(policy):
    found = policy["Statement"]
    return found if isinstance(found, list) else [found]


def listed(value):
    return value if isinstance(value, list) else [value]


def files():
    return [file for file in blocks.files(".yaml", ".yml", ".json")]
