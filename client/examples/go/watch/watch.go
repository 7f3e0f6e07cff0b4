// Package watch follows the events of jobstate over lost connections and restarts of the server.
package watch

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	jobstatev1 "github.com/jobstate/jobstate/generated/go/jobstate/v1"
)

// How long to wait before a broken watch is resumed: a random time below a bound that doubles with each failure.
const (
	waitMin = 200 * time.Millisecond
	waitMax = 5 * time.Second
)

const (
	heartbeat   = 30 * time.Second // The server sends something this often, unless the request sets another interval.
	firstAnswer = 30 * time.Second // How long the first response may take.
)

// Follow opens a watch and calls handle with every response. When the stream breaks, it resumes from the newest cursor,
// so that no event is missed and none comes twice. It does the same when three heartbeats are missing, because a proxy
// may keep a connection to a server that is gone. To continue after a restart of your own, store response.Cursor after
// you have processed a response, and set it in the request.
//
// It returns nil when the watch has reached its end (until_final, or follow = false), and otherwise the error of
// handle, of ctx, or one after which resuming would not help, such as CURSOR_EXPIRED.
func Follow(
	ctx context.Context,
	jobs jobstatev1.JobServiceClient,
	request *jobstatev1.WatchEventsRequest,
	handle func(*jobstatev1.WatchEventsResponse) error,
) error {
	request = proto.CloneOf(request)
	silence := 3 * heartbeat
	if request.HeartbeatInterval != nil {
		silence = 3 * request.HeartbeatInterval.AsDuration()
	}
	bound := waitMin
	for {
		var wait time.Duration
		err := receive(ctx, jobs, request, silence, func(response *jobstatev1.WatchEventsResponse) error {
			if err := handle(response); err != nil {
				return &refused{err}
			}
			if response.Cursor != "" {
				request.Position = &jobstatev1.WatchEventsRequest_Cursor{Cursor: response.Cursor}
			}
			// A server that stops says how long to wait, so that its watchers do not all come back at once.
			bound, wait = waitMin, response.ReconnectAfter.AsDuration()
			return nil
		})
		if errors.Is(err, io.EOF) {
			return nil
		}
		var by *refused
		if errors.As(err, &by) {
			return by.error
		}
		if ctx.Err() != nil || !passes(err) {
			return err
		}
		if wait == 0 {
			wait = rand.N(bound)
			bound = min(2*bound, waitMax)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refused is an error of handle, which ends the watch.
type refused struct{ error }

// receive reads one stream until it ends, or until the next response takes too long.
func receive(
	ctx context.Context,
	jobs jobstatev1.JobServiceClient,
	request *jobstatev1.WatchEventsRequest,
	silence time.Duration,
	handle func(*jobstatev1.WatchEventsResponse) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Runs only while this waits for a response, not while handle works.
	timer := time.AfterFunc(firstAnswer, cancel)
	defer timer.Stop()
	stream, err := jobs.WatchEvents(ctx, request)
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		timer.Stop()
		if err := handle(response); err != nil {
			return err
		}
		timer.Reset(silence)
	}
}

// passes says whether to resume after this error: the server stops, is away or overloaded, or the connection broke,
// which a proxy may report with the other codes.
func passes(err error) bool {
	failure := status.Convert(err)
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason == "DRAINING" || info.Reason == "OVERLOADED" || info.Reason == "STORE_UNAVAILABLE"
		}
	}
	switch failure.Code() {
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.Unknown:
		return true
	}
	return false
}
