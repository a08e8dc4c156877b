// Load asks a KMS plugin as an API server does, over one connection with that client's own dial, and prints
// one line of JSON: what was asked, how long it took, and the quantiles of single calls.
//
// A file of ciphertexts is each one's length (two bytes, big-endian) and its bytes.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"
)

var (
	socket   = flag.String("socket", "", "path of the plugin's socket")
	api      = flag.String("api", "v1", "v1 or v2")
	keyID    = flag.String("key-id", "", "key_id of the ciphertexts, for v2")
	callers  = flag.Int("callers", 1, "calls at a time")
	encrypt  = flag.Int("encrypt", 0, "write this many ciphertexts to --file, instead of decrypting what is there")
	file     = flag.String("file", "", "the ciphertexts")
	duration = flag.Duration("for", 0, "go on from the beginning again for so long; else, or with --once, ask for each once")
	once     = flag.Bool("once", false, "with --for: end sooner when all have been asked for")
)

// The API server's default.
const timeout = 3 * time.Second

// A failure that is not told is one that is counted.
const failuresTold = 3

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run() error {
	connection, err := dial(*socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	plugin := newPlugin(connection)
	if *encrypt > 0 {
		return writeCiphertexts(plugin)
	}
	ciphertexts, err := readCiphertexts()
	if err != nil {
		return err
	}
	// The connection is made before the clock runs; whatever this one is answered.
	plugin.decrypt([]byte("1"))

	var next, failed atomic.Int64
	latencies := make([][]time.Duration, *callers)
	started := time.Now()
	var all sync.WaitGroup
	for caller := range *callers {
		all.Go(func() {
			for *duration == 0 || time.Since(started) < *duration {
				index := next.Add(1) - 1
				if (*once || *duration == 0) && index >= int64(len(ciphertexts)) {
					return
				}
				asked := time.Now()
				if err := plugin.decrypt(ciphertexts[index%int64(len(ciphertexts))]); err != nil {
					if failed.Add(1) <= failuresTold {
						fmt.Fprintln(os.Stderr, "load:", err)
					}
					continue
				}
				latencies[caller] = append(latencies[caller], time.Since(asked))
			}
		})
	}
	all.Wait()
	return report(slices.Concat(latencies...), failed.Load(), time.Since(started))
}

func report(latencies []time.Duration, failed int64, took time.Duration) error {
	slices.Sort(latencies)
	quantile := func(q float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return latencies[min(int(q*float64(len(latencies))), len(latencies)-1)].Seconds()
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"answered": len(latencies), "failed": failed, "seconds": took.Seconds(), "p50": quantile(0.5), "p99": quantile(0.99),
	})
}

// plugin is one of the two APIs.
type plugin struct {
	encrypt func(plain []byte) ([]byte, error)
	decrypt func(ciphertext []byte) error
}

func newPlugin(connection *grpc.ClientConn) plugin {
	if *api == "v1" {
		client := v1beta1.NewKeyManagementServiceClient(connection)
		return plugin{
			encrypt: func(plain []byte) ([]byte, error) {
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				defer cancel()
				answer, err := client.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: plain})
				return answer.GetCipher(), err
			},
			decrypt: func(ciphertext []byte) error {
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				defer cancel()
				_, err := client.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: ciphertext})
				return err
			},
		}
	}
	client := v2.NewKeyManagementServiceClient(connection)
	const uid = "31a7f1c6-5f4a-4c0f-9a52-6d8e0f2b7c11"
	return plugin{
		encrypt: func(plain []byte) ([]byte, error) {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			answer, err := client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plain, Uid: uid})
			return answer.GetCiphertext(), err
		},
		decrypt: func(ciphertext []byte) error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			_, err := client.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: ciphertext, Uid: uid, KeyId: *keyID})
			return err
		},
	}
}

// dial is k8s.io/apiserver's, of its v1 client (no authority, so the socket's path) or its v2 client.
func dial(socket string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
		}),
	}
	if *api == "v2" {
		options = append(options, grpc.WithAuthority("localhost"))
	}
	//nolint:staticcheck // Dial and not NewClient, as the API server does.
	return grpc.Dial(socket, options...)
}

func writeCiphertexts(plugin plugin) error {
	output, err := os.Create(*file)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(output)
	for index := range *encrypt {
		plain := make([]byte, 32)
		binary.BigEndian.PutUint64(plain, uint64(index))
		ciphertext, err := plugin.encrypt(plain)
		if err != nil {
			return err
		}
		buffered.Write(binary.BigEndian.AppendUint16(nil, uint16(len(ciphertext))))
		buffered.Write(ciphertext)
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	return output.Close()
}

func readCiphertexts() ([][]byte, error) {
	input, err := os.Open(*file)
	if err != nil {
		return nil, err
	}
	defer input.Close()
	buffered := bufio.NewReader(input)
	var ciphertexts [][]byte
	for {
		var length uint16
		if err := binary.Read(buffered, binary.BigEndian, &length); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		ciphertext := make([]byte, length)
		if _, err := io.ReadFull(buffered, ciphertext); err != nil {
			return nil, err
		}
		ciphertexts = append(ciphertexts, ciphertext)
	}
	if len(ciphertexts) == 0 {
		return nil, fmt.Errorf("no ciphertext in %s", *file)
	}
	return ciphertexts, nil
}
