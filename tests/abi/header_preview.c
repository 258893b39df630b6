/* SPDX-License-Identifier: MIT */
/* What is planned is declared, and compiles, when asked for. */
#define QCHAIN_PREVIEW
#include <qchain.h>

_Static_assert(sizeof(qchain_completion) == 32, "completions never grow");

int main(void)
{
    qchain_queue_opts queue = { .struct_size = sizeof(queue), .flags = QCHAIN_QUEUE_NO_URING };
    qchain_index_opts index = { .struct_size = sizeof(index) };

    /* Until then the features say so. */
    return queue.depth == 0 && index.name == NULL && qchain_has("queue") == 0 ? 0 : 1;
}
