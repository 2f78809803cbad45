# Vault Proxy for applications that talk to Vault and should not log in themselves. Each
# has a grant of its own.
#
#   vault proxy -config=proxy.hcl
#
# There is deliberately no cache stanza: the cache would respond to renewals, and to reads
# of renewable leases, with tokens that are dead (docs/consumers.md).

vault {
  address = "https://vault.example:8200"
}

# Any other method works as well. Its Vault tokens have to come without the default policy
# (token_no_default_policy=true) and with policies/application.hcl, once for each grant.
auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-proxy/role_id"
      secret_id_file_path                 = "/etc/vault-proxy/secret_id"
      remove_secret_id_file_after_reading = false
    }
  }
}

api_proxy {
  use_auto_auth_token = true
}

# Whoever can reach the listener gets the tokens.
listener "tcp" {
  address     = "127.0.0.1:8100"
  tls_disable = true
}
