package conformance

import (
	"testing"

	"coffer.dev/conformance/plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"
)

// What was never written by a plugin is refused as that, and the server lives on.
func TestBadCiphertexts(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	connection := open(t, dials[4], under.Socket)
	whole := encryptV2(t, connection)
	for name, ciphertext := range badCiphertexts(whole) {
		t.Run(name, func(t *testing.T) {
			_, err := v2.NewKeyManagementServiceClient(connection).Decrypt(deadline(t),
				&v2.DecryptRequest{Ciphertext: ciphertext, Uid: uid(), KeyId: under.Key})
			wantCode(t, err, codes.InvalidArgument)

			_, err = v1beta1.NewKeyManagementServiceClient(connection).Decrypt(deadline(t),
				&v1beta1.DecryptRequest{Version: "v1beta1", Cipher: ciphertext})
			wantCode(t, err, codes.InvalidArgument)
		})
	}
	// With another prefix or none v1 has to ask KMS, for it once wrote none.
	for _, ciphertext := range [][]byte{whole[1:], append([]byte{'2'}, whole[1:]...)} {
		_, err := v2.NewKeyManagementServiceClient(connection).Decrypt(deadline(t),
			&v2.DecryptRequest{Ciphertext: ciphertext, Uid: uid(), KeyId: under.Key})
		wantCode(t, err, codes.InvalidArgument)
	}
	under.Alive(t)
	everyCall(t, connection, under.Key)
}

func badCiphertexts(whole []byte) map[string][]byte {
	flipped := append([]byte{}, whole...)
	flipped[len(flipped)-1] ^= 1
	bad := map[string][]byte{
		"none":                       nil,
		"the prefix alone":           {'1'},
		"one byte of another format": {0xc5},
		"a local KEK cut short":      {0xc5, 0x01, 0xff, 0xff, 0x00},
		"cut short":                  whole[:len(whole)-1],
		"one bit changed":            flipped,
		"two bytes":                  []byte("11"),
		"one MB":                     append([]byte{'1'}, make([]byte, 1<<20)...),
		"one MB with no prefix":      make([]byte, 1<<20),
		"text":                       []byte("-----BEGIN MESSAGE-----"),
	}
	for n := range 12 {
		bad["random "+string(rune('a'+n))] = random(1 + n*40)
		bad["random with the prefix "+string(rune('a'+n))] = append([]byte{'1'}, random(1+n*40)...)
		bad["random local KEK "+string(rune('a'+n))] = append([]byte{0xc5, 0x01, 0x00, byte(n)}, random(1+n*40)...)
	}
	return bad
}

// KMS takes 1 to 4,096 bytes.
func TestPlaintextSizes(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	connection := open(t, dials[4], under.Socket)
	for size, want := range map[int]codes.Code{
		0: codes.InvalidArgument, 1: codes.OK, 32: codes.OK, 4096: codes.OK,
		4097: codes.InvalidArgument, 1 << 20: codes.InvalidArgument,
	} {
		encrypted, err := v2.NewKeyManagementServiceClient(connection).Encrypt(deadline(t), &v2.EncryptRequest{Plaintext: random(size), Uid: uid()})
		if wantCode(t, err, want); err == nil && want != codes.OK {
			t.Errorf("%d bytes became a ciphertext of %d", size, len(encrypted.Ciphertext))
		}
		_, err = v1beta1.NewKeyManagementServiceClient(connection).Encrypt(deadline(t), &v1beta1.EncryptRequest{Version: "v1beta1", Plain: random(size)})
		wantCode(t, err, want)
	}
	under.Alive(t)
	everyCall(t, connection, under.Key)
}

// Over gRPC's own limit of 4 MiB a message does not reach the plugin's code.
func TestMessagesOverTheLimit(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	client := v2.NewKeyManagementServiceClient(open(t, dials[4], under.Socket))
	for range 3 {
		_, err := client.Decrypt(deadline(t), &v2.DecryptRequest{Ciphertext: make([]byte, 5<<20), Uid: uid(), KeyId: under.Key})
		if err == nil {
			t.Fatal("a message of 5 MiB was taken")
		}
	}
	under.Alive(t)
	everyCall(t, open(t, dials[4], under.Socket), under.Key)
}

func TestUnknownMethods(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{})
	connection := open(t, dials[4], under.Socket)
	for _, method := range []string{"/v2.KeyManagementService/Rotate", "/v1.KeyManagementService/Version", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/"} {
		err := connection.Invoke(deadline(t), method, &v2.StatusRequest{}, &v2.StatusResponse{})
		if got := status.Code(err); got != codes.Unimplemented && !plugin.IsAEP() {
			t.Errorf("%s: %v, where Unimplemented is due", method, err)
		}
	}
	everyCall(t, connection, under.Key)
}

// encryptV2 is a ciphertext as an API server would store it.
func encryptV2(t *testing.T, connection *grpc.ClientConn) []byte {
	t.Helper()
	encrypted, err := v2.NewKeyManagementServiceClient(connection).Encrypt(deadline(t), &v2.EncryptRequest{Plaintext: random(32), Uid: uid()}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return encrypted.Ciphertext
}
