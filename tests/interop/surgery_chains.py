# SPDX-License-Identifier: MIT
"""Small random chains for operations that change them: made with qemu-img and qemu-io, flattened before and
compared after."""
import json
import os

KIB, MIB = 1 << 10, 1 << 20
CLUSTERS = (512, 4 * KIB, 4 * KIB, 16 * KIB, 64 * KIB, 64 * KIB, 64 * KIB, 256 * KIB, 2 * MIB)
EXTENDED = (16 * KIB, 64 * KIB, 64 * KIB, 256 * KIB)


class Layer:
    def __init__(self, path, fmt, size):
        self.path, self.fmt, self.size = path, fmt, size
        self.below = None
        self.cluster, self.compat, self.extended = 0, "1.1", False

    def depth(self):
        return 1 + (self.below.depth() if self.below else 0)

    def layers(self):
        """From this one down."""
        return [self] + (self.below.layers() if self.below else [])

    def name_from(self, other):
        """As an image beside `other` records it."""
        return os.path.relpath(self.path, os.path.dirname(other.path) or ".")


class Maker:
    def __init__(self, rng, runner):
        self.rng, self.runner = rng, runner
        self.n = 0
        self.size = 512 * rng.choice((rng.randint(1, 200), rng.randint(1, 2048), 2048, 8192, rng.randint(1, 16384)))

    def some_size(self):
        r = self.rng.random()
        if r < 0.6:
            return self.size
        return max(512, 512 * int(self.size // 512 * self.rng.choice((0.3, 0.5, 0.9, 1.1, 1.7, 2.5))))

    def layer(self, below=None, fmt="qcow2", size=None, backing_fmt=True):
        rng = self.rng
        d = rng.choice(("", "", "", "", "sub", "other"))
        os.makedirs(os.path.join(self.runner.cwd, d), exist_ok=True)
        name = os.path.join(d, f"l{self.n}.{fmt}")
        self.n += 1
        layer = Layer(name, fmt, size or self.some_size())
        layer.below = below
        options = []
        if fmt == "qcow2":
            layer.cluster = rng.choice(CLUSTERS)
            if rng.random() < 0.2:
                layer.compat = "0.10"
            elif rng.random() < 0.3:
                layer.extended, layer.cluster = True, rng.choice(EXTENDED)
            elif rng.random() < 0.2:
                options.append("compression_type=zstd")
            options += [f"cluster_size={layer.cluster}", f"compat={layer.compat}"]
            if layer.extended:
                options.append("extended_l2=on")
            if rng.random() < 0.06 and not below:
                options.append("preallocation=metadata")
        argv = ["qemu-img", "create", "-q", "-f", fmt]
        if options:
            argv += ["-o", ",".join(options)]
        if below:
            argv += ["-b", below.name_from(layer), "-F", below.fmt]
        self.runner.run(argv + [name, str(layer.size)])
        self.fill(layer)
        return layer

    def fill(self, layer):
        rng, lines = self.rng, []
        sectors = layer.size // 512
        for _ in range(rng.choice((0, 1, 3, 8, 20))):
            n = min(sectors, rng.choice((1, rng.randint(1, 16), rng.randint(1, 256), rng.randint(1, 2048))))
            at = rng.randint(0, sectors - n)
            r = rng.random()
            if r < 0.1:
                lines.append(f"write -z {at * 512} {n * 512}")
            elif r < 0.17:
                lines.append(f"write -zu {at * 512} {n * 512}")
            elif r < 0.22:
                lines.append(f"discard {at * 512} {n * 512}")
            elif r < 0.5 and layer.cluster:
                c = layer.cluster // 512
                at = at // c * c
                n = min(sectors - at, -(-n // c) * c)
                if at % c == 0 and (n % c == 0 or at + n == sectors):
                    lines.append(f"write -c -P {rng.randint(1, 255)} {at * 512} {n * 512}")
            elif r < 0.56:
                lines.append(f"write -P 0 {at * 512} {n * 512}")
            else:
                lines.append(f"write -P {rng.randint(1, 255)} {at * 512} {n * 512}")
        lines.sort(key=lambda line: "-c" not in line)  # qemu-io spoils images by streams over zeros
        if lines:
            self.runner.run(["qemu-io", "-f", layer.fmt, layer.path], stdin="\n".join(lines) + "\n",
                            ok=(0, 1))  # a stream over a cluster that is there is refused

    def chain(self, depth, below=None):
        fmt = "raw" if not below and self.rng.random() < 0.25 else "qcow2"
        top = below
        for i in range(depth):
            top = self.layer(top, fmt if i == 0 and not below else "qcow2")
        return top


def flatten(runner, layer, out):
    runner.run(["qemu-img", "convert", "-f", layer.fmt, "-O", "raw", layer.path, out])


def backing_of(runner, path):
    info = json.loads(runner.run(["qemu-img", "info", "--output=json", "-f", "qcow2", path])[1])
    return info.get("backing-filename"), info.get("backing-filename-format")


def check(runner, layer):
    """As QEMU sees it: leaks are none either."""
    runner.run(["qemu-img", "check", "-q", "-f", "qcow2", layer.path])


def compare(runner, layer, flat):
    runner.run(["qemu-img", "compare", "-q", "-f", layer.fmt, "-F", "raw", layer.path, flat])
