package conformance

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

var plain = grpc.WithTransportCredentials(insecure.NewCredentials())

// dialRegistration dials as the kubelet's plugin manager does (operation_generator.go): the bare path is the
// target, and so what grpc-go makes of it is the authority.
func dialRegistration(t testing.TB, socket string) registration.RegistrationClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	//nolint:staticcheck // DialContext and WithBlock, as the kubelet does.
	connection, err := grpc.DialContext(ctx, socket, plain, grpc.WithBlock(), dialer(socket))
	if err != nil {
		t.Fatalf("cannot dial %s: %v", socket, err)
	}
	t.Cleanup(func() { connection.Close() })
	return registration.NewRegistrationClient(connection)
}

// dialCSI dials as the kubelet's CSI client does (pkg/volume/csi/csi_client.go).
func dialCSI(t testing.TB, socket string) *grpc.ClientConn {
	t.Helper()
	//nolint:staticcheck // Dial and not NewClient, as the kubelet does.
	connection, err := grpc.Dial(socket, plain, grpc.WithAuthority("localhost"), dialer(socket))
	if err != nil {
		t.Fatalf("cannot dial %s: %v", socket, err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

func dialer(socket string) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	})
}

// seconds is the deadline of a call.
func seconds(t testing.TB, count int) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(count)*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestKubeletRegistersTheDriver(t *testing.T) {
	driver := start(t)
	// As often as the kubelet is started.
	for range 3 {
		client := dialRegistration(t, driver.registrationSocket())
		// The kubelet gives it a second.
		info, err := client.GetInfo(seconds(t, 1), &registration.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if info.Type != registration.CSIPlugin || info.Name != driverName || info.Endpoint != driver.socket() {
			t.Fatalf("registers as %v", info)
		}
		if len(info.SupportedVersions) != 1 || info.SupportedVersions[0] != "1.0.0" {
			t.Fatalf("supports %v", info.SupportedVersions)
		}
		node := csi.NewNodeClient(dialCSI(t, info.Endpoint))
		found, err := node.NodeGetInfo(seconds(t, 10), &csi.NodeGetInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if found.NodeId != "node-a" || found.AccessibleTopology != nil {
			t.Fatalf("is on %v", found)
		}
		told := &registration.RegistrationStatus{PluginRegistered: true}
		if _, err := client.NotifyRegistrationStatus(seconds(t, 1), told); err != nil {
			t.Fatal(err)
		}
	}
	driver.Stop(t)
}

// Every form in which grpc-go puts a path into `:authority`, and some that only others do.
func TestEveryAuthority(t *testing.T) {
	driver := start(t)
	type dial struct {
		name    string
		connect func(socket string) (*grpc.ClientConn, error)
	}
	withAuthority := func(of func(socket string) string) func(string) (*grpc.ClientConn, error) {
		return func(socket string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///socket", plain, dialer(socket), grpc.WithAuthority(of(socket)))
		}
	}
	dials := []dial{
		{"localhost", withAuthority(func(string) string { return "localhost" })},
		{"the path itself", withAuthority(func(socket string) string { return socket })},
		{"the path percent-encoded", withAuthority(url.PathEscape)},
		{"a path of 300 characters", withAuthority(func(string) string { return "/" + strings.Repeat("a/%", 99) + "/s" })},
		{"a bare path and a dialer", func(socket string) (*grpc.ClientConn, error) {
			return grpc.Dial(socket, plain, dialer(socket))
		}},
		{"unix:PATH", func(socket string) (*grpc.ClientConn, error) { return grpc.NewClient("unix:"+socket, plain) }},
		{"unix://PATH", func(socket string) (*grpc.ClientConn, error) { return grpc.NewClient("unix://"+socket, plain) }},
	}
	for _, dial := range dials {
		t.Run(dial.name, func(t *testing.T) {
			connect := func(socket string) *grpc.ClientConn {
				connection, err := dial.connect(socket)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { connection.Close() })
				return connection
			}
			identity := csi.NewIdentityClient(connect(driver.socket()))
			info, err := identity.GetPluginInfo(seconds(t, 10), &csi.GetPluginInfoRequest{})
			if err != nil || info.Name != driverName {
				t.Fatalf("%v, %v", info, err)
			}
			client := registration.NewRegistrationClient(connect(driver.registrationSocket()))
			if _, err := client.GetInfo(seconds(t, 10), &registration.InfoRequest{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What a driver without these services answers: the CSI project's generated clients know many more calls.
func TestUnknownCallsAreUnimplemented(t *testing.T) {
	driver := start(t)
	connection := dialCSI(t, driver.socket())
	node, controller := csi.NewNodeClient(connection), csi.NewControllerClient(connection)
	calls := map[string]func() error{
		"NodeStageVolume": func() error {
			_, err := node.NodeStageVolume(seconds(t, 10), &csi.NodeStageVolumeRequest{})
			return err
		},
		"NodeGetVolumeStats": func() error {
			_, err := node.NodeGetVolumeStats(seconds(t, 10), &csi.NodeGetVolumeStatsRequest{})
			return err
		},
		"NodeExpandVolume": func() error {
			_, err := node.NodeExpandVolume(seconds(t, 10), &csi.NodeExpandVolumeRequest{})
			return err
		},
		"CreateVolume": func() error {
			_, err := controller.CreateVolume(seconds(t, 10), &csi.CreateVolumeRequest{})
			return err
		},
	}
	for name, call := range calls {
		if code := status.Code(call()); code != codes.Unimplemented {
			t.Errorf("%s: %v", name, code)
		}
	}
}

// A whole life of a volume by the kubelet's own messages, with fsGroup.
func TestAVolumeByTheKubeletsMessages(t *testing.T) {
	driver := start(t)
	node := csi.NewNodeClient(dialCSI(t, driver.socket()))
	folder := driver.aboveTarget(t, podUID)
	if err := os.MkdirAll(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(folder, "mount")
	request := &csi.NodePublishVolumeRequest{
		VolumeId:   fmt.Sprintf("csi-%064x", 7),
		TargetPath: target,
		Readonly:   true,
		VolumeCapability: &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: "2000"}},
		},
		VolumeContext: volumeContext(t),
		Secrets:       map[string]string{tokensKey: tokens(t)},
	}
	for range 3 {
		if _, err := node.NodePublishVolume(seconds(t, 30), request); err != nil {
			t.Fatal(err)
		}
		for name, expected := range wanted {
			found, err := os.ReadFile(filepath.Join(target, name))
			if err != nil || string(found) != expected {
				t.Fatalf("%s holds %q (%v)", name, found, err)
			}
		}
	}
	for range 3 {
		_, err := node.NodeUnpublishVolume(seconds(t, 30), &csi.NodeUnpublishVolumeRequest{
			VolumeId: request.VolumeId, TargetPath: target,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(target); !os.IsNotExist(err) {
			t.Fatalf("%s is still there: %v", target, err)
		}
	}
	driver.Stop(t)
}
