package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
)

const (
	freshFor    = 30 * time.Second
	checkWithin = 5 * time.Second // by its own clock, not the caller's
)

// health is the last that was heard of KMS: by a check, or by a call that failed. A call that succeeds
// leaves no trace, so that one failure holds until it is no longer fresh.
type health struct {
	mutex sync.Mutex
	at    time.Time
	err   error
}

// check answers from memory while that is fresh; else it asks. Two that come at once both ask.
func (h *health) check(ask func(context.Context) error) error {
	h.mutex.Lock()
	at, err := h.at, h.err
	h.mutex.Unlock()
	if time.Since(at) < freshFor {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkWithin)
	defer cancel()
	err = ask(ctx)
	h.record(err)
	return err
}

func (h *health) record(err error) {
	h.mutex.Lock()
	h.at, h.err = time.Now(), err
	h.mutex.Unlock()
}

// class is what an error of KMS is put down to.
type class int

const (
	other class = iota
	byUser
	throttled
	corruption
)

func classify(err error) class {
	if errors.Is(err, context.Canceled) {
		return byUser
	}
	var refusal smithy.APIError
	if !errors.As(err, &refusal) {
		return other
	}
	if retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err) == aws.TrueTernary {
		return throttled
	}
	says := func(text string) bool { return strings.Contains(refusal.ErrorMessage(), text) }
	switch refusal.ErrorCode() {
	case "InvalidCiphertextException":
		return corruption
	case "LimitExceededException":
		return throttled
	case "DisabledException", "KMSInvalidStateException", "KeyUnavailableException", "InvalidArnException",
		"InvalidGrantIdException", "InvalidGrantTokenException":
		return byUser
	case "AccessDeniedException":
		if says("does not exist") || says("explicit deny in a resource control policy") {
			return byUser
		}
	case "KMSInternalException":
		if says("external key store proxy did not respond in time") || says("cannot communicate with the external key store proxy") {
			return byUser
		}
	}
	return other
}
