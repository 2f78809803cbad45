# This Vault Proxy serves applications that talk to Vault and do not log in themselves. Each
# application has a grant of its own.
#
#   vault proxy -config=proxy.hcl
#
# There is deliberately no cache stanza: the cache would respond to renewals, and to reads of
# renewable leases, with dead tokens (docs/consumers.md).

vault {
  address = "https://vault.example:8200"
}

# Any other auth method works. Its Vault tokens must not have the default policy
# (token_no_default_policy=true) and must have policies/application.hcl, once for each grant.
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

# Whoever can connect to the listener gets the tokens.
listener "tcp" {
  address     = "127.0.0.1:8100"
  tls_disable = true
}
