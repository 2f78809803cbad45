// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// Vault's periodic ticks, one a minute, keep an unused grant alive.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", 8*time.Second)
	e.ask("idle", map[string]any{"keepalive": "1m"})
	e.ask("left-alone", map[string]any{"keepalive": 0})
	begun := time.Now()
	for e.grant("idle")["last_rotation_cause"] != "keepalive" {
		if time.Since(begun) > 5*time.Minute {
			t.Fatal("the grant is not kept alive")
		}
		time.Sleep(time.Second)
	}
	if age := time.Since(begun); age < time.Minute-2*time.Second { // the grant is slightly older
		t.Errorf("rotated after %s", age)
	}
	e.checkData(e.grant("idle"), map[string]any{"status": "active", "intent_open": false, "keepalive": 60})
	e.checkData(e.grant("left-alone"), map[string]any{"generation": 1, "keepalive": 0})
	e.checkLive(e.tokenOf(e.read("idle")))
	e.checkLive(e.tokenOf(e.read("left-alone")))
}
