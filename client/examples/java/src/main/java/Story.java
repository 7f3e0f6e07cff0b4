// The life of a job, in Java: create it, start it, report progress, complete it, and watch its events.
//
// With a server on 127.0.0.1:50051 (make serve), in this folder:
//
//     mvn -q -f ../../../generated/java install
//     mvn -q compile exec:java -Dexec.args=127.0.0.1:50051
//
// What a program of your own needs as well:
//
//   - Every change has a request_id, so that gRPC may repeat a call whose connection broke: it changes nothing twice.
//   - Every report names the attempt that Start returned, so that it is never counted for another worker.
//   - A worker that the server hands its jobs to stands in Worker.java.
//   - The watch resumes from its cursor after a restart of the server, without missing an event: see Watch.java.
//   - A program reads the reason in the ErrorInfo of an error. The message is for people.

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.jobstate.v1.CancelRequest;
import io.jobstate.v1.CompleteRequest;
import io.jobstate.v1.CreateRequest;
import io.jobstate.v1.JobServiceGrpc;
import io.jobstate.v1.JobServiceGrpc.JobServiceBlockingStub;
import io.jobstate.v1.StartRequest;
import io.jobstate.v1.UpdateProgressRequest;
import io.jobstate.v1.WatchEventsRequest;
import io.jobstate.v1.WatchStart;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

public final class Story {
  private static final long DEADLINE_S = 30;

  private final ManagedChannel channel;

  private Story(ManagedChannel channel) {
    this.channel = channel;
  }

  public static void main(String[] arguments) throws Exception {
    var target = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    var channel = Connection.open(target);
    try {
      new Story(channel).tell();
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  private void tell() throws Exception {
    var job = jobs().create(CreateRequest.newBuilder()
        .setJobType("clean_transcript").setSourceId("episode-12").setRequestId(requestId()).build()).getJob();
    System.out.println("created " + job.getId());

    var beside = Executors.newSingleThreadExecutor();
    try {
      var watching = beside.submit(() -> watch(job.getId()));
      work(job.getId());
      cancelTooLate(job.getId());
      System.out.println("events: " + String.join(", ", watching.get(DEADLINE_S, TimeUnit.SECONDS)));
    } finally {
      beside.shutdownNow();
    }
  }

  private void work(String id) {
    var attempt = jobs().start(StartRequest.newBuilder()
        .setId(id).setWorker("worker-1").setRequestId(requestId()).build()).getJob().getAttempt();
    System.out.println("started attempt " + attempt);

    // A progress report has no request_id: a repeat reports the same again.
    var job = jobs().updateProgress(UpdateProgressRequest.newBuilder()
        .setId(id).setAttempt(attempt).setProgress(50).setMessage("half way").build()).getJob();
    System.out.println("progress " + job.getProgress() + " " + job.getProgressMessage());

    jobs().complete(CompleteRequest.newBuilder()
        .setId(id).setAttempt(attempt).setResultCount(12).setRequestId(requestId()).build());
    System.out.println("completed");
  }

  /**
   * Shows what an error contains.
   *
   * <p>A worker whose report is refused like this, or with ATTEMPT_SUPERSEDED, discards the work. Usage in that
   * report is not counted: send it with reportUsage, which accepts the attempt's totals in any state of the job.
   */
  private void cancelTooLate(String id) {
    try {
      jobs().cancel(CancelRequest.newBuilder().setId(id).setReason("too late").setRequestId(requestId()).build());
      throw new IllegalStateException("a completed job was cancelled");
    } catch (StatusRuntimeException failure) {
      var info = errorInfo(failure).filter(found -> found.getReason().equals("TRANSITION_NOT_ALLOWED"));
      var facts = info.orElseThrow(() -> failure).getMetadataMap();
      var allowed = facts.get("allowed").isEmpty() ? "nothing" : facts.get("allowed");
      System.out.println("refused TRANSITION_NOT_ALLOWED: " + facts.get("state") + " allows " + allowed);
    }
  }

  /** The names of the job's events, once it is final. */
  private List<String> watch(String id) throws Exception {
    var names = new ArrayList<String>();
    var request = WatchEventsRequest.newBuilder()
        .addJobIds(id).setStart(WatchStart.WATCH_START_EARLIEST).setUntilFinal(true).build();
    Watch.follow(channel, request, response -> {
      response.getEventsList().forEach(event -> names.add(event.getName()));
      return true;
    });
    return names;
  }

  /** Calls wait for a server that is away, but take no longer than this in total. */
  private JobServiceBlockingStub jobs() {
    return JobServiceGrpc.newBlockingStub(channel).withWaitForReady().withDeadlineAfter(DEADLINE_S, TimeUnit.SECONDS);
  }

  private static String requestId() {
    return UUID.randomUUID().toString();
  }

  private static Optional<ErrorInfo> errorInfo(StatusRuntimeException failure) {
    try {
      for (var detail : StatusProto.fromThrowable(failure).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          return Optional.of(detail.unpack(ErrorInfo.class));
        }
      }
    } catch (InvalidProtocolBufferException unreadable) {
      failure.addSuppressed(unreadable);
    }
    return Optional.empty();
  }
}
