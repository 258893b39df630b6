#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Give every image of expect.tsv to the tools: check-files.py [QCHAIN DIR]

Without arguments QC_BIN and QC_FILES say where the tools and the images are. Exit
status, message, map and bytes must be as expected; where qemu-img is installed it
must read the same bytes. Images that want options which the tools do not have
(snapshots, salvaging) are left to tests/unit/qcow2/test_files.c."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

KEYS = ('depth', 'present', 'zero', 'data')
wrong = []


def run(*args):
    return subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True)


def fault(name, what, text):
    wrong.append(name)
    print('%s: %s: %s' % (name, what, text))


def failed(row, what, r, levels):
    """Compare how it ended; True if there is output to look at."""
    err = r.stderr.decode(errors='replace').strip()
    if row['fails'] not in levels:
        if r.returncode != 0:
            fault(row['name'], what, 'exit status %d: %s' % (r.returncode, err))
        return r.returncode == 0
    if r.returncode != 1:
        fault(row['name'], what, 'exit status %d, not 1: %s' % (r.returncode, err))
    elif row['message'] not in err:
        fault(row['name'], what, "expected '%s', got '%s'" % (row['message'], err))
    return False


def normal(extents):
    """Neighbours merged, offsets of data only, nothing but what qemu-img knows."""
    out = []
    for e in extents:
        n = {k: e[k] for k in ('start', 'length') + KEYS}
        if e['data'] and 'offset' in e:
            n['offset'] = e['offset']
        last = out[-1] if out else None
        if last and all(last[k] == n[k] for k in KEYS) and ('offset' in last) == ('offset' in n) \
                and ('offset' not in n or last['offset'] + last['length'] == n['offset']):
            last['length'] += n['length']
        elif n['length']:
            out.append(n)
    return out


def check(qchain, row):
    name = row['name']
    failed(row, 'inspect', run(qchain, 'inspect', '-f', 'qcow2', name), ('open', 'inspect'))
    r = run(qchain, 'map', '--trust', '-f', 'qcow2', '--output=json', name)
    if failed(row, 'map', r, ('open', 'map')) and row['map'] != '-':
        got = normal(json.loads(r.stdout))
        if got != json.loads(row['map']):
            fault(name, 'map', 'expected %s, got %s' % (row['map'], json.dumps(got)))
    r = run(qchain, 'read', '--trust', '-q', '-f', 'qcow2', name, '-')
    if failed(row, 'read', r, ('open', 'map', 'read')) and row['sha256'] != '-':
        if hashlib.sha256(r.stdout).hexdigest() != row['sha256']:
            fault(name, 'read', 'other bytes than expected')


def check_qemu(row, out):
    how = ['-l', row['options'][9:]] if row['options'].startswith('snapshot=') else []
    r = run('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', *how, row['name'], out)
    if r.returncode != 0:
        return fault(row['name'], 'qemu-img', r.stderr.decode(errors='replace').strip())
    with open(out, 'rb') as f:
        if hashlib.sha256(f.read()).hexdigest() != row['sha256']:
            fault(row['name'], 'qemu-img', 'reads other bytes')


def check_readme(names):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'README.md')) as f:
        text = f.read()
    for name in names:
        if '`%s`' % name not in text:
            fault(name, 'README.md', 'not explained (make-files.py --readme)')


def main():
    if len(sys.argv) == 3:
        qchain, files = sys.argv[1:]
    else:
        qchain = os.path.join(os.environ.get('QC_BIN', 'build/bin'), 'qchain')
        files = os.environ.get('QC_FILES', '')
    qchain = os.path.abspath(qchain)
    if not os.access(qchain, os.X_OK) or not os.path.exists(os.path.join(files, 'expect.tsv')):
        print('no tools, or no images')
        sys.exit(77)
    os.chdir(files)
    with open('expect.tsv') as f:
        rows = [dict(zip(('name', 'options', 'fails', 'code', 'message', 'qemu', 'sha256', 'map'),
                         line.rstrip('\n').split('\t'))) for line in f]
    qemu = shutil.which('qemu-img')
    with tempfile.TemporaryDirectory() as tmp:
        for row in rows:
            if row['options'] == '-':
                check(qchain, row)
            if qemu and row['qemu'] == '1':
                check_qemu(row, os.path.join(tmp, 'out'))
    check_readme(r['name'] for r in rows)
    print('%d images, %d wrong%s' % (len(rows), len(set(wrong)), '' if qemu else ', no qemu-img'))
    sys.exit(1 if wrong else 0)


main()
