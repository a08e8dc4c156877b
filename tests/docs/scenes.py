"""What the reader of each guide has before the first command: what the text takes for granted, and this machine has not."""

import re

from guides import ROOT

import blocks

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
# Instructions of a Dockerfile.
DOCKERFILE = set("ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR".split())

# In every guide: the reader's own names, of which the text says so.
VARIABLES = {"REGISTRY": "registry.example.com", "NODE": "node-1", "HOSTNAME": "node-1"}
VARIABLES |= {f"{part}_DIGEST": f"sha256:{'0' * 64}" for part in ("INJECTOR", "COFFER", "KMS")}

# A node, and namespace and service account as the examples have them.
CLUSTER = """\
kubectl apply -f - <<END
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: api, namespace: shop}}
END
"""
# The kinds of the Secrets Store CSI driver, which is there.
CLASSES = """\
kubectl apply -f "$COFFER_DOCS_REPOSITORY/deploy/csi/crds"
kubectl wait --for=condition=Established crd --all
"""
# A program of the reader's own.
SERVER = "printf '#!/bin/sh\\n' > server && chmod +x server\n"
# The secret of the examples is still to be made.
NO_SECRET = "aws secretsmanager delete-secret --secret-id prod/db --force-delete-without-recovery > /dev/null\n"
# As after `deploy/build` of each program.
BUILT = '(cd "$COFFER_DOCS_REPOSITORY" && for program in coffer coffer-injector coffer-kms; do deploy/build $program > /dev/null; done)\n'
# Between two blocks: what went before was another way.
ANEW = "# On a new cluster.\n:\n"
# One object more in etcd, under the name that the guide has.
OBJECT = "kubectl create secret generic db --from-literal=password=hunter1\nkubectl create secret generic db1 --from-literal=password=hunter1\n"
PLUGIN = f"""\
coffer-kms --key={KEY} --encryption-context=cluster=prod --listen=/var/run/kmsplugin/socket.sock --health-port=127.0.0.1:8083
"""
OTHER_KEY = "arn:aws:kms:eu-west-1:123456789012:key/66666666-7777-8888-9999-000000000000"
# As the first step of a rotation has it: two sockets, each with its key.
TWO_PLUGINS = f"""\
coffer-kms --key={KEY} --encryption-context=cluster=prod --listen=/var/run/kmsplugin/socket.sock \\
    --key={OTHER_KEY} --encryption-context=cluster=prod --listen=/var/run/kmsplugin/socket2.sock --health-port=127.0.0.1:8083
"""
# A pod, as the webhook's guide has it.
POD = """\
cat > pod.yaml <<END
apiVersion: v1
kind: Pod
metadata:
  name: api
  annotations:
    coffer.dev/inject: "true"
    coffer.dev/file.db-password: "secretsmanager:prod/db#password"
spec:
  serviceAccountName: api
  containers: [{name: api, image: "api:1"}]
END
"""

# What commands leave in /tmp, which is not overlaid.
LEFT = ("/tmp/coffer-again", "/tmp/restored")

BEFORE = {
    "README.md": SERVER,
    "deploy/csi/README.md": CLUSTER,
    "deploy/csi/migration.md": f"""\
{CLUSTER}
{CLASSES}
kubectl apply -f examples/class.yaml
for name in csi-secrets-store-secrets-store-csi-driver csi-secrets-store-provider-aws; do
    kubectl apply -f - <<END
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: $name, namespace: kube-system, labels: {{app: secrets-store-csi-driver-provider-aws}}}}
spec:
  selector: {{matchLabels: {{app: $name}}}}
  template:
    metadata: {{labels: {{app: $name}}}}
    spec: {{containers: [{{name: driver, image: "driver:1"}}]}}
END
done
kubectl apply -f ../webhook/examples/deployment.yaml
# The pod of the driver that takes over; a mirror pod, so that a drain leaves it alone as it does those of a DaemonSet.
kubectl apply -f - <<END
{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: kube-system}}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: coffer-csi-takeover-1
  namespace: kube-system
  labels: {{app.kubernetes.io/name: coffer-csi-takeover}}
  annotations: {{kubernetes.io/config.mirror: "1"}}
spec: {{nodeName: node-1, containers: [{{name: driver, image: "driver:1"}}]}}
END
kubectl -n kube-system wait --for=condition=Ready pod/coffer-csi-takeover-1
touch YOURS
""",
    # What the comments of these files' heads say.
    "deploy/csi/*": BUILT,
    "deploy/csi/examples/*": CLUSTER + CLASSES,
    "deploy/ecs/*": BUILT,
    "deploy/kms/*": f"""\
{BUILT}mkdir -p /etc/kubernetes/manifests
kubectl -n kube-system create configmap kubeadm-config --from-literal=ClusterConfiguration=kind
""",
    "deploy/network/*": CLUSTER,
    "deploy/docs/cloudwatch.md": "cp ../systemd/coffer.yaml .\n",
    "deploy/docs/from-ascp.md": CLUSTER + CLASSES + "kubectl apply -f ../csi/driver.yaml -f ../csi/examples/class.yaml\n",
    "deploy/docs/from-aws-agent.md": "echo token > /var/run/awssmatoken\n",
    "deploy/docs/from-aws-encryption-provider.md": f"""\
mkdir -p /etc/kubernetes/manifests /etc/kubernetes/encryption
touch /etc/kubernetes/manifests/aws-encryption-provider.yaml
cp ../kms/encryption/new.yaml /etc/kubernetes/encryption/config.yaml
{PLUGIN}
""",
    "deploy/docs/from-external-secrets.md": CLUSTER,
    "deploy/docs/from-secrets-store-driver.md": CLUSTER + CLASSES + "kubectl apply -f ../csi/examples/class.yaml\n",
    "deploy/docs/from-vault-agent.md": CLUSTER + NO_SECRET,
    "deploy/docs/runbooks.md": f"""\
{CLUSTER}
mkdir -p /etc/kubernetes
cp ../kms/encryption/new.yaml /etc/kubernetes/encryption.yaml
kubectl apply -f ../webhook/examples/deployment.yaml
{PLUGIN}
""",
    "deploy/docs/sidecar.md": SERVER,
    "deploy/images/README.md": f"""\
{BUILT}
cd "$COFFER_DOCS_REPOSITORY"
for machine in amd64 arm64; do mkdir $machine && cp target/*/release/coffer $machine/; done
""",
    "deploy/kms/README.md": f"""\
{OBJECT}
aws iam create-role --role-name prod-control-plane --assume-role-policy-document file://../iam/trust-ec2.json > /dev/null
mkdir -p /etc/kubernetes/manifests
touch /etc/kubernetes/manifests/aws-encryption-provider.yaml
{PLUGIN}
""",
    "deploy/kms/rotation.md": f"""\
{OBJECT}
{TWO_PLUGINS}
mkdir -p /etc/kubernetes/encryption
touch snapshot.db
""",
    "deploy/kms/systemd/README.md": f'cp "$(command -v coffer-kms)" .\n{PLUGIN}',
    "deploy/systemd/README.md": 'cp "$(command -v coffer)" .\ncoffer run --config coffer.yaml\n',
    "deploy/webhook/README.md": f"{CLUSTER}{POD}",
}


# What comes about between two blocks, by the guide and the words that the second one holds.
BETWEEN = {
    "README.md": {"create-secret": NO_SECRET},
    "deploy/helm/README.md": {
        "--set csi.enabled=false": ANEW,
        "--kube-version": ANEW,
        "INJECTOR_DIGEST": ANEW,
        "upgrade --install coffer deploy/helm/coffer --namespace coffer-system --values": f"{ANEW}kubectl create namespace coffer-system\n",
        # What the plain manifests have made.
        "--take-ownership": f"{ANEW}kubectl apply -f ../webhook/webhook.yaml -f ../csi/driver.yaml -f ../csi/csidriver.yaml\n",
    },
    "deploy/kms/rotation.md": {
        "kms cancel-key-deletion": f"aws kms enable-key --key-id {KEY}\naws kms schedule-key-deletion --key-id {KEY} > /dev/null\n",
        "key_id_info.*#local-kek": f"""\
coffer-kms --key={KEY} --encryption-context=cluster=prod --write-format=local-kek --listen=/var/run/kmsplugin/local.sock \\
    --health-port=127.0.0.1:8083
""",
    },
}


# What has to be there again for the guides that come after: they share one LocalStack.
AFTER = {"README.md": {"delete-secret": "aws secretsmanager restore-secret --secret-id prod/db > /dev/null\n"}}


# Guides whose manifests the reader applies, one after the other.
APPLIES = {f"deploy/docs/from-{whence}.md" for whence in ("ascp", "external-secrets", "secrets-store-driver", "vault-agent")}


def of(guide):
    return {"says": {}, "after": AFTER.get(guide, {}), "variables": VARIABLES, "before": BEFORE.get(guide, ""), "between": BETWEEN.get(guide, {}), "applies": guide in APPLIES}


# The README in a clean clone, on a cluster with a node: what its commands print, and what its text promises after them.
WALK = {
    "variables": {"HOSTNAME": "node-1"},
    "before": SERVER,
    "between": {},
    "applies": False,
    "says": {"first.yaml": r"hunter2\s*hunter2", "/coffer status": r"hunter3\s*hunter3[\s\S]*prod/db"},
    "after": {
        "put-secret-value": """\
for reader in "deployment/api -c api -- cat /run/secrets/coffer/db-password" "volume -- cat /run/secrets/app/db-password"; do
    timeout 150 sh -c "until kubectl -n shop exec $reader | grep -q hunter3; do sleep 2; done"
done
test "$(kubectl -n shop get pods -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}')" = "0 0"
""",
        # What comes after the cleaning up shows the ways once more, as to somebody who has a secret.
        **AFTER["README.md"],
    },
}


def image_has(image, path):
    """Whether a Dockerfile of ours puts that path into that image."""
    stage = {"coffer": "coffer", "coffer-injector": None, "coffer-kms": None}
    for file in sorted((ROOT / "deploy").rglob("Dockerfile")):
        text = file.read_text()
        if image in stage and re.search(rf"^COPY .*\s{re.escape(path)}$", text, re.M) and re.search(rf"\b{image}\b", text):
            return True
    return False
