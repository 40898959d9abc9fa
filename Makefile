# make check    formatting, the order of the rooms, lints, documentation
# make test     all tests
# make deb      packages for amd64, arm64 and armhf, into dist/ (Debian 12, amd64; see docs/packages.md)
# make static   archives with static programs for amd64, arm64, armv7, armv6 and riscv64, into dist/ (the same)
# make image    the container image for the same, into dist/
# make dist     all files of a release, with checksums, into dist/ (the same; see docs/release.md)
# make release  checks, packages and a tag for this version; DRY_RUN=1 only says what it would do
# make install  program, man pages, completions and unit, from target/release (DESTDIR, PREFIX)

PREFIX ?= /usr/local
ARCHS ?= amd64 arm64 armhf
STATIC ?= amd64 arm64 armv7 armv6 riscv64
CARGO ?= cargo
PROGRAM ?= target/release/iofog-connector
# The last commit's time, so that one commit makes one and the same package.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || dpkg-parsechangelog -STimestamp)

.PHONY: all check test deb static image dist release install

all:
	$(CARGO) build --release --locked

check:
	$(CARGO) fmt --check
	.ci/rooms
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --document-private-items --locked

test:
	$(CARGO) test --locked

deb:
	cross/build $(ARCHS)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) cross/package $(ARCHS)

static:
	cross/build $(STATIC:%=static-%)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) cross/tarball $(STATIC)

image:
	cross/build $(STATIC:%=static-%)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) cross/image

# ARCHS=... names a part of them, as cross/build does.
dist:
	cross/dist $(if $(filter command% environment%,$(origin ARCHS)),$(ARCHS))

release:
	cross/release

install:
	install -D -m 0755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/iofog-connector
	install -D -m 0644 docs/man/iofog-connector.1 $(DESTDIR)$(PREFIX)/share/man/man1/iofog-connector.1
	install -D -m 0644 docs/man/iofog-connector.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5/iofog-connector.conf.5
	install -D -m 0644 debian/iofog-connector.bash-completion \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/iofog-connector
	install -D -m 0644 debian/iofog-connector.zsh-completion \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_iofog-connector
	install -D -m 0644 debian/iofog-connector.fish-completion \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/iofog-connector.fish
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in iofog-connector.service iofog-connector-tunnel@.service \
		iofog-connector-tunnels.service; do \
		sed 's|/usr/bin/|$(PREFIX)/bin/|' debian/$$unit >"$(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit"; \
	done
	[ -e $(DESTDIR)/etc/iofog-connector/iofog-connector.conf ] || install -D -m 0644 \
		debian/iofog-connector.conf $(DESTDIR)/etc/iofog-connector/iofog-connector.conf
