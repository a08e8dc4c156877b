"""What the checks run against: the programs, kubectl on a real API server, the AWS command line tool on LocalStack."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from guides import HTTP, PATIENCE, ROOT, Failure, only, yaml

ACCOUNT, REGION = "123456789012", "eu-west-1"
# Every command of ours that takes flags as a container's arguments.
COMMANDS = {
    "coffer": ("run", "exec"),
    "coffer-injector": ("webhook", "csi", "provider", "notifier"),
    "coffer-kms": ("serve", "doctor", "decrypt"),
}


class Bed:
    """As the Rust side has started it and tells of it in a file."""

    def __init__(self, file):
        told = json.loads(Path(file).read_text())
        self.folder = Path(file).resolve().parent
        self.bin = Path(told["bin"])
        self.kubeconfig = told["kubeconfig"]
        self.localstack = told["localstack"]
        # For a walk: a clone to go through, on a cluster with a node.
        self.clone = told.get("clone")
        self.kube = only(built(), "tests/cluster/build")
        self.helm = only(built("helm"), "tests/cluster/build helm")
        self.venv = localstack() / "venv"
        # The commands of the guides are told of all this too.
        self.file = Path(f"{file}.whole")
        self.file.write_text(json.dumps(told | {"kube": self.kube, "helm": self.helm, "venv": str(self.venv)}))
        self.chart = ROOT / "deploy/helm/coffer"
        values = self.chart / "values.yaml"
        self.values = set(yaml.safe_load(values.read_text())) if values.exists() else set()

    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "COFFER_"))}
        return kept | self.credentials()

    def credentials(self):
        return {
            "AWS_ENDPOINT_URL": self.localstack,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # LocalStack takes the account from it.
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "not-verified",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }

    def commands(self):
        return [(program, command) for program, commands in COMMANDS.items() for command in commands]

    def run(self, program, *arguments, input=None):
        return self._do([str(self.bin / program), *arguments], input)

    def on_file(self, command, text):
        with tempfile.NamedTemporaryFile("w+", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            return self.run(*command, file.name)

    def kubectl(self, *arguments, input=None):
        return self._do([self.kube, "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments], input)

    def aws(self, *arguments):
        """The command line tool, which knows every field; it takes a second to start."""
        return self._do([str(self.venv / "bin/python3"), str(self.venv / "bin/aws"), *arguments], None)

    def call(self, service, operation, fields):
        """A request to LocalStack.

        Raises Failure with what it says, where it refuses.
        """
        if service == "iam":
            body = urllib.parse.urlencode({"Action": operation, "Version": "2010-05-08", **fields}).encode()
            headers = {"content-type": "application/x-www-form-urlencoded"}
        else:
            body = json.dumps(fields).encode()
            headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": operation}
        scope = f"{ACCOUNT}/20260101/{REGION}/{service}/aws4_request"
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        try:
            HTTP.open(urllib.request.Request(self.localstack, body, headers), timeout=PATIENCE).close()
        except urllib.error.HTTPError as error:
            raise Failure(f"{service} refuses: {error.read().decode()}") from error

    def lint(self, text):
        with tempfile.NamedTemporaryFile("w+", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            return self._do([str(self.venv / "bin/cfn-lint"), "--non-zero-exit-code", "warning", file.name], None)

    def helm_values(self, text):
        with tempfile.NamedTemporaryFile("w+", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            return self._do([self.helm, "template", "coffer", str(self.chart), "-f", file.name], None)

    def _do(self, command, input):
        return subprocess.run(
            command, input=input, stdin=subprocess.DEVNULL if input is None else None, capture_output=True, text=True,
            env=self.environment(), timeout=2 * PATIENCE,
        )


def built(*part):
    """Kubernetes, or Helm: where it is, as lines of which there is one. Built now, unless it is there."""
    return subprocess.run([ROOT / "tests/cluster/build", *part], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def localstack():
    """The folder of LocalStack, which has the AWS command line tool and cfn-lint beside it."""
    loader = importlib.machinery.SourceFileLoader("localstack_bed", str(ROOT / "tests/bed/localstack"))
    bed = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(bed)
    return bed.install()
