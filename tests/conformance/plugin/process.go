package plugin

import (
	"bytes"
	"net"
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

// Process is a program of Coffer's that runs, until it is stopped or the test ends.
type Process struct {
	command *exec.Cmd
	output  *output
	ended   chan struct{}
}

// Run starts a command. Should the test fail, it tells what the program wrote.
func Run(t testing.TB, command *exec.Cmd) *Process {
	t.Helper()
	p := &Process{command: command, output: &output{}, ended: make(chan struct{})}
	command.Stdout, command.Stderr = p.output, p.output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		command.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", p.name(), p.Output())
		}
	})
	return p
}

// Listens waits until the program's socket takes connections.
func (p *Process) Listens(t testing.TB, socket string) {
	t.Helper()
	deadline := time.Now().Add(startWithin)
	for {
		connection, err := net.Dial("unix", socket)
		if err == nil {
			connection.Close()
			return
		}
		select {
		case <-p.ended:
			t.Fatalf("%s ended at start (%v):\n%s", p.name(), p.command.ProcessState, p.Output())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s: %v\n%s", p.name(), socket, err, p.Output())
		}
	}
}

// Output is what the program wrote so far.
func (p *Process) Output() string { return p.output.text() }

// Alive fails the test if the program has ended.
func (p *Process) Alive(t testing.TB) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("%s ended (%v)", p.name(), p.command.ProcessState)
	default:
	}
}

// Ended waits for the program to end by itself, and gives its exit code.
func (p *Process) Ended(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(startWithin):
		t.Fatalf("%s still runs:\n%s", p.name(), p.Output())
	}
	return p.command.ProcessState.ExitCode()
}

// Stop asks the program to end, as the kubelet does, and waits for that.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopWithin):
		t.Fatalf("%s still runs %v after SIGTERM", p.name(), stopWithin)
	}
}

// Kill ends the program with no chance to tidy up.
func (p *Process) Kill() {
	p.command.Process.Kill()
	<-p.ended
}

func (p *Process) name() string { return filepath.Base(p.command.Path) }

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
