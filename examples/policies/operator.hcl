# For those who run the mount op/: the client, the grants, rotation after a leak.
# They get at no access token.
#
#   vault policy write op-operator operator.hcl
#   vault token create -policy=op-operator -no-default-policy
#
# Who may write op/config and op/grants says which servers the engine talks to, and
# those servers see the tokens: operators can read none, but must be trusted so far.

# The client. The private key is never read back.
path "op/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# The grants. Reading one answers no token, no manage URL and no continuation. The
# first path is for lists with and without a slash at the end.
path "op/grants" {
  capabilities = ["list", "read"]
}
path "op/grants/" {
  capabilities = ["list", "read"]
}
path "op/grants/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# The roles that leases with grants of their own are made by. They hold no secret.
path "op/roles" {
  capabilities = ["list", "read"]
}
path "op/roles/" {
  capabilities = ["list", "read"]
}
path "op/roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# Finish a grant that its owner has consented to. Hands nothing out.
path "op/grants/+/continue" {
  capabilities = ["update"]
}

# Make a leaked token worthless. Hands nothing out.
path "op/rotate/+" {
  capabilities = ["update"]
}

# Replace the client's key. No private key is ever shown.
path "op/keys" {
  capabilities = ["read"]
}
path "op/keys/rotate" {
  capabilities = ["update"]
}

# Revoke an application's lease, by its id. The answer is empty.
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
    "sync" = [] # And no lease_id, which Vault would prefer to the one in the URL.
  }
}
path "sys/leases/revoke/op/creds/*" {
  capabilities = ["update"]
  allowed_parameters = {
    "sync" = []
  }
}

# Everything else is denied for want of a rule. These are denied in so many words,
# so that no other policy of the same token (the default one!) can allow them:
# denial wins over every permission for the same path.

# A read hands a token out.
path "op/token" {
  capabilities = ["deny"]
}
path "op/token/*" {
  capabilities = ["deny"]
}
path "op/creds/*" {
  capabilities = ["deny"]
}

# A renewal hands the token out, to whoever knows the lease's id; an id is no secret
# (logs and audit logs have it). The first two are in the default policy;
# sys/renew is the old name of sys/leases/renew.
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
# A wrapped answer (sys/wrapping/unwrap) belongs to whoever has its wrapping token:
# no policy keeps that from an operator who has been handed one.
