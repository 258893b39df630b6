/* SPDX-License-Identifier: MIT */
/*
 * What is used of libcurl, which is not linked: it is loaded when the first URL is opened, so that a
 * process with local disks alone pays nothing for it. Never unloaded: libraries beneath it keep
 * handlers for the process's end. Members are the functions of these names less "curl_".
 */
#ifndef QC_NET_CURL_API_H
#define QC_NET_CURL_API_H

#include <curl/curl.h>
#include <stdbool.h>
#include <qchain.h>

struct qc_curl {
    CURLcode (*global_init)(long flags);
    curl_version_info_data *(*version_info)(CURLversion age);
    time_t (*getdate)(const char *text, const time_t *unused);
    struct curl_slist *(*slist_append)(struct curl_slist *list, const char *text);
    void (*slist_free_all)(struct curl_slist *list);

    CURL *(*easy_init)(void);
    void (*easy_cleanup)(CURL *easy);
    void (*easy_reset)(CURL *easy);
    CURLcode (*easy_setopt)(CURL *easy, CURLoption option, ...);
    CURLcode (*easy_getinfo)(CURL *easy, CURLINFO info, ...);
    CURLcode (*easy_perform)(CURL *easy);
    const char *(*easy_strerror)(CURLcode code);

    CURLM *(*multi_init)(void);
    CURLMcode (*multi_cleanup)(CURLM *multi);
    CURLMcode (*multi_setopt)(CURLM *multi, CURLMoption option, ...);
    CURLMcode (*multi_add_handle)(CURLM *multi, CURL *easy);
    CURLMcode (*multi_remove_handle)(CURLM *multi, CURL *easy);
    CURLMcode (*multi_socket_action)(CURLM *multi, curl_socket_t fd, int events, int *running);
    CURLMcode (*multi_assign)(CURLM *multi, curl_socket_t fd, void *data);
    CURLMsg *(*multi_info_read)(CURLM *multi, int *left);
    const char *(*multi_strerror)(CURLMcode code);

    /* From 7.83 to 8.1 a handle remembers a header of its last transfer that is freed, and appends to it
     * what a server begins the next header with if that is a blank: no handle is used again there. */
    bool easy_again;
};

/* The oldest that has all that is used: CURLOPT_PREREQFUNCTION came with it. */
#define QC_CURL_OLDEST 0x075000 /* 7.80.0 */

/* Load it, once. NULL: UNSUPPORTED with a sentence; the same at every later call. Any thread. */
const struct qc_curl *qc_curl_load(qchain_error *err);

#endif
