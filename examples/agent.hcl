# This Vault Agent serves one application that uses the grant shop-income of the mount op/: it keeps
# the grant's current token in a file.
#
#   vault write op/grants/shop-income renewable=false
#   vault agent -config=agent.hcl
#
# docs/consumers.md explains why the grant needs renewable=false, and what the application does when
# a token is rejected.

vault {
  address = "https://vault.example:8200"
}

# Any other auth method works. Its Vault tokens must not have the default policy
# (token_no_default_policy=true) and must have policies/application.hcl.
auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-agent/role_id"
      secret_id_file_path                 = "/etc/vault-agent/secret_id"
      remove_secret_id_file_after_reading = false
    }
  }
}

# Agent replaces the file as a whole, so that no reader sees half a token. Further templates with
# the same path share its reads.
template {
  contents    = "{{ with secret \"op/token/shop-income\" }}{{ .Data.access_token }}{{ end }}"
  destination = "/run/shop/token"
  perms       = "0600"
}
