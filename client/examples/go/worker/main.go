// A worker, in Go: it takes jobs, does them, keeps their leases, and stops on SIGTERM.
//
//	go run ./worker 127.0.0.1:50051
//
// It is made to be copied: work is yours, all else is what a worker has to do.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/jobstate/jobstate/client/examples/go/connection"
	"github.com/jobstate/jobstate/client/examples/go/watch"
	jobstatev1 "github.com/jobstate/jobstate/generated/go/jobstate/v1"
)

const (
	jobType  = "clean_transcript"
	hands    = 4                // Jobs at a time.
	wait     = 10 * time.Second // For the next job. A stop takes no longer.
	patience = time.Minute      // For the answer to a report. Later the lease is over anyway.
)

// release is an error of work that gives the job back: it counts neither as a failure nor as a retry. While the job is
// delayed, no other job of its lane is handed out, for it would get the same answer.
type release struct {
	delay  time.Duration
	reason string
}

func (r release) Error() string { return r.reason }

// errOver ends a run whose attempt is over: the job was cancelled, or another worker has it.
var errOver = errors.New("the attempt is over")

// work does a job and returns its result. It should end soon once ctx has ended.
func work(ctx context.Context, job *jobstatev1.Job) (*structpb.Struct, error) {
	asked := job.Metadata.AsMap()
	seconds, _ := asked["seconds"].(float64)
	select {
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch asked["status"] {
	case 429.0:
		return nil, release{20 * time.Second, "the service says 429"}
	case 500.0:
		return nil, errors.New("the service is broken")
	}
	return structpb.NewStruct(map[string]any{"text": "…"})
}

type worker struct {
	jobs    jobstatev1.JobServiceClient
	running sync.Map // An attempt, to the context.CancelCauseFunc that ends its run.
}

type attempt struct {
	id     string
	number int32
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: go run ./worker HOST:PORT")
	}
	stop, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer forget()
	context.AfterFunc(stop, forget) // A second signal ends the process at once.
	channel, err := connection.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	w := &worker{jobs: jobstatev1.NewJobServiceClient(channel)}
	watching := make(chan struct{})
	go w.dropCancelled(stop, sync.OnceFunc(func() { close(watching) }))
	<-watching // Before the first job, of which no cancellation is to be missed.
	w.takeJobs(stop)
}

// takeJobs does jobs until stop, and then gives back those that have not ended.
func (w *worker) takeJobs(stop context.Context) {
	work, giveBack := context.WithCancel(context.Background())
	busy := make(chan struct{}, hands)
	var runs sync.WaitGroup
	for {
		select {
		case busy <- struct{}{}:
		case <-stop.Done():
		}
		job := w.acquire(stop)
		if job == nil {
			break
		}
		runs.Go(func() {
			fmt.Printf("%s: %s\n", job.Id, w.run(work, job))
			<-busy
		})
	}
	// Not before: what is given back while we ask for work may come to us again.
	giveBack()
	runs.Wait()
}

// acquire returns the next job, or nil once stop has come.
func (w *worker) acquire(stop context.Context) *jobstatev1.Job {
	host, _ := os.Hostname()
	request := &jobstatev1.AcquireRequest{
		JobTypes: []string{jobType}, Wait: durationpb.New(wait), Worker: host, RequestId: uuid.NewString(),
	}
	for stop.Err() == nil {
		// A stop does not break off the call, for which the server may have a job by now.
		ctx, end := context.WithTimeout(context.Background(), wait+patience)
		answer, err := w.jobs.Acquire(ctx, request)
		end()
		if len(answer.GetJobs()) > 0 {
			return answer.Jobs[0]
		}
		if err == nil {
			request.RequestId = uuid.NewString()
			continue
		}
		// Again with the same request_id: the job of an answer that was lost is still ours.
		log.Print(err)
		select {
		case <-time.After(time.Second):
		case <-stop.Done():
		}
	}
	return nil
}

// run does a job, reports how it ended, and returns that in a word.
func (w *worker) run(parent context.Context, job *jobstatev1.Job) string {
	ctx, end := context.WithCancelCause(parent)
	this := attempt{job.Id, job.Attempt}
	w.running.Store(this, end)
	defer w.running.Delete(this)
	beats, endBeats := context.WithCancel(context.Background())
	defer endBeats()
	go w.keepLease(beats, job, end)

	result, err := work(ctx, job)

	over := context.Cause(ctx) == errOver
	end(nil)
	if over {
		return "over"
	}
	ended := "completed"
	report, endReport := context.WithTimeout(context.Background(), patience)
	defer endReport()
	if parent.Err() != nil && errors.Is(err, context.Canceled) {
		err = release{reason: "the worker stops"}
	}
	requestID, back := uuid.NewString(), release{}
	switch {
	case errors.As(err, &back):
		ended = "released"
		_, err = w.jobs.Release(report, &jobstatev1.ReleaseRequest{
			Id: job.Id, Attempt: &job.Attempt, Delay: durationpb.New(back.delay), HoldLane: durationpb.New(back.delay),
			Reason: back.reason, RequestId: requestID,
		})
	case err != nil:
		ended = "failed"
		message := fmt.Sprintf("%.1000s", err) // At most 4 KiB.
		_, err = w.jobs.Fail(report, &jobstatev1.FailRequest{
			Id: job.Id, Attempt: &job.Attempt, Error: &jobstatev1.FailureReport{Message: message}, RequestId: requestID,
		})
	default:
		_, err = w.jobs.Complete(report, &jobstatev1.CompleteRequest{
			Id: job.Id, Attempt: &job.Attempt, Result: result, RequestId: requestID,
		})
	}
	if err != nil { // Refused, for the attempt is over, or not answered: then the lease ends it.
		log.Printf("%s is not %s: %v", job.Id, ended, err)
		return "over"
	}
	return ended
}

// keepLease sends a heartbeat every third of the lease, and ends the run when the attempt is over. The first is sent at
// once: the job may have been cancelled before we knew of it.
func (w *worker) keepLease(ctx context.Context, job *jobstatev1.Job, end context.CancelCauseFunc) {
	every := job.Lease.AsDuration() / 3
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		beat, endBeat := context.WithTimeout(ctx, every)
		_, err := w.jobs.UpdateProgress(beat, &jobstatev1.UpdateProgressRequest{Id: job.Id, Attempt: &job.Attempt})
		endBeat()
		if code := status.Code(err); code == codes.FailedPrecondition || code == codes.NotFound {
			end(errOver)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// dropCancelled ends the runs of jobs that are cancelled, sooner than their next heartbeat would. It calls watching
// once the watch is open, or cannot be.
func (w *worker) dropCancelled(stop context.Context, watching func()) {
	defer watching()
	err := watch.Follow(stop, w.jobs, &jobstatev1.WatchEventsRequest{
		JobTypes: []string{jobType}, Types: []jobstatev1.EventType{jobstatev1.EventType_EVENT_TYPE_CANCELLED},
	}, func(response *jobstatev1.WatchEventsResponse) error {
		watching()
		for _, event := range response.Events {
			if end, found := w.running.Load(attempt{event.Job.Id, event.Job.Attempt}); found {
				end.(context.CancelCauseFunc)(errOver)
			}
		}
		return nil
	})
	if stop.Err() == nil {
		log.Print("cancelled jobs are noticed by their heartbeats only: ", err)
	}
}
