"""The API server between two guides: all that the one has left goes, so that the other finds a new cluster."""

import http.client
import json
import ssl
import time
import urllib.parse

from guides import PATIENCE, expect, yaml


class Cluster:
    """Knows what was there at first."""

    def __init__(self, kubeconfig, kept):
        """`kept` says of which definitions they are to stay, by their names' endings."""
        config = yaml.safe_load(open(kubeconfig))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        trust = ssl.create_default_context()
        # It is on loopback, and this test's own.
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        address = urllib.parse.urlsplit(cluster["server"])
        self.connection = http.client.HTTPSConnection(address.hostname, address.port, context=trust, timeout=PATIENCE)
        self.headers = {"authorization": f"Bearer {user['token']}", "content-type": "application/json"}
        self.kept = kept
        self.first = {path for path, _ in self._objects()}

    def restore(self):
        """Deletes what was not there at first. What holds an object back until somebody has done something goes too."""
        deadline = time.monotonic() + PATIENCE
        while found := [one for one in self._objects() if one[0] not in self.first and not self._stays(one[0])]:
            expect(time.monotonic() < deadline, f"these do not go: {[path for path, _ in found]}")
            # Whatever acts on others goes first.
            for path, one in sorted(found, key=lambda one: "admissionregistration" not in one[0]):
                finalizers = one["metadata"].get("finalizers")
                if finalizers and "customresourcedefinitions" not in path:
                    self._ask("PATCH", path, [{"op": "remove", "path": "/metadata/finalizers"}], "application/json-patch+json")
                self._ask("DELETE", f"{path}?gracePeriodSeconds=0&propagationPolicy=Background")
                if path.startswith("/api/v1/namespaces/") and path.count("/") == 4:
                    # A controller would do it, and there is none.
                    _, there = self._ask("GET", path)
                    if there.get("spec"):
                        there["spec"]["finalizers"] = []
                        self._ask("PUT", f"{path}/finalize", there)

    def _stays(self, path):
        return "/customresourcedefinitions/" in path and path.endswith(self.kept)

    def _objects(self):
        """Every object there is, with its path."""
        for version, resource in self._resources():
            status, answer = self._ask("GET", f"{version}/{resource['name']}")
            for one in (answer.get("items") or []) if status == 200 else []:
                metadata = one["metadata"]
                space = f"/namespaces/{metadata['namespace']}" if resource["namespaced"] else ""
                yield f"{version}{space}/{resource['name']}/{metadata['name']}", one

    def _resources(self):
        versions = ["/api/v1"]
        for group in self._ask("GET", "/apis")[1]["groups"]:
            versions.append(f"/apis/{group['preferredVersion']['groupVersion']}")
        for version in versions:
            for resource in self._ask("GET", version)[1].get("resources", []):
                # Events end by themselves, and API services come with what they serve.
                if {"list", "delete"} <= set(resource["verbs"]) and resource["name"] not in ("events", "apiservices"):
                    yield version, resource

    def _ask(self, method, path, body=None, kind=None):
        headers = self.headers | ({"content-type": kind} if kind else {})
        for last in (False, True):
            try:
                self.connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = self.connection.getresponse()
                text = answer.read()
                break
            except (http.client.HTTPException, OSError):
                # The server ends connections that were idle.
                self.connection.close()
                if last:
                    raise
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, {}
