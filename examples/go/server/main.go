// A server that tells each of its callers who they are.
//
//	server ADDRESS CLIENT_ID
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: server ADDRESS CLIENT_ID")
	}
	client := spiffeid.RequireFromString(os.Args[2])

	// The listener fetches its SVID from $SPIFFE_ENDPOINT_SOCKET, and every later one too.
	listener, err := spiffetls.Listen(context.Background(), "tcp", os.Args[1], tlsconfig.AuthorizeID(client))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())

	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			// The handshake happens here, and with it the proof of who calls.
			caller, err := spiffetls.PeerIDFromConn(conn)
			if err != nil {
				log.Print("refused: ", err)
				return
			}
			fmt.Fprintf(conn, "Hello, %s\n", caller)
		}()
	}
}
