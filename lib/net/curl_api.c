/* SPDX-License-Identifier: MIT */
#include "net/curl_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "util/error.h"

static struct {
    pthread_once_t once;
    bool           ok;
    struct qc_curl api;
    char           reason[400];
} loaded = {.once = PTHREAD_ONCE_INIT};

#define SYMBOL(name) {"curl_" #name, offsetof(struct qc_curl, name)}

static const struct {
    const char *name;
    size_t      at;
} symbol[] = {
    SYMBOL(global_init), SYMBOL(version_info), SYMBOL(getdate),
    SYMBOL(slist_append), SYMBOL(slist_free_all),
    SYMBOL(easy_init), SYMBOL(easy_cleanup), SYMBOL(easy_reset), SYMBOL(easy_setopt),
    SYMBOL(easy_getinfo), SYMBOL(easy_perform), SYMBOL(easy_strerror),
    SYMBOL(multi_init), SYMBOL(multi_cleanup), SYMBOL(multi_setopt), SYMBOL(multi_add_handle),
    SYMBOL(multi_remove_handle), SYMBOL(multi_socket_action), SYMBOL(multi_assign),
    SYMBOL(multi_info_read), SYMBOL(multi_strerror),
};

static void say(const char *reason)
{
    snprintf(loaded.reason, sizeof(loaded.reason), "%s", reason);
}

static bool find_symbols(void *library)
{
    for (size_t i = 0; i < sizeof(symbol) / sizeof(symbol[0]); i++) {
        void *p = dlsym(library, symbol[i].name);

        if (!p) {
            snprintf(loaded.reason, sizeof(loaded.reason), "it has no %s", symbol[i].name);
            return false;
        }
        memcpy((char *)&loaded.api + symbol[i].at, &p, sizeof(p));
    }
    return true;
}

static void load(void)
{
    static const char *const name[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};
    const curl_version_info_data *info;
    void *library = NULL;
    const char *reason;

    for (size_t i = 0; !library && i < sizeof(name) / sizeof(name[0]); i++) {
        library = dlopen(name[i], RTLD_LAZY | RTLD_LOCAL);
        /* What is wrong with the first is what people want to know. */
        if (!library && i == 0 && (reason = dlerror()))
            say(reason);
    }
    if (!library || !find_symbols(library))
        return;
    if (loaded.api.global_init(CURL_GLOBAL_ALL) != CURLE_OK) {
        say("it cannot initialise itself");
        return;
    }
    info = loaded.api.version_info(CURLVERSION_FIRST);
    if (info->version_num < QC_CURL_OLDEST)
        snprintf(loaded.reason, sizeof(loaded.reason), "it is version %s, and 7.80 is the oldest "
                 "that will do", info->version);
    else
        loaded.ok = true;
    loaded.api.easy_again = info->version_num < 0x075300 || info->version_num >= 0x080101;
}

const struct qc_curl *qc_curl_load(qchain_error *err)
{
    pthread_once(&loaded.once, load);
    if (loaded.ok)
        return &loaded.api;
    qc_fail(err, QCHAIN_E_UNSUPPORTED, "libcurl cannot be loaded: %s; install the package libcurl4",
            loaded.reason);
    return NULL;
}
