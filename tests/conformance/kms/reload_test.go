package conformance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
)

// `--encryption-provider-config-automatic-reload`: a second key is brought in with no restart.
func TestAPIServerReloadsItsConfiguration(t *testing.T) {
	t.Parallel()
	controller.EncryptionConfigFileChangePollDuration = 200 * time.Millisecond
	first := plugin.Start(t, plugin.Config{})
	second := plugin.Start(t, plugin.Config{Key: plugin.OtherKey(t)})
	old, anew := provider("v2", "old", first.Endpoint()), provider("v2", "new", second.Endpoint())

	file := configFile(t, old)
	server, err := loadAPIServer(t, true, file)
	if err != nil {
		t.Fatal(err)
	}
	server.ready(t)
	transformers := encryptionconfig.NewDynamicTransformers(
		server.config.Transformers, server.config.HealthChecks[0], server.close, server.config.KMSCloseGracePeriod)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go controller.NewDynamicEncryptionConfiguration("conformance", file, transformers, server.config.EncryptionFileContentHash, "conformance").Run(ctx)

	current := transformers.TransformerForResource(secrets)
	stored, err := current.TransformToStorage(deadline(t), []byte("text"), at("s"))
	if err != nil {
		t.Fatal(err)
	}
	writeConfig(t, file, anew, old)
	eventually(t, time.Minute, func() error {
		text, stale, err := current.TransformFromStorage(deadline(t), stored, at("s"))
		if err != nil || string(text) != "text" {
			t.Fatalf("unreadable while the configuration changes: %v", err)
		}
		if !stale {
			return fmt.Errorf("the new provider does not write yet")
		}
		return nil
	})
}
