package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	greeting      = "muster interop\n"
	pace          = 20 * time.Millisecond
	dialWithin    = 240 * time.Second
	wantedSVIDs   = 3
	wantedIssuers = 2
	// A dialer goes on for so long after it has seen enough, so that the listener has too.
	encore = 50
)

// tally counts handshakes, and whom they were with.
type tally struct {
	sync.Mutex
	handshakes int
	failures   []string
	own, peer  parties
}

// parties remembers distinct certificates and their issuers.
type parties struct{ serials, issuers map[string]bool }

func newTally() *tally { return &tally{own: newParties(), peer: newParties()} }

func newParties() parties { return parties{map[string]bool{}, map[string]bool{}} }

func (p parties) see(leaf *x509.Certificate) {
	p.serials[leaf.SerialNumber.String()] = true
	p.issuers[hex.EncodeToString(leaf.AuthorityKeyId)] = true
}

func (p parties) enough() bool {
	return len(p.serials) >= wantedSVIDs && len(p.issuers) >= wantedIssuers
}

func (t *tally) record(source *workloadapi.X509Source, peer *x509.Certificate, err error) {
	t.Lock()
	defer t.Unlock()
	if err != nil {
		t.failures = append(t.failures, err.Error())
		return
	}
	t.handshakes++
	t.peer.see(peer)
	if svid, err := source.GetX509SVID(); err == nil {
		t.own.see(svid.Certificates[0])
	}
}

func (t *tally) done() bool {
	t.Lock()
	defer t.Unlock()
	return t.own.enough() && t.peer.enough()
}

func (t *tally) summary() (string, error) {
	t.Lock()
	defer t.Unlock()
	text := fmt.Sprintf("%d handshakes, %d failed; own: %d SVIDs of %d authorities; peer: %d of %d",
		t.handshakes, len(t.failures), len(t.own.serials), len(t.own.issuers), len(t.peer.serials), len(t.peer.issuers))
	switch {
	case len(t.failures) > 0:
		return "", fmt.Errorf("%s; first failure: %s", text, t.failures[0])
	case t.handshakes == 0:
		return "", errors.New("no handshake took place")
	case !t.own.enough() || !t.peer.enough():
		return "", fmt.Errorf("%s; too few rotations", text)
	}
	return text, nil
}

// listen greets every peer until standard input ends.
func listen(ctx context.Context, api *workloadapi.Client, peer spiffeid.ID) (string, error) {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(api))
	if err != nil {
		return "", err
	}
	defer source.Close()
	mode := spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(peer), source)
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0", mode)
	if err != nil {
		return "", err
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]string{"listening": listener.Addr().String()})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = listener.Close()
	}()

	seen := newTally()
	var open sync.WaitGroup
	for {
		conn, err := listener.Accept()
		if err != nil {
			break // standard input has ended
		}
		open.Add(1)
		go func() {
			defer open.Done()
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, err := io.WriteString(conn, greeting)
			seen.record(source, leaf(conn), err)
		}()
	}
	open.Wait()
	return seen.summary()
}

// dial makes one new connection after another until both sides have rotated enough.
func dial(ctx context.Context, api *workloadapi.Client, peer spiffeid.ID, address string) (string, error) {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(api))
	if err != nil {
		return "", err
	}
	defer source.Close()
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(peer), source)
	dialer := spiffetls.WithDialer(&net.Dialer{Timeout: 10 * time.Second})

	seen := newTally()
	pacer := time.NewTicker(pace)
	defer pacer.Stop()
	for deadline, left := time.Now().Add(dialWithin), encore; left > 0 && time.Now().Before(deadline); <-pacer.C {
		certificate, err := greet(ctx, address, mode, dialer)
		seen.record(source, certificate, err)
		if seen.done() {
			left--
		}
	}
	return seen.summary()
}

// greet is one connection: only a greeting that arrives shows that the listener accepts us too.
func greet(ctx context.Context, address string, mode spiffetls.DialMode, dialer spiffetls.DialOption) (*x509.Certificate, error) {
	conn, err := spiffetls.DialWithMode(ctx, "tcp", address, mode, dialer)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the listener hung up: %w", err)
	}
	if line != greeting {
		return nil, fmt.Errorf("the listener said %q", line)
	}
	return leaf(conn), nil
}

// leaf is the peer's certificate; nil before the handshake.
func leaf(conn net.Conn) *x509.Certificate {
	state, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	certificates := state.ConnectionState().PeerCertificates
	if len(certificates) == 0 {
		return nil
	}
	return certificates[0]
}
