# SPDX-License-Identifier: MIT
"""A web server of one directory for tests that need no more: ranges and ETags."""
import contextlib
import hashlib
import http.server
import os
import re
import threading
import urllib.parse


class Ranges(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        try:
            with open(os.path.join(self.server.root, urllib.parse.unquote(os.path.basename(self.path))), "rb") as f:
                tag, size = self.server.tag_of(f), os.fstat(f.fileno()).st_size
                first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"]).groups()
                body = os.pread(f.fileno(), int(last or size) + 1 - int(first), int(first))
        except OSError:
            self.answer(404, b"")
            return
        if self.headers["If-Match"] not in (None, tag):
            self.answer(412, b"")
            return
        self.answer(206, body, ("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{size}"), ("ETag", tag))

    def answer(self, status, body, *headers):
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def tag_of(self, f):
        st = os.fstat(f.fileno())
        key = st.st_ino, st.st_size, st.st_mtime_ns
        if key not in self.tags:
            self.tags[key] = etag(f.read())
        return self.tags[key]

    def handle_error(self, request, client_address):
        pass  # who asked has hung up: a read that ended, or a second request that came too late


def etag(data):
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextlib.contextmanager
def serving(root):
    """Serves files of a directory: (the URL of it, the paths that were asked for so far)."""
    server = Server(("127.0.0.1", 0), Ranges)
    server.root, server.asked, server.tags = root, [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", server.asked
    finally:
        server.shutdown()
        server.server_close()
