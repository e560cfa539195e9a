package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/exp/bundle/witbundle"
	"github.com/spiffe/go-spiffe/v2/exp/svid/witsvid"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// prove validates a token as somebody else would, and shows that the key belongs to it (WIT-13,
// WIT-18).
func prove(svid *witsvid.SVID, bundles witbundle.Source, id spiffeid.ID) error {
	seen, err := witsvid.ParseAndValidate(svid.Marshal(), bundles)
	if err != nil {
		return fmt.Errorf("the library refuses a good WIT-SVID: %w", err)
	}
	if seen.ID != id || svid.ID != id {
		return fmt.Errorf("validated as %s and fetched as %s, not as %s", seen.ID, svid.ID, id)
	}
	key, ok := svid.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("the private key is a %T and cannot sign", svid.PrivateKey)
	}
	digest := sha256.Sum256([]byte("a fresh challenge"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	bound, ok := seen.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(bound, digest[:], signature) {
		return fmt.Errorf("the private key is not that of cnf.jwk")
	}
	return nil
}

// witSVID fetches tokens and key sets, one by one and by a source.
func witSVID(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	bundles, err := api.FetchWITBundles(ctx)
	if err != nil {
		return "", fmt.Errorf("FetchWITBundles: %w", err)
	}
	svids, err := api.FetchWITSVIDs(ctx, "")
	if err != nil {
		return "", fmt.Errorf("FetchWITSVIDs: %w", err)
	}
	for _, svid := range svids {
		if err := prove(svid, bundles, id); err != nil {
			return "", err
		}
	}
	source, err := workloadapi.NewWITSource(ctx, workloadapi.WithClient(api))
	if err != nil {
		return "", fmt.Errorf("NewWITSource: %w", err)
	}
	defer source.Close()
	svid, err := source.GetWITSVIDForID(id)
	if err != nil {
		return "", err
	}
	if err := prove(svid, source, id); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d WIT-SVID(s) of %s, signature and key verified", len(svids), id), nil
}

// witRefused: what is not ours, or not of this kind, verifies with nothing that we publish.
func witRefused(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	bundles, err := api.FetchWITBundles(ctx)
	if err != nil {
		return "", err
	}
	svids, err := api.FetchWITSVIDs(ctx, "")
	if err != nil {
		return "", err
	}
	own := svids[0].Marshal()
	forgeries, err := tamper(own)
	if err != nil {
		return "", err
	}
	for what, forged := range forgeries {
		if _, err := witsvid.ParseAndValidate(forged, bundles); err == nil {
			return "", fmt.Errorf("the library accepts a WIT-SVID with %s", what)
		}
	}
	// A WIT-SVID is no bearer token: as a JWT-SVID nobody takes it (JWTV-04).
	if _, err := api.ValidateJWTSVID(ctx, own, audience); err == nil {
		return "", fmt.Errorf("the Workload API takes a WIT-SVID for a JWT-SVID")
	}
	jwt, _, err := token(ctx, api)
	if err != nil {
		return "", err
	}
	if _, err := witsvid.ParseAndValidate(jwt, bundles); err == nil {
		return "", fmt.Errorf("the library takes a JWT-SVID for a WIT-SVID")
	}
	return "forgeries refused, and neither kind passes for the other", nil
}

// witRotation waits for three tokens of different keys, each verified on arrival.
func witRotation(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	source, err := workloadapi.NewWITSource(ctx, workloadapi.WithClient(api))
	if err != nil {
		return "", err
	}
	defer source.Close()
	seen := map[string]bool{}
	began := time.Now()
	for {
		svid, err := source.GetWITSVIDForID(id)
		if err != nil {
			return "", err
		}
		if !seen[svid.Marshal()] {
			if err := prove(svid, source, id); err != nil {
				return "", err
			}
			seen[svid.Marshal()] = true
		}
		if len(seen) == 3 {
			return fmt.Sprintf("3 WIT-SVIDs on one stream in %.0f s", time.Since(began).Seconds()), nil
		}
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return "", fmt.Errorf("%d WIT-SVID(s) in %s: %w", len(seen), rotationWithin, err)
		}
	}
}
