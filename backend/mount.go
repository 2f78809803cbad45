// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"path"
	"strings"
	"sync"
)

// namespaces remembers whether the server has namespaces, which does not change while the plugin
// runs.
type namespaces struct {
	once  sync.Once
	known bool
}

// mountAsWritten returns the mount point as users write it. In a namespace, the mount point that a
// plugin is given begins with the namespace's path, and no part of a request says where that ends
// and the mount's own path begins. Where there can be namespaces, the last segment is taken for the
// mount's own path: ns1/op/ becomes op/. Whoever mounts the engine at a path of several segments on
// such a server reads the last one, too. Community editions of Vault have no namespaces, and their
// mount points are left as they are.
func (b *Backend) mountAsWritten(ctx context.Context, mount string) string {
	if strings.Count(mount, "/") < 2 {
		return mount
	}
	b.namespaces.once.Do(func() { b.namespaces.known = b.hasNamespaces(ctx) })
	if !b.namespaces.known {
		return mount
	}
	return path.Base(mount) + "/"
}

// hasNamespaces reports whether the server is an Enterprise edition of Vault, or OpenBao: of these,
// OpenBao alone does not say when it was built.
func (b *Backend) hasNamespaces(ctx context.Context) bool {
	env, err := b.System().PluginEnv(ctx)
	if err != nil || env == nil {
		return false
	}
	return strings.Contains(env.VaultVersionMetadata, "ent") || env.VaultBuildDate == nil
}
