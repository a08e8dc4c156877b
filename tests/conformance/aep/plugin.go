package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"
)

// The first byte of all that it writes; after it comes what KMS gave.
const prefix = '1'

// What a check encrypts.
var probe = []byte("foo")

// plugin is a key as both versions of the protocol use it.
type plugin struct {
	cloud   *kms.Client
	key     string            // as on the command line: it goes to KMS, and is the key_id
	context map[string]string // nil for none
	health  *health
}

func (p *plugin) encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	answer, err := p.cloud.Encrypt(ctx, &kms.EncryptInput{KeyId: &p.key, Plaintext: plaintext, EncryptionContext: p.context})
	if err != nil {
		p.health.record(err)
		return nil, fmt.Errorf("failed to encrypt %w", err)
	}
	return append([]byte{prefix}, answer.CiphertextBlob...), nil
}

// decrypt takes what KMS gave. It names no key: KMS finds it in there, and any will do that the role may use.
func (p *plugin) decrypt(ctx context.Context, blob []byte) ([]byte, error) {
	answer, err := p.cloud.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: p.context})
	if err != nil {
		// Bad bytes tell nothing of KMS.
		if classify(err) != corruption {
			p.health.record(err)
		}
		return nil, fmt.Errorf("failed to decrypt %w", err)
	}
	return answer.Plaintext, nil
}

// v1 is the protocol that encrypts each object anew.
type v1 struct {
	v1beta1.UnimplementedKeyManagementServiceServer
	*plugin
}

func (p v1) Version(context.Context, *v1beta1.VersionRequest) (*v1beta1.VersionResponse, error) {
	return &v1beta1.VersionResponse{Version: "v1beta1", RuntimeName: "AWSKMS", RuntimeVersion: "UNKNOWN"}, nil
}

func (p v1) Encrypt(ctx context.Context, request *v1beta1.EncryptRequest) (*v1beta1.EncryptResponse, error) {
	cipher, err := p.encrypt(ctx, request.Plain)
	if err != nil {
		return nil, err
	}
	return &v1beta1.EncryptResponse{Cipher: cipher}, nil
}

// Decrypt reads also what was written before there was a prefix.
func (p v1) Decrypt(ctx context.Context, request *v1beta1.DecryptRequest) (*v1beta1.DecryptResponse, error) {
	blob := request.Cipher
	if len(blob) == 0 {
		return nil, errors.New("nothing to decrypt")
	}
	if blob[0] == prefix {
		blob = blob[1:]
	}
	plain, err := p.decrypt(ctx, blob)
	if err != nil {
		return nil, err
	}
	return &v1beta1.DecryptResponse{Plain: plain}, nil
}

func (p v1) healthy() error {
	return p.health.check(func(ctx context.Context) error {
		_, err := p.encrypt(ctx, probe)
		return err
	})
}

// live tells whether a restart might help: not against what the user did, nor against a throttle.
func (p v1) live() error {
	err := p.healthy()
	if kind := classify(err); kind == byUser || kind == throttled {
		return nil
	}
	return err
}

// v2Server is the protocol that encrypts a seed now and then.
type v2Server struct {
	v2.UnimplementedKeyManagementServiceServer
	*plugin
}

// Status never fails, and has its key_id always.
func (p v2Server) Status(context.Context, *v2.StatusRequest) (*v2.StatusResponse, error) {
	status := &v2.StatusResponse{Version: "v2beta1", Healthz: "ok", KeyId: p.key}
	if p.healthy() != nil {
		status.Healthz = "err"
	}
	return status, nil
}

func (p v2Server) Encrypt(ctx context.Context, request *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	ciphertext, err := p.encrypt(ctx, request.Plaintext)
	if err != nil {
		return nil, err
	}
	return &v2.EncryptResponse{Ciphertext: ciphertext, KeyId: p.key}, nil
}

// Decrypt looks at the ciphertext alone: not at key_id, nor at annotations.
func (p v2Server) Decrypt(ctx context.Context, request *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	if len(request.Ciphertext) == 0 {
		return nil, errors.New("nothing to decrypt")
	}
	if first := request.Ciphertext[0]; first != prefix {
		return nil, fmt.Errorf("written by another plugin: it begins with byte %#x, not %#x", first, prefix)
	}
	plaintext, err := p.decrypt(ctx, request.Ciphertext[1:])
	if err != nil {
		return nil, err
	}
	return &v2.DecryptResponse{Plaintext: plaintext}, nil
}

func (p v2Server) healthy() error {
	return p.health.check(func(ctx context.Context) error {
		ciphertext, err := p.encrypt(ctx, probe)
		if err != nil {
			return err
		}
		_, err = p.decrypt(ctx, ciphertext[1:])
		return err
	})
}
