/* protobuf.c: the wire format of protocol buffers: keys (number << 3 | type), varints, little-endian numbers, byte strings. */
#include "formats/protobuf.h"

#include <string.h>

static bool damaged(cb_protobuf *m, const char *found)
{
    m->damaged = true;
    return cb_fail(CB_ERR_FORMAT, "%s: found %s at byte %td of a message, expected a field of a protocol buffer", m->what, found,
                   m->at - m->start),
           false;
}

static bool take_varint(cb_protobuf *m, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (m->at == m->end)
            return damaged(m, "the end");
        uint8_t byte = *m->at++;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return true;
    }
    return damaged(m, "a number of more than 64 bits");
}

static bool take_fixed(cb_protobuf *m, unsigned size, uint64_t *out)
{
    *out = 0;
    if ((size_t)(m->end - m->at) < size)
        return damaged(m, "the end");
    for (unsigned i = 0; i < size; i++)
        *out |= (uint64_t)*m->at++ << (8 * i);
    return true;
}

bool cb_protobuf_next(cb_protobuf *m, cb_protobuf_field *field)
{
    uint64_t key;
    if (m->at == m->end || !take_varint(m, &key))
        return false;
    if (key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return damaged(m, "a field without a number");
    *field = (cb_protobuf_field){.number = (uint32_t)(key >> 3)};
    switch (key & 7) {
    case 0:
        field->wire = CB_WIRE_VARINT;
        return take_varint(m, &field->value);
    case 1:
        field->wire = CB_WIRE_64;
        return take_fixed(m, 8, &field->value);
    case 2:
        field->wire = CB_WIRE_BYTES;
        if (!take_varint(m, &field->value))
            return false;
        if (field->value > (uint64_t)(m->end - m->at))
            return damaged(m, "bytes beyond the end");
        field->bytes = m->at;
        field->length = (size_t)field->value;
        m->at += field->length;
        return true;
    case 5:
        field->wire = CB_WIRE_32;
        return take_fixed(m, 4, &field->value);
    default:
        return damaged(m, "a field of an unknown type");
    }
}

cb_protobuf cb_protobuf_inner(const cb_protobuf *m, const cb_protobuf_field *field)
{
    return (cb_protobuf){m->what, field->bytes, field->bytes, field->bytes + field->length, false};
}

float cb_protobuf_float(const cb_protobuf_field *field)
{
    uint32_t bits = (uint32_t)field->value;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
