# For those who run the mount op/: the client, the grants, rotation after a leak.
# They cannot get an access token.
#
#   vault policy write op-operator operator.hcl
#   vault token create -policy=op-operator -no-default-policy
#
# Whoever may write op/config and op/grants decides which servers the engine talks to,
# and those servers see the tokens: operators cannot read a token, but have to be
# trusted that far.

# The client. The private key is never read back.
path "op/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# The grants. Reading one returns no token, no manage URL and no continuation. The
# first two paths are for lists without and with a slash at the end.
path "op/grants" {
  capabilities = ["list", "read"]
}
path "op/grants/" {
  capabilities = ["list", "read"]
}
path "op/grants/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# The roles, which say what op/creds/NAME asks for. They hold no secret.
path "op/roles" {
  capabilities = ["list", "read"]
}
path "op/roles/" {
  capabilities = ["list", "read"]
}
path "op/roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# Finish a grant that its owner has consented to. Returns no token.
path "op/grants/+/continue" {
  capabilities = ["update"]
}

# Make a leaked token worthless. Returns no token.
path "op/rotate/+" {
  capabilities = ["update"]
}

# Replace the client's key. No private key is ever returned.
path "op/keys" {
  capabilities = ["read"]
}
path "op/keys/rotate" {
  capabilities = ["update"]
}

# Revoke an application's lease by its id. The response is empty.
path "sys/leases/revoke" {
  capabilities        = ["update"]
  required_parameters = ["lease_id"]
  allowed_parameters = {
    "lease_id" = ["op/token/*", "op/creds/*"]
    "sync"     = []
  }
}
path "sys/leases/revoke/op/token/*" {
  capabilities = ["update"]
  allowed_parameters = {
    "sync" = [] # And no lease_id, which Vault would use instead of the one in the URL.
  }
}
path "sys/leases/revoke/op/creds/*" {
  capabilities = ["update"]
  allowed_parameters = {
    "sync" = []
  }
}

# Everything else is denied because no rule allows it. The following are denied
# explicitly, so that no other policy of the same token (such as the default one) can
# allow them: deny takes precedence over every other capability on the same path.

# A read returns a token.
path "op/token" {
  capabilities = ["deny"]
}
path "op/token/*" {
  capabilities = ["deny"]
}
path "op/creds/*" {
  capabilities = ["deny"]
}

# A renewal returns the token to whoever knows the lease's id, which is no secret (logs
# and audit logs hold it). The first two paths are in the default policy; sys/renew is
# the old name of sys/leases/renew.
path "sys/leases/renew" {
  capabilities = ["deny"]
}
path "sys/renew" {
  capabilities = ["deny"]
}
path "sys/leases/renew/*" {
  capabilities = ["deny"]
}
path "sys/renew/*" {
  capabilities = ["deny"]
}

# Not granted, and not to be granted together with this policy:
# - sys/mounts/op/tune and sys/audit: audit logs with values in clear text.
# - sys/plugins and sys/mounts: another program in place of the engine.
# - sys/raw: decrypted storage.
# - sys/policies, auth/token/create, identity: more rights than these.
# - sys/leases/lookup/ (list): the ids of all leases. A lookup returns no token, but
#   any token with the default policy can renew a lease whose id it knows.
# A wrapped response (sys/wrapping/unwrap) belongs to whoever has its wrapping token:
# no policy keeps it from an operator who has been given one.
