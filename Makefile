# The commands of the project; `make` lists them. Everything built or fetched lies in target/ and .cache/.

DEJAVM := target/release/dejavm
CARGO := cargo

# Absolute, and for tests too: cargo runs each in its own folder.
export DEJAVM_CACHE ?= $(CURDIR)/.cache
export DEJAVM_IMAGES ?= $(DEJAVM_CACHE)/images

.PHONY: help deps build images demo test test-second-build lab lab-exact lab-bench judges debian fuzz silicon bench ci clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24

deps: ## installs what is missing on this machine (apt; nothing when nothing is missing)
	@tools/install-deps.sh build

build: deps ## builds everything, optimized
	$(CARGO) build --release --workspace

images: deps ## fetches Debian kernels and builds the test guests' initramfs into .cache/images
	@images/fetch-kernels.sh
	@images/build-initramfs.sh
	@images/build-disk.sh
	@images/build-network.sh

demo: deps ## records a Debian kernel that panics, replays it, proves both equal
	$(CARGO) build --release -p dejavm
	@images/fetch-kernels.sh cloud-amd64
	@images/build-initramfs.sh amd64
	@tools/demo.sh $(DEJAVM)

test: images ## runs all tests
	@tools/install-deps.sh test
	@tests/judges/install.sh
	$(CARGO) test --quiet --release --workspace --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --release --workspace; \
	else \
	    set -x; $(CARGO) test --release --workspace --all-targets; \
	fi
	@$(MAKE) --no-print-directory test-second-build
	@$(MAKE) --no-print-directory lab

# Features of two packages can be chosen only when both are built.
test-second-build: images ## records with one build, replays with another
	$(CARGO) build --quiet --release -p dejavm
	$(CARGO) build --quiet --profile second -p dejavm -p dejavm-cpu --features dejavm-cpu/loop-dispatch
	@tests/second-build.sh $(DEJAVM) target/second/dejavm

LAB = target/lab/x86_64-unknown-linux-gnu/release

# Static, for there is nothing else in the lab; in a folder of its own, for it is other code.
lab: images ## runs guests on a real KVM, in a host that QEMU emulates
	@tools/install-deps.sh test lab
	RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" \
	    $(CARGO) build --quiet --release -p dejavm -p dejavm-kvm-lab --target x86_64-unknown-linux-gnu --target-dir target/lab
	@tests/kvm-lab/run.sh -b $(LAB)/dejavm -b $(LAB)/dejavm-kvm-lab -o target/lab/recordings \
	    -g vmlinuz-cloud-amd64 -g initramfs-amd64.gz \
	    $(LAB)/dejavm-kvm-lab $(LAB)/dejavm-kvm-lab-linux tests/kvm-lab/commands
	@$(LAB)/dejavm-kvm-lab guests target/lab/recordings
	@tests/kvm-lab/debug.sh $(LAB)/dejavm target/lab/recordings/counter.dvr target/lab/recordings/counter.elf
	@timeout 900 tests/kvm-lab/live.sh $(LAB)/dejavm $(LAB)/dejavm-kvm-lab target/lab/recordings target/lab/recordings/counter.elf
	@tests/kvm-lab/debug.sh $(LAB)/dejavm target/lab/recordings/live.dvr target/lab/recordings/counter.elf

# Left out of `test`: it fetches a package of 139 MB, compiles a kernel, and runs it 24 times in the lab; some ten minutes on two cores.
lab-exact: images ## runs a Linux in the lab whose replays on KVM are to be equal
	@tools/install-deps.sh test lab
	@images/build-linux-586.sh
	RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" \
	    $(CARGO) build --quiet --release -p dejavm -p dejavm-kvm-lab --target x86_64-unknown-linux-gnu --target-dir target/lab
	@tests/kvm-lab/run.sh -o target/lab/recordings -g vmlinux-586 -g initramfs-586.cpio $(LAB)/dejavm-kvm-lab-exact
	@tests/kvm-lab/follow.sh $(LAB)/dejavm target/lab/recordings/exact-[1-4].dvr

QEMU_KVM = qemu-system-x86_64-microvm
# Left out of `test`: times are no test.
lab-bench: images ## measures what recording costs on a real KVM, and QEMU there, in the lab
	@tools/install-deps.sh bench lab
	@images/build-bench.sh
	RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" \
	    $(CARGO) build --quiet --release -p dejavm -p dejavm-bench --target x86_64-unknown-linux-gnu --target-dir target/lab
	@tests/kvm-lab/run.sh -t -b $(LAB)/dejavm -b $(LAB)/dejavm-bench -g vmlinuz-cloud-amd64 -g initramfs-amd64.gz -g bench/exits.elf \
	    -l "$$(command -v $(QEMU_KVM))" -l /usr/share/qemu/pvh.bin -l /usr/share/qemu/qboot.rom -l /usr/share/qemu/linuxboot_dma.bin \
	    tests/kvm-lab/bench

# Left out of `test`: they need tens of megabytes of other people's debuggers, and a package of 855 MB (1.5 GB of disk while
# it is unpacked, 631 MB afterwards).
judges: images ## runs the slow judges: VS Code's debug adapters; gdb, crash and drgn with the vmlinux of Debian's kernel (fetches 900 MB)
	@tools/install-deps.sh test judges
	@tests/judges/install.sh
	@tests/gdb/fetch-adapters.sh
	@images/fetch-dbg.sh amd64
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --release -p dejavm-gdb-tests --test adapters; \
	else \
	    set -x; $(CARGO) test --release -p dejavm-gdb-tests --test adapters; \
	fi
	$(CARGO) test --release -p dejavm -p getlinuxoffsets --test judge_vmlinux
	$(CARGO) test --release -p dejavm --test judge_crash
	$(CARGO) test --release -p vmss2core --test judge_lldb

# Left out of `test`: each of two disks takes five minutes and 400 MB to build, a run three.
debian: deps ## records a Debian disk from BIOS to power-off, with work over ssh in it, and replays that: with virtio and a reboot, then two CPUs, then IDE and e1000, then with 32 bits; and the first pass of memtest86+
	@tools/install-deps.sh debian
	@images/build-debian-disk.sh amd64
	@images/build-debian-disk.sh i386
	$(CARGO) build --release -p dejavm
	@DEJAVM_KERNEL=cloud DEJAVM_REBOOT=yes tests/debian/run.sh $(DEJAVM) virtio
	@tests/debian/run.sh $(DEJAVM) smp --smp 2
	@DEJAVM_DISK_IF=ide DEJAVM_NIC=e1000 tests/debian/run.sh $(DEJAVM) ide
	@DEJAVM_ARCH=i386 tests/debian/run.sh $(DEJAVM) i386
	@tests/debian/vmx.sh $(DEJAVM)
	@tests/debian/memtest.sh $(DEJAVM)

# Not for a test: it ends when its time is up, not when something is shown.
SECONDS ?= 120
fuzz: ## runs the fuzzers, each for a while: SECONDS=600 TARGETS=guest_code
	@tools/install-deps.sh fuzz
	@tests/fuzz/run.sh $(SECONDS) $(TARGETS)

silicon: ## compares the software CPU with this processor over 100 million new cases a family
	DEJAVM_SILICON_SEED=$$(date +%s) DEJAVM_SILICON_CASES=100000000 $(CARGO) test --release -p dejavm-silicon -- --nocapture --test-threads 1

bench: images ## measures side by side with QEMU: BENCH="--rounds 5 --json"
	@tools/install-deps.sh bench
	@images/build-bench.sh
	$(CARGO) build --release -p dejavm -p vmss2core -p dejavm-bench
	target/release/dejavm-bench $(BENCH)
	@tests/bench/disk.sh $(DEJAVM)
	@tests/bench/network.sh $(DEJAVM)

ci: ## what the integration machine runs
	.ci/run

clean: ## removes what was built; the fetched packages stay (rm -r .cache removes them)
	$(CARGO) clean
	rm -rf $(DEJAVM_CACHE)/demo $(DEJAVM_CACHE)/bench
