import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.jobstate.v1.JobServiceGrpc;
import io.jobstate.v1.WatchEventsRequest;
import io.jobstate.v1.WatchEventsResponse;
import io.jobstate.v1.WatchResponseKind;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.function.Supplier;

/** Follows the events of jobstate over lost connections and restarts of the server. Made to be copied. */
public final class Watch {
  private static final long WAIT_MIN_MS = 200;
  private static final long WAIT_MAX_MS = 5_000;

  /** The codes after which a watch is resumed: the server stops, is away or overloaded, or the connection broke. */
  private static final Set<Status.Code> PASSING = Set.of(
      Status.Code.UNAVAILABLE, Status.Code.RESOURCE_EXHAUSTED,
      Status.Code.CANCELLED, Status.Code.INTERNAL, Status.Code.UNKNOWN);

  /** The server sends something at least every 30 seconds, unless the request sets another interval. */
  private static final Duration HEARTBEAT = Duration.ofSeconds(30);

  /** How long the first response may take. */
  private static final Duration FIRST_ANSWER = Duration.ofSeconds(30);

  private Watch() {}

  /**
   * Opens a watch and passes every response to {@code take}, in this thread. When the stream breaks, it resumes from
   * the newest cursor, so that no event is missed and none comes twice. It does the same when three heartbeats are missing,
   * because a proxy may keep a connection to a server that is gone. To continue after a restart of your own, store the
   * cursor of a response after you have processed it, and set it in the request.
   *
   * <p>Returns when {@code take} says false, or when the watch is at its end ({@code until_final}, or {@code follow} =
   * false).
   *
   * @throws StatusRuntimeException an error after which resuming would not help, such as CURSOR_EXPIRED
   * @throws InterruptedException when the thread is interrupted, which ends a watch at any time
   */
  public static void follow(ManagedChannel channel, WatchEventsRequest from, Predicate<WatchEventsResponse> take)
      throws Exception {
    var request = from.toBuilder();
    var asked = from.getHeartbeatInterval();
    var heartbeat = from.hasHeartbeatInterval()
        ? Duration.ofSeconds(asked.getSeconds(), asked.getNanos()) : HEARTBEAT;
    try (var timer = new Timer()) {
      follow(channel, request, take, timer, heartbeat.multipliedBy(3));
    }
  }

  private static void follow(ManagedChannel channel, WatchEventsRequest.Builder request,
      Predicate<WatchEventsResponse> take, Timer timer, Duration silence) throws Exception {
    var bound = WAIT_MIN_MS;
    while (true) {
      var wait = ThreadLocalRandom.current().nextLong(bound);
      bound = Math.min(2 * bound, WAIT_MAX_MS);
      // Leaving the block ends the stream, if the server has not.
      try (var open = Context.current().withCancellation()) {
        var responses = open.call(() -> JobServiceGrpc.newBlockingStub(channel).watchEvents(request.build()));
        var limit = FIRST_ANSWER;
        while (timer.within(limit, responses::hasNext, () -> open.cancel(null))) {
          limit = silence;
          var response = responses.next();
          if (!take.test(response)) {
            return;
          }
          if (!response.getCursor().isEmpty()) {
            request.setCursor(response.getCursor());
          }
          bound = WAIT_MIN_MS;
          if (response.getKind() == WatchResponseKind.WATCH_RESPONSE_KIND_DRAINING) {
            // The server spreads its watchers over two seconds.
            var after = response.getReconnectAfter();
            wait = Duration.ofSeconds(after.getSeconds(), after.getNanos()).toMillis();
          }
        }
        return;
      } catch (StatusRuntimeException failure) {
        if (!PASSING.contains(failure.getStatus().getCode())) {
          throw failure;
        }
      }
      Thread.sleep(wait);
      channel.resetConnectBackoff(); // The channel's own waits grow to two minutes.
    }
  }

  /** Acts on a step that takes too long. */
  private static final class Timer implements AutoCloseable {
    private final ScheduledExecutorService executor = Executors.newSingleThreadScheduledExecutor(task -> {
      var thread = new Thread(task, "watch-timer");
      thread.setDaemon(true);
      return thread;
    });

    <T> T within(Duration limit, Supplier<T> step, Runnable otherwise) {
      var late = executor.schedule(otherwise, limit.toMillis(), TimeUnit.MILLISECONDS);
      try {
        return step.get();
      } finally {
        late.cancel(false);
      }
    }

    @Override
    public void close() {
      executor.shutdownNow();
    }
  }
}
