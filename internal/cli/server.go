// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Server is which of the two servers the environment names.
type Server struct {
	Name    string
	Command string // its CLI
	prefix  string // of its environment variables
}

var (
	vaultServer = Server{"Vault", "vault", "VAULT_"}
	baoServer   = Server{"OpenBao", "bao", "BAO_"}
)

// Variable returns the name of an environment variable of the server's, such as VAULT_ADDR for ADDR.
func (s Server) Variable(name string) string { return s.prefix + name }

// ChooseServer uses OpenBao's environment variables as Vault's, which the API client reads, either
// all or none of them: one server's token must not be sent to the other.
func ChooseServer() (Server, error) {
	if os.Getenv(api.EnvVaultAddress) != "" || os.Getenv(api.EnvVaultToken) != "" {
		return vaultServer, nil
	}
	chosen := vaultServer
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		rest, isBao := strings.CutPrefix(name, baoServer.prefix)
		if !isBao || value == "" {
			continue
		}
		chosen = baoServer
		if os.Getenv(vaultServer.Variable(rest)) != "" {
			continue
		}
		if err := os.Setenv(vaultServer.Variable(rest), value); err != nil {
			return Server{}, fmt.Errorf("take %s from the environment: %w", name, err)
		}
	}
	return chosen, nil
}

// CheckAddress returns an error for an address without a scheme, for which the API client's error is a
// riddle.
func (s Server) CheckAddress() error {
	address := os.Getenv(api.EnvVaultAddress)
	scheme, _, _ := strings.Cut(address, "://")
	if address != "" && !slices.Contains([]string{"https", "http", "unix"}, strings.ToLower(scheme)) {
		return fmt.Errorf("%s: must begin with https:// or, for a server without TLS, http://", s.Variable("ADDR"))
	}
	return nil
}

// ReadTokenFile returns the token in the file where the server's CLI keeps it after a login; empty if
// there is none. OpenBao's looks where BAO_TOKEN_PATH says, and only there.
func (s Server) ReadTokenFile(inHome string) (string, error) {
	path := ""
	if s == baoServer {
		path = os.Getenv(vaultServer.Variable("TOKEN_PATH"))
	}
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", nil //nolint:nilerr // Without a home directory there is no file.
		}
		path = filepath.Join(home, inHome)
	}
	token, err := os.ReadFile(path) //nolint:gosec // G304: a file that the user names
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the token of %s login: %w", s.Command, err)
	}
	return strings.TrimSpace(string(token)), nil
}

// AdviceFor returns what helps if the server could not be reached, as the end of a sentence.
func (s Server) AdviceFor(err error) string {
	var unknownCA x509.UnknownAuthorityError
	switch {
	case os.Getenv(api.EnvVaultAddress) == "" && os.Getenv(api.EnvVaultAgentAddr) == "":
		return fmt.Sprintf("; %s is not set", s.Variable("ADDR"))
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Sprintf("; the port does not speak TLS: %s must begin with http://", s.Variable("ADDR"))
	case errors.As(err, &unknownCA):
		return fmt.Sprintf("; %s names the file with the certificate of the server's CA", s.Variable("CACERT"))
	}
	return ""
}
