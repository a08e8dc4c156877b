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

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
)

// An apiServer is what of an API server speaks to KMS plugins: its configuration, its probes and its
// storage transformers; all but the etcd behind them.
type apiServer struct {
	config *encryptionconfig.EncryptionConfiguration
	close  context.CancelFunc
}

var secrets = schema.GroupResource{Resource: "secrets"}

// provider is a `kms` stanza. The timeout is the API server's default.
func provider(version, name, endpoint string) string {
	return fmt.Sprintf("      - kms: {apiVersion: %s, name: %q, endpoint: %q, timeout: 3s}\n", version, name, endpoint)
}

// startAPIServer loads a configuration with these providers, first the one that writes, as an API
// server does at its start: with no memory of another.
func startAPIServer(t *testing.T, providers ...string) *apiServer {
	t.Helper()
	server, err := loadAPIServer(t, false, configFile(t, providers...))
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func loadAPIServer(t *testing.T, reload bool, file string) (*apiServer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, file, reload, "conformance")
	if err != nil {
		return nil, err
	}
	return &apiServer{config, cancel}, nil
}

func configFile(t *testing.T, providers ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "encryption.yaml")
	writeConfig(t, file, providers...)
	return file
}

func writeConfig(t *testing.T, file string, providers ...string) {
	t.Helper()
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" +
		"  - resources: [secrets]\n    providers:\n" + strings.Join(providers, "") + "      - identity: {}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// health is what /readyz would say of the plugins.
func (s *apiServer) health() error {
	for _, check := range s.config.HealthChecks {
		request, _ := http.NewRequest(http.MethodGet, "/readyz", nil)
		if err := check.Check(request); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until the API server calls its plugins healthy. It remembers a failure for three seconds.
func (s *apiServer) ready(t *testing.T) *apiServer {
	t.Helper()
	eventually(t, soon, s.health)
	return s
}

// write gives what would go to etcd.
func (s *apiServer) write(t *testing.T, name, text string) []byte {
	t.Helper()
	stored, err := s.config.Transformers[secrets].TransformToStorage(deadline(t), []byte(text), at(name))
	if err != nil {
		t.Fatalf("cannot write %s: %v", name, err)
	}
	if bytes.Contains(stored, []byte(text)) {
		t.Fatalf("%s would be stored in the clear", name)
	}
	return stored
}

// read gives what comes back from etcd, and whether the API server would write it anew.
func (s *apiServer) read(t *testing.T, name string, stored []byte) (text string, stale bool) {
	t.Helper()
	text, stale, err := s.tryRead(t, name, stored)
	if err != nil {
		t.Fatalf("cannot read %s: %v", name, err)
	}
	return text, stale
}

func (s *apiServer) tryRead(t *testing.T, name string, stored []byte) (text string, stale bool, err error) {
	read, stale, err := s.config.Transformers[secrets].TransformFromStorage(deadline(t), stored, at(name))
	return string(read), stale, err
}

// reads fails the test unless a stored value comes back as it was, stale or not.
func (s *apiServer) reads(t *testing.T, name, text string, stored []byte, stale bool) {
	t.Helper()
	got, gotStale := s.read(t, name, stored)
	if got != text {
		t.Errorf("%s is read as another value than was written", name)
	}
	if gotStale != stale {
		t.Errorf("%s: stale is %v, where %v is due", name, gotStale, stale)
	}
}

// at is where in etcd a secret lies, which its encryption is bound to.
func at(name string) value.Context {
	return value.DefaultContext("/registry/secrets/default/" + name)
}

func eventually(t *testing.T, within time.Duration, attempt func() error) {
	t.Helper()
	end := time.Now().Add(within)
	for {
		err := attempt()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not so within %v: %v", within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
