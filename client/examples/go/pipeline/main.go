// A pipeline of jobs that wait for jobs: clean the transcript of an episode, extract insights from it, make ten posts of
// these, and say so when all that has ended, however it went.
//
//	go run ./pipeline 127.0.0.1:50051 episode-12
//
// It creates the jobs and prints them. Workers get each when what it needs is COMPLETED.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/jobstate/jobstate/client/examples/go/connection"
	jobstatev1 "github.com/jobstate/jobstate/generated/go/jobstate/v1"
)

const posts = 10

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: go run ./pipeline HOST:PORT EPISODE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := pipeline(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func pipeline(ctx context.Context, address, episode string) error {
	channel, err := connection.Open(address)
	if err != nil {
		return err
	}
	defer channel.Close()
	jobs := jobstatev1.NewJobServiceClient(channel)

	created, err := jobs.Create(ctx, &jobstatev1.CreateRequest{
		JobType: "episode", SourceId: episode, Group: &jobstatev1.GroupPolicy{}, RequestId: uuid.NewString(),
	})
	if err != nil {
		return err
	}
	group := created.Job.Id

	// In a batch, a job may need those before it. Ids of our own name them.
	clean, extract := group+".clean", group+".extract"
	members := []*jobstatev1.CreateRequest{
		member(group, episode, "clean_transcript", clean),
		member(group, episode, "extract_insights", extract, clean),
	}
	for number := range posts {
		members = append(members, member(group, episode, "generate_posts", fmt.Sprintf("%s.post-%d", group, number), extract))
	}
	if _, err := jobs.BatchCreate(ctx, &jobstatev1.BatchCreateRequest{Requests: members}); err != nil {
		return err
	}
	if _, err := jobs.CloseGroup(ctx, &jobstatev1.CloseGroupRequest{Id: group}); err != nil {
		return err
	}

	last, err := jobs.Create(ctx, &jobstatev1.CreateRequest{
		JobType: "notify", SourceId: episode, RequestId: uuid.NewString(),
		Needs: []*jobstatev1.Need{{JobId: group, Condition: jobstatev1.NeedCondition_NEED_CONDITION_FINAL}},
	})
	if err != nil {
		return err
	}
	fmt.Println(group, len(members), last.Job.Id)
	return nil
}

func member(group, episode, jobType, id string, needs ...string) *jobstatev1.CreateRequest {
	request := &jobstatev1.CreateRequest{
		Id: id, JobType: jobType, SourceId: episode, GroupId: group, RequestId: uuid.NewString(),
	}
	for _, need := range needs {
		request.Needs = append(request.Needs, &jobstatev1.Need{JobId: need})
	}
	return request
}
