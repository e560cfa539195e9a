package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	delegatedidentityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const delegatedWithin = 60 * time.Second

// delegated asks for the workload `pid`, which has the identity `want`, with the client of SPIRE's
// SDK; says when it follows it; and sees it end.
func delegated(socket, pidText, want string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), delegatedWithin)
	defer cancel()
	pid, err := strconv.ParseInt(pidText, 10, 32)
	if err != nil {
		return "", err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	api := delegatedidentityv1.NewDelegatedIdentityClient(conn)
	own, err := spiffeid.FromString(want)
	if err != nil {
		return "", err
	}
	domain := own.TrustDomain().IDString()

	keys, err := api.SubscribeToJWTBundles(ctx, &delegatedidentityv1.SubscribeToJWTBundlesRequest{})
	if err != nil {
		return "", err
	}
	sets, err := keys.Recv()
	if err != nil {
		return "", fmt.Errorf("SubscribeToJWTBundles: %w", err)
	}
	if !json.Valid(sets.Bundles[domain]) {
		return "", fmt.Errorf("no key set of %s", domain)
	}
	bundles, err := api.SubscribeToX509Bundles(ctx, &delegatedidentityv1.SubscribeToX509BundlesRequest{})
	if err != nil {
		return "", err
	}
	authorities, err := bundles.Recv()
	if err != nil {
		return "", fmt.Errorf("SubscribeToX509Bundles: %w", err)
	}
	roots, err := x509.ParseCertificates(authorities.CaCertificates[domain])
	if err != nil || len(roots) == 0 {
		return "", fmt.Errorf("the bundle of %s: %d authorities, %w", domain, len(roots), err)
	}

	tokens, err := api.FetchJWTSVIDs(ctx, &delegatedidentityv1.FetchJWTSVIDsRequest{
		Audience: []string{audience}, Pid: int32(pid),
	})
	if err != nil {
		return "", fmt.Errorf("FetchJWTSVIDs: %w", err)
	}
	if len(tokens.Svids) != 1 || idOf(tokens.Svids[0].Id) != want {
		return "", fmt.Errorf("FetchJWTSVIDs: %d tokens, and not one of %s", len(tokens.Svids), want)
	}

	// Nobody is that: the answer is empty, and no error.
	nobody, err := api.SubscribeToX509SVIDs(ctx, &delegatedidentityv1.SubscribeToX509SVIDsRequest{
		Selectors: []*types.Selector{{Type: "unix", Value: "uid:4294967294"}},
	})
	if err != nil {
		return "", err
	}
	nothing, err := nobody.Recv()
	if err != nil || len(nothing.X509Svids) != 0 {
		return "", fmt.Errorf("SVIDs of nobody: %d, %w", len(nothing.GetX509Svids()), err)
	}
	neither, err := api.SubscribeToX509SVIDs(ctx, &delegatedidentityv1.SubscribeToX509SVIDsRequest{})
	if err != nil {
		return "", err
	}
	if _, err = neither.Recv(); status.Code(err) != codes.InvalidArgument {
		return "", fmt.Errorf("neither selectors nor pid: %w", err)
	}

	stream, err := api.SubscribeToX509SVIDs(ctx, &delegatedidentityv1.SubscribeToX509SVIDsRequest{Pid: int32(pid)})
	if err != nil {
		return "", err
	}
	first, err := stream.Recv()
	if err != nil {
		return "", fmt.Errorf("SubscribeToX509SVIDs: %w", err)
	}
	if len(first.X509Svids) != 1 {
		return "", fmt.Errorf("SubscribeToX509SVIDs: %d SVIDs", len(first.X509Svids))
	}
	if err := checkDelegated(first.X509Svids[0], want, roots); err != nil {
		return "", err
	}
	fmt.Println(`{"following":true}`)
	for updates := 1; ; updates++ {
		if _, err = stream.Recv(); err != nil {
			if status.Code(err) != codes.Unavailable {
				return "", fmt.Errorf("the stream ended with: %w", err)
			}
			return fmt.Sprintf("%s by pid, %d update(s), then the process ended and the stream with it", want, updates), nil
		}
	}
}

func checkDelegated(svid *delegatedidentityv1.X509SVIDWithKey, want string, roots []*x509.Certificate) error {
	if idOf(svid.X509Svid.Id) != want {
		return fmt.Errorf("the SVID is of %s", idOf(svid.X509Svid.Id))
	}
	leaf, err := x509.ParseCertificate(svid.X509Svid.CertChain[0])
	if err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(svid.X509SvidKey)
	if err != nil {
		return err
	}
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	signer, isSigner := key.(crypto.Signer)
	if !ok || !isSigner || !public.Equal(signer.Public()) {
		return errors.New("the key does not fit the certificate")
	}
	if leaf.NotAfter.Unix() != svid.X509Svid.ExpiresAt {
		return errors.New("expires_at is not the certificate's")
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

func idOf(id *types.SPIFFEID) string {
	return "spiffe://" + id.GetTrustDomain() + id.GetPath()
}

// runDelegated is the command: delegated ADMIN_SOCKET NODE_ID PID WORKLOAD_ID.
func runDelegated(arguments []string) {
	if len(arguments) != 4 {
		fatal("usage: delegated ADMIN_SOCKET NODE_ID PID WORKLOAD_ID")
	}
	detail, err := delegated(arguments[0], arguments[2], arguments[3])
	report("delegated", detail, err)
	if err != nil {
		os.Exit(1)
	}
}
