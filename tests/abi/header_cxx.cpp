// SPDX-License-Identifier: MIT
// All headers as C++11; the library's names keep their C linkage.
#include <qchain.h>
#include <qchain-backend.h>
#include <qchain-remote.h>

static int write_none(void *, const void *, size_t, uint64_t, qchain_error *)
{
    return 0;
}

int main()
{
    qchain_env_opts opts;
    qchain_env *env = nullptr;
    qchain_sink sink = {sizeof(qchain_sink), write_none, nullptr, nullptr};
    qchain_remote *remote = qchain_remote_create();

    qchain_env_opts_init(&opts, sizeof(opts));
    opts.remote = remote;
    if (qchain_env_create(&env, &opts, nullptr) != QCHAIN_OK || sink.zero != nullptr) {
        return 1;
    }
    qchain_env_destroy(env);
    qchain_remote_destroy(remote);
    return qchain_code_name(QCHAIN_E_IO) == nullptr;
}
