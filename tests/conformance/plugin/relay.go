package plugin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Relay stands between a plugin and KMS: it counts the calls, and answers for KMS on a bad day.
type Relay struct {
	server *httptest.Server
	ended  chan struct{}

	mutex sync.Mutex
	calls map[string]int
	delay time.Duration
	code  string
}

// NewRelay starts a relay in front of [Endpoint].
func NewRelay(t testing.TB) *Relay {
	t.Helper()
	kms, err := url.Parse(Endpoint(t))
	if err != nil {
		t.Fatal(err)
	}
	relay := &Relay{ended: make(chan struct{}), calls: map[string]int{}}
	proxy := httputil.NewSingleHostReverseProxy(kms)
	relay.server = httptest.NewServer(http.HandlerFunc(func(reply http.ResponseWriter, request *http.Request) {
		delay, code := relay.count(request.Header.Get("X-Amz-Target"))
		select {
		case <-time.After(delay):
		case <-relay.ended:
			return
		}
		if code != "" {
			reply.Header().Set("Content-Type", "application/x-amz-json-1.1")
			reply.Header().Set("x-amzn-RequestId", "00000000-0000-4000-8000-000000000000")
			reply.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(reply, `{"__type":%q,"message":"as the test has it"}`, code)
			return
		}
		proxy.ServeHTTP(reply, request)
	}))
	t.Cleanup(func() {
		close(relay.ended)
		relay.server.CloseClientConnections()
		relay.server.Close()
	})
	return relay
}

// URL is the value for --kms-endpoint.
func (r *Relay) URL() string { return r.server.URL }

// Delay has every call from now on wait first.
func (r *Relay) Delay(delay time.Duration) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.delay = delay
}

// Refuse answers every call from now on with an error of KMS, such as DisabledException; the empty
// code ends that.
func (r *Relay) Refuse(code string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.code = code
}

// Calls is how many calls of one operation came so far.
func (r *Relay) Calls(operation string) int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.calls[operation]
}

func (r *Relay) count(target string) (time.Duration, string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.calls[strings.TrimPrefix(target, "TrentService.")]++
	return r.delay, r.code
}
