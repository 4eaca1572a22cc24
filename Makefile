# Everything works from a fresh clone on a machine with Go, make and git.
# make help lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

MODULES  := shared services/scheduler services/issuer services/notifier services/gateway agent cmd/rotor
BINARIES := rotor scheduler issuer notifier gateway agent
PATTERNS := $(addsuffix /...,$(addprefix ./,$(MODULES)))

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/rotor-fleet/rotor/shared/daemon.version=$(VERSION) -X main.version=$(VERSION)

# The race detector needs a C compiler; without one the tests run without it.
RACE := $(shell command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 && echo -race)

TOOLS         := $(CURDIR)/.bin
GOLANGCI      := $(TOOLS)/golangci-lint-v2.15.0
TEST_FLAGS    ?=
FUZZ_SECONDS  ?= 10
DATA          ?= var

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build all binaries into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rotor ./services/scheduler/cmd/scheduler \
		./services/issuer/cmd/issuer ./services/notifier/cmd/notifier ./services/gateway/cmd/gateway ./agent/cmd/agent

.PHONY: build-pkcs11
build-pkcs11: ## build bin/rotor and bin/issuer with PKCS#11, for keys in an HSM (needs a C compiler)
	@command -v gcc >/dev/null || command -v cc >/dev/null || { echo "a C compiler is missing: apt-get install gcc libc6-dev"; exit 1; }
	@mkdir -p bin
	CGO_ENABLED=1 go build -trimpath -tags pkcs11 -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rotor ./services/issuer/cmd/issuer

.PHONY: run
run: build ## build and run everything in one process, data in var/
	@mkdir -p $(DATA)
	@test -e $(DATA)/fleet.yaml || bin/rotor sample --output $(DATA)/fleet.yaml
	@exec bin/rotor up --data $(DATA) --fleet $(DATA)/fleet.yaml

.PHONY: programs
programs: build ## build what make up and make chaos need besides
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rotor/cmd/cluster
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/ github.com/nats-io/nats-server/v2

.PHONY: up
up: programs ## run three NATS nodes, two of each service and the agents, as programs; data in var/cluster/
	@mkdir -p $(DATA)/cluster
	@test -e $(DATA)/cluster/fleet.yaml || bin/rotor sample --output $(DATA)/cluster/fleet.yaml
	@exec bin/cluster up --data $(DATA)/cluster --fleet $(DATA)/cluster/fleet.yaml

CHAOS_SECONDS ?= 120
CHAOS_SEED    ?= 0

.PHONY: chaos
chaos: programs ## make bad days for CHAOS_SECONDS (default 120) from CHAOS_SEED (default any), and check the invariants
	@exec bin/cluster chaos --seconds $(CHAOS_SECONDS) --seed $(CHAOS_SEED) --verbose

.PHONY: test
test: ## run every test, with the end-to-end scripts
	go test -timeout 25m $(TEST_FLAGS) $(PATTERNS)

.PHONY: race
race: ## run every test under the race detector
	go test $(RACE) -timeout 25m $(TEST_FLAGS) $(PATTERNS)

.PHONY: e2e
e2e: ## run the end-to-end scripts on every topology
	go test -count=1 $(TEST_FLAGS) ./cmd/rotor -run 'TestScripts|TestStopped|TestLoss' -topologies one,four,cluster

.PHONY: e2e-trace
e2e-trace: ## run the scripts about traces with a real OpenTelemetry collector, built into the user's cache
	go test -count=1 $(TEST_FLAGS) -tags collector ./cmd/rotor -run 'TestTraceCollector'

.PHONY: e2e-kube
e2e-kube: ## deliver to a real kube-apiserver with etcd, and let it verify through a rotation; built into the user's cache (12 minutes, once)
	go test -count=1 -timeout 40m $(TEST_FLAGS) -tags kube ./cmd/rotor -run 'TestKubernetes'

.PHONY: test-pkcs11
test-pkcs11: ## test keys in an HSM with SoftHSM (package softhsm2, and a C compiler)
	@command -v softhsm2-util >/dev/null || { echo "SoftHSM is missing: apt-get install softhsm2"; exit 1; }
	CGO_ENABLED=1 go test -count=1 $(TEST_FLAGS) -tags pkcs11 ./services/issuer/internal/pkcs11
	CGO_ENABLED=1 go test -count=1 $(TEST_FLAGS) -tags pkcs11 ./cmd/rotor -run 'TestPKCS11'

.PHONY: e2e-ledger
e2e-ledger: ## check a real export of the ledger with the published verifier (python3 and openssl 3)
	@command -v python3 >/dev/null && command -v openssl >/dev/null || { echo "python3 or openssl is missing: install both"; exit 1; }
	go test -count=1 $(TEST_FLAGS) -tags python ./cmd/rotor -run 'TestThePublishedVerifier'

.PHONY: check-deploy
check-deploy: ## check the alert rules and the metrics of a running Rotor with promtool (package prometheus)
	@command -v promtool >/dev/null || { echo "promtool is missing: install the package prometheus"; exit 1; }
	cd deploy/prometheus && promtool check rules rules.yaml && promtool test rules rules_test.yaml
	go test -count=1 $(TEST_FLAGS) -tags promtool ./cmd/rotor -run 'TestPromtool'

.PHONY: bench
bench: ## measure the figures of docs/benchmarks.md, a few minutes on an idle machine
	@cat /proc/loadavg 2>/dev/null || true
	go test -run '^$$' -bench FigureIssuance -benchtime 5x ./services/issuer
	go test -run '^$$' -bench FigureLatency -benchtime 1x ./cmd/rotor/internal/up
	go test -run '^$$' -bench Figure -benchtime 1x -timeout 20m ./cmd/rotor

.PHONY: bench-parts
bench-parts: ## run the small benchmarks: one decision, one certificate, one token
	go test -run '^$$' -bench '^Benchmark[^F]' -benchmem $(PATTERNS)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZ_SECONDS (default 10)
	@set -e; for package in $$(go list $(PATTERNS)); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_SECONDS)s $$package; \
		done; \
	done

$(GOLANGCI):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOWORK=off go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(TOOLS)/golangci-lint $@

.PHONY: lint
lint: $(GOLANGCI) ## check style and common mistakes (installs the linter into .bin/)
	@set -e; for module in $(MODULES); do (cd $$module && $(GOLANGCI) run ./...); done

.PHONY: fmt
fmt: $(GOLANGCI) ## format the code
	@set -e; for module in $(MODULES); do (cd $$module && $(GOLANGCI) fmt ./...); done

.PHONY: isolated
isolated: ## build each module on its own, as those who import it do
	@set -e; for module in $(MODULES); do (cd $$module && GOWORK=off go vet ./... && GOWORK=off go build -o /dev/null ./...); done

.PHONY: gen
gen: ## make the generated documents anew (OpenAPI, AsyncAPI, events)
	go test ./services/gateway -run TestDocuments -update

.PHONY: tidy
tidy: ## tidy every go.mod
	@set -e; for module in $(MODULES); do (cd $$module && go mod tidy); done

.PHONY: generated
generated: gen ## fail if a generated document is not up to date
	@git diff --exit-code -- docs || { echo "generated documents are not up to date: run make gen and commit"; exit 1; }

.PHONY: check
check: lint isolated build race generated ## all that CI runs

.PHONY: clean
clean: ## remove binaries and installed tools; data in var/ stays
	rm -rf bin .bin
