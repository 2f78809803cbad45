// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// answering returns a client and the URL of a server that answers every request alike.
func answering(t *testing.T, status int, contentType, body string) (*Client, string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	c, _ := clientAt(t, server.URL+"/client")
	return c, server.URL
}

func coded(code, description string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"description":%q}}`, code, description)
}

// B7: a server that could not verify our signature has not looked at the token. Rafiki has one code
// for both; the description tells them apart.
func TestBadSignatureIsNoRejection(t *testing.T) {
	for body, rejected := range map[string]bool{
		coded("invalid_client", "invalid access token"):                             true,
		coded("invalid_client", ""):                                                 true,
		`{"error":"invalid_client"}`:                                                true,
		coded("invalid_client", "invalid signature"):                                false,
		coded("invalid_client", "Invalid Signature headers"):                        false,
		coded("invalid_client", "the signature is not valid"):                       false,
		`{"error":"invalid_client","error_description":"INVALID SIGNATURE"}`:        false,
		`{"error":{"description":"invalid signature","code":"invalid_client"}}`:     false,
		`{"error":{"code":"invalid_client","description":["invalid access token"]}`: false, // cut off
	} {
		c, server := answering(t, http.StatusUnauthorized, "application/json", body)
		out := c.Rotate(context.Background(), server+"/token/1", "t")
		f, failed := out.(RequestFailed)
		if _, ok := out.(TokenRejected); ok != rejected || !rejected && !failed {
			t.Errorf("%s: %T", body, out)
		}
		if wanted := strings.Contains(strings.ToLower(body), "signature"); failed && f.BadSignature() != wanted {
			t.Errorf("%s: bad signature %t", body, !wanted)
		} else if failed && strings.Contains(strings.ToLower(f.Error()), "signature") {
			t.Errorf("the server's words are repeated: %s", f)
		}
	}
}

// Issue 0a: Rafiki answers invalid_rotation for every error of its database.
func TestInvalidRotationIsNoRejection(t *testing.T) {
	for status := 400; status < 500; status++ {
		c, server := answering(t, status, "application/json", coded("invalid_rotation", "cannot execute UPDATE"))
		f, ok := c.Rotate(context.Background(), server+"/token/1", "t").(RequestFailed)
		if !ok || f.Code != InvalidRotation || !f.RotationRefused() || f.MaybeHeard() || f.Settles() {
			t.Errorf("%d: %+v", status, f)
		}
	}
	c, server := answering(t, http.StatusInternalServerError, "application/json", coded("invalid_rotation", ""))
	if f, ok := c.Rotate(context.Background(), server+"/token/1", "t").(RequestFailed); !ok || f.RotationRefused() {
		t.Errorf("%+v", f)
	}
}

// C13: what ends a grant is the authorization server's word, and no proxy's.
func TestEnding(t *testing.T) {
	const done, gone, neither = "done", "gone", "neither"
	page := "<html>down for maintenance</html>"
	for _, row := range []struct {
		status         int
		body           string
		cancel, revoke string
	}{
		{204, "", done, done},
		{200, "", done, done},
		{202, "\n", done, done},
		{200, page, neither, neither},
		{200, "{}", neither, neither},
		{200, `{"access_token":{"value":"v"}}`, neither, neither},
		{302, "", neither, neither},
		{400, "", neither, neither},
		{400, coded("invalid_continuation", "invalid grant"), gone, neither},
		{401, coded("invalid_continuation", "invalid grant"), gone, neither},
		{404, coded("invalid_continuation", "invalid grant"), gone, neither},
		{410, coded("invalid_continuation", "invalid grant"), gone, gone},
		{403, coded("invalid_continuation", "invalid grant"), neither, neither},
		{401, coded("invalid_continuation", "invalid signature"), neither, neither},
		{404, coded("invalid_request", "grant not found"), gone, neither},
		{400, coded("invalid_request", "grant not found"), neither, neither},
		{401, coded("invalid_client", "invalid access token"), neither, gone},
		{404, coded("invalid_client", "invalid access token"), neither, gone},
		{410, coded("invalid_client", "invalid access token"), gone, gone},
		{400, coded("invalid_client", "could not determine client"), neither, neither},
		{401, coded("invalid_client", "invalid signature"), neither, neither},
		{401, coded("invalid_client", "Invalid Signature headers"), neither, neither},
		{401, coded("request_denied", ""), neither, neither},
		{404, coded("invalid_rotation", "invalid access token"), neither, neither},
		{401, "", neither, neither},
		{401, "proxy authentication failed", neither, neither},
		{401, `{"error":"unauthorized"}`, neither, neither},
		{404, "default backend - 404", neither, neither},
		{404, page, neither, neither},
		{404, `{"error":{"description":"no such route"}}`, neither, neither},
		{410, "", gone, gone},
		{410, page, gone, gone},
		{500, coded("invalid_client", ""), neither, neither},
		{503, page, neither, neither},
	} {
		c, server := answering(t, row.status, "text/plain", row.body)
		for name, have := range map[string]struct {
			err  error
			want string
		}{
			"cancel": {c.Cancel(context.Background(), Continuation{URL: server + "/continue/1", Token: "t"}), row.cancel},
			"revoke": {c.Revoke(context.Background(), server+"/token/1", "t"), row.revoke},
		} {
			got := neither
			var f RequestFailed
			if have.err == nil {
				got = done
			} else if errors.As(have.err, &f) && f.Gone {
				got = gone
			}
			if got != have.want {
				t.Errorf("%s, %d %s: %s, want %s", name, row.status, row.body, got, have.want)
			}
		}
	}
}
