// Package conformance tests Coffer's CSI node driver with code of those who ask it: the CSI project's own
// suite, and the kubelet's clients.
//
// The tests start the driver themselves, and have to see what it mounts: they run in a mount namespace of
// their own, which tests/conformance/main.rs makes for them. What they have to know comes by environment.
package conformance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
)

const driverName = "csi.coffer.dev"

// A driver that runs, until it is stopped or the test ends.
type driver struct {
	// folder is the kubelet's.
	folder string
	*plugin.Process
}

// start runs the driver in a new folder of a kubelet, and waits until its socket takes connections.
func start(t testing.TB, flags ...string) *driver {
	t.Helper()
	// Short, for the path of a socket has 107 bytes at most.
	folder, err := os.MkdirTemp("/tmp", "k-")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plugins", "plugins_registry", "pods"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	// It goes after the driver has ended.
	t.Cleanup(func() { os.RemoveAll(folder) })
	command := exec.Command(plugin.Variable(t, "CSI_BINARY"), append([]string{
		"csi", "--node-id=node-a", "--kubelet-dir=" + folder, "--listen=127.0.0.1:0", "--refresh=1h",
	}, flags...)...)
	command.Env = []string{
		"AWS_REGION=" + plugin.Variable(t, "AWS_REGION"),
		"AWS_ENDPOINT_URL=" + plugin.Variable(t, "AWS_ENDPOINT_URL"),
	}
	d := &driver{folder, plugin.Run(t, command)}
	d.Listens(t, d.socket())
	return d
}

func (d *driver) socket() string {
	return filepath.Join(d.folder, "plugins", driverName, "csi.sock")
}

func (d *driver) registrationSocket() string {
	return filepath.Join(d.folder, "plugins_registry", driverName+"-reg.sock")
}

// target makes the folder above a volume's, as the kubelet does, and gives it.
func (d *driver) aboveTarget(t testing.TB, uid string) string {
	t.Helper()
	folder := filepath.Join(d.folder, "pods", uid, "volumes", "kubernetes.io~csi", "secrets")
	if err := os.MkdirAll(filepath.Dir(folder), 0o750); err != nil {
		t.Fatal(err)
	}
	return folder
}

const (
	namespace      = "shop"
	serviceAccount = "api"
	podName        = "api-7d4b9"
	podUID         = "0d4d5d1e-0000-4000-8000-000000000001"

	tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"
)

// The files that volumeContext asks for, as main.rs has put them into AWS.
var wanted = map[string]string{"password": "conformance-secret", "level": "conformance-parameter"}

// volumeContext is what the kubelet sends for an inline volume, without tokens.
func volumeContext(t testing.TB) map[string]string {
	t.Helper()
	return map[string]string{
		"spec": "[{name: password, from: 'secretsmanager:conformance/secret'}, " +
			"{name: level, from: 'parameterstore:/conformance/parameter'}]",
		"region":                                 plugin.Variable(t, "AWS_REGION"),
		"role-arn":                               plugin.Variable(t, "ROLE_ARN"),
		"csi.storage.k8s.io/pod.name":            podName,
		"csi.storage.k8s.io/pod.namespace":       namespace,
		"csi.storage.k8s.io/pod.uid":             podUID,
		"csi.storage.k8s.io/serviceAccount.name": serviceAccount,
		"csi.storage.k8s.io/ephemeral":           "true",
	}
}

// tokens is the JSON of the pod's tokens: a JWT in all but its signature, which nobody here verifies.
func tokens(t testing.TB) string {
	t.Helper()
	part := func(value any) string {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now()
	claims := map[string]any{
		"iss": "https://oidc.example.test/id/COFFER",
		"sub": fmt.Sprintf("system:serviceaccount:%s:%s", namespace, serviceAccount),
		"aud": []string{"sts.amazonaws.com"},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	token := part(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + part(claims) + ".c2lnbmF0dXJl"
	text, err := json.Marshal(map[string]any{
		"sts.amazonaws.com": map[string]string{
			"token": token, "expirationTimestamp": now.Add(time.Hour).Format(time.RFC3339),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
