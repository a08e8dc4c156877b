package conformance

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
)

// Of the API server: how long it trusts a good health check before it asks Status again, and some more.
const nextStatus = 25 * time.Second

func TestAPIServerWritesAndReads(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1", "v2"} {
		for _, socket := range []string{"path", "abstract"} {
			t.Run(version+" "+socket, func(t *testing.T) {
				t.Parallel()
				relay := plugin.NewRelay(t)
				config := plugin.Config{KMS: relay.URL()}
				if socket == "abstract" {
					config.Socket = plugin.AbstractName()
				}
				under := plugin.Start(t, config)
				kms := provider(version, "aws", under.Endpoint())
				server := startAPIServer(t, kms).ready(t)

				texts := map[string]string{"empty-ish": "{}", "common": `{"password":"hunter2"}`, "large": strings.Repeat("secret ", 100_000)}
				stored := map[string][]byte{}
				for name, text := range texts {
					stored[name] = server.write(t, name, text)
					if prefix := []byte("k8s:enc:kms:" + version + ":aws:"); !bytes.HasPrefix(stored[name], prefix) {
						t.Errorf("%s is stored with another prefix than %s", name, prefix)
					}
					server.reads(t, name, text, stored[name], false)
				}
				server.close()

				// Another API server knows no key yet: it asks the plugin, and a plugin that
				// has just been started asks KMS.
				under.Stop(t)
				config.Socket = under.Socket
				plugin.Start(t, config)
				fresh := startAPIServer(t, kms).ready(t)
				before := relay.Calls("Decrypt")
				for name, text := range texts {
					fresh.reads(t, name, text, stored[name], false)
				}
				if relay.Calls("Decrypt") == before {
					t.Error("all was read without a Decrypt")
				}
			})
		}
	}
}

// The way from v1 to v2, with one plugin and one socket: v2 writes, v1 is still read, and is stale.
func TestAPIServerMovesFromV1ToV2(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	v1, v2 := provider("v1", "aws-encryption-provider", under.Endpoint()), provider("v2", "aws", under.Endpoint())
	before := startAPIServer(t, v1).ready(t)
	old := before.write(t, "old", "of v1")

	after := startAPIServer(t, v2, v1).ready(t)
	after.reads(t, "old", "of v1", old, true)
	anew := after.write(t, "old", "of v1")
	after.reads(t, "old", "of v1", anew, false)
	after.reads(t, "never-encrypted", "plain", []byte("plain"), true)
}

// A v1 name may hold a colon, and may begin with another's name.
func TestAPIServerTakesNamesAsTheyAre(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	short, long := provider("v1", "aws", under.Endpoint()), provider("v1", "aws:eu-west-1:key", under.Endpoint())
	server := startAPIServer(t, long, short).ready(t)
	stored := server.write(t, "colons", "text")
	server.reads(t, "colons", "text", stored, false)
	startAPIServer(t, long).reads(t, "colons", "text", stored, false)

	if _, err := loadAPIServer(t, false, configFile(t, provider("v2", "aws:key", under.Endpoint()))); err == nil {
		t.Error("v2 took a name with a colon")
	}
}

// Two keys, two sockets, one process: the newer key writes, the older is read and is stale.
func TestAPIServerRotatesBetweenTwoProviders(t *testing.T) {
	t.Parallel()
	oldSocket, newSocket := plugin.SocketPath(t), plugin.SocketPath(t)
	// The flags say one key each; repeated, they make the second pair.
	plugin.Start(t, plugin.Config{
		Socket: oldSocket, Key: plugin.Key(t),
		Args: []string{"--listen", newSocket, "--key", plugin.OtherKey(t)},
	})
	oldProvider := provider("v2", "old", plugin.EndpointOf(oldSocket))
	newProvider := provider("v2", "new", plugin.EndpointOf(newSocket))

	stored := startAPIServer(t, oldProvider).ready(t).write(t, "s", "text")
	both := startAPIServer(t, newProvider, oldProvider).ready(t)
	both.reads(t, "s", "text", stored, true)
	anew := both.write(t, "s", "text")
	both.reads(t, "s", "text", anew, false)
	startAPIServer(t, newProvider).ready(t).reads(t, "s", "text", anew, false)
}

// The plugin is started anew with another key, under a live API server: a new key_id is seen, what was
// written before is stale and still read.
func TestAPIServerSeesANewKey(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	server := startAPIServer(t, provider("v2", "aws", under.Endpoint())).ready(t)
	old := server.write(t, "s", "text")

	under.Stop(t)
	plugin.Start(t, plugin.Config{Socket: under.Socket, Key: plugin.OtherKey(t)})
	eventually(t, nextStatus+soon, func() error {
		if err := server.health(); err != nil {
			return err
		}
		if _, stale, err := server.tryRead(t, "s", old); err != nil || !stale {
			return fmt.Errorf("stale is %v (%w)", stale, err)
		}
		return nil
	})
	anew := server.write(t, "s", "text")
	server.reads(t, "s", "text", anew, false)
	server.reads(t, "s", "text", old, true)
}

// An API server holds a plugin to the version of its first answer: another makes it unhealthy for good.
// So the version stays what the AWS Encryption Provider says, unless told otherwise.
func TestAPIServerHoldsThePluginToItsVersion(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "--status-version")
	under := plugin.Start(t, plugin.Config{})
	server := startAPIServer(t, provider("v2", "aws", under.Endpoint())).ready(t)

	under.Stop(t)
	under = plugin.Start(t, plugin.Config{Socket: under.Socket, Args: []string{"--status-version", "v2"}})
	eventually(t, nextStatus+soon, func() error {
		if err := server.health(); err == nil || !strings.Contains(err.Error(), "should not change") {
			return fmt.Errorf("health is %v", err)
		}
		return nil
	})
	startAPIServer(t, provider("v2", "aws", under.Endpoint())).ready(t)
}

// What KMS says against a key reaches the one who looks at /readyz, and goes with its cause. Writes and
// reads with what the API server knows go on.
func TestAPIServerTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "the cause in the text of Status")
	relay := plugin.NewRelay(t)
	under := plugin.Start(t, plugin.Config{KMS: relay.URL(), Args: []string{"--probe-interval", "1s"}})
	server := startAPIServer(t, provider("v2", "aws", under.Endpoint())).ready(t)
	stored := server.write(t, "s", "text")

	relay.Refuse("DisabledException")
	eventually(t, nextStatus+soon, func() error {
		if err := server.health(); err == nil || !strings.Contains(err.Error(), "DisabledException") {
			return fmt.Errorf("health is %v", err)
		}
		return nil
	})
	server.reads(t, "s", "text", stored, false)
	server.reads(t, "t", "text", server.write(t, "t", "text"), false)

	relay.Refuse("")
	eventually(t, nextStatus+soon, server.health)
}

// A start in which KMS cannot be reached: the API server waits, and is ready soon after KMS is.
func TestAPIServerStartsBeforeKMS(t *testing.T) {
	t.Parallel()
	relay := plugin.NewRelay(t)
	relay.Refuse("KMSInternalException")
	under := plugin.Start(t, plugin.Config{KMS: relay.URL()})
	server := startAPIServer(t, provider("v2", "aws", under.Endpoint()))
	if server.health() == nil {
		t.Error("healthy without a key")
	}
	relay.Refuse("")
	// The AWS Encryption Provider holds a failure for half a minute, Coffer until its next probe.
	eventually(t, 45*time.Second, server.health)
	server.reads(t, "s", "text", server.write(t, "s", "text"), false)
}

// Two stanzas are two probes: both are told.
func TestAPIServerNamesTheProviderThatFails(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	nowhere := plugin.EndpointOf(plugin.SocketPath(t))
	server := startAPIServer(t, provider("v2", "here", under.Endpoint()), provider("v2", "gone", nowhere))
	err := server.health()
	if err == nil || !strings.Contains(err.Error(), "kms-provider-1") || strings.Contains(err.Error(), "kms-provider-0") {
		t.Errorf("health is %v, where the second provider alone is not there", err)
	}
}
