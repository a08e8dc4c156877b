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
END
"""
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

BEFORE = {
    "README.md": f"""\
{POD}
printf '#!/bin/sh\\n' > server && chmod +x server
cp deploy/kms/encryption/new.yaml config.yaml
""",
    "deploy/csi/README.md": CLUSTER,
    "deploy/csi/migration.md": f"""\
{CLUSTER}
kubectl apply -f crds -f examples/class.yaml
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
    "deploy/kms/rotation.md": {
        "kms cancel-key-deletion": f"aws kms enable-key --key-id {KEY}\naws kms schedule-key-deletion --key-id {KEY} > /dev/null\n",
        "key_id_info.*#local-kek": f"""\
coffer-kms --key={KEY} --encryption-context=cluster=prod --write-format=local-kek --listen=/var/run/kmsplugin/local.sock \\
    --health-port=127.0.0.1:8083
""",
    },
}


# Guides whose manifests the reader applies, one after the other.
APPLIES = {f"deploy/docs/from-{whence}.md" for whence in ("ascp", "external-secrets", "secrets-store-driver", "vault-agent")}


def of(guide):
    return {"variables": VARIABLES, "before": BEFORE.get(guide, ""), "between": BETWEEN.get(guide, {}), "applies": guide in APPLIES}


def image_has(image, path):
    """Whether a Dockerfile of ours puts that path into that image."""
    stage = {"coffer": "coffer", "coffer-injector": None, "coffer-kms": None}
    for file in sorted((ROOT / "deploy").rglob("Dockerfile")):
        text = file.read_text()
        if image in stage and re.search(rf"^COPY .*\s{re.escape(path)}$", text, re.M) and re.search(rf"\b{image}\b", text):
            return True
    return False
