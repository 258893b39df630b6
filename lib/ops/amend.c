/* SPDX-License-Identifier: MIT */
#include "ops/amend.h"

#include <string.h>

#include "chain/tip.h"
#include "ops/create.h"
#include "qcow2/header_amend.h"

/* The size last: it alone may lose something. */
static int amend_size(qchain *c, uint64_t size, qchain_error *err)
{
    int ret = qc_create_round(&size, err);

    return ret == 0 ? qc_chain_resize(c, size, size < c->size, err) : ret;
}

int qc_amend(qchain *c, const qchain_create_opts *o, uint32_t mask, qchain_error *err)
{
    uint32_t header = mask & ~(uint32_t)QCHAIN_AMEND_SIZE;
    int ret = qc_tip_check(c, err);

    if (ret == 0 && strcmp(c->tip->img->format->name, "qcow2") != 0)
        ret = qc_fail(err, QCHAIN_E_UNSUPPORTED, "amend: %s images have no options", c->tip->img->format->name);
    if (ret != 0)
        return ret;
    if (header) {
        ret = qc_tip_alone(c, err);
        if (ret != 0)
            return ret;
        ret = qc2_amend(c->tip->img, o, header, err);
        if (ret != 0)
            qc_layer_prefix(c, 0, err);
        qc_tip_not_alone(c);
    }
    return ret == 0 && mask & QCHAIN_AMEND_SIZE ? amend_size(c, o->size, err) : ret;
}
