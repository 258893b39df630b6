# SPDX-License-Identifier: MIT
"""A web server of one directory for tests that need no more: ranges and ETags."""
import contextlib
import hashlib
import http.server
import os
import re
import threading


class Ranges(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        try:
            with open(os.path.join(self.server.root, os.path.basename(self.path)), "rb") as f:
                data = f.read()
        except OSError:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
        body = data[int(first):int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag(data))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # who asked has hung up: a read that ended, or a second request that came too late


def etag(data):
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextlib.contextmanager
def serving(root):
    """Serves files of a directory: (the URL of it, the paths that were asked for so far)."""
    server = Server(("127.0.0.1", 0), Ranges)
    server.root, server.asked = root, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", server.asked
    finally:
        server.shutdown()
        server.server_close()
