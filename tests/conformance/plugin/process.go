package plugin

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startWithin = 20 * time.Second
	stopWithin  = 10 * time.Second
)

// Config is how to start a plugin. The zero value is the plugin under test on a socket of its own.
type Config struct {
	Binary  string   // else the plugin under test
	Socket  string   // a path or an abstract name; else a path of its own
	Key     string   // else [Key]
	KMS     string   // endpoint; else [Endpoint]
	Context string   // encryption context as a=b,c=d; may be empty
	Args    []string // more flags
}

// Plugin is a plugin that runs, until it is stopped or the test ends.
type Plugin struct {
	// Socket is where it listens: a path, or an abstract name with its @.
	Socket string
	// Key is what it was given as --key, hence its key_id.
	Key string

	command *exec.Cmd
	output  *output
	ended   chan struct{}
}

// Start runs a plugin and waits until its socket takes connections.
func Start(t testing.TB, config Config) *Plugin {
	t.Helper()
	plugin := Launch(t, config)
	deadline := time.Now().Add(startWithin)
	for {
		connection, err := net.Dial("unix", plugin.Socket)
		if err == nil {
			connection.Close()
			return plugin
		}
		select {
		case <-plugin.ended:
			t.Fatalf("%s ended at start (%v):\n%s", plugin.command.Path, plugin.command.ProcessState, plugin.Output())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s: %v\n%s", plugin.command.Path, plugin.Socket, err, plugin.Output())
		}
	}
}

// Launch runs a plugin and waits for nothing.
func Launch(t testing.TB, config Config) *Plugin {
	t.Helper()
	binary := or(config.Binary, func() string { return variable(t, binaryVariable) })
	plugin := &Plugin{
		Socket: or(config.Socket, func() string { return SocketPath(t) }),
		Key:    or(config.Key, func() string { return Key(t) }),
		output: &output{},
		ended:  make(chan struct{}),
	}
	args := []string{
		"--listen", plugin.Socket,
		"--key", plugin.Key,
		"--region", Region(t),
		"--kms-endpoint", or(config.KMS, func() string { return Endpoint(t) }),
		"--health-port", "127.0.0.1:0",
	}
	if config.Context != "" {
		args = append(args, "--encryption-context", config.Context)
	}
	plugin.command = exec.Command(binary, append(args, config.Args...)...)
	plugin.command.Env = []string{
		"AWS_REGION=" + Region(t),
		"AWS_ACCESS_KEY_ID=" + AccessKey(t),
		"AWS_SECRET_ACCESS_KEY=not-verified",
	}
	plugin.command.Stdout, plugin.command.Stderr = plugin.output, plugin.output
	if err := plugin.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		plugin.command.Wait()
		close(plugin.ended)
	}()
	t.Cleanup(func() {
		plugin.Kill()
		if t.Failed() {
			t.Logf("%s on %s wrote:\n%s", filepath.Base(binary), plugin.Socket, plugin.Output())
		}
	})
	return plugin
}

// Endpoint is the socket as an EncryptionConfiguration names it.
func (p *Plugin) Endpoint() string { return EndpointOf(p.Socket) }

// EndpointOf is a path or an abstract name as an EncryptionConfiguration writes it.
func EndpointOf(socket string) string {
	if socket[0] == '@' {
		return "unix:///" + socket
	}
	return "unix://" + socket
}

// Output is what the plugin wrote so far.
func (p *Plugin) Output() string { return p.output.text() }

// Alive fails the test if the plugin has ended.
func (p *Plugin) Alive(t testing.TB) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("the plugin ended (%v)", p.command.ProcessState)
	default:
	}
}

// Ended waits for the plugin to end by itself, and gives its exit code.
func (p *Plugin) Ended(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(startWithin):
		t.Fatalf("the plugin still runs:\n%s", p.Output())
	}
	return p.command.ProcessState.ExitCode()
}

// Stop asks the plugin to end, as the kubelet does, and waits for that.
func (p *Plugin) Stop(t testing.TB) {
	t.Helper()
	p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopWithin):
		t.Fatalf("the plugin still runs %v after SIGTERM", stopWithin)
	}
}

// Kill ends the plugin with no chance to tidy up.
func (p *Plugin) Kill() {
	p.command.Process.Kill()
	<-p.ended
}

// SocketPath is a new path for a socket, short enough for the kernel's 107 bytes.
func SocketPath(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "kms-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return filepath.Join(folder, "socket.sock")
}

// AbstractName is a new name for a socket without a file.
func AbstractName() string {
	return fmt.Sprintf("@coffer-conformance-%d-%d", os.Getpid(), time.Now().UnixNano())
}

func or(given string, otherwise func() string) string {
	if given != "" {
		return given
	}
	return otherwise()
}

type output struct {
	mutex sync.Mutex
	bytes bytes.Buffer
}

func (o *output) Write(text []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.bytes.Write(text)
}

func (o *output) text() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.bytes.String()
}
