package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"coffer.dev/conformance/plugin"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// The context of the tests with one, as flag and as the SDK takes it.
const contextFlag = "cluster=prod,purpose=etcd"

var contextMap = map[string]string{"cluster": "prod", "purpose": "etcd"}

// The format of the AWS Encryption Provider in a few lines on AWS's own SDK for Go: the byte '1' and what
// KMS gave. v1 reads also without the byte. key_id is the key's name as configured.
func byTheRule(t *testing.T, version string, encryptionContext map[string]string) client {
	t.Helper()
	cloud, key := sdk(t), plugin.Key(t)
	return client{
		encrypt: func(plain []byte) (sealed, error) {
			answer, err := cloud.Encrypt(deadline(t), &kms.EncryptInput{KeyId: &key, Plaintext: plain, EncryptionContext: encryptionContext})
			if err != nil {
				return sealed{}, err
			}
			return sealed{ciphertext: append([]byte{'1'}, answer.CiphertextBlob...), keyID: key}, nil
		},
		decrypt: func(s sealed) ([]byte, error) {
			if len(s.ciphertext) == 0 || s.ciphertext[0] != '1' || (version == "v2" && (s.keyID != key || len(s.annotations) != 0)) {
				return nil, errors.New("not as the AWS Encryption Provider would have it")
			}
			answer, err := cloud.Decrypt(deadline(t), &kms.DecryptInput{CiphertextBlob: s.ciphertext[1:], EncryptionContext: encryptionContext})
			if err != nil {
				return nil, err
			}
			return answer.Plaintext, nil
		},
	}
}

func sdk(t *testing.T) *kms.Client {
	t.Helper()
	return kms.NewFromConfig(aws.Config{
		Region:       plugin.Region(t),
		Credentials:  credentials.NewStaticCredentialsProvider(plugin.AccessKey(t), "not-verified", ""),
		BaseEndpoint: aws.String(plugin.Endpoint(t)),
	})
}

// What is written by one is read by the other, and what was written under another context by neither.
func TestDataIsInterchangeableWithTheRule(t *testing.T) {
	t.Parallel()
	matrix(t, func(t *testing.T, version, flag string, encryptionContext map[string]string) (client, client) {
		under := plugin.Start(t, plugin.Config{Context: flag})
		return newClient(t, version, under.Endpoint(), soon), byTheRule(t, version, encryptionContext)
	})
}

func TestDataIsInterchangeableWithTheAWSEncryptionProvider(t *testing.T) {
	t.Parallel()
	binary := plugin.AEP(t)
	matrix(t, func(t *testing.T, version, flag string, _ map[string]string) (client, client) {
		under := plugin.Start(t, plugin.Config{Context: flag})
		aep := plugin.Start(t, plugin.Config{Context: flag, Binary: binary})
		return newClient(t, version, under.Endpoint(), soon), newClient(t, version, aep.Endpoint(), soon)
	})
}

// matrix has two clients read each other's and their own, for both versions and with and without context.
func matrix(t *testing.T, pair func(t *testing.T, version, flag string, encryptionContext map[string]string) (client, client)) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			bareA, bareB := pair(t, version, "", nil)
			withA, withB := pair(t, version, contextFlag, contextMap)
			bare, with := map[string]client{"one": bareA, "other": bareB}, map[string]client{"one": withA, "other": withB}
			for writer := range bare {
				for reader := range bare {
					t.Run(fmt.Sprintf("%s writes, %s reads", writer, reader), func(t *testing.T) {
						readsOf(t, bare[writer], bare[reader])
						readsOf(t, with[writer], with[reader])
						refusesOf(t, bare[writer], with[reader])
						refusesOf(t, with[writer], bare[reader])
					})
				}
			}
		})
	}
}

func readsOf(t *testing.T, writer, reader client) {
	t.Helper()
	plain := random(32)
	written, err := writer.encrypt(plain)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := reader.decrypt(written); err != nil || !bytes.Equal(read, plain) {
		t.Errorf("not read: %v", err)
	}
}

func refusesOf(t *testing.T, writer, reader client) {
	t.Helper()
	written, err := writer.encrypt(random(32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.decrypt(written); err == nil {
		t.Error("read under another encryption context than it was written")
	}
}

// The AWS Encryption Provider once wrote no prefix: v1 reads that too, v2 never wrote it.
func TestDataWithoutThePrefix(t *testing.T) {
	t.Parallel()
	under := plugin.Start(t, plugin.Config{Context: contextFlag})
	plain, key := random(32), under.Key
	blob, err := sdk(t).Encrypt(context.Background(), &kms.EncryptInput{KeyId: &key, Plaintext: plain, EncryptionContext: contextMap})
	if err != nil {
		t.Fatal(err)
	}
	read, err := newClient(t, "v1", under.Endpoint(), soon).decrypt(sealed{ciphertext: blob.CiphertextBlob})
	if err != nil || !bytes.Equal(read, plain) {
		t.Errorf("v1 does not read it: %v", err)
	}
	if _, err := newClient(t, "v2", under.Endpoint(), soon).decrypt(sealed{ciphertext: blob.CiphertextBlob, keyID: key}); err == nil {
		t.Error("v2 reads it")
	}
}

// By default any key that KMS lets the role use is read, whatever key_id says, as the AWS Encryption
// Provider does: a cluster whose --key is an alias that moved depends on it.
func TestDataOfAnotherKeyIsRead(t *testing.T) {
	t.Parallel()
	first, second := plugin.Start(t, plugin.Config{}), plugin.Start(t, plugin.Config{Key: plugin.OtherKey(t)})
	for _, version := range versions {
		readsOf(t, newClient(t, version, first.Endpoint(), soon), newClient(t, version, second.Endpoint(), soon))
	}
}

// A node goes over from the AWS Encryption Provider to the plugin under a live API server, and back:
// health stays good, nothing becomes stale, all is read.
func TestSwapUnderALiveAPIServer(t *testing.T) {
	t.Parallel()
	binary := plugin.AEP(t)
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			socket := plugin.SocketPath(t)
			server := func() *apiServer { return startAPIServer(t, provider(version, "aws", plugin.EndpointOf(socket))) }
			running := plugin.Start(t, plugin.Config{Binary: binary, Socket: socket})
			live := server().ready(t)
			stored := map[string][]byte{"aep": live.write(t, "aep", "text")}

			for _, next := range []struct{ name, binary string }{{"plugin", ""}, {"aep again", binary}} {
				running.Stop(t)
				running = plugin.Start(t, plugin.Config{Binary: next.binary, Socket: socket})
				staysHealthy(t, live, "after the swap to "+next.name)
				stored[next.name] = live.write(t, next.name, "text")
				fresh := server().ready(t)
				for name, bytes := range stored {
					live.reads(t, name, "text", bytes, false)
					fresh.reads(t, name, "text", bytes, false)
				}
			}
		})
	}
}

// staysHealthy looks at health until the API server must have asked the plugin anew.
func staysHealthy(t *testing.T, server *apiServer, when string) {
	t.Helper()
	for end := time.Now().Add(nextStatus); time.Now().Before(end); time.Sleep(time.Second) {
		if err := server.health(); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
}
