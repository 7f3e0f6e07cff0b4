import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.jobstate.v1.JobServiceGrpc;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** Connects to a jobstate server in the way that a program needs which outlives restarts of it. Made to be copied. */
public final class Connection {
  /**
   * The codes that gRPC repeats by itself: calls that found no server, or whose connection broke when it stopped.
   * UNKNOWN is grpc-java's code for a connection that closed before it could write; this server never sends it.
   */
  private static final Map<String, ?> RETRIES = Map.of("methodConfig", List.of(Map.of(
      "name", Stream.of("Create", "Acquire", "Start", "UpdateProgress", "Complete", "Fail", "Release", "Cancel")
          .map(method -> Map.of("service", JobServiceGrpc.SERVICE_NAME, "method", method)).toList(),
      "retryPolicy", Map.of(
          "maxAttempts", 4.0, "initialBackoff", "0.1s", "maxBackoff", "2s", "backoffMultiplier", 3.0,
          "retryableStatusCodes", List.of("UNAVAILABLE", "CANCELLED", "UNKNOWN")))));

  private Connection() {}

  /** A channel, which connects when the first call needs it. */
  public static ManagedChannel open(String target) {
    return ManagedChannelBuilder.forTarget(target)
        .usePlaintext()
        .defaultServiceConfig(RETRIES)
        .keepAliveTime(30, TimeUnit.SECONDS) // Otherwise a watch would not notice a dead connection.
        .build();
  }
}
