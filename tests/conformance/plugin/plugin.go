package plugin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
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

	*Process
}

// Start runs a plugin and waits until its socket takes connections.
func Start(t testing.TB, config Config) *Plugin {
	t.Helper()
	plugin := Launch(t, config)
	plugin.Listens(t, plugin.Socket)
	return plugin
}

// Launch runs a plugin and waits for nothing.
func Launch(t testing.TB, config Config) *Plugin {
	t.Helper()
	binary := or(config.Binary, func() string { return Variable(t, binaryVariable) })
	plugin := &Plugin{
		Socket: or(config.Socket, func() string { return SocketPath(t) }),
		Key:    or(config.Key, func() string { return Key(t) }),
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
	command := exec.Command(binary, append(args, config.Args...)...)
	command.Env = []string{
		"AWS_REGION=" + Region(t),
		"AWS_ACCESS_KEY_ID=" + AccessKey(t),
		"AWS_SECRET_ACCESS_KEY=not-verified",
	}
	plugin.Process = Run(t, command)
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
