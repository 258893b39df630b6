# SPDX-License-Identifier: MIT
"""Builds the wheel and the source archive of the package (PEP 517): pure Python, so a zip with three more files."""
import base64
import hashlib
import os
import re
import tarfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = ("pyproject.toml", "README.md", "build_wheel.py", "make_abi.py", "qchain", "examples")


def project(key):
    """A text of pyproject.toml's table; tomllib is not in every Python that this is for."""
    with open(os.path.join(HERE, "pyproject.toml"), encoding="utf-8") as f:
        return re.search(rf'^{key} = "(.*)"$', f.read(), re.M)[1]


def stem():
    return f"{project('name')}-{project('version')}"


def metadata():
    with open(os.path.join(HERE, "README.md"), encoding="utf-8") as f:
        page = f.read()
    return (f"Metadata-Version: 2.1\nName: {project('name')}\nVersion: {project('version')}\n"
            f"Summary: {project('description')}\nLicense: MIT\nRequires-Python: {project('requires-python')}\n"
            f"Description-Content-Type: text/markdown\n\n{page}").encode()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    info = stem() + ".dist-info"
    files = {}
    for name in sorted(os.listdir(os.path.join(HERE, "qchain"))):
        if name.endswith(".py") or name == "py.typed":
            with open(os.path.join(HERE, "qchain", name), "rb") as f:
                files["qchain/" + name] = f.read()
    files[info + "/METADATA"] = metadata()
    files[info + "/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: build_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},"
                     f"{len(data)}\n" for name, data in files.items())
    files[info + "/RECORD"] = (record + info + "/RECORD,,\n").encode()
    made = stem() + "-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, made), "w") as z:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)  # of no time: the same sources make the same wheel
            entry.external_attr = 0o644 << 16
            z.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return made


def build_sdist(sdist_directory, config_settings=None):
    made = stem() + ".tar.gz"
    with tarfile.open(os.path.join(sdist_directory, made), "w:gz", format=tarfile.PAX_FORMAT) as t:
        for name in SOURCES:
            t.add(os.path.join(HERE, name), f"{stem()}/{name}",
                  filter=lambda i: None if "__pycache__" in i.name else i)
    return made
