// go-spiffe against a Workload API: one JSON line a check. See ../README.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	client   = "go-spiffe"
	audience = "interop"
)

// result is one line of output.
type result struct {
	Client  string `json:"client"`
	Version string `json:"version"`
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Detail  string `json:"detail"`
}

func main() {
	if len(os.Args) < 4 {
		fatal("usage: (checks SOCKET SPIFFE_ID CHECK... | task AGENT_ID CHECK... | listen SOCKET PEER_ID | dial SOCKET PEER_ID ADDRESS)")
	}
	if os.Args[1] == "delegated" {
		runDelegated(os.Args[2:])
		return
	}
	ctx := context.Background()
	if os.Args[1] == "task" {
		onTask(ctx, os.Args[2], os.Args[3:])
		return
	}
	id, err := spiffeid.FromString(os.Args[3])
	if err != nil {
		fatal(err.Error())
	}
	api, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+os.Args[2]))
	if err != nil {
		fatal(err.Error())
	}
	defer api.Close()

	switch os.Args[1] {
	case "checks":
		for _, name := range os.Args[4:] {
			detail, err := runCheck(ctx, api, id, name)
			report(name, detail, err)
		}
	case "listen":
		detail, err := listen(ctx, api, id)
		report("mtls-listen", detail, err)
	case "dial":
		detail, err := dial(ctx, api, id, os.Args[4])
		report("mtls-dial", detail, err)
	default:
		fatal("unknown command " + os.Args[1])
	}
}

func report(check, detail string, err error) {
	if err != nil {
		detail = err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(result{client, version(), check, err == nil, detail})
}

// version is that of the go-spiffe module which is linked in.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/spiffe/go-spiffe/v2" {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return "unknown"
}

func fatal(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(2)
}
