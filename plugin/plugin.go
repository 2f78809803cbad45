// SPDX-License-Identifier: MPL-2.0

// Package plugin serves the secrets engine to Vault, as a process of its own.
package plugin

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/backend"
)

// Version is what Vault shows as the running version of the plugin. Vault
// enables only vX.Y.Z, with or without a pre-release. A build sets it with
// -ldflags "-X <this package>.Version=vX.Y.Z".
var Version = "v0.1.0"

const name = "vault-plugin-secrets-open-payments"

// Main is the plugin's process: it reads the arguments, serves until Vault has
// had enough, and returns the exit status. Vault passes whatever arguments the
// plugin was registered with; none is needed.
func Main(args []string, stdout, stderr io.Writer) int {
	meta := &api.PluginAPIClientMeta{}
	flags := meta.FlagSet()
	flags.Init(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	version := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil: // Parse has said what is wrong.
		return 2
	case *version:
		if _, err := fmt.Fprintln(stdout, Version); err != nil {
			return 1
		}
		return 0
	}

	// Vault reads JSON lines from here, drops those below its own level and
	// writes the others to its log. So everything is written: with a level of
	// our own, raising Vault's would show nothing more.
	logger := hclog.New(&hclog.LoggerOptions{
		Level:      hclog.Trace,
		Output:     stderr,
		JSONFormat: true,
	})
	go endWith(parent, time.Second)

	logger.Debug("serving the Open Payments secrets engine", "version", Version, "pid", os.Getpid())
	// Serve and not ServeMultiplex: one process per mount. In a shared process
	// the reload of one mount kills the requests of all, and a rotation among
	// them would lose its grant.
	err := plugin.Serve(&plugin.ServeOpts{
		BackendFactoryFunc: backend.Factory(Version),
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
		Logger:             logger,
	})
	if err != nil {
		logger.Error("cannot serve the plugin", "error", err)
		return 1
	}
	return 0
}
