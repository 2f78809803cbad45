# This policy is for an application that uses the grant shop-income of the mount op/ and nothing
# else. Replace them with your grant and mount; for a role, replace op/token/NAME with op/creds/NAME
# everywhere, and op/sign/NAME with op/creds/NAME/sign.
#
#   vault policy write shop-app application.hcl
#   vault token create -policy=shop-app -no-default-policy
#
# Issue the token WITHOUT the default policy (auth methods: token_no_default_policy=true). A lease
# id is a bearer credential: the response to a renewal contains the live token, and the default
# policy lets any token renew any lease whose id it knows. Lease ids are in clear text in logs.
# Policies add up, so the default policy would lift the restrictions below.

# Get a token: this rotates the grant and returns a lease. Plain op/token is not allowed, because
# the ids of its leases do not contain the grant's name.
path "op/token/shop-income" {
  capabilities = ["read"]
}

# Have requests signed with the client's key, which the application never sees: only requests to the
# resource server that the grant's rights allow, and only with the grant's token.
path "op/sign/shop-income" {
  capabilities = ["update"]
}

# Renew its leases. The Go, CLI and Agent clients send the lease id in the body …
path "sys/leases/renew" {
  capabilities        = ["update"]
  required_parameters = ["lease_id"]
  allowed_parameters = {
    "lease_id"  = ["op/token/shop-income/*"]
    "increment" = []
  }
}

# … others as a part of the URL. If a request has both, Vault uses the one in the body, so a
# lease_id in the body must not be allowed here: without allowed_parameters this path would renew
# any lease.
path "sys/leases/renew/op/token/shop-income/*" {
  capabilities = ["update"]
  allowed_parameters = {
    "increment" = []
  }
}

# Revoke its leases. The same applies, except that here the Go and CLI clients put the id into the
# URL.
path "sys/leases/revoke" {
  capabilities        = ["update"]
  required_parameters = ["lease_id"]
  allowed_parameters = {
    "lease_id" = ["op/token/shop-income/*"]
    "sync"     = []
  }
}
path "sys/leases/revoke/op/token/shop-income/*" {
  capabilities = ["update"]
  allowed_parameters = {
    "sync" = []
  }
}

# Keep its own Vault token alive, which the default policy would have allowed. The leases end with
# that token.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
