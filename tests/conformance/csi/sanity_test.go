package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// The CSI project's suite, with the pod's tokens in `secrets`, where a CSIDriver with
// serviceAccountTokenInSecrets has them.
func TestSanityWithTokensInSecrets(t *testing.T) { runSanity(t, true) }

// The same with tokens in the volume context, where all kubelets before 1.35 put them.
func TestSanityWithTokensInTheContext(t *testing.T) { runSanity(t, false) }

// What has to run and pass: all that is about a node, with a publish that is one.
var mustPass = []string{
	"Identity Service GetPluginCapabilities should return appropriate capabilities",
	"Identity Service Probe should return appropriate information",
	"Identity Service GetPluginInfo should return appropriate information",
	"Node Service NodeGetCapabilities should return appropriate capabilities",
	"Node Service NodeGetInfo should return appropriate values",
	"Node Service NodePublishVolume should fail when no volume id is provided",
	"Node Service NodePublishVolume should fail when no target path is provided",
	"Node Service NodePublishVolume should fail when no volume capability is provided",
	"Node Service NodeUnpublishVolume should fail when no volume id is provided",
	"Node Service NodeUnpublishVolume should fail when no target path is provided",
	"Node Service NodeUnpublishVolume should remove target path",
	"Node Service should work",
	"Node Service should be idempotent",
}

// What may be skipped: that for which a driver has to offer a capability, by the first words of its spec.
// "Node Service" is here only with calls that a node-only driver of ephemeral volumes does not have.
var maySkip = []string{
	"Node Service NodePublishVolume with single node multi writer capability ",
	"Node Service NodeStageVolume ",
	"Node Service NodeUnstageVolume ",
	"Node Service NodeGetVolumeStats ",
	"Node Service NodeExpandVolume ",
	"Node Service NodeGetVolumeHealth ",
	"Node Service NodeGetStorageHealth ",
	// The controller is the test's own: what it does not say to offer is not tested.
	"Controller Service [Controller Server] ",
	"ListSnapshots [Controller Server] ",
	"GetSnapshot [Controller Server] ",
	"DeleteSnapshot [Controller Server] ",
	"CreateSnapshot [Controller Server] ",
	"ExpandVolume [Controller Server] ",
	"ModifyVolume [Controller Server] ",
	"ControllerGetVolumeHealth [Controller Server] ",
	"ControllerListVolumeHealth [Controller Server] ",
	"GroupController Service [GroupController Server] ",
	"GroupController Service [GroupController VolumeGroupSnapshots] ",
}

func runSanity(t *testing.T, tokensInSecrets bool) {
	driver := start(t)
	context := volumeContext(t)
	config := sanity.NewTestConfig()
	if tokensInSecrets {
		config.SecretsFile = secretsFile(t)
	} else {
		context[tokensKey] = tokens(t)
	}
	watch := &publishWatch{}
	config.Address = driver.socket()
	config.ControllerAddress = serveController(t, context)
	config.DialOptions = []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithUnaryInterceptor(watch.intercept),
	}
	config.TargetPath = driver.aboveTarget(t, podUID)
	config.StagingPath = filepath.Join(t.TempDir(), "staging")

	var specs types.SpecReports
	ginkgo.ReportAfterSuite("what ran", func(report ginkgo.Report) { specs = report.SpecReports })
	sanity.Test(t, config)

	var passed, skipped []string
	for _, spec := range specs.WithLeafNodeType(types.NodeTypeIt) {
		switch spec.State {
		case types.SpecStatePassed:
			passed = append(passed, name(spec))
		case types.SpecStateSkipped, types.SpecStatePending:
			skipped = append(skipped, name(spec))
			t.Logf("skipped: %s: %s", name(spec), spec.Failure.Message)
		default:
			t.Errorf("%s: %s: %s", name(spec), spec.State, spec.Failure.Message)
		}
	}
	for _, name := range passed {
		t.Logf("passed: %s", name)
	}
	for _, name := range mustPass {
		if !slices.Contains(passed, name) {
			t.Errorf("did not run: %s", name)
		}
	}
	for _, name := range skipped {
		if !slices.ContainsFunc(maySkip, func(start string) bool { return strings.HasPrefix(name+" ", start) }) {
			t.Errorf("was skipped, and should not be: %s", name)
		}
	}
	// One publish each for "should work" and "should remove target path", ten for "should be idempotent".
	if published := watch.published.Load(); published != 12 {
		t.Errorf("%d publishes succeeded, not 12", published)
	}
	if watch.withoutFiles.Load() != 0 {
		t.Errorf("%d publishes succeeded without the files", watch.withoutFiles.Load())
	}
	driver.Stop(t)
}

func name(spec types.SpecReport) string {
	return strings.Join(append(slices.Clone(spec.ContainerHierarchyTexts), spec.LeafNodeText), " ")
}

// publishWatch looks at each answer on its way to the suite.
type publishWatch struct {
	published, withoutFiles atomic.Int32
}

func (w *publishWatch) intercept(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	err := invoke(ctx, method, request, reply, connection, options...)
	switch reply := reply.(type) {
	case *csi.GetPluginCapabilitiesResponse:
		// The suite publishes for real only where a controller makes volumes. Kubernetes makes inline volumes
		// without one, and the driver has none; the test's own is beside it.
		reply.Capabilities = append(reply.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{
				Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
			},
		})
	case *csi.NodePublishVolumeResponse:
		if err == nil {
			w.published.Add(1)
			for name, expected := range wanted {
				found, err := os.ReadFile(filepath.Join(request.(*csi.NodePublishVolumeRequest).TargetPath, name))
				if err != nil || string(found) != expected {
					w.withoutFiles.Add(1)
				}
			}
		}
	}
	return err
}

// secretsFile holds what the suite sends as `secrets` of a publish.
func secretsFile(t testing.TB) string {
	t.Helper()
	// JSON is YAML.
	text, err := json.Marshal(map[string]map[string]string{"NodePublishVolumeSecret": {tokensKey: tokens(t)}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "secrets.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// controller makes volumes that are nothing but what the kubelet would send for an inline one.
type controller struct {
	csi.UnimplementedControllerServer
	context map[string]string
	made    atomic.Int64
}

// serveController serves a controller until the test ends, and tells where.
func serveController(t testing.TB, context map[string]string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "controller.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterControllerServer(server, &controller{context: context})
	csi.RegisterIdentityServer(server, &identity{})
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return socket
}

func (c *controller) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{}, nil
}

func (c *controller) CreateVolume(
	_ context.Context, request *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	id := fmt.Sprintf("csi-%064x", c.made.Add(1))
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: id, VolumeContext: c.context}}, nil
}

func (c *controller) DeleteVolume(context.Context, *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return &csi.DeleteVolumeResponse{}, nil
}

func (c *controller) ValidateVolumeCapabilities(
	_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if request.VolumeId == "" || len(request.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a volume id and capabilities, please")
	}
	if !strings.HasPrefix(request.VolumeId, "csi-") {
		return nil, status.Error(codes.NotFound, "no such volume")
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities},
	}, nil
}

// identity is who the test's controller is: the suite asks it as it asks the driver.
type identity struct {
	csi.UnimplementedIdentityServer
}

func (*identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "test"}, nil
}

func (*identity) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

func (*identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}
