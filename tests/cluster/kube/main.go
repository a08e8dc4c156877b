// Command kube is a Kubernetes control plane and node in one program, for the tests: each
// subcommand is the real component with its own flags, as its own image would run it.
//
//	kube [--until-stdin-closes] [--then-remove FOLDER] [--config-poll TIME] COMPONENT [FLAG…]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"
	encryptionconfig "k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components by name. Each runs on os.Args, as if it were the whole program.
var components = map[string]func() int{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 func() int { return cli.Run(kubectl.NewDefaultKubectlCommand()) },
	"kubelet":                 func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
}

func main() {
	flags := flag.NewFlagSet("kube", flag.ContinueOnError)
	attended := flags.Bool("until-stdin-closes", false, "end, at once, when standard input reaches its end")
	folder := flags.String("then-remove", "", "a `folder` to remove in that case")
	// Kubernetes looks once a minute; its own tests turn the same screw.
	flags.DurationVar(&encryptionconfig.EncryptionConfigFileChangePollDuration, "config-poll", time.Minute,
		"how often kube-apiserver looks for a changed encryption config")
	if flags.Parse(os.Args[1:]) != nil {
		os.Exit(2)
	}
	run := components[flags.Arg(0)]
	if run == nil {
		names := strings.Join(slices.Sorted(maps.Keys(components)), ", ")
		fmt.Fprintf(os.Stderr, "kube: no component %q; there are %s\n", flags.Arg(0), names)
		os.Exit(2)
	}
	if *attended {
		go endWithStdin(*folder)
	}
	os.Args = flags.Args()
	os.Exit(run())
}

// endWithStdin ends this process with the one that holds the other end of its standard input,
// however that ends.
func endWithStdin(folder string) {
	_, _ = io.Copy(io.Discard, os.Stdin)
	if folder != "" {
		// The component still runs, and may add a file while others go.
		for try := 0; try < 3 && os.RemoveAll(folder) != nil; try++ {
		}
	}
	os.Exit(0)
}
