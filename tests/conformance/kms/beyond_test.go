package conformance

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What Coffer does beyond the AWS Encryption Provider.

var localKEK = []string{"--write-format", "local-kek"}

// The start of an API server under v1, in small: a Decrypt for each object becomes one for each KEK.
func TestLocalKEKSparesCalls(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "--write-format local-kek")
	relay := plugin.NewRelay(t)
	under := plugin.Start(t, plugin.Config{KMS: relay.URL(), Args: localKEK})
	writer := newClient(t, "v1", under.Endpoint(), soon)
	var all []sealed
	plain := random(32)
	for range 300 {
		written, err := writer.encrypt(plain)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, written)
	}
	under.Stop(t)
	under = plugin.Start(t, plugin.Config{Socket: under.Socket, KMS: relay.URL(), Args: localKEK})
	reader := newClient(t, "v1", under.Endpoint(), soon)
	reader.roundTrip(t)
	before := relay.Calls("Decrypt")
	for _, written := range all {
		if read, err := reader.decrypt(written); err != nil || !bytes.Equal(read, plain) {
			t.Fatalf("not read: %v", err)
		}
	}
	if calls := relay.Calls("Decrypt") - before; calls > 5 {
		t.Errorf("300 objects under one KEK took %d Decrypts at KMS", calls)
	}
}

// The migration: a plugin that writes as before reads both, so that every node can be changed first; a
// plugin that writes the new format reads the old. The AWS Encryption Provider refuses it, and says so.
func TestLocalKEKIsReadBeforeItIsWritten(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "--write-format local-kek")
	old := plugin.Start(t, plugin.Config{Context: contextFlag})
	anew := plugin.Start(t, plugin.Config{Context: contextFlag, Args: localKEK})
	for _, version := range versions {
		oldOne, newOne := newClient(t, version, old.Endpoint(), soon), newClient(t, version, anew.Endpoint(), soon)
		readsOf(t, newOne, oldOne)
		readsOf(t, oldOne, newOne)
		readsOf(t, newOne, newOne)
	}
	// key_id tells the format, so that a change of format is written anew, there and back.
	both := []*apiServer{}
	for _, under := range []*plugin.Plugin{old, anew} {
		both = append(both, startAPIServer(t, provider("v2", "aws", under.Endpoint())).ready(t))
	}
	for writer := range both {
		stored := both[writer].write(t, "s", "text")
		both[writer].reads(t, "s", "text", stored, false)
		both[1-writer].reads(t, "s", "text", stored, true)
	}

	t.Run("AEP", func(t *testing.T) {
		aep := plugin.Start(t, plugin.Config{Context: contextFlag, Binary: plugin.AEP(t)})
		for _, version := range versions {
			refusesOf(t, newClient(t, version, anew.Endpoint(), soon), newClient(t, version, aep.Endpoint(), soon))
		}
	})
}

// A key that is only read: what it wrote is stale and read, and a key_id that is neither is refused.
func TestDecryptOnlyKeys(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "--decrypt-key")
	before := plugin.Start(t, plugin.Config{Context: "era=old"})
	after := plugin.Start(t, plugin.Config{
		Key: plugin.OtherKey(t), Context: "era=new",
		Args: []string{"--decrypt-key", plugin.Key(t), "--decrypt-context", "era=old"},
	})
	server := startAPIServer(t, provider("v2", "aws", before.Endpoint())).ready(t)
	stored := server.write(t, "s", "text")
	moved := startAPIServer(t, provider("v2", "aws", after.Endpoint())).ready(t)
	moved.reads(t, "s", "text", stored, true)
	moved.reads(t, "s", "text", moved.write(t, "s", "text"), false)

	client := newClient(t, "v2", after.Endpoint(), soon)
	written, err := client.encrypt(random(32))
	if err != nil {
		t.Fatal(err)
	}
	written.keyID = "arn:aws:kms:eu-west-1:111122223333:key/never-heard-of"
	_, err = client.decrypt(written)
	wantCode(t, err, codes.InvalidArgument)
}

// An API server that lists many objects of few keys asks for the same key many times at once.
func TestEqualDecryptsAreOneCall(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "single flight and a cache")
	relay := plugin.NewRelay(t)
	under := plugin.Start(t, plugin.Config{KMS: relay.URL()})
	client := newClient(t, "v2", under.Endpoint(), soon)
	const distinct = 20
	var written []sealed
	for n := range distinct {
		one, err := client.encrypt(bytes.Repeat([]byte{byte(n)}, 32))
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, one)
	}
	under.Stop(t)
	under = plugin.Start(t, plugin.Config{Socket: under.Socket, KMS: relay.URL(), Args: []string{"--probe-interval", "1h"}})
	eventually(t, soon, func() error {
		answer, err := newV2Client(t, under.Endpoint(), soon).Status(deadline(t))
		if err != nil || answer.Healthz != "ok" {
			return fmt.Errorf("%v, %v", answer, err)
		}
		return nil
	})
	relay.Delay(50 * time.Millisecond)
	before := relay.Calls("Decrypt")
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for n := range distinct {
				if read, err := client.decrypt(written[n]); err != nil || !bytes.Equal(read, bytes.Repeat([]byte{byte(n)}, 32)) {
					t.Errorf("not read: %v", err)
				}
			}
		})
	}
	callers.Wait()
	if calls := relay.Calls("Decrypt") - before; calls != distinct {
		t.Errorf("%d distinct ciphertexts took %d Decrypts at KMS", distinct, calls)
	}
}

// One key's trouble does not show on another's socket.
func TestKeysFailApart(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "health for each key")
	cloud := sdk(t)
	created, err := cloud.CreateKey(deadline(t), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	doomed := created.KeyMetadata
	good := plugin.SocketPath(t)
	bad := plugin.Start(t, plugin.Config{
		Key:  *doomed.Arn,
		Args: []string{"--listen", good, "--key", plugin.Key(t), "--probe-interval", "1s"},
	})
	badClient, goodClient := newV2Client(t, bad.Endpoint(), soon), newV2Client(t, plugin.EndpointOf(good), soon)
	healthz := func(want string) {
		eventually(t, soon, func() error {
			answer, err := badClient.Status(deadline(t))
			if err != nil || !strings.Contains(answer.Healthz, want) {
				return fmt.Errorf("%v, %v", answer, err)
			}
			return nil
		})
	}
	healthz("ok")
	if _, err := cloud.DisableKey(deadline(t), &kms.DisableKeyInput{KeyId: doomed.KeyId}); err != nil {
		t.Fatal(err)
	}
	healthz("DisabledException")
	if answer, err := goodClient.Status(deadline(t)); err != nil || answer.Healthz != "ok" || answer.KeyID != plugin.Key(t) {
		t.Errorf("the other key: %v, %v", answer, err)
	}
	newClient(t, "v2", plugin.EndpointOf(good), soon).roundTrip(t)
	_, err = newClient(t, "v2", bad.Endpoint(), soon).encrypt(random(32))
	if got := status.Code(err); got != codes.FailedPrecondition {
		t.Errorf("a disabled key: answered %v", err)
	}
	if _, err := cloud.EnableKey(deadline(t), &kms.EnableKeyInput{KeyId: doomed.KeyId}); err != nil {
		t.Fatal(err)
	}
	healthz("ok")
}

// A socket that someone answers on is not taken away from them.
func TestSecondPluginOnALiveSocketGivesUp(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "leaving a live socket alone")
	for _, socket := range []string{plugin.SocketPath(t), plugin.AbstractName()} {
		first := plugin.Start(t, plugin.Config{Socket: socket})
		second := plugin.Launch(t, plugin.Config{Socket: socket})
		if code := second.Ended(t); code == 0 {
			t.Error("the second ended as if all were well")
		}
		if !strings.Contains(second.Output(), socket) {
			t.Errorf("the second does not name the socket:\n%s", second.Output())
		}
		newClient(t, "v2", first.Endpoint(), soon).roundTrip(t)
	}
}

// KMS goes away: what was read lately is still read, and comes back as it was.
func TestReadsGoOnWithoutKMS(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "a cache of what was decrypted")
	for _, format := range [][]string{nil, localKEK} {
		relay := plugin.NewRelay(t)
		under := plugin.Start(t, plugin.Config{KMS: relay.URL(), Args: format})
		client := newClient(t, "v2", under.Endpoint(), 3*time.Second)
		plain := random(32)
		written, err := client.encrypt(plain)
		if err != nil {
			t.Fatal(err)
		}
		for _, trouble := range []string{"", "ThrottlingException", "KMSInternalException"} {
			relay.Refuse(trouble)
			if read, err := client.decrypt(written); err != nil || !bytes.Equal(read, plain) {
				t.Errorf("%v, KMS says %q: %v", format, trouble, err)
			}
		}
	}
}
