// Package connection connects to a jobstate server in the way that a program needs which outlives restarts of it.
package connection

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Calls wait until their deadline for a server that is away, and are repeated when their connection breaks (CANCELLED,
// if the server stops at that moment). A request_id makes that safe.
const repeating = `{"methodConfig": [{"name": [{"service": "jobstate.v1.JobService"}], "waitForReady": true, "retryPolicy": {
	"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 3,
	"retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}}]}`

// Open returns a connection, which is made when the first call needs it.
func Open(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(repeating),
		grpc.WithUnaryInterceptor(repeat),
		// gRPC's default waits up to two minutes between attempts to connect, longer than any restart.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// An idle watch or Acquire sends nothing: only pings notice that the other machine is gone.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
}

const pauseMax = 2 * time.Second

// repeat goes on where gRPC gives up, until the deadline of the call: while the server is away, a proxy before it
// answers at once.
func repeat(
	ctx context.Context, method string, request, reply any, channel *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	_, hasDeadline := ctx.Deadline()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, pauseMax) {
		err := invoke(ctx, method, request, reply, channel, options...)
		if status.Code(err) != codes.Unavailable || !hasDeadline {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}
