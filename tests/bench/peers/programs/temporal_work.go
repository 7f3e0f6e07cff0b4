// One sample of Temporal's standalone activities: start them, work them off, hold what was done against the server.
//
// Usage: temporal_work ADDRESS JOBS REPORTS IN_FLIGHT. IN_FLIGHT is how many activities are started and not yet completed
// at any time: the server does not like to be ahead of its workers, its tasks then run into their deadlines. A tenth as
// many jobs go before, untimed. Prints a line of JSON.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	queue    = "bench"
	pollers  = 16
	readBack = 50
	within   = 9 * time.Minute
	// An attempt that does not reach the worker is made again after this time.
	attemptWithin = 10 * time.Second
	// How long the server may take to know a namespace, and to list what is completed.
	known = 60 * time.Second
)

type report struct {
	Percent int    `json:"percent"`
	Message string `json:"message"`
}

type result struct {
	ResultCount int `json:"result_count"`
}

// answered counts the calls of some kinds that the server has answered well, which it does when they are committed.
type answered struct {
	completed, heartbeats atomic.Int64
	// room has an item for each activity that may be started.
	room chan struct{}
}

func (a *answered) intercept(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := invoke(ctx, method, request, reply, connection, options...)
	if err != nil {
		return err
	}
	switch _, name, _ := strings.Cut(method[1:], "/"); name {
	case "RespondActivityTaskCompleted":
		a.completed.Add(1)
		a.room <- struct{}{}
	case "RecordActivityTaskHeartbeat":
		a.heartbeats.Add(1)
	}
	return nil
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// until tries every few milliseconds, for as long as a server may take.
func until(ctx context.Context, what string, try func() error) {
	deadline := time.Now().Add(known)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			log.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func main() {
	address := os.Args[1]
	var given [3]int
	for index := range given {
		given[index] = must(strconv.Atoi(os.Args[index+2]))
	}
	jobs, reports, inFlight := given[0], given[1], given[2]
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()

	counted := answered{room: make(chan struct{}, inFlight+jobs)}
	for range inFlight {
		counted.room <- struct{}{}
	}
	options := client.Options{
		HostPort: address,
		Logger:   sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
		ConnectionOptions: client.ConnectionOptions{
			DialOptions: []grpc.DialOption{grpc.WithUnaryInterceptor(counted.intercept)},
		},
	}
	namespaces := must(client.NewNamespaceClient(options))
	until(ctx, "register the namespace", func() error {
		return namespaces.Register(ctx, &workflowservice.RegisterNamespaceRequest{
			Namespace:                        "default",
			WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
		})
	})
	temporal := must(client.NewLazyClient(options))
	count := func(query string) (int, error) {
		counted, err := temporal.CountActivities(ctx, client.CountActivitiesOptions{Query: query})
		if err != nil {
			return 0, err
		}
		return int(counted.Count), nil
	}
	until(ctx, "find the namespace", func() error { _, err := count(""); return err })

	work := func(ctx context.Context, _ map[string]string) (result, error) {
		// Not activity.RecordHeartbeat, which leaves out reports that follow each other soon.
		token := activity.GetInfo(ctx).TaskToken
		for number := 1; number <= reports; number++ {
			if err := temporal.RecordActivityHeartbeat(ctx, token, report{25 * number, "half way there"}); err != nil {
				return result{}, err
			}
		}
		return result{12}, nil
	}
	running := worker.New(temporal, queue, worker.Options{
		DisableWorkflowWorker:              true,
		MaxConcurrentActivityExecutionSize: inFlight,
		MaxConcurrentActivityTaskPollers:   pollers,
	})
	running.RegisterActivityWithOptions(work, activity.RegisterOptions{Name: "bench"})
	if err := running.Start(); err != nil {
		log.Fatal(err)
	}

	data := map[string]string{}
	for key := range 8 {
		data[fmt.Sprintf("key-%d", key)] = strings.Repeat("v", 12)
	}
	sample := func(first, jobs int) float64 {
		began := time.Now()
		numbers := make(chan int)
		var callers sync.WaitGroup
		for range inFlight {
			callers.Go(func() {
				for number := range numbers {
					<-counted.room
					must(temporal.ExecuteActivity(ctx, client.StartActivityOptions{
						ID:                  fmt.Sprintf("bench-%d", number),
						TaskQueue:           queue,
						StartToCloseTimeout: attemptWithin,
						HeartbeatTimeout:    attemptWithin,
					}, "bench", data))
				}
			})
		}
		for number := range jobs {
			numbers <- first + number
		}
		close(numbers)
		callers.Wait()
		for counted.completed.Load() < int64(first+jobs) {
			if ctx.Err() != nil {
				log.Fatal(ctx.Err())
			}
			time.Sleep(time.Millisecond)
		}
		return time.Since(began).Seconds()
	}
	before := jobs / 10
	sample(0, before)
	seconds := sample(before, jobs)
	running.Stop()

	all := before + jobs
	stored := 0
	until(ctx, "count the completed", func() error {
		completed, err := count("ExecutionStatus = 'Completed'")
		if stored = completed; err == nil && stored < all {
			err = fmt.Errorf("%d of %d are listed as completed", stored, all)
		}
		return err
	})
	for number := max(0, all-readBack); number < all; number++ {
		var got result
		handle := temporal.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: fmt.Sprintf("bench-%d", number)})
		if err := handle.Get(ctx, &got); err != nil || got.ResultCount != 12 {
			stored--
		}
	}
	// An attempt that was made again has reported again.
	unreported := max(0, int64(all*reports)-counted.heartbeats.Load())
	fmt.Printf(`{"jobs": %d, "stored": %d, "failed": %d, "seconds": %f}`+"\n",
		must(count(""))-before, stored-before, unreported, seconds)
}
