# This policy is for the operators of the mount op/: the client, the grants, rotation after a leak.
# It gives no access to tokens.
#
#   vault policy write op-operator operator.hcl
#   vault token create -policy=op-operator -no-default-policy
#
# Whoever may write op/config and op/grants decides which servers the engine talks to, and those
# servers see the tokens: operators cannot read tokens, but have to be trusted to that extent.

# The client. A read never returns the private key.
path "op/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# The grants. A read returns no token, no manage URL and no continuation. The first two paths are
# for lists, without and with a trailing slash.
path "op/grants" {
  capabilities = ["list", "read"]
}
path "op/grants/" {
  capabilities = ["list", "read"]
}
path "op/grants/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# The roles, from which leases with grants of their own are made. They contain no secret.
path "op/roles" {
  capabilities = ["list", "read"]
}
path "op/roles/" {
  capabilities = ["list", "read"]
}
path "op/roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# Finish a grant that its owner has consented to. This hands out nothing.
path "op/grants/+/continue" {
  capabilities = ["update"]
}

# Make a leaked token worthless. This hands out nothing.
path "op/rotate/+" {
  capabilities = ["update"]
}

# Replace the client's key. No response contains a private key.
path "op/keys" {
  capabilities = ["read"]
}
path "op/keys/rotate" {
  capabilities = ["update"]
}

# Revoke an application's lease, by its id. The response is empty.
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
    "sync" = [] # and no lease_id, which Vault would prefer to the one in the URL
  }
}
path "sys/leases/revoke/op/creds/*" {
  capabilities = ["update"]
  allowed_parameters = {
    "sync" = []
  }
}

# Everything else is denied because no rule allows it. The following paths are denied explicitly, so
# that no other policy of the same token, such as the default one, can allow them: for the same
# path, deny takes precedence over everything else.

# A read hands out a token.
path "op/token" {
  capabilities = ["deny"]
}
path "op/token/*" {
  capabilities = ["deny"]
}
path "op/creds/*" {
  capabilities = ["deny"]
}

# A renewal hands out the token to anyone who knows the lease's id, and ids are not secret: logs and
# audit logs contain them. The first two paths are in the default policy; sys/renew is the old name
# of sys/leases/renew.
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
# - sys/mounts/op/tune and sys/audit: audit logs with values in clear.
# - sys/plugins and sys/mounts: another program in the engine's place.
# - sys/raw: storage, decrypted.
# - sys/policies, auth/token/create, identity: more rights than these.
# - sys/leases/lookup/ (list): the ids of all leases. A lookup shows no token, but
#   with an id any token with the default policy can renew.
# A wrapped response (sys/wrapping/unwrap) belongs to whoever has its wrapping token: no policy
# keeps an operator who has been given one from unwrapping it.
