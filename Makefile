# "make build" and "make test" need only Go. "make e2e" needs Debian, and installs
# its clients with apt-get, npm, pip, Maven and Cargo.

FUZZTIME ?= 10s
SOAK ?= 10m
FAULTS ?= 10m
ROUNDS ?= 100
# More flags for "go test", such as -v or -run=TestName.
GOTESTFLAGS ?=
# Flags of bench/fanout, such as -rounds=1 or -targets=baseline,sse.
FANOUTFLAGS ?=
# Flags of bench/cluster, such as -nodes=3 or -subscribers=500.
CLUSTERFLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help build test race long check gofmt vet staticcheck vulncheck fuzz e2e rumqttc bench bench-cluster bench-fanout soak faults attack ci clean FORCE

help: ## List all targets
	@echo 'make TARGET, where TARGET is one of:'
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: bin/pubsub ## Build bin/pubsub

bin/pubsub: FORCE
	go build -o $@ ./cmd/pubsub

test: ## Run the tests that need only Go
	go test $(GOTESTFLAGS) ./...

race: ## Run the same tests with the race detector
	@.ci/need 'gcc libc6-dev' gcc --version
	go test -race $(GOTESTFLAGS) ./...

# With the race detector: LONG_TESTS=1 make race
long: ## Run all tests that need only Go, long ones included
	LONG_TESTS=1 go test -timeout 30m $(GOTESTFLAGS) ./...

check: gofmt vet staticcheck vulncheck ## Check formatting, vet, staticcheck, known vulnerabilities

gofmt:
	@unformatted=$$(git ls-files --cached --others --exclude-standard -z '*.go' | xargs -0 ls 2>/dev/null | xargs gofmt -l) && \
		{ test -z "$$unformatted" || { echo "Run gofmt -w on:"; echo "$$unformatted"; exit 1; } >&2; }

vet:
	go vet -tags e2e ./...

staticcheck:
	go tool staticcheck -tags e2e ./...

vulncheck:
	@.ci/vulncheck

fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

e2e: test/e2e/node_modules/.package-lock.json test/e2e/python_modules/.installed test/e2e/java_modules/.installed rumqttc ## Run real clients against the binary; installs them
	@.ci/need curl curl --version
	@.ci/need python3-jwt /usr/bin/python3 -c 'import jwt'
	@.ci/need chromium /usr/bin/chromium --version
	@.ci/need varnish /usr/sbin/varnishd -V
	@.ci/need nginx-light /usr/sbin/nginx -v
	@go test -tags e2e -count=1 -timeout 15m $(GOTESTFLAGS) ./test/e2e

test/e2e/node_modules/.package-lock.json: test/e2e/package.json test/e2e/package-lock.json
	cd test/e2e && npm ci
	@touch $@

test/e2e/python_modules/.installed: test/e2e/requirements.txt
	@.ci/need python3-pip /usr/bin/python3 -m pip --version
	/usr/bin/python3 -m pip install --quiet --root-user-action=ignore --upgrade --target $(@D) -r $<
	@touch $@

# PahoClient.java needs Paho's Java client, and no build.
test/e2e/java_modules/.installed: Makefile
	@.ci/need default-jdk-headless java --list-modules
	@.ci/need maven mvn --version
	mvn --quiet --batch-mode dependency:copy -DoutputDirectory=test/e2e/java_modules \
		-Dartifact=org.eclipse.paho:org.eclipse.paho.mqttv5.client:1.2.5
	@touch $@

rumqttc:
	@.ci/need cargo cargo --version
	cargo build --quiet --locked --manifest-path test/e2e/rumqttc/Cargo.toml --target-dir test/e2e/rumqttc/target

bench: ## Run the benchmarks of all packages
	go test -run '^$$' -bench . -benchmem $(GOTESTFLAGS) ./...

bench-fanout: ## Compare brokers, in ten minutes, or less with FANOUTFLAGS
	go run ./bench/fanout $(FANOUTFLAGS)

bench-cluster: ## Measure ten nodes on NATS with 150,000 subscribers, or less with CLUSTERFLAGS
	go run ./bench/cluster $(CLUSTERFLAGS)

soak: bin/pubsub ## Check deliveries to 5,000 subscribers that come, go and stall, for SOAK (10m)
	go run ./test/soak -binary bin/pubsub -duration $(SOAK)

faults: ## Check deliveries of a cluster under injected faults, for FAULTS (10m)
	go test -count=1 -v -timeout 0 $(GOTESTFLAGS) ./test/fault -run TestFaults -faults.duration $(FAULTS)

attack: ## Check a broker that is flooded with connections and killed, ROUNDS times (100)
	go test -count=1 -v -timeout 0 $(GOTESTFLAGS) ./test/attack -run TestAttack -attack.rounds $(ROUNDS)

ci: ## Run the gate that every change must pass
	.ci/run

clean: ## Remove everything built or installed here
	rm -rf bin test/e2e/node_modules test/e2e/python_modules test/e2e/java_modules test/e2e/rumqttc/target
