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

// crowdRole is the argument that makes this program the subscribers of a node. They are a
// process of their own, because one process may not have enough descriptors for all
// subscribers.
const crowdRole = "crowd"

// crowd is a process of subscribers. It reads requests in JSON from its standard input, and answers
// each on its standard output.
type crowd struct {
	*process.Process
	in  *json.Encoder
	out *json.Decoder
}

// join is the first request: to subscribe. The answer comes when all have subscribed.
type join struct {
	Addr        string
	Topic       string
	Subscribers int
	Key         pubsub.Key // signs a token for each
}

// await is each further request: to wait until all subscribers have received a number of messages,
// or no more messages come.
type await struct{ Messages int }

// answer is the answer to a join or an await.
type answer struct {
	Received int // messages, by all subscribers
	// LastAt is when the last subscriber received the last message, as load.Now counts. It is 0
	// if a message is missing.
	LastAt time.Duration
	Err    string
}

// startCrowd starts a process of subscribers, which ends when ctx is done.
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

// ask sends a join or an await and returns the answer.
func (c *crowd) ask(request any) (a answer, err error) {
	if err := c.in.Encode(request); err != nil {
		return a, err
	}
	if err := c.out.Decode(&a); err != nil {
		return a, fmt.Errorf("no answer from a process of subscribers: %w", err)
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

// serveCrowd is the process of a crowd. It returns when its standard input ends.
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
		io.Copy(io.Discard, os.Stdin) // the answer may be lost if the process ends at once
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

// handshakes returns the handshakes of n subscribers of a topic, each with a token of its own.
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
