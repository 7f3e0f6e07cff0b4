// Package watch follows the events of jobstate through lost connections and restarts of the server.
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

// How long to wait before a watch that broke off goes on: a random time below a bound that doubles with each failure.
const (
	waitMin = 200 * time.Millisecond
	waitMax = 5 * time.Second
)

// Follow opens a watch and calls handle with every response. When the stream breaks it goes on from the newest cursor,
// so that no event is missed and none comes twice. Keep response.Cursor after having dealt with a response, and set it
// in the request, to go on after a restart of your own.
//
// It returns nil when the watch has reached its end (until_final, or follow = false), and otherwise the error of
// handle, of ctx, or one that going on would not mend, such as CURSOR_EXPIRED.
func Follow(
	ctx context.Context,
	jobs jobstatev1.JobServiceClient,
	request *jobstatev1.WatchEventsRequest,
	handle func(*jobstatev1.WatchEventsResponse) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Closes the stream when handle returns an error.
	request = proto.CloneOf(request)
	bound := waitMin
	for {
		var wait time.Duration
		stream, err := jobs.WatchEvents(ctx, request)
		for err == nil {
			var response *jobstatev1.WatchEventsResponse
			if response, err = stream.Recv(); err != nil {
				break
			}
			if err := handle(response); err != nil {
				return err
			}
			if response.Cursor != "" {
				request.Position = &jobstatev1.WatchEventsRequest_Cursor{Cursor: response.Cursor}
			}
			// A server that stops says how long to wait, which spreads its watchers.
			bound, wait = waitMin, response.ReconnectAfter.AsDuration()
		}
		if errors.Is(err, io.EOF) {
			return nil
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

// passes tells whether to go on after this: the server stops, is away or overloaded, or the connection broke, which a
// proxy between may show by the other codes.
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
