// The life of a job, in Go: create, start, report and complete it, with a watch that resumes by itself when the server
// restarts, and an error that the program reads.
//
//	go run . 127.0.0.1:50051
//
// Every change has a request_id, so that gRPC may repeat it when a connection breaks. Every report names the attempt
// that Start returned, so that it is never counted for another worker. watch/watch.go and
// connection/connection.go are made to be copied. worker/main.go is a worker that the server hands its jobs to.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/jobstate/jobstate/client/examples/go/connection"
	"github.com/jobstate/jobstate/client/examples/go/watch"
	jobstatev1 "github.com/jobstate/jobstate/generated/go/jobstate/v1"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: go run . HOST:PORT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := story(ctx, os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func story(ctx context.Context, address string) error {
	channel, err := connection.Open(address)
	if err != nil {
		return err
	}
	defer channel.Close()
	jobs := jobstatev1.NewJobServiceClient(channel)

	metadata, err := structpb.NewStruct(map[string]any{"language": "en"})
	if err != nil {
		return err
	}
	created, err := jobs.Create(ctx, &jobstatev1.CreateRequest{
		JobType: "clean_transcript", SourceId: "episode-12", Metadata: metadata, RequestId: uuid.NewString(),
	})
	if err != nil {
		return err
	}
	id := created.Job.Id
	fmt.Println("created", id)

	var events []string
	watched := make(chan error, 1)
	go func() {
		watched <- watch.Follow(ctx, jobs, &jobstatev1.WatchEventsRequest{
			JobIds:     []string{id},
			Position:   &jobstatev1.WatchEventsRequest_Start{Start: jobstatev1.WatchStart_WATCH_START_EARLIEST},
			UntilFinal: true,
		}, func(response *jobstatev1.WatchEventsResponse) error {
			for _, event := range response.Events {
				events = append(events, event.Name)
			}
			return nil
		})
	}()

	started, err := jobs.Start(ctx, &jobstatev1.StartRequest{Id: id, Worker: "worker-1", RequestId: uuid.NewString()})
	if err != nil {
		return err
	}
	attempt := started.Job.Attempt
	fmt.Println("started attempt", attempt)

	// A report has no request_id: a repeat reports the same again.
	reported, err := jobs.UpdateProgress(ctx, &jobstatev1.UpdateProgressRequest{
		Id: id, Attempt: &attempt, Progress: proto.Int32(50), Message: proto.String("half way"),
	})
	if err != nil {
		return err
	}
	fmt.Println("progress", reported.Job.GetProgress(), reported.Job.GetProgressMessage())

	if _, err := jobs.Complete(ctx, &jobstatev1.CompleteRequest{
		Id: id, Attempt: &attempt, ResultCount: proto.Int64(12), RequestId: uuid.NewString(),
	}); err != nil {
		return err
	}
	fmt.Println("completed")

	_, err = jobs.Cancel(ctx, &jobstatev1.CancelRequest{Id: id, Reason: "too late", RequestId: uuid.NewString()})
	if err := printRefusal(err); err != nil {
		return err
	}
	if err := <-watched; err != nil {
		return err
	}
	fmt.Println("events:", strings.Join(events, ", "))
	return nil
}

// printRefusal prints why a step was not allowed. Any other outcome is an error.
//
// A worker whose report is refused like this, or with ATTEMPT_SUPERSEDED, discards the work. Usage in that report is
// not counted: send it with ReportUsage, which accepts the id, the attempt and its totals in any state of the job.
func printRefusal(err error) error {
	if err == nil {
		return errors.New("a completed job was cancelled")
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Reason == "TRANSITION_NOT_ALLOWED" {
			allowed := info.Metadata["allowed"] // Triggers with commas between; none in a final state.
			if allowed == "" {
				allowed = "nothing"
			}
			fmt.Printf("refused %s: %s allows %s\n", info.Reason, info.Metadata["state"], allowed)
			return nil
		}
	}
	return err
}
