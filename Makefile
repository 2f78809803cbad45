# "make help" lists the targets.
.DEFAULT_GOAL := help
# Where the sandbox listens: the address in the commands of README.md and examples/README.md.
SANDBOX_ADDR ?= 127.0.0.1:39183

.PHONY: help build sandbox quickstart test test-sdks fuzz lint bench soak load cluster vault

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build the plugin, the sandbox, open-payments-grant and open-payments-proxy into bin/
	@scripts/build

sandbox: build ## start the sandbox: a wallet on loopback, for trying; SANDBOX_ADDR=127.0.0.1:0 takes any free port
	@bin/open-payments-sandbox -addr $(SANDBOX_ADDR)

quickstart: ## a tour on a real Vault server and the sandbox; with QUICKSTART_EXIT=1 it neither waits nor stays
	@scripts/quickstart

test: ## every check and test; installs and builds what it needs
	@scripts/test

fuzz: ## each fuzz target for FUZZTIME (10s), two at a time
	@scripts/fuzz

test-sdks: ## the official clients through the proxy; needs Java, Python and Rust besides, and says so
	@scripts/test-sdks

lint: ## golangci-lint, as pinned in tools/lint
	@scripts/lint

bench: ## benchmarks: rotating next to the SDK, signing next to transit, neighbours, a tick with 100 000 grants
	@go test -run '^$$' -bench . -benchmem ./...

soak: ## 50 000 rotations against bad servers, on bad storage; under ten minutes
	@go test -count 1 -run '^TestSoak$$' -v -timeout 15m ./backend -soak

load: ## 64 applications for two minutes on 2 000 grants and a real Vault server
	@go test -count 1 -run '^TestApplications$$' -v -timeout 15m ./test/e2e -load

cluster: ## disturb the leader of a real cluster 24 times under load (10 to 20 minutes)
	@go test -count=1 -v -run 'TestCluster$$' -timeout 60m ./test/e2e -disturbances 24

vault: ## print the path of a Vault server; builds it once if there is none
	@scripts/vault
