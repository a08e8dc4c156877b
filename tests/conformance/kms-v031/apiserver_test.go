// Package conformance tests a Kubernetes KMS plugin with the API server of 1.31, whose v2 client still sends
// the socket's path as `:authority`; and 1.31 is what many clusters run.
package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kms/pkg/service"
)

const soon = 20 * time.Second

func TestMain(m *testing.M) {
	if err := feature.DefaultMutableFeatureGate.Set("KMSv1=true"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestV2Client(t *testing.T) {
	t.Parallel()
	for _, socket := range []string{plugin.SocketPath(t), plugin.AbstractName()} {
		under := plugin.Start(t, plugin.Config{Socket: socket})
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		t.Cleanup(cancel)
		client, err := kmsv2.NewGRPCService(ctx, under.Endpoint(), "conformance", soon)
		if err != nil {
			t.Fatal(err)
		}
		status, err := client.Status(ctx)
		if err != nil || status.KeyID != under.Key {
			t.Fatalf("Status: %v, %v", status, err)
		}
		for call := range 100 {
			plain := []byte(fmt.Sprintf("value %d", call))
			encrypted, err := client.Encrypt(ctx, fmt.Sprint(call), plain)
			if err != nil {
				t.Fatalf("Encrypt: %v", err)
			}
			decrypted, err := client.Decrypt(ctx, fmt.Sprint(call), &service.DecryptRequest{
				Ciphertext: encrypted.Ciphertext, KeyID: encrypted.KeyID, Annotations: encrypted.Annotations,
			})
			if err != nil || !bytes.Equal(decrypted, plain) {
				t.Fatalf("Decrypt: %q, %v", decrypted, err)
			}
		}
	}
}

func TestAPIServerWritesAndReads(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1", "v2"} {
		for _, socket := range []string{plugin.SocketPath(t), plugin.AbstractName()} {
			under := plugin.Start(t, plugin.Config{Socket: socket})
			writer, reader := load(t, version, under.Endpoint()), load(t, version, under.Endpoint())
			place := value.DefaultContext("/registry/secrets/default/s")
			stored, err := writer.TransformToStorage(context.Background(), []byte("text"), place)
			if err != nil || !bytes.HasPrefix(stored, []byte("k8s:enc:kms:"+version+":aws:")) {
				t.Fatalf("%s: stored as %.40q, %v", version, stored, err)
			}
			text, stale, err := reader.TransformFromStorage(context.Background(), stored, place)
			if err != nil || string(text) != "text" || stale {
				t.Errorf("%s: read %q, stale %v, %v", version, text, stale, err)
			}
		}
	}
}

// load is an API server's start with one provider: the transformer of secrets, once its plugin is healthy.
func load(t *testing.T, version, endpoint string) value.Transformer {
	t.Helper()
	text := strings.NewReplacer("VERSION", version, "ENDPOINT", endpoint).Replace(`
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - kms: {apiVersion: VERSION, name: aws, endpoint: "ENDPOINT", timeout: 3s}
`)
	file := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, file, false, "conformance")
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(soon); ; time.Sleep(100 * time.Millisecond) {
		request, _ := http.NewRequest(http.MethodGet, "/readyz", nil)
		if err = config.HealthChecks[0].Check(request); err == nil {
			return config.Transformers[schema.GroupResource{Resource: "secrets"}]
		}
		if time.Now().After(end) {
			t.Fatalf("%s is not healthy within %v: %v", version, soon, err)
		}
	}
}
