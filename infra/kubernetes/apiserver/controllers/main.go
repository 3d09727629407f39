// The controllers that tests need, of the controller manager's own code: Deployments, ReplicaSets and EndpointSlices. Nothing else of the
// manager is compiled, which makes the build a sixth shorter.
//
//	controllers KUBECONFIG
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/endpointslice"
	"k8s.io/kubernetes/pkg/controller/replicaset"
)

const (
	workers              = 2
	maxEndpointsPerSlice = 100
	batchPeriod          = 50 * time.Millisecond
	requestsPerSecond    = 500
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: controllers KUBECONFIG")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = requestsPerSecond, requestsPerSecond
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	apps, core, discovery := factory.Apps().V1(), factory.Core().V1(), factory.Discovery().V1()
	deployments, err := deployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), core.Pods(), client)
	if err != nil {
		return err
	}
	replicas := replicaset.NewReplicaSetController(ctx, apps.ReplicaSets(), core.Pods(), client, replicaset.BurstReplicas)
	slices := endpointslice.NewController(
		ctx, core.Pods(), core.Services(), core.Nodes(), discovery.EndpointSlices(), maxEndpointsPerSlice, client, batchPeriod)
	factory.Start(ctx.Done())
	go deployments.Run(ctx, workers)
	go replicas.Run(ctx, workers)
	go slices.Run(ctx, workers)
	<-ctx.Done()
	return nil
}
