"""What the reader of each guide has before the first command: what the text takes for granted, and this machine has not."""

import re

from guides import ROOT

import blocks

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
# Instructions of a Dockerfile.
DOCKERFILE = set("ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR".split())

# In every guide: the reader's own names, of which the text says so.
VARIABLES = {"REGISTRY": "registry.example.com", "NODE": "node-1", "HOSTNAME": "node-1"}

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
for chart in csi-secrets-store secrets-provider-aws; do
    helm -n kube-system install $chart foreign/$chart
done
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
{PLUGIN}
touch snapshot.db
""",
    "deploy/kms/systemd/README.md": "cp ../../../target/bin/coffer-kms .\n",
    "deploy/systemd/README.md": "cp ../../target/bin/coffer .\n",
    "deploy/webhook/README.md": f"{CLUSTER}{POD}",
}


def of(guide):
    return {"variables": VARIABLES, "before": BEFORE.get(guide, "")}


def prepare(there, folder, copy, bed):
    """Puts files in place that the guide has the reader write; the commands that make the rest."""
    return there["before"]


def image_has(image, path):
    """Whether a Dockerfile of ours puts that path into that image."""
    stage = {"coffer": "coffer", "coffer-injector": None, "coffer-kms": None}
    for file in sorted((ROOT / "deploy").rglob("Dockerfile")):
        text = file.read_text()
        if image in stage and re.search(rf"^COPY .*\s{re.escape(path)}$", text, re.M) and re.search(rf"\b{image}\b", text):
            return True
    return False
