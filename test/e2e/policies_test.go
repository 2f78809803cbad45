// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// policed is a server with two grants and the example policies.
type policed struct {
	*vaulttest.Server
	t      *testing.T
	config map[string]any
	access string
	owner  string
}

func startPoliced(t *testing.T) *policed {
	t.Helper()
	wallet, err := sandbox.Start(sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wallet.Close)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	wallet.PublishKey("key-1", public)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}

	p := &policed{
		Server: vaulttest.Start(t, vaulttest.Options{}),
		t:      t,
		config: map[string]any{
			"wallet_address": wallet.WalletAddress("client"),
			"key_id":         "key-1",
			"private_key":    string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
			"default_grant":  "other",
		},
		access: `[{"type":"incoming-payment","actions":["create","read","list"]}]`,
		owner:  wallet.WalletAddress("shop"),
	}
	p.Mount("op")
	root := p.Client(p.RootToken)
	for name, file := range map[string]string{"application": "application.hcl", "operator": "operator.hcl"} {
		policy, err := os.ReadFile(filepath.Join("..", "..", "examples", "policies", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Sys().PutPolicy(name, string(policy)); err != nil {
			t.Fatal(err)
		}
	}
	p.mustWrite(root, "op/config", p.config)
	p.ask(root, "shop-income")
	p.ask(root, "other")
	return p
}

func (p *policed) ask(client *api.Client, grant string) {
	p.t.Helper()
	p.mustWrite(client, "op/grants/"+grant, map[string]any{"wallet_address": p.owner, "access": p.access})
}

func (p *policed) mustWrite(client *api.Client, path string, data map[string]any) {
	p.t.Helper()
	if _, err := client.Logical().Write(path, data); err != nil {
		p.t.Fatalf("write %s: %v", path, err)
	}
}

// lease reads a token and returns the id of its lease.
func (p *policed) lease(client *api.Client, path string) string {
	p.t.Helper()
	secret, err := client.Logical().Read(path)
	if err != nil {
		p.t.Fatalf("read %s: %v", path, err)
	}
	return secret.LeaseID
}

// command is one command of the CLI, its words parted by blanks.
func (p *policed) command(token, words string) (output string, code int) {
	p.t.Helper()
	stdout, stderr, code := p.CLI(token, strings.Fields(words)...)
	return stdout + stderr, code
}

func (p *policed) allowed(token string, commands ...string) {
	p.t.Helper()
	for _, words := range commands {
		if output, code := p.command(token, words); code != 0 {
			p.t.Errorf("%s: status %d\n%s", words, code, output)
		}
	}
}

func (p *policed) denied(token string, commands ...string) {
	p.t.Helper()
	for _, words := range commands {
		output, code := p.command(token, words)
		if code == 0 || !strings.Contains(output, "permission denied") {
			p.t.Errorf("%s should have been denied: status %d\n%s", words, code, output)
		}
	}
}

func TestApplicationPolicy(t *testing.T) {
	p := startPoliced(t)
	token := p.Token("application")
	client := p.Client(token)
	root := p.Client(p.RootToken)

	t.Run("CLI", func(t *testing.T) {
		own := p.lease(client, "op/token/shop-income")
		p.allowed(token,
			"lease renew "+own,
			"lease renew -increment=60 "+own,
			"write -f sys/leases/renew/"+own,
			"write sys/leases/renew/"+own+" increment=60",
			"lease revoke -sync "+own,
			"token lookup",
			"token renew",
		)
		own = p.lease(client, "op/token/shop-income")
		p.allowed(token, "write sys/leases/revoke lease_id="+own+" sync=true")
	})

	t.Run("Go API", func(t *testing.T) {
		own := p.lease(client, "op/token/shop-income")
		if secret, err := client.Sys().Renew(own, 60); err != nil || secret.Data["access_token"] == nil {
			t.Errorf("renew: %v, %v", secret, err)
		}
		if err := client.Sys().Revoke(own); err != nil {
			t.Errorf("revoke: %v", err)
		}
	})

	t.Run("others' leases", func(t *testing.T) {
		own := p.lease(client, "op/token/shop-income")
		for _, other := range []string{p.lease(root, "op/token/other"), p.lease(root, "op/token")} {
			p.denied(token,
				"lease renew "+other,
				"write -f sys/leases/renew/"+other,
				// Vault prefers the id in the body to the one in the URL.
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
			if secret, err := client.Sys().Renew(other, 60); !isDenied(err) {
				t.Errorf("renew another's lease through the Go API: %v, %v", secret, err)
			}
		}
	})

	p.denied(token,
		"read op/token",
		"read op/token/other",
		"read op/config",
		"read op/grants/shop-income",
		"list op/grants",
		"write -f op/rotate/shop-income",
		"list sys/leases/lookup/op/token/shop-income",
	)
}

// The operator policy holds even for a token that has the default policy too.
func TestOperatorPolicy(t *testing.T) {
	p := startPoliced(t)
	root := p.Client(p.RootToken)
	withDefault, err := root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"operator"}})
	if err != nil {
		t.Fatal(err)
	}

	for name, token := range map[string]string{
		"alone":                   p.Token("operator"),
		"with the default policy": withDefault.Auth.ClientToken,
	} {
		t.Run(name, func(t *testing.T) {
			client := p.Client(token)
			p.mustWrite(client, "op/config", p.config)
			p.ask(client, "new")
			p.allowed(token,
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
			)

			other := p.lease(root, "op/token/other")
			p.denied(token,
				"read op/token",
				"read op/token/other",
				"read -wrap-ttl=60s op/token/other",
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
			if secret, err := client.Sys().Renew(other, 60); !isDenied(err) {
				t.Errorf("renew an application's lease through the Go API: %v, %v", secret, err)
			}
		})
	}

	t.Run("nothing read holds a token", func(t *testing.T) {
		client := p.Client(p.Token("operator"))
		secret, err := root.Logical().Read("op/token/other")
		if err != nil {
			t.Fatal(err)
		}
		live, ok := secret.Data["access_token"].(string)
		if !ok || live == "" {
			t.Fatal("no token to look for")
		}
		for _, path := range []string{"op/config", "op/grants/other"} {
			secret, err := client.Logical().Read(path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(secret)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), live) {
				t.Errorf("%s shows the token", path)
			}
		}
	})
}

func isDenied(err error) bool {
	var refusal *api.ResponseError
	return errors.As(err, &refusal) && refusal.StatusCode == http.StatusForbidden
}
