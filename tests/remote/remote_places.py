# SPDX-License-Identifier: MIT
"""Servers as places where the files of a directory can be read: one body of a test runs over each of them."""
import os

import remote_lib as r


class Nginx:
    """By http. Its directory is what it serves."""

    def __init__(self, place):
        self.facts = place.server("nginx")
        self.home = self.facts["WWW"]

    def proxy(self, place, **link):
        return place.proxy(self.facts["HTTP"], **link)

    def url(self, proxy, name):
        return f"{proxy.url}/{name}"

    def rules(self, _proxy):
        return []

    def publish(self, *names):
        """They are there already."""


class Bucket:
    """Ceph's gateway, by S3: a bucket that has what was published of a directory, under a prefix with a blank."""

    def __init__(self, rgw, name, home):
        self.facts, self.name, self.home = rgw, name, home
        self.s3 = r.S3(rgw["S3"], rgw["AK"], rgw["SK"])
        self.s3.create_bucket(name)

    def proxy(self, place, **link):
        return place.proxy(self.facts["S3"], **link)

    def url(self, _proxy, name):
        return f"s3://{self.name}/a b/{name}"

    def rules(self, proxy):
        return [f"s3-endpoint {proxy.url}", "s3-region us-east-1", "s3-style path",
                f"s3-access-key {self.facts['AK']}", f"s3-secret-key {self.facts['SK']}"]

    def publish(self, *names):
        for name in names:
            with open(os.path.join(self.home, name), "rb") as f:
                self.s3.put(self.name, f"a b/{name}", f.read())


def rules_file(path, rules):
    """A file of rules, for --remote-config: secrets are to be seen by nobody else."""
    with open(path, "w", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as f:
        f.writelines(rule + "\n" for rule in rules)
    return path
