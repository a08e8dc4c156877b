package conformance

import (
	"bytes"
	"context"
	"crypto/cipher"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"k8s.io/kms/pkg/service"
)

// A client is one of the API server's two, with what they share.
type client struct {
	encrypt func(plain []byte) (sealed, error)
	decrypt func(sealed) ([]byte, error)
}

// What Encrypt gives and Decrypt takes; v1 knows the ciphertext alone.
type sealed struct {
	ciphertext  []byte
	keyID       string
	annotations map[string][]byte
}

var versions = []string{"v1", "v2"}

func newClient(t *testing.T, version, endpoint string, timeout time.Duration) client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if version == "v1" {
		grpc, err := envelope.NewGRPCService(ctx, endpoint, timeout)
		if err != nil {
			t.Fatal(err)
		}
		return client{
			encrypt: func(plain []byte) (sealed, error) {
				ciphertext, err := grpc.Encrypt(plain)
				return sealed{ciphertext: ciphertext}, err
			},
			decrypt: func(s sealed) ([]byte, error) { return grpc.Decrypt(s.ciphertext) },
		}
	}
	grpc := newV2Client(t, endpoint, timeout)
	return client{
		encrypt: func(plain []byte) (sealed, error) {
			answer, err := grpc.Encrypt(ctx, uid(), plain)
			if err != nil {
				return sealed{}, err
			}
			return sealed{answer.Ciphertext, answer.KeyID, answer.Annotations}, nil
		},
		decrypt: func(s sealed) ([]byte, error) {
			return grpc.Decrypt(ctx, uid(), &service.DecryptRequest{Ciphertext: s.ciphertext, KeyID: s.keyID, Annotations: s.annotations})
		},
	}
}

func newV2Client(t *testing.T, endpoint string, timeout time.Duration) service.Service {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	grpc, err := kmsv2.NewGRPCService(ctx, endpoint, "conformance", timeout)
	if err != nil {
		t.Fatal(err)
	}
	return grpc
}

func (c client) roundTrip(t *testing.T) {
	t.Helper()
	plain := random(32)
	encrypted, err := c.encrypt(plain)
	if err != nil {
		t.Errorf("Encrypt: %v", err)
		return
	}
	decrypted, err := c.decrypt(encrypted)
	if err != nil {
		t.Errorf("Decrypt: %v", err)
	} else if !bytes.Equal(decrypted, plain) {
		t.Error("Decrypt gives another value than was encrypted")
	}
}

// The API server comes first, and the plugin a while later.
func TestPluginStartsLate(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			socket := plugin.SocketPath(t)
			client := newClient(t, version, plugin.EndpointOf(socket), soon)
			done := make(chan struct{})
			go func() {
				defer close(done)
				client.roundTrip(t)
			}()
			time.Sleep(1500 * time.Millisecond)
			plugin.Start(t, plugin.Config{Socket: socket})
			<-done
		})
	}
}

// The plugin goes and comes back, in a tidy way or not; the connection takes care of itself.
func TestPluginGoesAndComesBack(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*plugin.Plugin){
		"stopped": func(p *plugin.Plugin) { p.Stop(t) },
		"killed":  func(p *plugin.Plugin) { p.Kill() },
	}
	for _, version := range versions {
		for how, end := range ends {
			t.Run(version+" "+how, func(t *testing.T) {
				t.Parallel()
				under := plugin.Start(t, plugin.Config{})
				client := newClient(t, version, under.Endpoint(), soon)
				client.roundTrip(t)
				end(under)
				done := make(chan struct{})
				go func() {
					defer close(done)
					// A call may be on its way before the client sees that the connection has ended.
					if _, err := client.encrypt(random(32)); err != nil && !strings.Contains(err.Error(), codes.Unavailable.String()) {
						t.Errorf("Encrypt: %v", err)
					}
					client.roundTrip(t)
				}()
				time.Sleep(time.Second)
				plugin.Start(t, plugin.Config{Socket: under.Socket})
				<-done
			})
		}
	}
}

// No answer, whoever is at fault, ends with the caller's deadline, not later; and leaves nothing behind.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run(version+" no plugin", func(t *testing.T) {
			t.Parallel()
			wantDeadline(t, newClient(t, version, plugin.EndpointOf(plugin.SocketPath(t)), time.Second))
		})
		t.Run(version+" KMS hangs", func(t *testing.T) {
			t.Parallel()
			relay := plugin.NewRelay(t)
			under := plugin.Start(t, plugin.Config{KMS: relay.URL()})
			newClient(t, version, under.Endpoint(), soon).roundTrip(t)
			relay.Delay(time.Minute)
			wantDeadline(t, newClient(t, version, under.Endpoint(), time.Second))
			relay.Delay(0)
			newClient(t, version, under.Endpoint(), soon).roundTrip(t)
		})
		t.Run(version+" KMS is slow", func(t *testing.T) {
			t.Parallel()
			relay := plugin.NewRelay(t)
			relay.Delay(700 * time.Millisecond)
			under := plugin.Start(t, plugin.Config{KMS: relay.URL()})
			newClient(t, version, under.Endpoint(), 3*time.Second).roundTrip(t)
		})
	}
}

func wantDeadline(t *testing.T, client client) {
	t.Helper()
	started := time.Now()
	_, err := client.encrypt(random(32))
	if err == nil || !strings.Contains(err.Error(), codes.DeadlineExceeded.String()) {
		t.Errorf("answered %v, where DeadlineExceeded is due", err)
	}
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("took %v for a deadline of a second", took)
	}
}

// Status costs nothing and waits for nobody, whatever state KMS is in.
func TestStatusDoesNotWaitForKMS(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "Status from memory")
	relay := plugin.NewRelay(t)
	under := plugin.Start(t, plugin.Config{KMS: relay.URL()})
	client := newV2Client(t, under.Endpoint(), soon)
	eventually(t, soon, func() error {
		answer, err := client.Status(deadline(t))
		if err != nil || answer.Healthz != "ok" {
			return fmt.Errorf("%v, %v", answer, err)
		}
		return nil
	})
	relay.Delay(time.Minute)
	before, started := relay.Calls("Encrypt")+relay.Calls("Decrypt"), time.Now()
	for range 500 {
		answer, err := client.Status(deadline(t))
		if err != nil || answer.KeyID != under.Key {
			t.Fatalf("%v, %v", answer, err)
		}
	}
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("500 times Status took %v", took)
	}
	if calls := relay.Calls("Encrypt") + relay.Calls("Decrypt") - before; calls > 2 {
		t.Errorf("500 times Status took %d calls to KMS", calls)
	}
}

// Each refusal of KMS has a code of gRPC of its own, which the API server's metrics count by.
func TestCodesTellRefusalsApart(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "codes other than Unknown")
	relay := plugin.NewRelay(t)
	under := plugin.Start(t, plugin.Config{KMS: relay.URL()})
	client := newClient(t, "v2", under.Endpoint(), soon)
	for refusal, want := range map[string]codes.Code{
		"ThrottlingException":         codes.ResourceExhausted,
		"LimitExceededException":      codes.ResourceExhausted,
		"DisabledException":           codes.FailedPrecondition,
		"KMSInvalidStateException":    codes.FailedPrecondition,
		"AccessDeniedException":       codes.PermissionDenied,
		"ExpiredTokenException":       codes.Unauthenticated,
		"UnrecognizedClientException": codes.Unauthenticated,
	} {
		relay.Refuse(refusal)
		_, err := client.encrypt(random(32))
		if got := status.Code(err); got != want {
			t.Errorf("%s: answered %v, where %v is due (%v)", refusal, got, want, err)
		} else if !strings.Contains(err.Error(), refusal) {
			t.Errorf("%s is not named: %v", refusal, err)
		}
	}
	relay.Refuse("")
	client.roundTrip(t)
}

func TestConcurrentAccess(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, version, under.Endpoint(), soon)
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() { client.roundTrip(t) })
			}
			callers.Wait()
		})
	}
}

// What Encrypt and Status give is within what the API server takes.
func TestAnswersAreWithinTheLimits(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	client := newV2Client(t, under.Endpoint(), soon)
	answer, err := client.Status(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kmsv2.ValidateKeyID(answer.KeyID); err != nil {
		t.Error(err)
	}
	for range 20 {
		transformer, object, _, err := kmsv2.GenerateTransformer(deadline(t), uid(), client, true)
		if err != nil {
			t.Fatal(err)
		}
		if object.EncryptedData, err = transformer.TransformToStorage(deadline(t), []byte("text"), at("s")); err != nil {
			t.Fatal(err)
		}
		if err := kmsv2.ValidateEncryptedObject(object); err != nil {
			t.Error(err)
		}
		if object.KeyID != answer.KeyID {
			t.Errorf("Encrypt says key_id %q, Status %q", object.KeyID, answer.KeyID)
		}
	}
}

// A value that one envelope transformer writes is read by another, which has to ask for its key; with
// a seed as API servers have it now, and with a key as those of 1.28 and before.
func TestEnvelopesAreReadByOthers(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	for _, useSeed := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2 seed %v", useSeed), func(t *testing.T) {
			writer, reader := v2Transformer(t, under, useSeed), v2Transformer(t, under, useSeed)
			across(t, writer, reader)
		})
	}
	t.Run("v1", func(t *testing.T) { across(t, v1Transformer(t, under), v1Transformer(t, under)) })
}

func across(t *testing.T, writer, reader value.Transformer) {
	t.Helper()
	stored, err := writer.TransformToStorage(deadline(t), []byte("text"), at("s"))
	if err != nil {
		t.Fatal(err)
	}
	text, stale, err := reader.TransformFromStorage(deadline(t), stored, at("s"))
	if err != nil || string(text) != "text" || stale {
		t.Errorf("read %q, stale %v, error %v", text, stale, err)
	}
	if _, _, err := reader.TransformFromStorage(deadline(t), stored, at("elsewhere")); err == nil {
		t.Error("a value is read at a place where it was not written")
	}
}

func v2Transformer(t *testing.T, under *plugin.Plugin, useSeed bool) value.Transformer {
	t.Helper()
	client := newV2Client(t, under.Endpoint(), soon)
	transformer, object, cacheKey, err := kmsv2.GenerateTransformer(deadline(t), uid(), client, useSeed)
	if err != nil {
		t.Fatal(err)
	}
	return kmsv2.NewEnvelopeTransformer(client, "conformance", func() (kmsv2.State, error) {
		return kmsv2.State{
			Transformer:                           transformer,
			EncryptedObjectKeyID:                  object.KeyID,
			EncryptedObjectEncryptedDEKSource:     object.EncryptedDEKSource,
			EncryptedObjectAnnotations:            object.Annotations,
			EncryptedObjectEncryptedDEKSourceType: sourceType(useSeed),
			UID:                                   uid(),
			ExpirationTimestamp:                   time.Now().Add(time.Minute),
			CacheKey:                              cacheKey,
			KMSProviderName:                       "conformance",
		}, nil
	}, "conformance")
}

func sourceType(useSeed bool) kmstypes.EncryptedDEKSourceType {
	if useSeed {
		return kmstypes.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED
	}
	return kmstypes.EncryptedDEKSourceType_AES_GCM_KEY
}

func v1Transformer(t *testing.T, under *plugin.Plugin) value.Transformer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	service, err := envelope.NewGRPCService(ctx, under.Endpoint(), soon)
	if err != nil {
		t.Fatal(err)
	}
	return envelope.NewEnvelopeTransformer(service, 10, func(block cipher.Block) (value.Transformer, error) { return aes.NewGCMTransformer(block) })
}
