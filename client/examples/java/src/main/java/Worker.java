// A worker, in Java: it takes jobs, does them, keeps their leases, and stops on SIGTERM.
//
//     mvn -q -f ../../../generated/java install
//     mvn -q compile exec:java -Dexec.mainClass=Worker -Dexec.args=127.0.0.1:50051
//
// It is made to be copied, with Connection.java and Watch.java: work is yours, all else is what a worker has to do.

import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.jobstate.v1.AcquireRequest;
import io.jobstate.v1.CompleteRequest;
import io.jobstate.v1.EventType;
import io.jobstate.v1.FailRequest;
import io.jobstate.v1.FailureReport;
import io.jobstate.v1.Job;
import io.jobstate.v1.JobServiceGrpc;
import io.jobstate.v1.JobServiceGrpc.JobServiceBlockingStub;
import io.jobstate.v1.ReleaseRequest;
import io.jobstate.v1.UpdateProgressRequest;
import io.jobstate.v1.WatchEventsRequest;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.FutureTask;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

public final class Worker {
  private static final String JOB_TYPE = "clean_transcript";

  /** Jobs at a time. */
  private static final int HANDS = 4;

  /** How long to wait for the next job. A stop takes no longer. */
  private static final Duration WAIT = Duration.ofSeconds(10);

  /** How long a report may take. Later the lease is over anyway. */
  private static final Duration PATIENCE = Duration.ofMinutes(1);

  private static final long PAUSE_MS = 1_000;

  private final ManagedChannel channel;
  private final ExecutorService hands = Executors.newFixedThreadPool(HANDS);
  private final ScheduledExecutorService heartbeats = Executors.newScheduledThreadPool(HANDS);
  private final Semaphore free = new Semaphore(HANDS);

  /** The running attempts, by their names. */
  private final Map<String, Run> running = new ConcurrentHashMap<>();

  /** Open once the watch of cancellations is, or cannot be. */
  private final CountDownLatch watching = new CountDownLatch(1);

  private volatile boolean isStopping;

  private Worker(ManagedChannel channel) {
    this.channel = channel;
  }

  /**
   * Thrown by work, gives the job back: it counts neither as a failure nor as a retry. While the job is delayed, no
   * other job of its lane is handed out, for it would get the same answer.
   */
  private static final class Release extends Exception {
    private static final long serialVersionUID = 1;
    private final Duration delay;

    Release(String reason, Duration delay) {
      super(reason);
      this.delay = delay;
    }
  }

  /** Does a job and returns its result. It should end soon once its thread is interrupted. */
  private static Struct work(Job job) throws Exception {
    var asked = job.getMetadata().getFieldsMap();
    var none = Value.getDefaultInstance();
    Thread.sleep((long) (1_000 * asked.getOrDefault("seconds", none).getNumberValue()));
    switch ((int) asked.getOrDefault("status", none).getNumberValue()) {
      case 429:
        throw new Release("the service says 429", Duration.ofSeconds(20));
      case 500:
        throw new IllegalStateException("the service is broken");
      default:
        return Struct.newBuilder().putFields("text", Value.newBuilder().setStringValue("…").build()).build();
    }
  }

  public static void main(String[] arguments) throws Exception {
    var channel = Connection.open(arguments.length > 0 ? arguments[0] : "127.0.0.1:50051");
    var worker = new Worker(channel);
    var main = Thread.currentThread();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      worker.isStopping = true; // SIGTERM: the JVM ends when this has.
      try {
        main.join();
      } catch (InterruptedException impossible) {
        Thread.currentThread().interrupt();
      }
    }));
    var watch = new Thread(worker::dropCancelled, "cancellations");
    watch.setDaemon(true);
    watch.start();
    worker.watching.await(); // Before the first job, of which no cancellation is to be missed.
    worker.takeJobs();
  }

  /** Does jobs until the stop, and then gives back those that have not ended. */
  private void takeJobs() throws InterruptedException {
    while (true) {
      while (!free.tryAcquire(PAUSE_MS, TimeUnit.MILLISECONDS) && !isStopping) {
        continue; // All hands are busy.
      }
      var job = acquire();
      if (job == null) {
        break;
      }
      var run = new Run(job);
      running.put(nameOf(job), run);
      hands.execute(run);
    }
    // Not before: what is given back while we ask for work may come to us again.
    running.values().forEach(run -> run.work.cancel(true));
    hands.shutdown();
    hands.awaitTermination(PATIENCE.toSeconds(), TimeUnit.SECONDS);
    heartbeats.shutdownNow();
  }

  /** The next job, or null once the worker is stopping. */
  private Job acquire() throws InterruptedException {
    var request = AcquireRequest.newBuilder()
        .addJobTypes(JOB_TYPE).setWait(span(WAIT)).setWorker("worker-" + ProcessHandle.current().pid())
        .setRequestId(requestId());
    while (!isStopping) {
      try {
        // A stop does not break off the call, for which the server may have a job by now.
        var answer = jobs(WAIT.plus(PATIENCE)).acquire(request.build());
        if (answer.getJobsCount() > 0) {
          return answer.getJobs(0);
        }
        request.setRequestId(requestId());
      } catch (StatusRuntimeException failure) {
        // Again with the same request_id: the job of an answer that was lost is still ours.
        System.err.println(failure.getStatus());
        Thread.sleep(PAUSE_MS);
      }
    }
    return null;
  }

  /** Ends the runs of jobs that are cancelled, sooner than their next heartbeat would. */
  private void dropCancelled() {
    var request = WatchEventsRequest.newBuilder().addJobTypes(JOB_TYPE).addTypes(EventType.EVENT_TYPE_CANCELLED);
    try {
      Watch.follow(channel, request.build(), response -> {
        watching.countDown();
        for (var event : response.getEventsList()) {
          var run = running.get(nameOf(event.getJob()));
          if (run != null) {
            run.drop();
          }
        }
        return true;
      });
    } catch (Exception failure) {
      System.err.println("cancelled jobs are noticed by their heartbeats only: " + failure);
    } finally {
      watching.countDown();
    }
  }

  /** Calls wait for a server that is away, but take no longer than this in total. */
  private JobServiceBlockingStub jobs(Duration limit) {
    return JobServiceGrpc.newBlockingStub(channel).withWaitForReady()
        .withDeadlineAfter(limit.toMillis(), TimeUnit.MILLISECONDS);
  }

  /** Makes a call, and repeats it while there is no server: a proxy answers at once. */
  private <T> T repeat(Function<JobServiceBlockingStub, T> call) throws InterruptedException {
    var limited = jobs(PATIENCE);
    while (true) {
      try {
        return call.apply(limited);
      } catch (StatusRuntimeException failure) {
        if (failure.getStatus().getCode() != Status.Code.UNAVAILABLE) {
          throw failure;
        }
        Thread.sleep(PAUSE_MS);
      }
    }
  }

  private static com.google.protobuf.Duration span(Duration span) {
    return com.google.protobuf.Duration.newBuilder().setSeconds(span.getSeconds()).setNanos(span.getNano()).build();
  }

  private static String nameOf(Job job) {
    return job.getId() + " " + job.getAttempt();
  }

  private static String requestId() {
    return UUID.randomUUID().toString();
  }

  /** One attempt. */
  private final class Run implements Runnable {
    private final Job job;
    private final FutureTask<Struct> work;
    private volatile boolean isOver;

    Run(Job job) {
      this.job = job;
      this.work = new FutureTask<>(() -> work(job));
    }

    /** Ends the run, for its attempt is over: the job was cancelled, or another worker has it. */
    void drop() {
      isOver = true;
      work.cancel(true);
    }

    @Override
    public void run() {
      var everyMs = 1_000 * job.getLease().getSeconds() / 3;
      var beats = heartbeats.scheduleAtFixedRate(() -> beat(everyMs), 0, everyMs, TimeUnit.MILLISECONDS);
      try {
        work.run();
        System.out.println(job.getId() + ": " + report());
      } finally {
        beats.cancel(false);
        running.remove(nameOf(job));
        free.release();
      }
    }

    /** Reports how the work ended, and returns that in a word. */
    private String report() {
      Thread.interrupted(); // Of a cancellation that came as the work ended.
      if (isOver) {
        return "over";
      }
      var ended = "completed";
      try {
        try {
          var complete = CompleteRequest.newBuilder().setId(job.getId()).setAttempt(job.getAttempt())
              .setResult(work.get()).setRequestId(requestId()).build();
          repeat(jobs -> jobs.complete(complete));
        } catch (CancellationException cancelled) {
          ended = "released";
          release(new Release("the worker stops", Duration.ZERO));
        } catch (ExecutionException failure) {
          if (failure.getCause() instanceof Release) {
            ended = "released";
            release((Release) failure.getCause());
          } else {
            ended = "failed";
            var told = failure.getCause().toString();
            var message = told.substring(0, Math.min(1_000, told.length())); // At most 4 KiB.
            var fail = FailRequest.newBuilder().setId(job.getId()).setAttempt(job.getAttempt())
                .setError(FailureReport.newBuilder().setMessage(message))
                .setRequestId(requestId()).build();
            repeat(jobs -> jobs.fail(fail));
          }
        }
        return ended;
      } catch (InterruptedException | StatusRuntimeException failure) {
        // Refused, for the attempt is over, or not answered: then the lease ends it.
        System.err.println(job.getId() + " is not " + ended + ": " + failure);
        return "over";
      }
    }

    private void release(Release back) throws InterruptedException {
      var release = ReleaseRequest.newBuilder().setId(job.getId()).setAttempt(job.getAttempt())
          .setDelay(span(back.delay)).setHoldLane(span(back.delay)).setReason(back.getMessage())
          .setRequestId(requestId()).build();
      repeat(jobs -> jobs.release(release));
    }

    /** A heartbeat, sent every third of the lease; the first at once, for the job may have been cancelled already. */
    private void beat(long limitMs) {
      try {
        jobs(Duration.ofMillis(limitMs)).updateProgress(
            UpdateProgressRequest.newBuilder().setId(job.getId()).setAttempt(job.getAttempt()).build());
      } catch (StatusRuntimeException failure) {
        var code = failure.getStatus().getCode();
        if (code == Status.Code.FAILED_PRECONDITION || code == Status.Code.NOT_FOUND) {
          drop();
        }
      }
    }
  }
}
