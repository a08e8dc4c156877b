// Package plugin runs our programs as a node runs them, above all a KMS plugin, for clients that are not ours to
// test them with.
//
// It needs nothing but Go's standard library, so that modules on different releases of Kubernetes
// share it. What it has to know comes by environment; tests/conformance/main.rs sets it.
package plugin

import (
	"os"
	"testing"
)

// Names of the environment variables.
const (
	binaryVariable   = "PLUGIN_BINARY"     // the plugin under test
	kindVariable     = "PLUGIN_KIND"       // "coffer" (the default) or "aep"
	aepVariable      = "AEP_BINARY"        // an AWS Encryption Provider to compare with
	endpointVariable = "KMS_ENDPOINT"      // where KMS is, as http://127.0.0.1:PORT
	keyVariable      = "KMS_KEY"           // ARN of the key
	otherKeyVariable = "KMS_OTHER_KEY"     // ARN of another key of the same account
	regionVariable   = "AWS_REGION"        // of both keys
	accountVariable  = "AWS_ACCESS_KEY_ID" // LocalStack reads the account out of it
)

// Key is the ARN of the KMS key to use.
func Key(t testing.TB) string { return Variable(t, keyVariable) }

// OtherKey is the ARN of a second KMS key, of the same account.
func OtherKey(t testing.TB) string { return Variable(t, otherKeyVariable) }

// Endpoint is where KMS answers.
func Endpoint(t testing.TB) string { return Variable(t, endpointVariable) }

// Region is where both keys are.
func Region(t testing.TB) string { return Variable(t, regionVariable) }

// AccessKey names the account; the secret beside it is never verified.
func AccessKey(t testing.TB) string { return Variable(t, accountVariable) }

// AEP is the path of an AWS Encryption Provider, or of what stands in for it.
func AEP(t testing.TB) string { return Variable(t, aepVariable) }

// CofferOnly skips a test that checks what Coffer does beyond the AWS Encryption Provider, when the
// plugin under test is the latter (which tests the tests).
func CofferOnly(t testing.TB, beyond string) {
	t.Helper()
	if IsAEP() {
		t.Skip("the AWS Encryption Provider does not do this: " + beyond)
	}
}

// IsAEP tells whether the plugin under test is the AWS Encryption Provider itself.
func IsAEP() bool { return os.Getenv(kindVariable) == "aep" }

// Variable is an environment variable that tests/conformance/main.rs sets.
func Variable(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatal(name + " is not set; run these tests through `tests/run conformance`")
	}
	return value
}
