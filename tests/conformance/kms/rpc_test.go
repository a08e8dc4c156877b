package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"
)

// Longer than any answer takes on a slow and busy machine.
const soon = 20 * time.Second

func TestEveryCallWithEveryAuthority(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	for _, d := range dials {
		t.Run(d.name, func(t *testing.T) { everyCall(t, open(t, d, under.Socket), under.Key) })
	}
}

func TestEveryCallOnAnAbstractSocket(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{Socket: plugin.AbstractName()})
	for _, d := range abstractDials {
		t.Run(d.name, func(t *testing.T) { everyCall(t, open(t, d, under.Socket), under.Key) })
	}
}

// As EncryptionConfiguration writes an abstract socket, and as its files do.
func TestListensOnWhatAnEndpointSays(t *testing.T) {
	t.Parallel()
	plugin.CofferOnly(t, "--listen with a scheme")
	path, name := plugin.SocketPath(t), plugin.AbstractName()
	for _, socket := range []string{path, name} {
		under := plugin.Launch(t, plugin.Config{Socket: plugin.EndpointOf(socket)})
		everyCall(t, open(t, dial{"", asAPIServerV1}, socket), under.Key)
	}
}

// The client's header compression refers back to earlier calls; each has to be as good as the first.
func TestOneConnectionForManyCalls(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	for _, d := range dials {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			client := v2.NewKeyManagementServiceClient(open(t, d, under.Socket))
			for call := range 300 {
				ctx := metadata.AppendToOutgoingContext(deadline(t),
					"traceparent", fmt.Sprintf("00-%032x-%016x-01", call, call),
					fmt.Sprintf("x-field-%d", call%7), strings.Repeat("v", call*10),
				)
				if _, err := client.Status(ctx, &v2.StatusRequest{}); err != nil {
					t.Fatalf("call %d: %v", call, err)
				}
				if call%50 == 0 {
					roundTripV2(t, client, under.Key)
					// A body of many frames, refused by what it says and not by its size.
					large := append([]byte{'1'}, make([]byte, 200_000)...)
					_, err := client.Decrypt(deadline(t), &v2.DecryptRequest{Ciphertext: large, Uid: "large", KeyId: under.Key})
					wantCode(t, err, codes.InvalidArgument)
				}
			}
		})
	}
}

// Headers too large for one frame go on in CONTINUATION frames. A server may refuse them; it may not
// fall over, nor keep others from being served.
func TestHeadersOfEverySize(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	for _, size := range []int{1 << 10, 4 << 10, 8 << 10, 12 << 10, 15 << 10, 17 << 10, 40 << 10, 200 << 10} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			client := v2.NewKeyManagementServiceClient(open(t, dials[1], under.Socket))
			ctx := metadata.AppendToOutgoingContext(deadline(t), "x-large", strings.Repeat("v", size))
			_, err := client.Status(ctx, &v2.StatusRequest{})
			if err != nil && size <= 12<<10 {
				t.Errorf("refused: %v", err)
			}
			everyCall(t, open(t, dials[4], under.Socket), under.Key)
		})
	}
	under.Alive(t)
}

func TestManyCallersOnOneConnection(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	manyCallers(t, under, open(t, dials[4], under.Socket), 64)
}

func TestManyConnections(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() { everyCall(t, open(t, dials[4], under.Socket), under.Key) })
	}
	callers.Wait()
}

// manyCallers has each caller encrypt a value of its own and read it back: no answer goes to another.
func manyCallers(t *testing.T, under *plugin.Plugin, connection *grpc.ClientConn, count int) {
	t.Helper()
	var callers sync.WaitGroup
	for caller := range count {
		callers.Go(func() {
			if caller%2 == 0 {
				roundTripV1(t, v1beta1.NewKeyManagementServiceClient(connection))
			} else {
				roundTripV2(t, v2.NewKeyManagementServiceClient(connection), under.Key)
			}
		})
	}
	callers.Wait()
}

// everyCall makes all six.
func everyCall(t *testing.T, connection *grpc.ClientConn, key string) {
	t.Helper()
	v1Client := v1beta1.NewKeyManagementServiceClient(connection)
	version, err := v1Client.Version(deadline(t), &v1beta1.VersionRequest{Version: "v1beta1"}, grpc.WaitForReady(true))
	if err != nil {
		t.Errorf("v1 Version: %v", err)
		return
	}
	if version.Version != "v1beta1" || version.RuntimeName == "" || version.RuntimeVersion == "" {
		t.Errorf("v1 Version: %v", version)
	}
	roundTripV1(t, v1Client)

	v2Client := v2.NewKeyManagementServiceClient(connection)
	answer, err := v2Client.Status(deadline(t), &v2.StatusRequest{})
	if err != nil {
		t.Errorf("v2 Status: %v", err)
		return
	}
	if answer.Version != "v2beta1" || answer.KeyId != key || answer.Healthz == "" {
		t.Errorf("v2 Status: %v", answer)
	}
	roundTripV2(t, v2Client, key)
}

func roundTripV1(t *testing.T, client v1beta1.KeyManagementServiceClient) {
	t.Helper()
	plain := random(32)
	encrypted, err := client.Encrypt(deadline(t), &v1beta1.EncryptRequest{Version: "v1beta1", Plain: plain})
	if err != nil {
		t.Errorf("v1 Encrypt: %v", err)
		return
	}
	decrypted, err := client.Decrypt(deadline(t), &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: encrypted.Cipher})
	if err != nil {
		t.Errorf("v1 Decrypt: %v", err)
	} else if !bytes.Equal(decrypted.Plain, plain) {
		t.Error("v1 Decrypt gives another value than was encrypted")
	}
}

func roundTripV2(t *testing.T, client v2.KeyManagementServiceClient, key string) {
	t.Helper()
	plain := random(32)
	encrypted, err := client.Encrypt(deadline(t), &v2.EncryptRequest{Plaintext: plain, Uid: uid()})
	if err != nil {
		t.Errorf("v2 Encrypt: %v", err)
		return
	}
	if encrypted.KeyId != key || len(encrypted.Ciphertext) >= 1024 {
		t.Errorf("v2 Encrypt: key_id %q, a ciphertext of %d bytes", encrypted.KeyId, len(encrypted.Ciphertext))
	}
	decrypted, err := client.Decrypt(deadline(t), &v2.DecryptRequest{
		Ciphertext: encrypted.Ciphertext, Uid: uid(), KeyId: encrypted.KeyId, Annotations: encrypted.Annotations,
	})
	if err != nil {
		t.Errorf("v2 Decrypt: %v", err)
	} else if !bytes.Equal(decrypted.Plaintext, plain) {
		t.Error("v2 Decrypt gives another value than was encrypted")
	}
}

// wantCode is strict with Coffer; the AWS Encryption Provider answers Unknown to all that fails.
func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want && !(plugin.IsAEP() && got != codes.OK) {
		t.Errorf("answered %v, where %v is due (%v)", got, want, err)
	}
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return ctx
}

func random(size int) []byte {
	bytes := make([]byte, size)
	rand.Read(bytes)
	return bytes
}

func uid() string { return string(uuid.NewUUID()) }
