// A client that greets a server once a second, each time over a new connection.
//
//	client ADDRESS SERVER_ID [COUNT]
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: client ADDRESS SERVER_ID [COUNT]")
	}
	server := spiffeid.RequireFromString(os.Args[2])
	count := -1 // for ever
	if len(os.Args) > 3 {
		var err error
		if count, err = strconv.Atoi(os.Args[3]); err != nil {
			log.Fatal(err)
		}
	}

	// The source holds the newest SVID and bundle from $SPIFFE_ENDPOINT_SOCKET.
	ctx := context.Background()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(server), source)

	for ; count != 0; count-- {
		if err := greet(ctx, os.Args[1], mode); err != nil {
			log.Fatal(err)
		}
		time.Sleep(time.Second)
	}
}

func greet(ctx context.Context, address string, mode spiffetls.DialMode) error {
	conn, err := spiffetls.DialWithMode(ctx, "tcp", address, mode)
	if err != nil {
		return err
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	fmt.Print(line)
	return nil
}
