package conformance

import (
	"context"
	"net"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A dial is one way in which a client of a unix socket comes to its `:authority`.
type dial struct {
	name    string
	connect func(socket string) (*grpc.ClientConn, error)
}

// For sockets with a path.
var dials = []dial{
	{"localhost, as the API server's v2 client since 1.32", withAuthority(func(string) string { return "localhost" })},
	{"the path itself, as older grpc-go", withAuthority(func(socket string) string { return socket })},
	{"the path percent-encoded, as grpcio", withAuthority(url.PathEscape)},
	{"a path of 300 characters", withAuthority(func(string) string { return "/" + strings.Repeat("a/%", 99) + "/s" })},
	{"none and a dialer of its own, as the API server's v1 client", asAPIServerV1},
	{"none and the target unix:PATH", func(socket string) (*grpc.ClientConn, error) { return grpc.NewClient("unix:"+socket, plain) }},
	{"none and the target unix://PATH", func(socket string) (*grpc.ClientConn, error) { return grpc.NewClient("unix://"+socket, plain) }},
}

// For abstract sockets.
var abstractDials = []dial{
	{"localhost, as the API server's v2 client since 1.32", withAuthority(func(string) string { return "localhost" })},
	{"the name itself", withAuthority(func(socket string) string { return socket })},
	{"none and a dialer of its own, as the API server's v1 client", asAPIServerV1},
	{"none and the target unix-abstract:NAME", func(socket string) (*grpc.ClientConn, error) {
		return grpc.NewClient("unix-abstract:"+strings.TrimPrefix(socket, "@"), plain)
	}},
}

var plain = grpc.WithTransportCredentials(insecure.NewCredentials())

// asAPIServerV1 dials with the options of k8s.io/apiserver's v1 client: what the target becomes as
// `:authority` is grpc-go's business.
func asAPIServerV1(socket string) (*grpc.ClientConn, error) {
	//nolint:staticcheck // Dial and not NewClient, as the API server does.
	return grpc.Dial(socket, plain, dialer(socket), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}

func withAuthority(of func(socket string) string) func(string) (*grpc.ClientConn, error) {
	return func(socket string) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///socket", plain, dialer(socket), grpc.WithAuthority(of(socket)))
	}
}

func dialer(socket string) grpc.DialOption {
	return grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	})
}

// open connects to a socket, until the test ends.
func open(t testing.TB, d dial, socket string) *grpc.ClientConn {
	t.Helper()
	connection, err := d.connect(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}
