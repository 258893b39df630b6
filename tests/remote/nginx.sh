#!/bin/sh
# SPDX-License-Identifier: MIT
# nginx as a plain origin: files of WWW over http (HTTP, HTTP_OTHER: another origin with the same files)
# and over TLS with HTTP/2 (HTTPS; CA is who signed it, CA_OTHER is somebody else).
#   /FILE            static         /dav/FILE        PUT, DELETE, and GET of WWW/dav
#   /private/FILE    basic, user:pass-9d2f1c         /bearer/FILE  token TESTTOKEN-77aa
#   /signed/FILE     only with ?sig=SIG-51ce4b       /slow/FILE    4 MiB/s
#   /norange/FILE    200 always     /noetag/ /nothing/ /weak/FILE  without ETag, any validator, weak ETag
#   /bad/KIND/FILE   KIND shift, total, type: a wrong Content-Range or
#                    none of what does not begin at 0; gzip: says it is encoded
#   /redirect/307/FILE, /away/307/FILE, /plain/307/FILE            to this origin, the other, http
# Faults at run time: /_ctl?fail=0.1&status=503&retry_after=1&delay_ms=20&reset=0.1, off by
# /_ctl?clear=1. /_stats: counters as JSON, /_reset: from zero. Logs: JSON lines with the Authorization
# header in LOG, and LOG_OTHER of the other origin.
. "$(dirname "$0")/remote_common.sh"

modules=/usr/lib/nginx/modules

# What happens before and after each request.
lua() {
    cat >"$dir/faults.lua" <<'LUA'
local ctl = ngx.shared.ctl
local function chance(name)
    local rate = ctl:get(name)
    return rate and rate > 0 and math.random() < rate
end
local delay = ctl:get("delay_ms")
if delay then ngx.sleep(delay / 1000) end
if chance("reset") then
    ngx.shared.count:incr("inj_reset", 1, 0)
    return ngx.exit(444)
end
if chance("fail") then
    ngx.shared.count:incr("inj_fail", 1, 0)
    local after = ctl:get("retry_after")
    if after then ngx.header["Retry-After"] = after end
    return ngx.exit(ctl:get("status") or 503)
end
LUA
    cat >"$dir/bad.lua" <<LUA
local f = io.open("$dir/www/" .. ngx.var.file, "rb")
local a, b = (ngx.var.http_range or ""):match("bytes=(%d+)-(%d+)")
if not f or not a then return ngx.exit(404) end
local size = f:seek("end")
a, b = tonumber(a), math.min(tonumber(b), size - 1)
f:seek("set", a)
local body = f:read(b - a + 1)
f:close()
local shift = (ngx.var.kind == "shift" and a > 0) and 4096 or 0
local more = (ngx.var.kind == "total" and a > 0) and 7 or 0
ngx.status = 206
ngx.header["ETag"] = '"bad"'
ngx.header["Content-Length"] = b - a + 1
if ngx.var.kind ~= "type" or a == 0 then
    ngx.header["Content-Range"] = string.format("bytes %d-%d/%d", a + shift, b + shift, size + more)
end
ngx.print(body)
LUA
    cat >"$dir/count.lua" <<'LUA'
if ngx.var.uri:sub(1, 2) == "/_" then return end
local count = ngx.shared.count
count:incr("requests", 1, 0)
count:incr("bytes", tonumber(ngx.var.body_bytes_sent), 0)
count:incr("status_" .. ngx.status, 1, 0)
count:incr("method_" .. ngx.req.get_method(), 1, 0)
count:incr("http_" .. tostring(ngx.req.http_version()), 1, 0)
if ngx.var.http_range then count:incr("ranged", 1, 0) end
if ngx.var.connection_requests == "1" then count:incr("connections", 1, 0) end
LUA
}

locations() {
    cat >"$dir/locations" <<CONF
        root $dir/www;
        access_by_lua_file $dir/faults.lua;
        location = /_stats { access_by_lua_block { } content_by_lua_block {
            local out = {}
            for _, k in ipairs(ngx.shared.count:get_keys(0)) do
                out[#out + 1] = string.format('"%s": %d', k, ngx.shared.count:get(k))
            end
            ngx.say("{" .. table.concat(out, ", ") .. "}")
        } }
        location = /_reset { access_by_lua_block { } content_by_lua_block {
            ngx.shared.count:flush_all() ngx.say("ok") } }
        location = /_ctl { access_by_lua_block { } content_by_lua_block {
            for k, v in pairs(ngx.req.get_uri_args()) do
                if k == "clear" then ngx.shared.ctl:flush_all()
                else ngx.shared.ctl:set(k, tonumber(v)) end
            end
            ngx.say("ok")
        } }
        location /dav/ { dav_methods PUT DELETE MKCOL; create_full_put_path on; }
        location /private/ { alias $dir/www/; auth_basic test; auth_basic_user_file $dir/users; }
        location /bearer/ { alias $dir/www/; access_by_lua_block {
            if ngx.var.http_authorization ~= "Bearer TESTTOKEN-77aa" then return ngx.exit(401) end } }
        location /signed/ { alias $dir/www/; access_by_lua_block {
            if ngx.var.arg_sig ~= "SIG-51ce4b" then return ngx.exit(403) end } }
        location /slow/ { alias $dir/www/; limit_rate 4m; }
        location /norange/ { alias $dir/www/; max_ranges 0; }
        location /noetag/ { alias $dir/www/; etag off; }
        location /nothing/ { alias $dir/www/; etag off;
            header_filter_by_lua_block { ngx.header["Last-Modified"] = nil } }
        location /weak/ { alias $dir/www/; header_filter_by_lua_block {
            if ngx.header["ETag"] then ngx.header["ETag"] = "W/" .. ngx.header["ETag"] end } }
        location ~ ^/bad/(?<kind>shift|total|type)/(?<file>.*) { content_by_lua_file $dir/bad.lua; }
        location /bad/gzip/ { alias $dir/www/; header_filter_by_lua_block {
            ngx.header["Content-Encoding"] = "gzip" } }
CONF
    # With what was asked for as it was written, so encoded names stay that.
    for code in 301 302 303 307 308; do
        cat <<CONF
        location /redirect/$code/ { rewrite_by_lua_block {
            return ngx.redirect(ngx.var.request_uri:sub(14), $code) } }
        location /away/$code/ { rewrite_by_lua_block {
            return ngx.redirect("http://127.0.0.1:$HTTP_OTHER" .. ngx.var.request_uri:sub(10), $code) } }
        location /plain/$code/ { rewrite_by_lua_block {
            return ngx.redirect("http://127.0.0.1:$HTTP" .. ngx.var.request_uri:sub(11), $code) } }
CONF
    done >>"$dir/locations"
}

configure() {
    user=
    [ "$(id -u)" -ne 0 ] || user="user root;"
    mkdir -p "$dir/www/dav" "$dir/tmp"
    printf 'user:%s\n' "$(openssl passwd -apr1 pass-9d2f1c)" >"$dir/users"
    locations
    lua
    cat >"$dir/nginx.conf" <<CONF
load_module $modules/ndk_http_module.so;
load_module $modules/ngx_http_lua_module.so;
load_module $modules/ngx_http_dav_ext_module.so;
$user
pid $dir/nginx.pid;
error_log $dir/error.log warn;
worker_processes 1;
events { worker_connections 4096; }
http {
    log_format all escape=json '{"time": \$msec, "method": "\$request_method", "uri": "\$request_uri", '
        '"range": "\$http_range", "status": \$status, "bytes": \$body_bytes_sent, '
        '"authorization": "\$http_authorization", "token": "\$http_x_amz_security_token", '
        '"cookie": "\$http_cookie", "referer": "\$http_referer", "if_match": "\$http_if_match", '
        '"proto": "\$server_protocol"}';
    access_log $dir/access.log all;
    client_body_temp_path $dir/tmp/body; proxy_temp_path $dir/tmp/proxy;
    fastcgi_temp_path $dir/tmp/fastcgi; uwsgi_temp_path $dir/tmp/uwsgi; scgi_temp_path $dir/tmp/scgi;
    client_max_body_size 0;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000;
    reset_timedout_connection on;
    default_type application/octet-stream;
    lua_shared_dict ctl 1m;
    lua_shared_dict count 1m;
    init_worker_by_lua_block { math.randomseed(ngx.worker.pid()) }
    log_by_lua_file $dir/count.lua;
    server { listen 127.0.0.1:$HTTP; include $dir/locations; }
    server { listen 127.0.0.1:$HTTP_OTHER; access_log $dir/access-other.log all; include $dir/locations; }
    server {
        listen 127.0.0.1:$HTTPS ssl http2;
        ssl_certificate $dir/server.pem;
        ssl_certificate_key $dir/server.key;
        include $dir/locations;
    }
}
CONF
}

is_up() { running "$dir/nginx.pid" && answers "$HTTP"; }

do_start() {
    need nginx nginx
    for m in ndk_http_module:libnginx-mod-http-ndk ngx_http_lua_module:libnginx-mod-http-lua \
        ngx_http_dav_ext_module:libnginx-mod-http-dav-ext; do
        [ -e "$modules/${m%%:*}.so" ] || skip "the Debian package ${m#*:} is missing"
    done
    ! is_up || return 0
    certificates
    configure
    PATH=$PATH:/usr/sbin nginx -p "$dir" -e "$dir/error.log" -c "$dir/nginx.conf"
    wait_for 10 is_up || { cat "$dir/error.log" >&2; exit 1; }
}

# Never hard: the workers would outlive their master.
do_stop() {
    hard=
    stop_pid "$dir/nginx.pid"
}

do_print() {
    cat "$dir/env"
    echo "PID=$(cat "$dir/nginx.pid")"
    echo "WWW=$dir/www"
    echo "CA=$dir/ca.pem"
    echo "CA_OTHER=$dir/other.pem"
    echo "LOG=$dir/access.log"
    echo "LOG_OTHER=$dir/access-other.log"
}

settings HTTP HTTP_OTHER HTTPS
main "$@"
