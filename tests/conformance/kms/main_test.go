// Package conformance tests a Kubernetes KMS plugin on AWS KMS with the API server's own code.
//
// The plugin under test is Coffer's, or the AWS Encryption Provider, which tests the tests.
package conformance

import (
	"fmt"
	"os"
	"testing"

	"k8s.io/apiserver/pkg/util/feature"
)

func TestMain(m *testing.M) {
	// Off since Kubernetes 1.29, but for those who still have to read what v1 wrote.
	if err := feature.DefaultMutableFeatureGate.Set("KMSv1=true"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
