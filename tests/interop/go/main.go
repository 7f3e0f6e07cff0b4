// What the tests ask of a Go program: `probe KIND HOST:PORT [ARGUMENT]`. Built inside a copy of client/examples/go, whose watch it uses.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/jobstate/jobstate/client/examples/go/watch"
	jobstatev1 "github.com/jobstate/jobstate/generated/go/jobstate/v1"
)

const mebibyte = 1 << 20

// By itself gRPC waits a second before it connects again, and each test of restarts for twenty of them.
var soon = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: time.Second}

var errOver = errors.New("the watch is over")

func main() {
	kind, address := os.Args[1], os.Args[2]
	channel, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	jobs := jobstatev1.NewJobServiceClient(channel)
	ctx := context.Background()
	switch kind {
	case "watch":
		err = watchAll(ctx, jobs, nil, os.Args[3:])
	case "heartbeats":
		err = watchAll(ctx, jobs, durationpb.New(time.Second), nil)
	case "errors":
		refusals(ctx, jobs)
	case "drained":
		err = drained(ctx, jobs)
	case "deadline":
		err = deadline(ctx, jobs)
	case "large":
		err = large(ctx, jobs, os.Args[3])
	case "poison":
		err = poison(ctx, jobs)
	case "labels":
		err = labels(ctx, jobs)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// watchAll prints every event, and keeps the cursor in a file if one is named.
func watchAll(
	ctx context.Context, jobs jobstatev1.JobServiceClient, heartbeat *durationpb.Duration, cursorFile []string,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel(errOver)
	}()
	request := &jobstatev1.WatchEventsRequest{
		Position:          &jobstatev1.WatchEventsRequest_Start{Start: jobstatev1.WatchStart_WATCH_START_EARLIEST},
		HeartbeatInterval: heartbeat,
	}
	for _, path := range cursorFile {
		if kept, err := os.ReadFile(path); err == nil {
			request.Position = &jobstatev1.WatchEventsRequest_Cursor{Cursor: string(kept)}
		}
	}
	err := watch.Follow(ctx, jobs, request, func(response *jobstatev1.WatchEventsResponse) error {
		for _, event := range response.Events {
			fmt.Println(event.Sequence, event.Name, event.Job.Id)
			if event.Job.Id == "end-of-watch" && event.Type == jobstatev1.EventType_EVENT_TYPE_CANCELLED {
				return errOver
			}
		}
		for _, path := range cursorFile {
			if err := os.WriteFile(path, []byte(response.Cursor), 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errOver) || context.Cause(ctx) == errOver {
		return nil
	}
	return err
}

// refusals prints what two bad calls are refused for.
func refusals(ctx context.Context, jobs jobstatev1.JobServiceClient) {
	_, err := jobs.Create(ctx, &jobstatev1.CreateRequest{JobType: "?", MaxRetries: proto.Int32(-1)})
	tell(err)
	_, err = jobs.Get(ctx, &jobstatev1.GetRequest{Id: "nobody"})
	tell(err)
}

// drained opens a watch, and prints how the server ends it.
func drained(ctx context.Context, jobs jobstatev1.JobServiceClient) error {
	stream, err := jobs.WatchEvents(ctx, &jobstatev1.WatchEventsRequest{})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			tell(err)
			return nil
		}
		fmt.Println(strings.TrimPrefix(response.Kind.String(), "WATCH_RESPONSE_KIND_"))
	}
}

// deadline makes a call that its deadline ends, and repeats it; before each it waits for a line.
func deadline(ctx context.Context, jobs jobstatev1.JobServiceClient) error {
	if _, err := jobs.ListJobTypes(ctx, &jobstatev1.ListJobTypesRequest{}); err != nil {
		return err
	}
	fmt.Println("connected")
	input := bufio.NewScanner(os.Stdin)
	request := &jobstatev1.CreateRequest{Id: "once", JobType: "default", RequestId: "the-same-both-times"}
	for _, patience := range []time.Duration{200 * time.Millisecond, time.Minute} {
		input.Scan()
		limited, cancel := context.WithTimeout(ctx, patience)
		created, err := jobs.Create(limited, request)
		cancel()
		if err != nil {
			tell(err)
		} else {
			fmt.Println("created", created.Job.Id)
		}
	}
	return nil
}

// large sends a message of this many MiB.
func large(ctx context.Context, jobs jobstatev1.JobServiceClient, mebibytes string) error {
	count, err := strconv.Atoi(mebibytes)
	if err != nil {
		return err
	}
	source := strings.Repeat("s", count*mebibyte)
	_, err = jobs.Create(ctx, &jobstatev1.CreateRequest{JobType: "default", SourceId: source})
	tell(err)
	return nil
}

// poison reports on forty jobs in a batch with one report that no server can parse, then on that job by itself.
func poison(ctx context.Context, jobs jobstatev1.JobServiceClient) error {
	ids := []string{"culprit"}
	for number := range 40 {
		ids = append(ids, fmt.Sprintf("job-%d", number))
	}
	progress := func(id string, metadata *structpb.Struct) *jobstatev1.JobUpdate {
		report := &jobstatev1.UpdateProgressRequest{Id: id, Attempt: proto.Int32(1), Progress: proto.Int32(50), Metadata: metadata}
		return &jobstatev1.JobUpdate{Update: &jobstatev1.JobUpdate_Progress{Progress: report}}
	}
	var created, reports []*jobstatev1.JobUpdate
	for _, id := range ids {
		create, start := &jobstatev1.CreateRequest{Id: id, JobType: "default"}, &jobstatev1.StartRequest{Id: id}
		created = append(created,
			&jobstatev1.JobUpdate{Update: &jobstatev1.JobUpdate_Create{Create: create}},
			&jobstatev1.JobUpdate{Update: &jobstatev1.JobUpdate_Start{Start: start}})
		var metadata *structpb.Struct
		if id == "culprit" {
			metadata = nested(500)
		}
		reports = append(reports, progress(id, metadata))
	}
	stream, err := jobs.StreamUpdates(ctx)
	if err != nil {
		return err
	}
	for _, updates := range [][]*jobstatev1.JobUpdate{created, reports, {progress("culprit", nil)}} {
		if err := stream.Send(&jobstatev1.StreamUpdatesRequest{Updates: updates}); err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		accepted := 0
		var refused []string
		for _, outcome := range answer.Outcomes {
			if outcome.Refusal == nil {
				accepted++
			} else {
				refused = append(refused, outcome.Id, outcome.Refusal.Reason)
			}
		}
		fmt.Println(strings.Join(append([]string{strconv.Itoa(accepted)}, refused...), " "))
	}
	return stream.CloseSend()
}

// labels creates jobs with labels, and prints those that List finds by them, then the events that a watch finds.
func labels(ctx context.Context, jobs jobstatev1.JobServiceClient) error {
	for id, labels := range map[string]map[string]string{
		"first":  {"tenant": "acme", "app/release": "7.1"},
		"second": {"tenant": "other", "app/release": "7.1"},
		"third":  {"tenant": "acme", "app/release": "Zoë"},
	} {
		if _, err := jobs.Create(ctx, &jobstatev1.CreateRequest{Id: id, JobType: "default", Labels: labels}); err != nil {
			return err
		}
	}
	if _, err := jobs.Cancel(ctx, &jobstatev1.CancelRequest{Id: "third"}); err != nil {
		return err
	}
	for _, wanted := range []map[string]string{{"tenant": "acme"}, {"tenant": "acme", "app/release": "Zoë"}} {
		found, err := jobs.List(ctx, &jobstatev1.ListRequest{Labels: wanted})
		if err != nil {
			return err
		}
		var ids []string
		for _, job := range found.Jobs {
			ids = append(ids, job.Id)
		}
		slices.Sort(ids)
		fmt.Println(strings.Join(ids, " "))
	}
	stream, err := jobs.WatchEvents(ctx, &jobstatev1.WatchEventsRequest{
		Labels:   map[string]string{"app/release": "Zoë"},
		Position: &jobstatev1.WatchEventsRequest_Start{Start: jobstatev1.WatchStart_WATCH_START_EARLIEST},
		Follow:   proto.Bool(false),
	})
	for err == nil {
		var response *jobstatev1.WatchEventsResponse
		if response, err = stream.Recv(); err == nil {
			for _, event := range response.Events {
				fmt.Println(event.Name, event.Job.Id, event.Job.Labels["tenant"])
			}
		}
	}
	if err != io.EOF {
		return err
	}
	_, err = jobs.Create(ctx, &jobstatev1.CreateRequest{JobType: "default", Labels: map[string]string{"a=b": ""}})
	tell(err)
	return nil
}

// nested is a document with this many levels.
func nested(levels int) *structpb.Struct {
	document := &structpb.Struct{}
	for range levels {
		document = &structpb.Struct{Fields: map[string]*structpb.Value{"k": structpb.NewStructValue(document)}}
	}
	return document
}

// tell prints the code of an error, the reason, and what stands beside it.
func tell(err error) {
	said := []string{status.Code(err).String()}
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			said = append(said, detail.Domain, detail.Reason)
			for _, key := range []string{"job_id", "size_max"} {
				if value, ok := detail.Metadata[key]; ok {
					said = append(said, key+"="+value)
				}
			}
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				said = append(said, "field="+violation.Field)
			}
		case *errdetails.ResourceInfo:
			said = append(said, "resource="+detail.ResourceName)
		case *errdetails.RetryInfo:
			said = append(said, fmt.Sprintf("retry_delay=%v", detail.RetryDelay.AsDuration() > 0))
		}
	}
	fmt.Println(strings.Join(said, " "))
}
