// One sample of River: insert jobs, work them off, hold what was done against the tables.
//
// Usage: river_work JOBS REPORTS MAX_WORKERS AT_ONCE, and the database in BENCH_POSTGRES. AT_ONCE is how many jobs one
// call inserts; with 1, IN_FLIGHT calls are under way. A tenth as many jobs go before, untimed. Prints a line of JSON.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	inFlight    = 64
	connections = 30
	fetchEvery  = 2 * time.Millisecond
	within      = 5 * time.Minute
)

type arguments struct {
	Number int               `json:"number"`
	Data   map[string]string `json:"data"`
}

func (arguments) Kind() string { return "bench" }

type report struct {
	Percent int    `json:"percent"`
	Message string `json:"message"`
}

type result struct {
	ResultCount int `json:"result_count"`
}

type worker struct {
	river.WorkerDefaults[arguments]
	reports int
}

func (w *worker) Work(ctx context.Context, job *river.Job[arguments]) error {
	client := river.ClientFromContext[pgx.Tx](ctx)
	for number := 1; number <= w.reports; number++ {
		output := report{25 * number, "half way there"}
		if _, err := client.JobUpdate(ctx, job.ID, &river.JobUpdateParams{Output: output}); err != nil {
			return err
		}
	}
	return river.RecordOutput(ctx, result{12})
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// insert adds the jobs, as many in one call as atOnce says.
func insert(ctx context.Context, client *river.Client[pgx.Tx], first, jobs, atOnce int) {
	data := map[string]string{}
	for key := range 8 {
		data[fmt.Sprintf("key-%d", key)] = strings.Repeat("v", 12)
	}
	if atOnce > 1 {
		for begin := 0; begin < jobs; begin += atOnce {
			var some []river.InsertManyParams
			for number := begin; number < min(begin+atOnce, jobs); number++ {
				some = append(some, river.InsertManyParams{Args: arguments{first + number, data}})
			}
			must(client.InsertManyFast(ctx, some))
		}
		return
	}
	numbers := make(chan int)
	var callers sync.WaitGroup
	for range inFlight {
		callers.Go(func() {
			for number := range numbers {
				must(client.Insert(ctx, arguments{number, data}, nil))
			}
		})
	}
	for number := range jobs {
		numbers <- first + number
	}
	close(numbers)
	callers.Wait()
}

func main() {
	var given [4]int
	for index := range given {
		given[index] = must(strconv.Atoi(os.Args[index+1]))
	}
	jobs, reports, maxWorkers, atOnce := given[0], given[1], given[2], given[3]
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()

	settings := must(pgxpool.ParseConfig(os.Getenv("BENCH_POSTGRES")))
	settings.MaxConns = connections
	pool := must(pgxpool.NewWithConfig(ctx, settings))
	defer pool.Close()
	migrator := must(rivermigrate.New(riverpgxv5.New(pool), nil))
	must(migrator.Migrate(ctx, rivermigrate.DirectionUp, nil))

	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{reports: reports})
	client := must(river.NewClient(riverpgxv5.New(pool), &river.Config{
		FetchCooldown:     fetchEvery,
		FetchPollInterval: 100 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(io.Discard, nil)),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: maxWorkers}},
		Workers:           workers,
	}))
	ended, unsubscribe := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: 2 * jobs,
		Kinds:    []river.EventKind{river.EventKindJobCompleted, river.EventKindJobFailed},
	})
	defer unsubscribe()
	if err := client.Start(ctx); err != nil {
		log.Fatal(err)
	}

	failed := 0
	work := func(first, jobs int) float64 {
		began := time.Now()
		go insert(ctx, client, first, jobs, atOnce)
		for completed := 0; completed < jobs; {
			select {
			case event := <-ended: // Sent once the completion is committed.
				if event.Kind == river.EventKindJobCompleted {
					completed++
				} else {
					failed++
				}
			case <-ctx.Done():
				log.Fatal(ctx.Err())
			}
		}
		return time.Since(began).Seconds()
	}
	before := jobs / 10
	work(0, before)
	seconds := work(before, jobs)
	if err := client.Stop(ctx); err != nil {
		log.Fatal(err)
	}

	var all, stored int
	const done = `SELECT (SELECT count(*) FROM river_job), count(DISTINCT args ->> 'number') FROM river_job
		WHERE state = 'completed' AND attempt = 1 AND (metadata -> 'output' ->> 'result_count') = '12'`
	if err := pool.QueryRow(ctx, done).Scan(&all, &stored); err != nil {
		log.Fatal(err)
	}
	fmt.Printf(`{"jobs": %d, "stored": %d, "failed": %d, "seconds": %f}`+"\n", all-before, stored-before, failed, seconds)
}
