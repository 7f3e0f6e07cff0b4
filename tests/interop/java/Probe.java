// What the tests ask of a Java program: Probe KIND HOST:PORT [ARGUMENT]. Built in a copy of client/examples/java, whose
// watch it uses.

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.ResourceInfo;
import com.google.rpc.RetryInfo;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import io.jobstate.v1.CancelRequest;
import io.jobstate.v1.CreateRequest;
import io.jobstate.v1.EventType;
import io.jobstate.v1.GetRequest;
import io.jobstate.v1.Job;
import io.jobstate.v1.JobServiceGrpc;
import io.jobstate.v1.JobServiceGrpc.JobServiceBlockingStub;
import io.jobstate.v1.ListJobTypesRequest;
import io.jobstate.v1.ListRequest;
import io.jobstate.v1.StreamUpdatesRequest;
import io.jobstate.v1.StreamUpdatesResponse;
import io.jobstate.v1.UpdateOutcome;
import io.jobstate.v1.WatchEventsRequest;
import io.jobstate.v1.WatchStart;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

public final class Probe {
  private static final int MEBIBYTE = 1024 * 1024;

  @FunctionalInterface
  private interface Call {
    void make() throws Exception;
  }

  public static void main(String[] arguments) throws Exception {
    var channel = ManagedChannelBuilder.forTarget(arguments[1]).usePlaintext().build();
    var jobs = JobServiceGrpc.newBlockingStub(channel);
    try {
      switch (arguments[0]) {
        case "watch" -> watch(
            channel, WatchEventsRequest.newBuilder(), Arrays.stream(arguments).skip(2).findFirst().map(Path::of).orElse(null));
        case "heartbeats" -> watch(
            channel, WatchEventsRequest.newBuilder().setHeartbeatInterval(Duration.newBuilder().setSeconds(1)), null);
        case "errors" -> errors(jobs);
        case "drained" -> drained(jobs);
        case "deadline" -> deadline(jobs);
        case "large" -> large(jobs, Integer.parseInt(arguments[2]));
        case "poison" -> poison(channel);
        case "labels" -> labels(jobs);
        default -> throw new IllegalArgumentException("no such kind: " + arguments[0]);
      }
    } finally {
      channel.shutdownNow();
    }
  }

  /** Prints every event, and keeps the cursor in a file if one is named. */
  private static void watch(ManagedChannel channel, WatchEventsRequest.Builder request, Path cursorFile)
      throws Exception {
    var watching = Thread.currentThread();
    var input = new Thread(() -> {
      try {
        System.in.readAllBytes();
      } catch (IOException closed) {
        // The same as its end.
      }
      watching.interrupt();
    });
    input.setDaemon(true);
    input.start();

    request.setStart(WatchStart.WATCH_START_EARLIEST);
    if (cursorFile != null && Files.exists(cursorFile)) {
      request.setCursor(Files.readString(cursorFile));
    }
    try {
      Watch.follow(channel, request.build(), response -> {
        for (var event : response.getEventsList()) {
          System.out.println(event.getSequence() + " " + event.getName() + " " + event.getJob().getId());
          if (event.getType() == EventType.EVENT_TYPE_CANCELLED && event.getJob().getId().equals("end-of-watch")) {
            return false;
          }
        }
        keep(response.getCursor(), cursorFile);
        return true;
      });
    } catch (InterruptedException over) {
      // Standard input has ended.
    }
  }

  private static void keep(String cursor, Path cursorFile) {
    if (cursorFile != null && !cursor.isEmpty()) {
      // Writing to a file gives way to an interrupt, which is to end the watch and not the writing.
      var interrupted = Thread.interrupted();
      try {
        Files.writeString(cursorFile, cursor);
      } catch (IOException failure) {
        throw new UncheckedIOException(failure);
      } finally {
        if (interrupted) {
          Thread.currentThread().interrupt();
        }
      }
    }
  }

  /** Prints what two bad calls are refused for. */
  private static void errors(JobServiceBlockingStub jobs) throws Exception {
    tell(() -> jobs.create(CreateRequest.newBuilder().setJobType("?").setMaxRetries(-1).build()));
    tell(() -> jobs.get(GetRequest.newBuilder().setId("nobody").build()));
  }

  /** Opens a watch, and prints how the server ends it. */
  private static void drained(JobServiceBlockingStub jobs) throws Exception {
    var responses = jobs.watchEvents(WatchEventsRequest.getDefaultInstance());
    tell(() -> responses.forEachRemaining(
        response -> System.out.println(response.getKind().name().replace("WATCH_RESPONSE_KIND_", ""))));
  }

  /** Makes a call that its deadline ends, and repeats it; before each it waits for a line. */
  private static void deadline(JobServiceBlockingStub jobs) throws Exception {
    jobs.listJobTypes(ListJobTypesRequest.getDefaultInstance());
    System.out.println("connected");
    var request = CreateRequest.newBuilder()
        .setId("once").setJobType("default").setRequestId("the-same-both-times").build();
    for (var patience : List.of(200, 60_000)) {
      while (System.in.read() != '\n') {
        // The rest of the line.
      }
      tell(() -> {
        var created = jobs.withDeadlineAfter(patience, TimeUnit.MILLISECONDS).create(request);
        System.out.println("created " + created.getJob().getId());
      });
    }
  }

  /** Sends a message of this many MiB. */
  private static void large(JobServiceBlockingStub jobs, int mebibytes) throws Exception {
    var source = "s".repeat(mebibytes * MEBIBYTE);
    tell(() -> jobs.create(CreateRequest.newBuilder().setJobType("default").setSourceId(source).build()));
  }

  /** Reports on forty jobs in a batch with one report that no server can parse, then on that job by itself. */
  private static void poison(ManagedChannel channel) throws Exception {
    var ids = Stream.concat(Stream.of("culprit"), IntStream.range(0, 40).mapToObj(number -> "job-" + number)).toList();
    var created = StreamUpdatesRequest.newBuilder();
    var reports = StreamUpdatesRequest.newBuilder();
    for (var id : ids) {
      created.addUpdatesBuilder().getCreateBuilder().setId(id).setJobType("default");
      created.addUpdatesBuilder().getStartBuilder().setId(id);
      var report = reports.addUpdatesBuilder().getProgressBuilder().setId(id).setAttempt(1).setProgress(50);
      if (id.equals("culprit")) {
        report.setMetadata(nested(500));
      }
    }
    var again = StreamUpdatesRequest.newBuilder();
    again.addUpdatesBuilder().getProgressBuilder().setId("culprit").setAttempt(1).setProgress(50);

    var answers = new LinkedBlockingQueue<StreamUpdatesResponse>();
    var requests = JobServiceGrpc.newStub(channel).streamUpdates(new StreamObserver<StreamUpdatesResponse>() {
      @Override
      public void onNext(StreamUpdatesResponse answer) {
        answers.add(answer);
      }

      @Override
      public void onError(Throwable failure) {
        failure.printStackTrace();
      }

      @Override
      public void onCompleted() {
        // All answers have been taken by then.
      }
    });
    for (var batch : List.of(created, reports, again)) {
      requests.onNext(batch.build());
      var refused = answers.take().getOutcomesList().stream().filter(UpdateOutcome::hasRefusal).toList();
      var accepted = batch.getUpdatesCount() - refused.size();
      var told = refused.stream().map(outcome -> " " + outcome.getId() + " " + outcome.getRefusal().getReason());
      System.out.println(accepted + told.collect(Collectors.joining()));
    }
    requests.onCompleted();
  }

  /** Creates jobs with labels, and prints those that List finds by them, then the events that a watch finds. */
  private static void labels(JobServiceBlockingStub jobs) throws Exception {
    var labelled = Map.of(
        "first", Map.of("tenant", "acme", "app/release", "7.1"),
        "second", Map.of("tenant", "other", "app/release", "7.1"),
        "third", Map.of("tenant", "acme", "app/release", "Zo\u00eb"));
    labelled.forEach((id, labels) -> jobs.create(
        CreateRequest.newBuilder().setId(id).setJobType("default").putAllLabels(labels).build()));
    jobs.cancel(CancelRequest.newBuilder().setId("third").build());
    for (var wanted : List.of(Map.of("tenant", "acme"), labelled.get("third"))) {
      var found = jobs.list(ListRequest.newBuilder().putAllLabels(wanted).build());
      System.out.println(found.getJobsList().stream().map(Job::getId).sorted().collect(Collectors.joining(" ")));
    }
    var watch = WatchEventsRequest.newBuilder()
        .putLabels("app/release", "Zo\u00eb").setStart(WatchStart.WATCH_START_EARLIEST).setFollow(false);
    jobs.watchEvents(watch.build()).forEachRemaining(response -> {
      for (var event : response.getEventsList()) {
        var job = event.getJob();
        System.out.println(event.getName() + " " + job.getId() + " " + job.getLabelsOrThrow("tenant"));
      }
    });
    tell(() -> jobs.create(CreateRequest.newBuilder().setJobType("default").putLabels("a=b", "").build()));
  }

  /** A document with this many levels. */
  private static Struct nested(int levels) {
    var document = Struct.getDefaultInstance();
    for (var level = 0; level < levels; level++) {
      document = Struct.newBuilder().putFields("k", Value.newBuilder().setStructValue(document).build()).build();
    }
    return document;
  }

  /** Makes a call, and prints the code of its error, the reason, and what stands beside it. */
  private static void tell(Call call) throws Exception {
    try {
      call.make();
    } catch (StatusRuntimeException failure) {
      var said = new ArrayList<String>();
      said.add(nameOf(failure.getStatus().getCode()));
      for (Any detail : StatusProto.fromThrowable(failure).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          var info = detail.unpack(ErrorInfo.class);
          said.add(info.getDomain());
          said.add(info.getReason());
          for (var key : List.of("job_id", "size_max")) {
            if (info.containsMetadata(key)) {
              said.add(key + "=" + info.getMetadataOrThrow(key));
            }
          }
        } else if (detail.is(BadRequest.class)) {
          detail.unpack(BadRequest.class).getFieldViolationsList()
              .forEach(violation -> said.add("field=" + violation.getField()));
        } else if (detail.is(ResourceInfo.class)) {
          said.add("resource=" + detail.unpack(ResourceInfo.class).getResourceName());
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          said.add("retry_delay=" + (delay.getSeconds() > 0 || delay.getNanos() > 0));
        }
      }
      System.out.println(String.join(" ", said));
    }
  }

  /** INVALID_ARGUMENT as InvalidArgument, which is how most languages write it. */
  private static String nameOf(Status.Code code) {
    return Arrays.stream(code.name().split("_"))
        .map(word -> word.charAt(0) + word.substring(1).toLowerCase())
        .collect(Collectors.joining());
  }
}
