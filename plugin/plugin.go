// SPDX-License-Identifier: MPL-2.0

package plugin

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/backend"
)

// Version is the plugin's version, which Vault shows as its running version. Vault enables a plugin
// only if the version has the form vX.Y.Z, with or without a pre-release. Builds set it with
// -ldflags "-X <this package>.Version=vX.Y.Z".
var Version = "v0.1.0"

const name = "vault-plugin-secrets-open-payments"

// Main runs the plugin process: it parses the arguments, serves the engine until Vault ends it, and
// returns the exit status: 0, 1 if it failed, 2 for wrong usage. Vault passes the arguments that
// the plugin was registered with; none is required.
func Main(args []string, stdout, stderr io.Writer) int {
	meta := &api.PluginAPIClientMeta{}
	flags := meta.FlagSet()
	flags.Init(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	version := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil: // Parse has printed it.
		return 2
	case *version:
		if _, err := fmt.Fprintln(stdout, Version); err != nil {
			return 1
		}
		return 0
	}

	// Vault reads these JSON lines, drops those below its own log level and writes the others to
	// its log. So the plugin writes all of them: if it had a level of its own, lowering Vault's
	// would show nothing more.
	logger := hclog.New(&hclog.LoggerOptions{
		Level:      hclog.Trace,
		Output:     stderr,
		JSONFormat: true,
	})
	discardStandardLog()
	if err := forbidCoreDumps(); err != nil {
		logger.Warn("core dumps of this process cannot be switched off; they hold the client's key", "error", err)
	}
	go exitWith(parent, time.Second)

	logger.Debug("serving the Open Payments secrets engine", "version", Version, "pid", os.Getpid())
	// Serve and not ServeMultiplex, so that each mount has its own process: in a shared one,
	// reloading one mount kills the requests of all, and a rotation among them would lose its
	// grant.
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

// discardStandardLog drops what libraries write to the standard logger. In this process that is
// net/http, which logs word for word what a server sends after the end of an answer: with a
// Content-Length that is too small, or an answer that is sent twice, that can be a token.
func discardStandardLog() { log.SetOutput(io.Discard) }
