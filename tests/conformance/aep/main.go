// Command aep stands in for the AWS Encryption Provider (kubernetes-sigs/aws-encryption-provider), the
// plugin that coffer-kms replaces: of that there is no release to bring into a test, neither a binary
// nor a Go module. What an API server, etcd and KMS can see of it is done here by the same rules; the
// code is our own. AEP_BINARY with the path of a real one puts that in its place, and the tests must
// pass with either.
//
// The rules are those of its commit 6d4f71e (June 2026). Left out: metrics, its way of logging,
// limits of retries, --source-arn, --health-kms-version (always v1), a region out of the instance's
// metadata.
package main

import (
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"
)

type options struct {
	keys, sockets       []string // of one length: each key on a socket of its own
	contexts            []map[string]string
	region, kmsEndpoint string // both may be empty: then the SDK looks for them
	health, healthz     string
	livez               string
}

func main() {
	log.SetPrefix("aep (stand-in): ")
	if err := run(parse()); err != nil {
		log.Fatal(err)
	}
}

func parse() options {
	var o options
	flag.Func("key", "ARN, id or alias of a KMS key; one for each --listen", list(&o.keys))
	flag.Func("listen", "path of a socket (default /var/run/kmsplugin/socket.sock)", list(&o.sockets))
	flag.Func("encryption-context", "`a=b,c=d`; the first goes with the first key, and so on", func(text string) error {
		pairs, err := parseContext(text)
		o.contexts = append(o.contexts, pairs)
		return err
	})
	flag.StringVar(&o.region, "region", "", "AWS region")
	flag.StringVar(&o.kmsEndpoint, "kms-endpoint", "", "URL of KMS")
	flag.StringVar(&o.health, "health-port", ":8080", "address of the health checks")
	flag.StringVar(&o.healthz, "healthz-path", "/healthz", "path of the check that asks KMS")
	flag.StringVar(&o.livez, "livez-path", "/livez", "path of the check that forgives what is the user's doing")
	flag.Parse()
	if o.keys == nil {
		o.keys = []string{""}
	}
	if o.sockets == nil {
		o.sockets = []string{"/var/run/kmsplugin/socket.sock"}
	}
	return o
}

// list takes a flag that may be repeated, or hold more than one value between commas.
func list(values *[]string) func(string) error {
	return func(text string) error {
		more, err := csv.NewReader(strings.NewReader(text)).Read()
		*values = append(*values, more...)
		return err
	}
}

func parseContext(text string) (map[string]string, error) {
	pairs := map[string]string{}
	if text = strings.Trim(text, "[]"); text == "" {
		return pairs, nil
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	for _, field := range fields {
		key, value, found := strings.Cut(field, "=")
		if !found {
			return nil, fmt.Errorf("%q is not key=value", field)
		}
		pairs[key] = value
	}
	return pairs, err
}

func run(o options) error {
	if len(o.keys) != len(o.sockets) {
		return fmt.Errorf("%d keys for %d sockets", len(o.keys), len(o.sockets))
	}
	cloud, err := connect(o)
	if err != nil {
		return err
	}

	// One for all keys and both versions: what ails one key is told of the others too.
	shared := &health{}
	failed := make(chan error)
	var servers []*grpc.Server
	var checked []v1
	for i, key := range o.keys {
		common := &plugin{cloud: cloud, key: key, health: shared}
		// Keys without a context of their own come last.
		if i < len(o.contexts) && len(o.contexts[i]) > 0 {
			common.context = o.contexts[i]
		}
		server := grpc.NewServer()
		v1beta1.RegisterKeyManagementServiceServer(server, v1{plugin: common})
		v2.RegisterKeyManagementServiceServer(server, v2Server{plugin: common})
		servers, checked = append(servers, server), append(checked, v1{plugin: common})
		go func() { failed <- serve(server, o.sockets[i]) }()
	}
	go func() { failed <- http.ListenAndServe(o.health, checks(o, checked)) }()

	ended, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	select {
	case err := <-failed:
		return err
	case <-ended.Done():
	}
	for _, server := range servers {
		server.GracefulStop()
	}
	return nil
}

func connect(o options) (*kms.Client, error) {
	loaded, err := config.LoadDefaultConfig(context.Background(), config.WithRegion(o.region))
	if err != nil {
		return nil, err
	}
	if loaded.Region == "" {
		return nil, errors.New("no region: give --region or set AWS_REGION")
	}
	return kms.NewFromConfig(loaded, func(options *kms.Options) {
		if o.kmsEndpoint != "" {
			options.BaseEndpoint = aws.String(o.kmsEndpoint)
		}
	}), nil
}

// serve listens on a path. Whatever is there goes: the socket of one that crashed, or of one that runs.
func serve(server *grpc.Server, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	return server.Serve(listener)
}

// checks are the health checks over HTTP. They go through v1, so that they never try Decrypt.
func checks(o options, plugins []v1) http.Handler {
	first := func(check func(v1) error) http.HandlerFunc {
		return func(response http.ResponseWriter, _ *http.Request) {
			for _, plugin := range plugins {
				if err := check(plugin); err != nil {
					response.WriteHeader(http.StatusInternalServerError)
					fmt.Fprint(response, err)
					return
				}
			}
			fmt.Fprint(response, "OK")
		}
	}
	handler := http.NewServeMux()
	handler.HandleFunc(o.healthz, first(v1.healthy))
	handler.HandleFunc(o.livez, first(v1.live))
	return handler
}
