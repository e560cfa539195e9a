package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const withdrawnWithin = 60 * time.Second

// taskWatch is one stream of a task's X.509 contexts, from its first to its end.
type taskWatch struct {
	api    *workloadapi.Client
	events *watcher
	id     spiffeid.ID
	latest *x509.Certificate
}

// onTask runs the checks on the socket in SPIFFE_ENDPOINT_SOCKET, which is a task's.
func onTask(ctx context.Context, agent string, checks []string) {
	watch, err := watchTask(ctx, agent)
	for _, name := range checks {
		if err != nil {
			report(name, "", fmt.Errorf("no watch: %w", err))
			continue
		}
		switch name {
		case "task-given":
			report(name, fmt.Sprintf("%s, by X.509 and JWT", watch.id), watch.given(ctx))
		case "task-rotated":
			detail, err := watch.rotated()
			report(name, detail, err)
		case "task-withdrawn":
			detail, err := watch.withdrawn(ctx)
			report(name, detail, err)
		default:
			report(name, "", fmt.Errorf("unknown check %q", name))
		}
	}
}

func watchTask(ctx context.Context, agent string) (*taskWatch, error) {
	api, err := workloadapi.New(ctx)
	if err != nil {
		return nil, err
	}
	watch := &taskWatch{api: api, events: newWatcher()}
	go func() { _ = api.WatchX509Context(ctx, watch.events) }()
	first, err := watch.next(answerWithin)
	if err != nil {
		return nil, err
	}
	watch.id = first.DefaultSVID().ID
	if !strings.HasPrefix(watch.id.String(), agent+"/t/") {
		return nil, fmt.Errorf("%s is no task of %s", watch.id, agent)
	}
	svid, err := verify(first, watch.id)
	if err != nil {
		return nil, err
	}
	watch.latest = svid.Certificates[0]
	return watch, nil
}

func (w *taskWatch) next(within time.Duration) (*workloadapi.X509Context, error) {
	select {
	case update := <-w.events.updates:
		return update, nil
	case err := <-w.events.errors:
		return nil, fmt.Errorf("the stream broke: %w", err)
	case <-time.After(within):
		return nil, fmt.Errorf("the stream said nothing for %s", within)
	}
}

func (w *taskWatch) given(ctx context.Context) error {
	for _, name := range []string{"x509-svid", "x509-bundles", "jwt-svid", "jwt-bundles", "jwt-valid", "jwt-tampered"} {
		if _, err := runCheck(ctx, w.api, w.id, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (w *taskWatch) rotated() (string, error) {
	began, serials := time.Now(), map[string]bool{w.latest.SerialNumber.String(): true}
	for len(serials) < 3 {
		update, err := w.next(rotationWithin)
		if err != nil {
			return "", err
		}
		svid, err := verify(update, w.id)
		if err != nil {
			return "", err
		}
		if time.Now().After(w.latest.NotAfter) {
			return "", fmt.Errorf("the next serial came too late")
		}
		w.latest = svid.Certificates[0]
		serials[w.latest.SerialNumber.String()] = true
	}
	return fmt.Sprintf("%d serials on one stream in %.0f s, each in time", len(serials), time.Since(began).Seconds()), nil
}

// withdrawn says that it watches, and sees the end: of the stream, and of every answer.
func (w *taskWatch) withdrawn(ctx context.Context) (string, error) {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]string{"watching": w.id.String()})
	deadline := time.After(withdrawnWithin)
	for ended := false; !ended; {
		select {
		case <-w.events.updates:
		case err := <-w.events.errors:
			if status.Code(err) != codes.PermissionDenied {
				return "", fmt.Errorf("the stream ended with %w", err)
			}
			ended = true
		case <-deadline:
			return "", fmt.Errorf("the stream did not end within %s", withdrawnWithin)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	told := map[codes.Code]bool{}
	for what, call := range map[string]func() error{
		"X.509":   func() error { _, err := w.api.FetchX509SVID(ctx); return err },
		"JWT":     func() error { _, err := w.api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience}); return err },
		"bundles": func() error { _, err := w.api.FetchX509Bundles(ctx); return err },
	} {
		code := status.Code(call())
		if code != codes.PermissionDenied && code != codes.Unavailable {
			return "", fmt.Errorf("a new call for %s gets %s", what, code)
		}
		told[code] = true
	}
	var names []string
	for code := range told {
		names = append(names, code.String())
	}
	return "the stream ended with PermissionDenied, new calls with " + strings.Join(names, ", "), nil
}
