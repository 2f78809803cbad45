// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

// policyEngine is an engine with two grants, a role and the example policies.
type policyEngine struct{ *engine }

func startWithPolicies(t *testing.T) policyEngine {
	t.Helper()
	return startEngine(t).withPolicies()
}

func (e *engine) withPolicies() policyEngine {
	e.t.Helper()
	p := policyEngine{e}
	for name, file := range map[string]string{"application": "application.hcl", "operator": "operator.hcl"} {
		if err := p.vault.Sys().PutPolicy(name, p.exampleFile(filepath.Join("policies", file))); err != nil {
			e.t.Fatal(err)
		}
	}
	p.write("config", map[string]any{"default_grant": "other"})
	p.ask("shop-income", nil)
	p.ask("other", nil)
	p.writeRole()
	return p
}

// withToken returns the engine for a subtest, with a client that has another token.
func (p policyEngine) withToken(t *testing.T, token string) policyEngine {
	one := p.in(t)
	one.vault = p.Client(token)
	return policyEngine{one}
}

// lease reads a token and returns its lease id.
func (p policyEngine) lease(client *api.Client, path string) string {
	p.t.Helper()
	secret, err := client.Logical().Read(path)
	if err != nil {
		p.t.Fatalf("read %s: %v", path, err)
	}
	return secret.LeaseID
}

// command runs a command of the CLI, whose words are separated by spaces.
func (p policyEngine) command(token, words string) (output string, code int) {
	p.t.Helper()
	stdout, stderr, code := p.CLI(token, strings.Fields(words)...)
	return stdout + stderr, code
}

func (p policyEngine) checkAllowed(token string, commands ...string) {
	p.t.Helper()
	for _, words := range commands {
		if output, code := p.command(token, words); code != 0 {
			p.t.Errorf("%s: status %d\n%s", words, code, output)
		}
	}
}

func (p policyEngine) checkDenied(token string, commands ...string) {
	p.t.Helper()
	for _, words := range commands {
		output, code := p.command(token, words)
		if code == 0 || !strings.Contains(output, "permission denied") {
			p.t.Errorf("%s should have been denied: status %d\n%s", words, code, output)
		}
	}
}

func TestApplicationPolicy(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	token := p.Token("application")
	client := p.Client(token)
	root := p.vault

	t.Run("CLI", func(t *testing.T) {
		p := p.withToken(t, token)
		own := p.lease(client, "op/token/shop-income")
		p.checkAllowed(token,
			"lease renew "+own,
			"lease renew -increment=60 "+own,
			"write -f sys/leases/renew/"+own,
			"write sys/leases/renew/"+own+" increment=60",
			"lease revoke -sync "+own,
			"token lookup",
			"token renew",
		)
		own = p.lease(client, "op/token/shop-income")
		p.checkAllowed(token, "write sys/leases/revoke lease_id="+own+" sync=true")
	})

	t.Run("Go API", func(t *testing.T) {
		p := p.withToken(t, token)
		own := p.lease(client, "op/token/shop-income")
		if secret, err := client.Sys().Renew(own, 60); err != nil || secret.Data["access_token"] == nil {
			t.Errorf("renew returns no token: %v", err)
		}
		if err := client.Sys().Revoke(own); err != nil {
			t.Errorf("revoke: %v", err)
		}
	})

	t.Run("others' leases", func(t *testing.T) {
		p := p.withToken(t, token)
		own := p.lease(client, "op/token/shop-income")
		for _, other := range []string{p.lease(root, "op/token/other"), p.lease(root, "op/token")} {
			p.checkDenied(token,
				"lease renew "+other,
				"write -f sys/leases/renew/"+other,
				// Vault prefers a lease id in the body to the one in the URL.
				"write sys/leases/renew/"+own+" lease_id="+other,
				"write sys/leases/renew/"+own+" url_lease_id="+other,
				"write sys/leases/renew url_lease_id="+other,
				"write sys/leases/renew lease_id="+own+" LEASE_ID="+other,
				"write sys/renew lease_id="+other,
				"write -f sys/renew/"+other,
				"lease revoke "+other,
				"write sys/leases/revoke lease_id="+other,
				"write sys/leases/revoke/"+own+" lease_id="+other,
				"lease lookup "+other,
			)
			if _, err := client.Sys().Renew(other, 60); !isDenied(err) {
				t.Errorf("renew another's lease through the Go API: %v", err)
			}
		}
	})

	p.checkDenied(token,
		"read op/token",
		"read op/token/other",
		"read op/creds/till",
		"read op/config",
		"read op/grants/shop-income",
		"list op/grants",
		"write -f op/rotate/shop-income",
		"list sys/leases/lookup/op/token/shop-income",
	)
}

// An application can have requests signed for its own grant only: not for another grant, even with
// that grant's token, and not for the authorization server, where it could act as the client.
func TestApplicationSigns(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	own, other := p.tokenOf(p.read("shop-income")), p.tokenOf(p.read("other"))
	p = p.withToken(t, p.Token("application"))
	list := p.wallet.ResourceServer() + "/incoming-payments?wallet-address=" + p.wallet.WalletAddress("shop")
	sign := func(name, token, method, url string) (*api.Secret, error) {
		return p.vault.Logical().Write("op/sign/"+name, map[string]any{"access_token": token, "method": method, "url": url})
	}

	signed, err := sign("shop-income", own, "GET", list)
	if err != nil {
		t.Fatal(err)
	}
	p.sendSigned("GET", list, signed.Data)

	for name, token := range map[string]string{"own token": own, "its token": other} {
		if _, err := sign("other", token, "GET", list); !isDenied(err) {
			t.Errorf("signed for another grant with %s: %v", name, err)
		}
	}
	if _, err := sign("shop-income", other, "GET", list); !isRefused(err, "access_token: ") {
		t.Errorf("signed with another grant's token: %v", err)
	}
	p.wire.mu.Lock()
	reserved := []string{p.wallet.AuthServer(), p.wallet.AuthServer() + "/"}
	for end, what := range p.wire.secrets {
		switch what {
		case "a manage URL":
			reserved = append(reserved, p.wallet.AuthServer()+"/token/"+end)
		case "a continue URL":
			reserved = append(reserved, p.wallet.AuthServer()+"/continue/"+end)
		}
	}
	p.wire.mu.Unlock()
	if len(reserved) < 6 {
		t.Fatalf("only %d URLs of the authorization server are known", len(reserved))
	}
	for _, url := range reserved {
		for _, method := range []string{"POST", "DELETE", "GET"} {
			if _, err := sign("shop-income", own, method, url); !isRefused(err, "url: ") {
				t.Errorf("%s to the authorization server: %v", method, err != nil)
			}
		}
	}
}

// isRefused reports whether an error is a 400 whose message begins with a field's name.
func isRefused(err error, field string) bool {
	var refusal *api.ResponseError
	return errors.As(err, &refusal) && refusal.StatusCode == http.StatusBadRequest && len(refusal.Errors) == 1 &&
		strings.HasPrefix(refusal.Errors[0], field)
}

// sendSigned sends a request with what op/sign returned for it, and returns the resource server's
// response.
func (e *engine) sendSigned(method, url string, signed map[string]any) (answer map[string]any) {
	e.t.Helper()
	body, _ := signed["body"].(string)
	req, err := http.NewRequestWithContext(e.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	for name, value := range signed["headers"].(map[string]any) {
		req.Header.Set(name, value.(string))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		e.t.Errorf("the resource server returns %d for a signed request", resp.StatusCode)
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		e.t.Fatal(err)
	}
	return answer
}

// The same policy works with a role instead of a grant.
func TestApplicationPolicyForCreds(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	p.write("roles/other", map[string]any{"wallet_address": p.wallet.WalletAddress("shop"), "access": access})
	stranger := p.readLease("creds/other")
	token := p.Token(p.putPolicy("creds/till"))
	lease, other := p.withToken(t, token).readCreds(), p.lease(p.vault, "op/token/other")
	own := lease.LeaseID
	list := p.wallet.ResourceServer() + "/incoming-payments?wallet-address=" + p.wallet.WalletAddress("shop")
	sign := func(role string, lease *api.Secret) (*api.Secret, error) {
		return p.Client(token).Logical().Write("op/creds/"+role+"/sign", map[string]any{
			"access_token": p.tokenOf(lease), "signing_ticket": lease.Data["signing_ticket"], "method": "GET", "url": list,
		})
	}
	signed, err := sign("till", lease)
	if err != nil {
		t.Fatal(err)
	}
	p.sendSigned("GET", list, signed.Data)
	if _, err := sign("other", stranger); !isDenied(err) {
		t.Errorf("signed for another role: %v", err)
	}
	if _, err := sign("till", stranger); !isRefused(err, "signing_ticket: ") {
		t.Errorf("signed with another role's ticket: %v", err)
	}
	p.checkAllowed(token, "lease renew "+own, "write -f sys/leases/renew/"+own, "lease revoke -sync "+own)
	p.checkDenied(token, "read op/token/shop-income", "read op/roles/till", "lease renew "+other, "lease revoke "+other,
		"write sys/leases/renew/"+own+" lease_id="+other)
}

// The operator policy restricts even a token that also has the default policy.
func TestOperatorPolicy(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	root := p.vault
	withDefault, err := root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"operator"}})
	if err != nil {
		t.Fatal(err)
	}

	for name, token := range map[string]string{
		"alone":                   p.Token("operator"),
		"with the default policy": withDefault.Auth.ClientToken,
	} {
		t.Run(name, func(t *testing.T) {
			p := p.withToken(t, token)
			p.write("config", p.config())
			p.ask("new", nil)
			p.checkAllowed(token,
				"read op/config",
				"patch op/config request_timeout=9s",
				"list op/grants",
				"read op/grants list=true limit=1",
				"read op/grants/new",
				"patch op/grants/new ttl=5m",
				"write -f op/rotate/new",
				"delete op/grants/new",
				"lease revoke -sync "+p.lease(root, "op/token/other"),
				"write sys/leases/revoke sync=true lease_id="+p.lease(root, "op/token/other"),
				"write op/roles/new wallet_address="+p.wallet.WalletAddress("shop")+" access="+access,
				"read op/roles/new",
				"patch op/roles/new ttl=5m",
				"list op/roles",
				"delete op/roles/new",
				"lease revoke -sync "+p.lease(root, "op/creds/till"),
				"write sys/leases/revoke sync=true lease_id="+p.lease(root, "op/creds/till"),
			)

			other := p.lease(root, "op/token/other")
			p.checkDenied(token,
				"read op/token",
				"read op/token/other",
				"read -wrap-ttl=60s op/token/other",
				"read op/creds/till",
				"lease renew "+p.lease(root, "op/creds/till"),
				"lease renew "+other,
				"write -f sys/leases/renew/"+other,
				"write sys/renew lease_id="+other,
				"write -f sys/renew/"+other,
				"write sys/leases/revoke/op/token/x lease_id="+p.lease(root, "op/token"),
				"list sys/leases/lookup/op/token/other",
				"read sys/raw/logical",
				"write sys/mounts/op/tune audit_non_hmac_response_keys=access_token",
				"write sys/policies/acl/more policy=x",
				"token create -policy=application",
			)
			if _, err := p.vault.Sys().Renew(other, 60); !isDenied(err) {
				t.Errorf("renew an application's lease through the Go API: %v", err)
			}
		})
	}

	t.Run("no read returns a secret", func(t *testing.T) {
		p := p.withToken(t, p.Token("operator"))
		for _, path := range []string{"op/config", "op/grants/other", "op/roles/till"} {
			secret, err := p.vault.Logical().Read(path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(secret)
			if err != nil {
				t.Fatal(err)
			}
			p.checkNoSecret(path, string(text))
		}
	})
}

func isDenied(err error) bool {
	var refusal *api.ResponseError
	return errors.As(err, &refusal) && refusal.StatusCode == http.StatusForbidden
}
