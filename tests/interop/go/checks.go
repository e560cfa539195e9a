package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	answerWithin   = 60 * time.Second
	rotationWithin = 180 * time.Second
)

func runCheck(ctx context.Context, api *workloadapi.Client, id spiffeid.ID, name string) (string, error) {
	within := answerWithin
	if name == "rotation" || name == "wit-rotation" {
		within = rotationWithin
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	switch name {
	case "x509-svid":
		return x509SVID(ctx, api, id)
	case "x509-bundles":
		return x509Bundles(ctx, api, id)
	case "jwt-svid":
		return jwtSVID(ctx, api, id)
	case "jwt-bundles":
		return jwtBundles(ctx, api, id)
	case "jwt-valid":
		return jwtValid(ctx, api, id)
	case "jwt-tampered":
		return jwtTampered(ctx, api, id)
	case "rotation":
		return rotation(ctx, api, id)
	case "wit-svid":
		return witSVID(ctx, api, id)
	case "wit-refused":
		return witRefused(ctx, api, id)
	case "wit-rotation":
		return witRotation(ctx, api, id)
	case "denied":
		return denied(ctx, api)
	default:
		return "", fmt.Errorf("unknown check %q", name)
	}
}

// verify proves one update: the chain leads to the bundle that came with it.
func verify(update *workloadapi.X509Context, id spiffeid.ID) (*x509svid.SVID, error) {
	svid := update.DefaultSVID()
	if svid.ID != id {
		return nil, fmt.Errorf("the SVID is for %s, not for %s", svid.ID, id)
	}
	verified, _, err := x509svid.Verify(svid.Certificates, update.Bundles)
	if err != nil {
		return nil, err
	}
	if verified != id {
		return nil, fmt.Errorf("the chain proves %s, not %s", verified, id)
	}
	return svid, nil
}

func x509SVID(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	update, err := api.FetchX509Context(ctx)
	if err != nil {
		return "", err
	}
	svid, err := verify(update, id)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d certificate(s), chain verified", svid.ID, len(svid.Certificates)), nil
}

func x509Bundles(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	bundles, err := api.FetchX509Bundles(ctx)
	if err != nil {
		return "", err
	}
	bundle, err := bundles.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return "", err
	}
	if bundle.Empty() {
		return "", fmt.Errorf("the bundle of %s is empty", id.TrustDomain())
	}
	return fmt.Sprintf("%d authorities", len(bundle.X509Authorities())), nil
}

func jwtSVID(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	svid, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience, ExtraAudiences: []string{"second"}})
	if err != nil {
		return "", err
	}
	if svid.ID != id {
		return "", fmt.Errorf("the token is for %s, not for %s", svid.ID, id)
	}
	return fmt.Sprintf("%s for %v", svid.ID, svid.Audience), nil
}

func jwtBundles(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	bundles, err := api.FetchJWTBundles(ctx)
	if err != nil {
		return "", err
	}
	bundle, err := bundles.GetJWTBundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return "", err
	}
	if bundle.Empty() {
		return "", fmt.Errorf("the key set of %s is empty", id.TrustDomain())
	}
	return fmt.Sprintf("%d keys", len(bundle.JWTAuthorities())), nil
}

// token fetches what the two validation checks work on.
func token(ctx context.Context, api *workloadapi.Client) (string, *jwtbundle.Set, error) {
	svid, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return "", nil, err
	}
	bundles, err := api.FetchJWTBundles(ctx)
	if err != nil {
		return "", nil, err
	}
	return svid.Marshal(), bundles, nil
}

func jwtValid(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	own, bundles, err := token(ctx, api)
	if err != nil {
		return "", err
	}
	remote, err := api.ValidateJWTSVID(ctx, own, audience)
	if err != nil {
		return "", fmt.Errorf("the Workload API refuses a good token: %w", err)
	}
	local, err := jwtsvid.ParseAndValidate(own, bundles, []string{audience})
	if err != nil {
		return "", fmt.Errorf("the library refuses a good token: %w", err)
	}
	if remote.ID != id || local.ID != id {
		return "", fmt.Errorf("validated as %s and %s, not as %s", remote.ID, local.ID, id)
	}
	return "accepted by the Workload API and by the library", nil
}

func jwtTampered(ctx context.Context, api *workloadapi.Client, _ spiffeid.ID) (string, error) {
	own, bundles, err := token(ctx, api)
	if err != nil {
		return "", err
	}
	forgeries, err := tamper(own)
	if err != nil {
		return "", err
	}
	for what, forged := range forgeries {
		if _, err := api.ValidateJWTSVID(ctx, forged, audience); status.Code(err) != codes.InvalidArgument {
			return "", fmt.Errorf("the Workload API answers a token with %s by %s, not InvalidArgument", what, status.Code(err))
		}
		if _, err := jwtsvid.ParseAndValidate(forged, bundles, []string{audience}); err == nil {
			return "", fmt.Errorf("the library accepts a token with %s", what)
		}
	}
	if _, err := api.ValidateJWTSVID(ctx, own, "someone else"); status.Code(err) != codes.InvalidArgument {
		return "", fmt.Errorf("the Workload API answers a wrong audience by %s, not InvalidArgument", status.Code(err))
	}
	return "another subject, another signature and another audience refused", nil
}

// tamper makes a token with another subject and one with another signature.
func tamper(token string) (map[string]string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("a token of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, err
	}
	claims["sub"] = fmt.Sprint(claims["sub"], "-forged")
	payload, err = json.Marshal(claims)
	if err != nil {
		return nil, err
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, err
	}
	signature[len(signature)/2] ^= 1
	return map[string]string{
		"another subject":   parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + parts[2],
		"another signature": parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(signature),
	}, nil
}

// watcher turns go-spiffe's callbacks into channels.
type watcher struct {
	updates chan *workloadapi.X509Context
	errors  chan error
}

func newWatcher() *watcher {
	return &watcher{updates: make(chan *workloadapi.X509Context, 64), errors: make(chan error, 64)}
}

func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) { w.updates <- update }

func (w *watcher) OnX509ContextWatchError(err error) { w.errors <- err }

func rotation(ctx context.Context, api *workloadapi.Client, id spiffeid.ID) (string, error) {
	watch := newWatcher()
	go func() { _ = api.WatchX509Context(ctx, watch) }()
	serials := map[string]bool{}
	began := time.Now()
	for len(serials) < 3 {
		select {
		case update := <-watch.updates:
			svid, err := verify(update, id)
			if err != nil {
				return "", err
			}
			serials[svid.Certificates[0].SerialNumber.String()] = true
		case err := <-watch.errors:
			return "", fmt.Errorf("the stream broke: %w", err)
		case <-ctx.Done():
			return "", fmt.Errorf("%d serial(s) in %s", len(serials), rotationWithin)
		}
	}
	return fmt.Sprintf("3 serials on one stream in %.0f s", time.Since(began).Seconds()), nil
}

// denied expects what go-spiffe promises an unregistered caller: PermissionDenied from a fetch, and
// a watch that reports it and goes on asking.
func denied(ctx context.Context, api *workloadapi.Client) (string, error) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := newWatcher()
	go func() { _ = api.WatchX509Context(watching, watch) }()

	if _, err := api.FetchX509SVID(ctx); status.Code(err) != codes.PermissionDenied {
		return "", fmt.Errorf("FetchX509SVID: %v, not PermissionDenied", err)
	}
	if _, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience}); status.Code(err) != codes.PermissionDenied {
		return "", fmt.Errorf("FetchJWTSVID: %v, not PermissionDenied", err)
	}
	for seen := 0; seen < 2; seen++ {
		select {
		case err := <-watch.errors:
			if status.Code(err) != codes.PermissionDenied {
				return "", fmt.Errorf("the watch reports %v, not PermissionDenied", err)
			}
		case <-watch.updates:
			return "", fmt.Errorf("an unregistered caller was given an SVID")
		case <-ctx.Done():
			return "", fmt.Errorf("the watch reported %d denial(s) in %s", seen, answerWithin)
		}
	}
	return "PermissionDenied; the watch reports it and asks again", nil
}
