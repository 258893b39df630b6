/* SPDX-License-Identifier: MIT */
#include "chain/codec.h"

#include "chain/env.h"
#include "util/alloc.h"

static void codec_free(struct qc_codec *codec)
{
    if (codec->decoder)
        codec->format->decoder_destroy(codec->decoder);
    qc_free(codec->input);
    qc_free(codec);
}

static struct qc_codec *take_idle(qchain_env *env, const struct qc_image *img)
{
    struct qc_codec **at, *codec;

    pthread_mutex_lock(&env->codec_lock);
    for (at = &env->codecs; (codec = *at); at = &codec->next)
        if (codec->format == img->format && codec->kind == img->decoder_kind &&
            codec->cluster_size == img->cluster_size)
            break;
    if (codec)
        *at = codec->next;
    pthread_mutex_unlock(&env->codec_lock);
    return codec;
}

struct qc_codec *qc_codec_get(qchain_env *env, const struct qc_image *img, size_t input_size)
{
    struct qc_codec *codec = take_idle(env, img);

    if (!codec) {
        codec = qc_calloc(1, sizeof(*codec));
        if (!codec)
            return NULL;
        codec->format = img->format;
        codec->kind = img->decoder_kind;
        codec->cluster_size = img->cluster_size;
        codec->decoder = img->format->decoder_create(img);
    }
    if (codec->decoder && codec->input_size < input_size) {
        qc_free(codec->input);
        codec->input = qc_malloc(input_size);
        codec->input_size = codec->input ? input_size : 0;
    }
    if (!codec->decoder || codec->input_size < input_size) {
        codec_free(codec);
        return NULL;
    }
    return codec;
}

void qc_codec_put(qchain_env *env, struct qc_codec *codec)
{
    if (!codec)
        return;
    pthread_mutex_lock(&env->codec_lock);
    codec->next = env->codecs;
    env->codecs = codec;
    pthread_mutex_unlock(&env->codec_lock);
}

void qc_codecs_destroy(struct qc_codec *list)
{
    struct qc_codec *next;

    for (; list; list = next) {
        next = list->next;
        codec_free(list);
    }
}
