# SPDX-License-Identifier: MIT
"""Seeds of the fuzz targets for layers behind URLs; what their bytes mean stands in fuzz_http.c,
fuzz_names.c and fuzz_cache.c."""

# ------------------------------------------------------------------------- http

KEEP, CLOSE, PAUSE, HERE, ELSEWHERE, MORE = (bytes([b]) for b in (0xfd, 0xfe, 0xfc, 0xfb, 0xfa, 0xf9))
PUT, DELETE = 0x10, 0x20  # of the first byte, above the kind of name
RETRY = 0x20              # of the fourth
PART = 'Content-Range: bytes 0-9/10'
TEN = b'0123456789'


def answer(status, body=b'', *lines, length=None, end=KEEP):
    lines = list(lines)
    if not any(line.startswith('Transfer-Encoding') for line in lines):
        lines.append(f'Content-Length: {len(body) if length is None else length}')
    return b''.join([f'HTTP/1.1 {status} x\r\n'.encode(), *(l.encode() + b'\r\n' for l in lines),
                     b'\r\n', body, end])


def error(status, code, more='', *lines):
    return answer(status, f'<Error><Code>{code}</Code>{more}</Error>'.encode(), *lines)


def redirect(status, where):
    return b''.join([f'HTTP/1.1 {status} x\r\nContent-Length: 0\r\nLocation: '.encode(), where,
                     b'\r\n\r\n', KEEP])


def http_of_kind(kind):
    """One kind of name: http, http with a user, s3, az, gs, http with a signature."""
    tag, part = 'ETag: "a"', 'Content-Range: bytes 0-9/10000'
    good = answer(206, TEN, part, tag)
    yield [kind, 1, 0, 0], good
    yield [kind, 1, 1, 0], answer(206, TEN, part, tag, end=CLOSE)
    yield [kind, 1, 0, 0], redirect(302, b'http://' + ELSEWHERE + b'/x') + good
    yield [kind, 1, 0, 0], redirect(307, b'http://' + HERE + b'/x') + good
    yield [kind, 1, 0, 0], redirect(308, b'y') + good
    yield [kind, 1, 0, 0], redirect(301, b'file:///etc/passwd')
    yield [kind, 1, 0, 0], error(403, 'AccessDenied', '<Message>no</Message>')
    yield [kind, 1, 0, 0], error(401, 'ExpiredToken') + good
    yield [kind, 1, 0, 0], error(400, 'AuthorizationHeaderMalformed', '<Region>eu-west-1</Region>') + good
    yield [kind, 1, 0, 0], error(301, 'PermanentRedirect', '<Endpoint>b.s3.eu-west-1.amazonaws.com</Endpoint>')
    yield [kind | PUT, 2, 0, 0], answer(201, b'', 'ETag: "b"') + answer(412)
    yield [kind | PUT, 2, 0, 2], answer(412)
    yield [kind | DELETE, 0, 0, 0], answer(204)


def http_of_one():
    tag = 'ETag: "a"'
    moved = 'Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT'
    half = 'Content-Range: bytes 0-4/10'
    rest = answer(206, b'56789', 'Content-Range: bytes 5-9/10', tag)
    yield [0, 1, 0, 0], answer(200, b'abc', tag)
    yield [0, 1, 0, 0], answer(416, b'', 'Content-Range: bytes */5')
    yield [0, 5, 0, 0], answer(416, b'', 'Content-Range: bytes */5')
    yield [0, 1, 0, RETRY], answer(503, b'', 'Retry-After: 1') + answer(200, b'abc', tag)
    yield [0, 1, 0, RETRY], answer(429, b'', 'Retry-After: Fri, 27 Nov 2026 07:00:00 GMT',
                                   'Date: Fri, 27 Nov 2026 07:00:00 GMT') + answer(200, b'abc')
    yield [0, 1, 4, RETRY], answer(206, b'01234', PART, tag, length=10, end=CLOSE) + rest
    yield [0, 1, 0, 0], answer(206, b'01234', half, tag) + rest
    yield [0, 1, 0, 0], answer(206, b'01234', half, tag) + answer(200, TEN, tag)
    yield [0, 1, 0, 0], answer(206, b'01234', half, tag) + answer(206, b'56789', PART, 'ETag: "b"')
    yield [0, 1, 0, 0], answer(206, b'5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n', PART,
                               'Transfer-Encoding: chunked')
    yield [0, 2, 0, 0], answer(206, b'a' + MORE + b'\4', 'Content-Range: bytes 0-999/1000', moved,
                               length=1000)
    yield [0, 1, 0, 0], b'HTTP/1.1 100 Continue\r\n\r\n' + answer(206, TEN, PART)
    yield [0, 1, 0, 0], answer(404, b'a' + MORE + b'\xff' + b'b' + MORE + b'\xff', length=130000)
    yield [0, 1, 0, 0], b'HTTP/1.1 200 OK\r\nA: a' + MORE + b'\xff\r\n' + KEEP
    yield [0, 1, 0, 0], b'HTTP/1.1 200 OK\r\n' + b'A: b\r\n' * 120 + b'\r\n' + KEEP
    yield [0, 1, 0, 0], answer(206, b'0123' + PAUSE + b'456789', PART, length=10)
    yield [0, 1, 0, 0], answer(206, b'01234567890123', PART, end=CLOSE)
    yield [0, 1, 0, 0], answer(206, b'x', PART, 'Content-Type: multipart/byteranges; boundary=x')
    yield [0, 1, 0, 0], answer(206, TEN, PART, 'Content-Encoding: gzip')
    yield [2, 9, 3, 0], answer(206, TEN, 'Content-Range: bytes 4096-4105/10000', tag, moved,
                               'x-amz-version-id: v1')
    yield [2, 13, 1, 0], answer(206, TEN, 'Content-Range: bytes 5000000000-5000000009/6000000000', tag)
    for first in 6, 8:
        yield [0, 5, 0, 0], answer(206, b'x' * (17 - first), f'Content-Range: bytes {first}-16/10000')
    yield [0, 1, 0xf0, 0], answer(206, TEN, PART)
    yield [0, 1, 0, 0], (answer(206, b'01234', half, tag) +
                         b'HTTP/1.1 206 x\r\n folded: y\r\nContent-Length: 5\r\n\r\n56789' + KEEP)
    yield [0, 1, 0, 0], KEEP
    yield [0, 1, 0, 0], b''


def http():
    for kind in range(6):
        for choice, answers in http_of_kind(kind):
            yield bytes(choice) + answers
    for choice, answers in http_of_one():
        yield bytes(choice) + answers


# ------------------------------------------------------------------------ names

TOPS = ('https://h.example:8443/a/b/top.qcow2?sig=x', 'http://u:p@h/a/top', 's3://bucket/dir/top.qcow2',
        'az://c/top', 'gs://b/x/y/top', 'http://[::0]:80/a/b', 'az://./x', 's3://../x')
REFERENCES = ('base.qcow2', 'sub/base', '../base', '/abs/x', '..%2fx', '%2e%2e/x', 'a;/../x', '.\\..\\x',
              'https://h.example:8443/a/b/c', 'https://h.example:8443/a/b/../c', 'http://h/a/x',
              's3://bucket/dir/x', 's3://bucket/dir/../x', 's3://bucket/other', 'file:/etc/passwd',
              'json:{"driver":"https","url":"https://h.example:8443/a/b/x"}', 'http://u:p@h/a/z',
              'http://H:80/a/z', './s3://b/x', '//h/a/x', 'http://[::]/a/x', 'az://c/x')
REFUSAL = ('<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code><Message>a &amp; b</Message>'
           '<Region>eu</Region><Endpoint>h</Endpoint></Error>')
SETTINGS = ('workers 2', 'connections 8', 'block-size 1M', 'stall-timeout 5', 'deadline 60', 'hedge no',
            'verify strict', 'basic https://h user pass', 'bearer https://h tok # c', 's3-style path',
            'region s3://b/ http://h/c', 'replica s3://b/x http://h/c/', 'cache-dir /x', 'cache-size 1G',
            's3-access-key A', 's3-secret-key B', 'proxy http://p:3128', 'revalidate 5')
GATE, URL, ESCAPES, PLACE, ANSWER, REFUSED, JSON, PROFILE, CONFIG, NAMES, PINS = range(11)


def names_of_text():
    for top in TOPS:
        yield GATE, '\n'.join((top, *REFERENCES))
        yield URL, '\n'.join((top, '/x/../y', '../z?q', '//o/x', 'http://o:99/%2e%2e/x y', '?q', '#f'))
        yield PLACE, top + '\n' + REFUSAL
        yield NAMES, top + '\n../x'
    # A bucket, which is no object, lies beneath its own root.
    for bucket in 's3://bucket', 'az://c', 'gs://b', 'http://h':
        yield GATE, f'{bucket}/top\n{bucket}\n{bucket}/\n{bucket}x'
    for text in '/a/./b/../c%41 \xff?', '/../..', '/%2e/%2E%2e/x':
        yield ESCAPES, text
    yield PLACE, 'https://h/x?X-Amz-Credential=A%2F2&X-Amz-Signature=1'
    yield PLACE, 'http://user:password@h:1/x?signature=0123456789\n' + REFUSAL
    yield PLACE, 'http://user:pass:word@h/x#y'
    yield PLACE, 'http://user:password@h:x/x?signature=0123456789'
    yield PLACE, 'http://%00:p@h/x'
    yield PLACE, 'http://u:%00@h/x'
    yield PLACE, 'http://h/a b"<>\\^`{|}'
    yield ANSWER, ('HTTP/1.1 206 P\r\nContent-Range: bytes 0-99/1000\r\nContent-Length: 100\r\n'
                   'ETag: "a"\r\nRetry-After: 120\r\nDate: Fri\r\nLast-Modified: 1234567890\r\n'
                   'x-amz-version-id: v\r\nLocation: /x\r\n\r\n')
    yield ANSWER, ('HTTP/2 416\r\nContent-Range: bytes */1000\r\nTransfer-Encoding: chunked\r\n'
                   'Content-Type: multipart/x\r\nContent-Encoding: gzip\r\nRetry-After: 1234567890\r\n\r\n')
    for text in REFUSAL, '<!DOCTYPE x><Error><Code>x', '<Error><!-- c --><Code><![CDATA[x]]></Code></Error>':
        yield REFUSED, text
    yield JSON, ('{"AccessKeyId":"A\\u00e9\\ud83d\\ude00","Expiration":"2026-01-31T12:34:56.5+01:00",'
                 '"Token":null,"x":-1.5e3,"y":true}')
    yield PROFILE, ('[p]\naws_access_key_id = A\naws_secret_access_key=b\nregion = eu\n[profile p]\n'
                    'endpoint_url = http://x\nsource_profile=q\ns3 =\n  endpoint_url=http://y\n')
    yield CONFIG, '\n'.join(SETTINGS)
    for line in SETTINGS:
        yield CONFIG, line
    yield NAMES, 'json:{"file":{"driver":"https","url":"https://h/x"},"driver":"qcow2"}\nx'
    yield NAMES, 'json:{"file.filename":"x","file.driver":"file"}'
    yield NAMES, 'file:///x\n..'
    for text in 'e"abc"', 'vid', '':
        yield PINS, text


def names():
    for which, text in names_of_text():
        yield bytes([which]) + text.encode('latin1')


# ------------------------------------------------------------------------ cache

HEADER, TABLE, META, GRAIN, RECORD, CUT_DATA, CUT_RECORD, COPY, REPLACE, ADD = range(10)


def change(what, at, content=b''):
    return bytes([what, at >> 8, at & 255, len(content)]) + content


def cache_changes():
    yield b''
    for what, at, content in ((HEADER, 0, b'x'), (HEADER, 300, b'abc'), (TABLE, 8, bytes(8)),
                              (TABLE, 0, b'\xff' * 8), (META, 0, b'\xff' * 16), (META, 0, bytes(16)),
                              (GRAIN, 0, b'x'), (GRAIN, 4096 * 6 + 50, b'y'), (RECORD, 0, b'x'),
                              (RECORD, 50, b'\xff' * 8), (RECORD, 57, b'x'),
                              (RECORD, 75, b'x'), (RECORD, 0, bytes(255)), (CUT_DATA, 101, b''), (CUT_DATA, 600, b''),
                              (CUT_DATA, 1, b''), (CUT_RECORD, 20, b''), (COPY, 0x12, b'')):
        yield change(what, at, content)
    yield change(COPY, 0x06) + change(COPY, 0x60)
    for how in range(24):
        yield change(REPLACE, how)
    yield change(REPLACE, 0) + change(REPLACE, 0)
    for how in 0, 1, 2, 3, 4, 0x80, 0x81, 0x82, 0x84:
        yield change(ADD, how, b'qchain-d\1\0\0\0')


def cache():
    for changes in cache_changes():
        yield b'\0' + changes
        yield b'\1' + changes


SEEDS = {'http': http, 'names': names, 'cache': cache}
