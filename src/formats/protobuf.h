/* protobuf.h: reading the wire format of protocol buffers, field by field, from memory; nothing is copied. */
#ifndef CB_FORMATS_PROTOBUF_H
#define CB_FORMATS_PROTOBUF_H

#include "cambium/core.h"

typedef struct cb_protobuf {
    const char *what; /* for messages */
    const uint8_t *start, *at, *end;
    bool damaged;
} cb_protobuf;

typedef struct cb_protobuf_field {
    uint32_t number;
    enum { CB_WIRE_VARINT = 0, CB_WIRE_64 = 1, CB_WIRE_BYTES = 2, CB_WIRE_32 = 5 } wire;
    uint64_t value;       /* of a varint, or the bits of a 32 or 64-bit field */
    const uint8_t *bytes; /* of CB_WIRE_BYTES */
    size_t length;
} cb_protobuf_field;

/* The next field: true, or false at the end of the message or where it is damaged (message->damaged and a message). */
bool cb_protobuf_next(cb_protobuf *message, cb_protobuf_field *field);
/* The message that a field of bytes holds. */
cb_protobuf cb_protobuf_inner(const cb_protobuf *message, const cb_protobuf_field *field);
float cb_protobuf_float(const cb_protobuf_field *field);

#endif
