//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"pubsub"
	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
	"pubsub/internal/token"
)

// crowdRole is the argument that makes this program the subscribers of a node, in
// a process of their own: one may not have the descriptors for those of all.
const crowdRole = "crowd"

// crowd is such a process, as the one sees it that measures. It is asked one thing
// at a time, by values in JSON on its standard input, and answers each by one on
// its standard output.
type crowd struct {
	*process.Process
	in  *json.Encoder
	out *json.Decoder
}

// join is the first thing that a crowd is asked: to subscribe. It answers when all
// have.
type join struct {
	Addr        string
	Topic       string
	Subscribers int
	Key         pubsub.Key // signs a token for each
}

// await is each further thing that it is asked: to wait until all have received so
// many messages, or until nothing comes any more.
type await struct{ Messages int }

// answer is what a crowd answers.
type answer struct {
	Received int           // messages, by all
	LastAt   time.Duration // when the last received the last of the messages waited for, as load.Now counts; 0 if that has not happened
	Err      string
}

// startCrowd starts the process of subscribers, which ends when ctx is done.
func startCrowd(ctx context.Context) (*crowd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, crowdRole)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p, err := process.Launch(cmd)
	if err != nil {
		return nil, err
	}
	return &crowd{Process: p, in: json.NewEncoder(in), out: json.NewDecoder(out)}, nil
}

// ask returns the crowd's answer to a join or an await.
func (c *crowd) ask(question any) (a answer, err error) {
	if err := c.in.Encode(question); err != nil {
		return a, err
	}
	if err := c.out.Decode(&a); err != nil {
		return a, fmt.Errorf("no answer of a process of subscribers: %w", err)
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

// serveCrowd is the process of a crowd. It ends when its standard input does.
func serveCrowd(args []string) error {
	if len(args) != 0 {
		return errors.New("no arguments expected")
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var j join
	if err := in.Decode(&j); err != nil {
		return err
	}
	subs, err := j.subscribe()
	if err != nil {
		out.Encode(answer{Err: err.Error()})
		io.Copy(io.Discard, os.Stdin) // an answer may be lost with its process
		return nil
	}
	defer subs.Close()
	for err = out.Encode(answer{}); err == nil; {
		var w await
		if err := in.Decode(&w); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		subs.WaitAll(w.Messages, load.LossTimeout)
		a := answer{Received: subs.Received(), LastAt: subs.LastAt(w.Messages)}
		if err := subs.Failed(); err != nil {
			a.Err = err.Error()
		}
		err = out.Encode(a)
	}
	return err
}

// subscribe connects the subscribers, each with a token of its own.
func (j *join) subscribe() (*load.Pool, error) {
	hs, err := handshakes(j.Key, j.Topic, j.Subscribers)
	if err != nil {
		return nil, err
	}
	subs, _, err := load.Connect(j.Addr, hs, false)
	return subs, err
}

// handshakes returns those of n subscribers of a topic, each with a token of its
// own.
func handshakes(key pubsub.Key, topic string, n int) ([][]load.Step, error) {
	expires := time.Now().Add(time.Hour)
	var failed error
	hs := load.Handshakes(n, func(i int) []load.Step {
		bearer, err := token.Sign(key, token.Claims{Read: []string{topic}, Subject: fmt.Sprint(topic, "-", i), Expires: expires})
		if err != nil {
			failed = err
		}
		return load.SSESubscribe("/events?topic="+topic, bearer)
	})
	return hs, failed
}
