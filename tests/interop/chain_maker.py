# SPDX-License-Identifier: MIT
"""Makes random chains of qcow2 and raw layers with qemu-img and qemu-io."""
import json
import os

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CLUSTERS = (512, 1 * KIB, 2 * KIB, 4 * KIB, 4 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 64 * KIB,
            64 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 1 * MIB, 2 * MIB)
DIRS = ("", "", "", "", "sub", "sub/deeper", "a b", "ünï-ß日本", "per%cent%20", "quo'te",
        'dou"ble', "co:lon", "-dash", "[gl*b]?", "back\\slash", "#&;$x")
SUFFIXES = ("", "", "", " ", "é", "%s", "'", '"', "~", "{}", "..")
PIECE = 65521  # length of a pattern file; odd, so that repeats fall everywhere


class Layer:
    """One image: its path under the chain's directory and what was made of it."""

    def __init__(self, path, fmt, size):
        self.path = path
        self.fmt = fmt
        self.size = size
        self.cluster = 64 * KIB
        self.compat = "1.1"
        self.data_file = None
        self.extended = False
        self.snapshots = []
        self.what = fmt

    @property
    def arg(self):
        """The path as a program takes it: never taken for an option or a protocol."""
        return "./" + self.path

    def json_alone(self):
        """The layer without what is below it, as a name that qemu-img takes."""
        image = {"driver": self.fmt, "file": {"driver": "file", "filename": self.arg}}
        if self.fmt == "qcow2":
            image["backing"] = None
        return "json:" + json.dumps(image)


class ChainMaker:
    """Random choices, all from one generator, carried out in one directory."""

    def __init__(self, rng, runner):
        self.rng = rng
        self.runner = runner
        self.layers = []  # the base first
        self.needs_trust = False
        self.n_patterns = 0

    # ---- names and contents

    def new_path(self, i, fmt, top=False, root=False):
        directory = "" if top or root else self.rng.choice(DIRS)
        os.makedirs(os.path.join(self.runner.cwd, directory), exist_ok=True)
        name = f"l{i}{self.rng.choice(SUFFIXES)}.{fmt}"
        return os.path.join(directory, name)

    def pattern(self, compressible):
        """A file of bytes to write; every one is different."""
        name = f"pattern{self.n_patterns}"
        self.n_patterns += 1
        path = os.path.join(self.runner.cwd, name)
        with open(path, "wb") as f:
            if compressible:
                tokens = [self.rng.randbytes(31) for _ in range(6)]
                f.write(b"".join(self.rng.choices(tokens, k=PIECE // 31 + 1))[:PIECE])
            else:
                f.write(self.rng.randbytes(PIECE))
        return name

    def random_size(self):
        r = self.rng.random()
        if r < 0.02:
            return 0
        if r < 0.05:
            return 512
        if r < 0.20:
            return 512 * self.rng.randint(1, 2048)
        if r < 0.96:
            return 512 * self.rng.randint(2048, 2048 * self.rng.choice((2, 4, 8, 16, 64)))
        return 512 * self.rng.randint(2 * GIB // 2048, 2 * GIB // 512)

    # ---- layers

    def make_raw(self, path):
        size = self.random_size()
        if self.rng.random() < 0.5 and size > 0:
            size -= self.rng.randint(1, 511)
        layer = Layer(path, "raw", size)
        full = os.path.join(self.runner.cwd, path)
        with open(full, "wb") as f:
            f.truncate(size)
            for _ in range(self.rng.randint(0, 10)):
                n = min(size, self.rng.choice((1, 512, 4096, 8192, 65536, 200000)))
                at = self.rng.randint(0, size - n)
                if self.rng.random() < 0.5:
                    at = at // 4096 * 4096
                f.seek(at)
                f.write(bytes(n) if self.rng.random() < 0.2 else self.rng.randbytes(n))
            if size > 0 and self.rng.random() < 0.2:
                os.posix_fallocate(f.fileno(), size // 2, max(1, size // 8 % MIB))
            f.truncate(size)
        self.runner.script.append(f"# {path}: raw, {size} bytes, made in python")
        return layer

    def make_converted(self, path, i):
        """A compressed base, by qemu-img convert -c."""
        raw = self.make_raw(f"source{i}.raw")
        layer = Layer(path, "qcow2", -(-raw.size // 512) * 512)
        opts = self.options(layer, backing=None, plain=True)
        self.runner.run(["qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o",
                         ",".join(opts), raw.arg, layer.arg])
        layer.what += " converted -c"
        return layer

    def options(self, layer, backing, plain=False):
        """Creation options; sets what the layer remembers of them."""
        rng = self.rng
        layer.cluster = rng.choice(CLUSTERS)
        if layer.size > 256 * MIB:
            layer.cluster = max(layer.cluster, 16 * KIB)
        layer.compat = "0.10" if rng.random() < 0.2 else "1.1"
        opts = [f"cluster_size={layer.cluster}", f"compat={layer.compat}"]
        if layer.compat == "1.1":
            if layer.cluster >= 16 * KIB and rng.random() < 0.35:
                layer.extended = True
                opts.append("extended_l2=on")
            if rng.random() < 0.4:
                opts.append("compression_type=zstd")
            if rng.random() < 0.3:
                opts.append(f"refcount_bits={rng.choice((1, 2, 4, 8, 16, 32, 64))}")
            if rng.random() < 0.2:
                opts.append("lazy_refcounts=on")
            if not plain and "/" not in layer.path and rng.random() < 0.12:
                layer.data_file = layer.path + ".data"
                self.needs_trust = True
                opts.append("data_file=" + layer.data_file)
                if backing is None and rng.random() < 0.5:
                    opts.append("data_file_raw=on")
        may_preallocate = backing is None or layer.extended
        if not plain and may_preallocate and layer.size <= 32 * MIB and rng.random() < 0.25:
            mode = rng.choice(("metadata", "metadata", "falloc", "full"))
            if layer.cluster >= 4 * KIB or mode == "metadata":
                opts.append("preallocation=" + mode)
        layer.what = "qcow2 " + ",".join(opts)
        return opts

    def make_qcow2(self, path, backing):
        rng = self.rng
        size = self.random_size()
        if backing is not None and rng.random() < 0.75:
            size = -(-backing.size // 512) * 512
            if rng.random() < 0.3:
                size = max(0, size + 512 * rng.randint(-size // 1024, size // 1024 + 8))
        layer = Layer(path, "qcow2", size)
        opts = self.options(layer, backing)
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(opts)]
        if backing is not None:
            argv += ["-u", "-b", self.reference(layer, backing), "-F", backing.fmt]
        self.runner.run(argv + [layer.arg, str(size)])
        return layer

    def reference(self, layer, backing):
        """How a layer names the one below: relative mostly, sometimes absolute."""
        if self.rng.random() < 0.08:
            return os.path.join(self.runner.cwd, backing.path)
        name = os.path.relpath(backing.path, os.path.dirname(layer.path) or ".")
        if ":" in name.split("/")[0] or self.rng.random() < 0.2:
            name = "./" + name
        return name

    # ---- what is written

    def place(self, layer, align):
        n = self.rng.choice((1, 1, 2, 3, 8, 17)) * align
        if self.rng.random() < 0.15:
            n = self.rng.randint(1, 3 * align)
        n = min(n, layer.size, MIB if align < MIB else 2 * align)
        at = self.rng.randint(0, layer.size - n)
        if self.rng.random() < 0.3:  # a hot place, so that layers hide each other
            at = min(at, self.rng.randint(0, 8) * 65536, layer.size - n)
        if self.rng.random() < 0.7:
            at = at // align * align
        return at, n

    def command(self, layer):
        rng = self.rng
        units = [512, 4 * KIB, layer.cluster, layer.cluster]
        if layer.extended:
            units.append(layer.cluster // 32)
        r = rng.random()
        at, n = self.place(layer, rng.choice(units))
        if r < 0.45:
            return f"write -q -s {rng.choice(self.patterns[0])} {at} {n}"
        if r < 0.60 and layer.data_file is None:
            at = at // layer.cluster * layer.cluster
            n = min(-(-n // layer.cluster) * layer.cluster, layer.size - at)
            return f"write -q -c -s {rng.choice(self.patterns[1])} {at} {n}"
        if r < 0.72:
            return f"write -q -z {at} {n}"
        if r < 0.84:
            return f"write -q -z -u {at} {n}"
        if r < 0.94:
            return f"discard -q {at} {n}"
        return f"write -q -P {rng.randint(0, 255)} {at} {n}"

    def write_some(self, layer, most):
        if layer.size == 0:
            return
        count = self.rng.randint(0, most)
        if count == 0:
            return
        commands = [self.command(layer) for _ in range(count)]
        # QEMU 7.2 goes on to fill a cluster with compressed ones though it has been freed and is used by others by then: a
        # process that has compressed and done something else compresses no more.
        batch = []
        for command in commands:
            if command.startswith("write -q -c") and any(c.startswith("write -q -c") for c in batch) and \
               not batch[-1].startswith("write -q -c"):
                self.commands(layer, batch)
                batch = []
            batch.append(command)
        self.commands(layer, batch)

    def commands(self, layer, batch):
        # Some commands are refused (compressing onto what is allocated): no matter.
        self.runner.run(["qemu-io", "-d", "unmap", "-f", layer.fmt, layer.arg],
                        stdin="\n".join(batch + ["quit"]) + "\n", ok=None)

    def decorate(self, layer, most):
        """Snapshots, bitmaps and a new size, on some layers."""
        rng = self.rng
        if layer.data_file is None and rng.random() < 0.15:
            for i in range(rng.randint(1, 3)):
                name = rng.choice(("snap", "a b", "7", "ß")) + str(i)
                status, _, _ = self.runner.run(["qemu-img", "snapshot", "-c", name, layer.arg],
                                               ok=None)
                if status == 0:
                    layer.snapshots.append(name)
                self.write_some(layer, most)
        if layer.compat == "1.1" and rng.random() < 0.1:
            for i in range(rng.randint(1, 2)):
                self.runner.run(["qemu-img", "bitmap", "--add", "-g", rng.choice(("512", "64k")),
                                 layer.arg, f"bit map {i}"], ok=None)
        if not layer.snapshots and 0 < layer.size < 64 * MIB and rng.random() < 0.05:
            more = 512 * rng.randint(1, 8192)
            status, _, _ = self.runner.run(["qemu-img", "resize", "-q", layer.arg, f"+{more}"],
                                           ok=None)
            layer.size += more if status == 0 else 0

    def make(self):
        rng = self.rng
        n = rng.choice((1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 8))
        if rng.random() < 0.03:
            n = rng.choice((16, 25, 40))
        most = 12 if n <= 8 else 5
        self.patterns = ([self.pattern(False) for _ in range(4)],
                         [self.pattern(True) for _ in range(3)])
        for i in range(n):
            top = i == n - 1
            if i == 0 and rng.random() < 0.3:
                self.layers.append(self.make_raw(self.new_path(i, "raw", top)))
                continue
            path = self.new_path(i, "qcow2", top, rng.random() < 0.3)
            if i == 0 and rng.random() < 0.25:
                layer = self.make_converted(path, i)
            else:
                layer = self.make_qcow2(path, self.layers[-1] if self.layers else None)
            self.layers.append(layer)
            self.write_some(layer, most)
            self.decorate(layer, most)
        return self.layers[-1]

