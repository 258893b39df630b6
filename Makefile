# One Makefile for all of libqchain; there is no configure step.
#
#   make            the library, the tools and the examples, into build/
#   make check      every test that CI runs on each change
#   make help       all targets and settings
#
# make itself needs nothing but a shell: what asks pkg-config does so when it is
# first used, so that `make deps` can install pkg-config, or the compiler.

VERSION  := 0.1.0
SOMAJOR  := 0
BUILD    ?= build
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
BINDIR   ?= $(PREFIX)/bin
INCDIR   ?= $(PREFIX)/include
MANDIR   ?= $(PREFIX)/share/man
CFLAGS   ?= -O2 -g
PYTHON   ?= $(firstword $(wildcard /usr/bin/python3) python3)
PKG      ?= pkg-config
FUZZ_SECONDS ?= 30
CHAINS   ?= $(if $(SAN),12,60)
ifeq ($(origin CC),default)
CC := gcc
endif

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory --no-builtin-rules

ifeq ($(V),1)
Q   :=
say := @:
else
Q   := @
say = @printf '  %-5s %s\n' $(1) $(subst $(BUILD)/,,$@)
endif

# ------------------------------------------------------------------- flags ---

# $(call once,NAME,COMMAND): NAME is the command's output, asked for at first use.
once = $(eval $(1) := $(shell $(2)))$($(1))

HAVE_LIBDEFLATE = $(call once,HAVE_LIBDEFLATE,$(if $(NO_LIBDEFLATE),:,$(PKG) --exists libdeflate 2>/dev/null && echo libdeflate))
HAVE_LIBURING = $(call once,HAVE_LIBURING,$(if $(NO_LIBURING),:,$(PKG) --exists 'liburing >= 2.2' 2>/dev/null && echo liburing))
# Asked for at once, since it says what there is to make. Without it there is no qchain-fuse.
HAVE_FUSE := $(if $(NO_FUSE),,$(shell $(PKG) --exists 'fuse3 >= 3.12' 2>/dev/null && echo fuse3))
# And without this one no plugin for nbdkit.
HAVE_NBDKIT := $(if $(NO_NBDKIT),,$(shell $(PKG) --exists 'nbdkit >= 1.30' 2>/dev/null && echo nbdkit))
HAVE_LIBNBD := $(if $(HAVE_NBDKIT),$(shell $(PKG) --exists libnbd 2>/dev/null && echo libnbd))
PACKAGES   = zlib libzstd $(HAVE_LIBDEFLATE) $(HAVE_LIBURING)
PKG_CFLAGS = $(call once,PKG_CFLAGS,$(PKG) --cflags $(PACKAGES))
FUSE_CFLAGS = $(call once,FUSE_CFLAGS,$(PKG) --cflags $(HAVE_FUSE))
FUSE_LIBS  = $(call once,FUSE_LIBS,$(PKG) --libs $(HAVE_FUSE))
NBDKIT_CFLAGS = $(call once,NBDKIT_CFLAGS,$(PKG) --cflags $(HAVE_NBDKIT))
CURL_CFLAGS = $(call once,CURL_CFLAGS,$(PKG) --cflags libcurl)
PKG_LIBS   = $(call once,PKG_LIBS,$(PKG) --libs $(PACKAGES))
NBD_LIBS   = $(call once,NBD_LIBS,$(PKG) --libs libnbd)
CURL_LIBS  = $(call once,CURL_LIBS,$(PKG) --libs libcurl)
CMOCKA_LIBS = $(call once,CMOCKA_LIBS,$(PKG) --libs cmocka)

SAN_FLAGS  = $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -pthread -MMD -MP $(CFLAGS) \
	-Wall -Wextra -Wmissing-prototypes -Wstrict-prototypes -Wshadow -Wvla \
	$(if $(WERROR),-Werror) $(SAN_FLAGS) $(CPPFLAGS)
# Both libraries are made of the same, position-independent objects: the cost is
# below what the bench can see, and the static library can then become part of
# somebody's plugin. The lower parts of the tree are the only ones to see lib/.
# libcurl is loaded when the first URL is opened, so only its headers are needed here.
LIB_CFLAGS = -fvisibility=hidden $(PKG_CFLAGS) $(CURL_CFLAGS) -fPIC -Iinclude -Ilib \
	$(if $(HAVE_LIBDEFLATE),-DQC_HAVE_LIBDEFLATE=1) $(if $(HAVE_LIBURING),-DQC_HAVE_LIBURING=1)
ALL_LDFLAGS = -pthread $(SAN_FLAGS) -Wl,--as-needed $(LDFLAGS)
# Sanitizers leave their symbols to the program, so they cannot have -z defs.
SO_LDFLAGS = -shared -Wl,-soname,libqchain.so.$(SOMAJOR) \
	-Wl,--version-script=lib/qchain.map $(if $(SAN),,-Wl,-z,defs)

# ------------------------------------------------------------------- files ---

ROOMS      := util cache io net remote format qcow2 raw chain ops api
LIB_SRC    := $(sort $(foreach r,$(ROOMS),$(wildcard lib/$(r)/*.c)))
FUSE_SRC   := $(if $(HAVE_FUSE),$(sort $(wildcard examples/tools/fuse_*.c)))
TOOL_SRC   := $(sort $(filter-out examples/tools/fuse_%,$(wildcard examples/tools/*.c)))
COMMON_SRC := $(sort $(wildcard examples/common/*.c))
TOOL_HELP  := $(filter examples/tools/tool_%,$(TOOL_SRC))
NBDKIT_SRC := $(if $(HAVE_NBDKIT),$(sort $(wildcard bindings/nbdkit/*.c)))
EXAMPLE_SRC := $(sort $(wildcard examples/*.c))
UNIT_SRC   := $(sort $(wildcard tests/unit/*/test_*.c))
UNIT_HELP  := $(sort $(wildcard tests/unit/*.c))
PROG_SRC   := $(sort $(filter-out $(if $(HAVE_NBDKIT),,%/test_nbdkit_host.c),$(wildcard $(patsubst %,tests/%/*.c,interop fault crash remote))))
ABI_SRC    := $(sort $(wildcard tests/abi/*.c))
BENCH_SRC  := $(sort $(filter-out $(if $(HAVE_LIBNBD),,%/bench_nbd.c),$(wildcard tests/bench/*.c)))
FUZZ_SRC   := $(sort $(wildcard tests/fuzz/fuzz_*.c))
ALL_SRC    := $(LIB_SRC) $(COMMON_SRC) $(TOOL_SRC) $(FUSE_SRC) $(NBDKIT_SRC) $(EXAMPLE_SRC) $(UNIT_SRC) $(UNIT_HELP) $(PROG_SRC) \
	$(ABI_SRC) $(BENCH_SRC) $(sort $(wildcard tests/fuzz/*.c))

objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
VERBS   := $(subst _,-,$(patsubst examples/tools/cmd_%.c,%,$(filter examples/tools/cmd_%.c,$(TOOL_SRC))))

LIB_A     := $(BUILD)/lib/libqchain.a
LIB_SO    := $(BUILD)/lib/libqchain.so.$(VERSION)
TOOLS     := $(if $(TOOL_SRC),$(BUILD)/bin/qchain) $(VERBS:%=$(BUILD)/bin/qchain-%) $(if $(FUSE_SRC),$(BUILD)/bin/qchain-fuse)
PLUGIN    := $(if $(NBDKIT_SRC),$(BUILD)/nbdkit/nbdkit-qchain-plugin.so)
EXAMPLES  := $(EXAMPLE_SRC:examples/%.c=$(BUILD)/examples/%)
UNIT      := $(UNIT_SRC:%.c=$(BUILD)/%)
PROGS     := $(PROG_SRC:%.c=$(BUILD)/%)
ABI       := $(ABI_SRC:%.c=$(BUILD)/%)
BENCH     := $(BENCH_SRC:tests/bench/%.c=$(BUILD)/bench/bin/%)
REPLAY    := $(if $(wildcard tests/fuzz/replay_main.c),$(FUZZ_SRC:tests/fuzz/fuzz_%.c=$(BUILD)/fuzz/replay_%))
FUZZ      := $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzz/%)
# Pages of section 3 are made from the headers, where there is a Python.
MAN3      := $(if $(shell command -v $(PYTHON) 2>/dev/null),$(BUILD)/man/man3)
FILES     ?= $(BUILD)/tests/files
FILES_OK  := $(if $(wildcard tests/files/make-files.py),$(FILES).ok)

# ------------------------------------------------------------- what is made ---

.PHONY: all tests lib FORCE
lib: $(LIB_A) $(LIB_SO)
all: lib $(TOOLS) $(PLUGIN) $(EXAMPLES) $(MAN3)
tests: all $(UNIT) $(PROGS) $(ABI) $(REPLAY) $(FILES_OK)

# Rebuild everything when the compiler or a flag changes; say first, and in one
# sentence, what is not installed.
$(BUILD)/deps.ok:
	@CC='$(CC)' sh tests/house/deps.sh --check build
	@mkdir -p $(@D) && touch $@
$(BUILD)/flags: FORCE | $(BUILD)/deps.ok
	@echo '$(CC) $(ALL_CFLAGS) $(LIB_CFLAGS) $(ALL_LDFLAGS)' | cmp -s - $@ || \
		echo '$(CC) $(ALL_CFLAGS) $(LIB_CFLAGS) $(ALL_LDFLAGS)' >$@

define compile
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) $(1) -c -o $@ $<
endef
define link
	$(call say,LD)
	@mkdir -p $(@D)
	$(Q)$(CC) -o $@ $(filter %.o %.a %.so,$^) $(ALL_LDFLAGS) $(1)
endef

# Who may see lib/ is said here: the library, its unit tests and its fuzzers.
$(BUILD)/obj/lib/%.o: lib/%.c $(BUILD)/flags
	$(call compile,$(LIB_CFLAGS))
$(BUILD)/obj/tests/unit/%.o: tests/unit/%.c $(BUILD)/flags
	$(call compile,$(LIB_CFLAGS) -Itests/unit)
$(BUILD)/obj/tests/fuzz/%.o: tests/fuzz/%.c $(BUILD)/flags
	$(call compile,$(LIB_CFLAGS))
# What tools and plugins share becomes part of either.
$(BUILD)/obj/examples/common/%.o: examples/common/%.c $(BUILD)/flags
	$(call compile,-fvisibility=hidden -fPIC -Iinclude)
$(BUILD)/obj/examples/tools/fuse_%.o: examples/tools/fuse_%.c $(BUILD)/flags
	$(call compile,$(FUSE_CFLAGS) -Iinclude -Iexamples/common)
$(BUILD)/obj/examples/tools/%.o: examples/tools/%.c $(BUILD)/flags
	$(call compile,-Iinclude -Iexamples/common)
$(BUILD)/obj/bindings/nbdkit/%.o: bindings/nbdkit/%.c $(BUILD)/flags
	$(call compile,-fvisibility=hidden -fPIC $(NBDKIT_CFLAGS) -DNBDKIT_QCHAIN_VERSION='"$(VERSION)"' -Iinclude -Iexamples/common)
$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	$(call compile,-Iinclude)

$(LIB_A): $(call objects,$(LIB_SRC))
	$(call say,AR)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && ar rcs $@ $^

$(LIB_SO): $(call objects,$(LIB_SRC)) lib/qchain.map
	$(call say,LD)
	@mkdir -p $(@D)
	$(Q)$(CC) -o $@ $(SO_LDFLAGS) $(filter %.o,$^) $(ALL_LDFLAGS) $(PKG_LIBS)
	$(Q)ln -sf $(@F) $(@D)/libqchain.so.$(SOMAJOR)
	$(Q)ln -sf libqchain.so.$(SOMAJOR) $(@D)/libqchain.so

# The programs take the static library and so run from wherever they are.
$(BUILD)/bin/qchain: $(call objects,$(TOOL_SRC) $(COMMON_SRC)) $(LIB_A)
	$(call link,$(PKG_LIBS))
$(BUILD)/bin/qchain-%: $(BUILD)/bin/qchain
	$(Q)ln -sf qchain $@
$(BUILD)/obj/examples/tools/tool.a: $(call objects,$(TOOL_HELP) $(COMMON_SRC))
	$(call say,AR)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && ar rcs $@ $^
$(BUILD)/bin/qchain-fuse: $(call objects,$(FUSE_SRC)) $(BUILD)/obj/examples/tools/tool.a $(LIB_A)
	$(call link,$(FUSE_LIBS) $(PKG_LIBS))
# nbdkit's own functions are found in the program that loads it; nobody shall find the library's.
$(BUILD)/nbdkit/nbdkit-qchain-plugin.so: $(call objects,$(NBDKIT_SRC) $(COMMON_SRC)) $(LIB_A)
	$(call link,-shared -Wl$(comma)--exclude-libs$(comma)ALL$(comma)-z$(comma)nodelete $(PKG_LIBS))
$(EXAMPLES): $(BUILD)/examples/%: $(BUILD)/obj/examples/%.o $(LIB_A)
	$(call link,$(PKG_LIBS))
# Helpers are an archive, too: a test that has a double of a part of the library must not bring the
# part in by what it does not use.
$(BUILD)/tests/unit/help.a: $(call objects,$(UNIT_HELP))
	$(call say,AR)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && ar rcs $@ $^
$(UNIT): $(BUILD)/%: $(BUILD)/obj/%.o $(BUILD)/tests/unit/help.a $(LIB_A)
	$(call link,$(CMOCKA_LIBS) $(PKG_LIBS))
# A plugin looks for what it calls in the program that loads it.
$(PROGS): $(BUILD)/%: $(BUILD)/obj/%.o $(BUILD)/tests/unit/help.a $(LIB_A)
	$(call link,$(if $(filter test_nbdkit_host,$(@F)),-rdynamic -ldl) $(CMOCKA_LIBS) $(PKG_LIBS))
$(BUILD)/tests/interop/test_nbdkit_host: | $(PLUGIN)
$(ABI): $(BUILD)/%: $(BUILD)/obj/%.o $(LIB_SO)
	$(call link,-L$(BUILD)/lib -lqchain -Wl$(comma)-rpath$(comma)$(abspath $(BUILD)/lib) $(CMOCKA_LIBS))
$(BENCH): $(BUILD)/bench/bin/%: $(BUILD)/obj/tests/bench/%.o $(LIB_A)
	$(call link,$(if $(filter ref_curl,$*),$(CURL_LIBS)) $(if $(filter bench_nbd,$*),$(NBD_LIBS)) $(PKG_LIBS))
$(REPLAY): $(BUILD)/fuzz/replay_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o \
		$(BUILD)/obj/tests/fuzz/replay_main.o $(LIB_A)
	$(call link,$(PKG_LIBS))
$(FUZZ): $(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(LIB_A)
	$(call link,-fsanitize=fuzzer $(PKG_LIBS))
comma := ,

$(BUILD)/man/man3: $(wildcard include/*.h) $(wildcard examples/tools/man/*.py)
	$(call say,GEN)
	$(Q)rm -rf $@ $@.new && $(PYTHON) examples/tools/man/make_man.py include $@.new && mv $@.new $@

# Images for the tests, good and bad, are made, not kept.
$(FILES).ok: $(wildcard tests/files/*.py)
	$(call say,GEN)
	$(Q)rm -rf $(FILES) && mkdir -p $(FILES)
	$(Q)$(PYTHON) tests/files/make-files.py $(FILES) >$@.log || { cat $@.log; exit 1; }
	$(Q)touch $@

# ------------------------------------------------------------------- checks ---
# Each test is a program or a script: 0 passes, 77 skips, the rest fails. The
# runner ends with one line: N passed, N failed, N skipped.

scripts = $(sort $(foreach k,$(1),$(wildcard $(foreach n,test_* test-* check*,tests/$(k)/$(n).sh tests/$(k)/$(n).py))))
progs   = $(filter $(BUILD)/tests/$(1)/test_%,$(PROGS))
# UNIT_ROOMS: of these rooms of lib/ alone.
T_UNIT    = $(if $(UNIT_ROOMS),$(foreach r,$(UNIT_ROOMS),$(filter $(BUILD)/tests/unit/$(r)/%,$(UNIT))),$(UNIT))
T_FILES   = $(call scripts,files)
# What has no threads of its own, or has them shown by unit tests, has nothing to show to ThreadSanitizer.
ONE_THREAD = $(patsubst %,tests/interop/%.py,check_check check_commit check_convert check_create check_bitmaps check_help \
	check_completion check_doctor check_explain check_hints check_dirty check_locks check_policy check_rebase check_sidecar \
	check_write_tools test-tools)
THREAD    = $(findstring thread,$(SAN))
REPLAYING = $(foreach t,empty check writer_flush snapshot_write l2_write bitmap_write,%/qcow2/test_$(t))
# nbdkit is built without sanitizers; with the plugin alone built for one it does not end by itself. Under these
# test_nbdkit_host has the plugin.
FOREIGN = tests/interop/check_nbd.py tests/interop/check_nbd_guest.py
SCRIPTS_INTEROP = $(filter-out $(if $(THREAD),$(ONE_THREAD)) $(if $(SAN),$(FOREIGN)),$(call scripts,interop))
T_INTEROP = $(call progs,interop) $(foreach s,$(SCRIPTS_INTEROP),'$(s) $(INTEROP_ARGS)') \
	'$(RANDOM_CHAINS) $(INTEROP_ARGS) --count $(CHAINS)' \
	'$(RANDOM_CHAINS) $(INTEROP_ARGS) --count $(if $(SAN),5,15) --sidecars' \
	'tests/interop/random_writes.py --count $(if $(SAN),8,30)' \
	'tests/interop/random_surgery.py --count $(if $(SAN),5,20)' \
	$(if $(SAN),,'tests/interop/kill_surgery.py --kills 5')
INTEROP_ARGS  = --bin $(BUILD)/bin --hammer $(BUILD)/tests/interop/hammer
RANDOM_CHAINS = tests/interop/random_chains.py
T_FAULT   = $(call progs,fault) $(call progs,crash) $(call scripts,fault crash)
T_QUEUE   = $(filter %/test_queue_stress %/test_queue_seccomp,$(PROGS))
# Needs real servers (make deps-remote) and leaves out what it has none for.
T_REMOTE  = $(call scripts,remote) 'tests/remote/soak.py --seconds 20'
T_ABI     = $(ABI) $(sort $(wildcard tests/abi/*.sh tests/abi/*.py))
T_HOUSE   = $(patsubst %,tests/house/%.sh,layers size symbols man install user faults)

# What scripts may rely on. Names are absolute.
RUN = QC_BUILD='$(abspath $(BUILD))' QC_BIN='$(abspath $(BUILD)/bin)' \
	QC_FILES='$(abspath $(FILES))' QC_CC='$(CC)' QC_CXX='$(CXX)' QC_PYTHON='$(PYTHON)' \
	QC_SAN='$(SAN)' sh tests/run-tests.sh

.PHONY: check check-all check-unit check-files check-interop check-fault check-abi \
	check-layers check-size check-symbols check-man check-install check-faults check-replay \
	check-remote
check: deps-check
	+$(Q)$(MAKE) check-all
check-all: tests
	@$(RUN) $(T_HOUSE) $(T_UNIT) $(T_ABI) $(T_FILES) $(T_FAULT) tests/house/replay.sh $(T_INTEROP)
check-unit: $(T_UNIT) $(FILES_OK)
	@$(RUN) $(T_UNIT)
check-files: all $(PROGS) $(FILES_OK)
	@$(RUN) $(T_FILES)
check-interop: all $(PROGS)
	@$(RUN) $(T_INTEROP)
check-fault: all $(PROGS)
	@$(RUN) $(T_FAULT)
check-remote: all $(PROGS) $(FILES_OK)
	@$(RUN) $(T_REMOTE)
check-abi: lib $(ABI)
	@$(RUN) $(T_ABI)
check-replay: $(REPLAY) $(FILES_OK)
	@$(RUN) tests/house/replay.sh
check-layers:
	@$(RUN) tests/house/layers.sh
check-size:
	@$(RUN) tests/house/size.sh
check-man:
	@$(RUN) tests/house/man.sh
check-faults:
	@$(RUN) tests/house/faults.sh
check-symbols: $(LIB_SO)
	@$(RUN) tests/house/symbols.sh
check-install: all
	@$(RUN) tests/house/install.sh

# The same tests over a library built for a sanitizer, in a tree of its own. valgrind leaves out one that takes
# minutes under it, and does what others do; with LESS=1 all that mostly wait.
VALGRIND_SLOW = $(foreach t,tip_qcow2 $(if $(LESS),sidecar sidecar_url far far_queue far_memory queue queue_write \
	queue_ends reads compare copy http http_faults http_answers http_tls gate_url url_faults disk_damage object store_write fdpool),%/test_$(t))
.PHONY: check-asan check-ubsan check-tsan check-san check-valgrind check-fuzz run-fuzz
check-asan: deps-check
	+$(Q)$(MAKE) BUILD=$(BUILD)/asan FILES=$(FILES) SAN=address,undefined check-san
check-ubsan: deps-check
	+$(Q)$(MAKE) BUILD=$(BUILD)/ubsan FILES=$(FILES) SAN=undefined check-san
check-tsan: deps-check
	+$(Q)$(MAKE) BUILD=$(BUILD)/tsan FILES=$(FILES) SAN=thread check-san
check-san: all $(UNIT) $(PROGS) $(ABI) $(REPLAY) $(FILES_OK)
	@QC_SHORT=$(if $(THREAD),16,8) $(RUN) $(filter-out $(if $(THREAD),$(REPLAYING)),$(T_UNIT)) $(if $(THREAD),,$(ABI) $(T_FILES) tests/house/replay.sh) \
		$(T_QUEUE) $(T_INTEROP)
check-valgrind: deps-valgrind $(UNIT) $(FILES_OK)
	@QC_SHORT=40 $(RUN) --wrap 'valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,indirect' \
		$(filter-out $(VALGRIND_SLOW),$(T_UNIT))
check-fuzz: deps-fuzz
	+$(Q)$(MAKE) BUILD=$(BUILD)/libfuzzer FILES=$(FILES) CC=clang SAN=fuzzer-no-link,address,undefined run-fuzz
run-fuzz: $(FUZZ) $(FILES_OK)
	@QC_SECONDS=$(FUZZ_SECONDS) QC_TIMEOUT=$$((8 * $(FUZZ_SECONDS) + 300)) \
		$(RUN) tests/house/fuzz.sh

# ------------------------------------------------------------------- people ---

.PHONY: deps deps-check deps-valgrind deps-fuzz deps-fuse deps-nbdkit deps-remote demo demo-cloud bench run-demo run-demo-cloud run-bench help
deps:
	$(Q)CC='$(CC)' sh tests/house/deps.sh --install build check valgrind fuzz
	+$(Q)$(MAKE) deps-fuse || echo 'there will be no qchain-fuse'
	+$(Q)$(MAKE) deps-nbdkit || echo 'there will be no plugin for nbdkit'
	+$(Q)$(MAKE) deps-remote || echo 'check-remote will leave out what is missing'
deps-check deps-valgrind deps-fuzz: deps-%:
	$(Q)CC='$(CC)' sh tests/house/deps.sh --install build check $(filter valgrind fuzz,$*)
deps-fuse deps-nbdkit: deps-%:
	$(Q)CC='$(CC)' sh tests/house/deps.sh --install $*
# The servers of check-remote; one of them comes from npm.
deps-remote:
	$(Q)CC='$(CC)' sh tests/house/deps.sh --install remote
	$(Q)QC_BUILD='$(abspath $(BUILD))' sh tests/remote/azurite.sh install
demo: deps-check
	+$(Q)$(MAKE) run-demo
run-demo: all
	$(Q)sh examples/demo.sh $(BUILD)/bin
demo-cloud: deps-check deps-remote
	+$(Q)$(MAKE) run-demo-cloud
run-demo-cloud: all $(BUILD)/tests/remote/delay_proxy
	$(Q)sh examples/demo-cloud.sh $(BUILD)
bench: deps-check
	+$(Q)$(MAKE) run-bench
run-bench: all $(BENCH) $(BUILD)/tests/remote/delay_proxy
	$(Q)QC_BUILD='$(abspath $(BUILD))' $(PYTHON) tests/bench/bench.py --bin $(BUILD)/bin --out $(BUILD)/bench $(BENCH_ARGS)

help:
	@echo 'make [all]       libraries, tools and examples, into $(BUILD)/'
	@echo 'make check       all tests of a change; its parts: check-unit -files -interop'
	@echo '                 -fault -abi -replay -layers -size -symbols -man -install -faults'
	@echo 'make check-remote  layers behind URLs, with real servers on this machine'
	@echo 'make check-asan  (-ubsan -tsan -valgrind -fuzz) the same under a checker'
	@echo 'make demo        a tour of the tools;   make demo-cloud  of a chain in an object store'
	@echo 'make bench       against qemu-img'
	@echo 'make deps        install what is missing (Debian)'
	@echo 'make install, uninstall, dist, clean'
	@echo 'Settings: V=1 PREFIX= DESTDIR= BUILD= CC= CFLAGS= WERROR=1 SAN= NO_LIBDEFLATE=1 NO_LIBURING=1 NO_FUSE=1 NO_NBDKIT=1'
	@echo '          FUZZ_SECONDS= CHAINS= (random chains in check-interop)'

# ------------------------------------------------------------------ install ---

.PHONY: install uninstall dist clean
D   := $(DESTDIR)
# Shells look for a completion by the name of the program; zsh has one for all.
SHARE = $(D)$(PREFIX)/share
COMPLETIONS = $(foreach t,$(notdir $(TOOLS)),$(SHARE)/bash-completion/completions/$(t) \
	$(SHARE)/fish/vendor_completions.d/$(t).fish) $(SHARE)/zsh/site-functions/_qchain
# nbdkit looks for plugins in one directory, which is ours if it is in our PREFIX; else they are called by their path.
NBDKIT_PREFIX = $(call once,NBDKIT_PREFIX,$(PKG) --variable=prefix $(HAVE_NBDKIT))
PLUGINDIR ?= $(if $(filter $(NBDKIT_PREFIX),$(PREFIX)),$(call once,NBDKIT_DIR,$(PKG) --variable=plugindir $(HAVE_NBDKIT)),$(LIBDIR)/nbdkit/plugins)
MAN := $(filter-out $(if $(FUSE_SRC),,%/qchain-fuse.1),$(sort $(wildcard examples/tools/man/*.[0-9]))) \
	$(if $(NBDKIT_SRC),bindings/nbdkit/nbdkit-qchain-plugin.1)
install: all
	$(Q)mkdir -p $(D)$(INCDIR) $(D)$(LIBDIR)/pkgconfig $(D)$(BINDIR)
	$(Q)cp include/*.h $(D)$(INCDIR)
	$(Q)cp -P $(LIB_A) $(BUILD)/lib/libqchain.so* $(D)$(LIBDIR)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCDIR@|$(INCDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' -e 's|@PACKAGES@|$(PACKAGES)|' \
		libqchain.pc.in >$(D)$(LIBDIR)/pkgconfig/libqchain.pc
	$(Q)test -z "$(TOOLS)" || cp -P $(TOOLS) $(D)$(BINDIR)
	$(Q)for c in $(COMPLETIONS); do mkdir -p $${c%/*} && case $$c in \
		*/bash-completion/*) cp examples/tools/completion/qchain.bash $$c ;; \
		*.fish) cp examples/tools/completion/qchain.fish $$c ;; \
		*) cp examples/tools/completion/_qchain $$c ;; esac || exit 1; done
	$(Q)test -z "$(PLUGIN)" || { mkdir -p $(D)$(PLUGINDIR) && cp $(PLUGIN) $(D)$(PLUGINDIR); }
	$(Q)for m in $(MAN); do d=$(D)$(MANDIR)/man$${m##*.}; mkdir -p $$d && cp $$m $$d || exit 1; done
	$(Q)$(if $(MAN3),mkdir -p $(D)$(MANDIR) && cp -R $(MAN3) $(D)$(MANDIR),echo 'no python3: the manual pages of section 3 are left out')
uninstall:
	$(Q)rm -f $(patsubst include/%,$(D)$(INCDIR)/%,$(wildcard include/*.h)) \
		$(addprefix $(D)$(LIBDIR)/,$(notdir $(LIB_A)) libqchain.so libqchain.so.$(SOMAJOR) libqchain.so.$(VERSION)) \
		$(D)$(LIBDIR)/pkgconfig/libqchain.pc $(COMPLETIONS) $(patsubst $(BUILD)/bin/%,$(D)$(BINDIR)/%,$(TOOLS)) \
		$(if $(PLUGIN),$(D)$(PLUGINDIR)/$(notdir $(PLUGIN))) \
		$(foreach m,$(MAN),$(D)$(MANDIR)/man$(subst .,,$(suffix $(m)))/$(notdir $(m))) \
		$(D)$(MANDIR)/man3/qchain.3 $(D)$(MANDIR)/man3/qchain[-_]*.3

dist:
	$(Q)mkdir -p $(BUILD)/dist
	$(Q)git archive --prefix=libqchain-$(VERSION)/ -o $(BUILD)/dist/libqchain-$(VERSION).tar.gz HEAD
	@echo $(BUILD)/dist/libqchain-$(VERSION).tar.gz

clean:
	$(Q)rm -rf $(BUILD)

-include $(patsubst %.c,$(BUILD)/obj/%.d,$(ALL_SRC))
