/* events.c: scalars for TensorBoard.
 *
 * The file is a TFRecord: u64 length, masked CRC-32C of those eight bytes, the bytes, masked CRC-32C of the bytes; all
 * little-endian.  Each record is an Event protocol buffer (tensorflow/core/util/event.proto):
 *
 *     Event    1 wall_time double   2 step int64   3 file_version string   5 summary Summary
 *     Summary  1 value, repeated    { 1 tag string   2 simple_value float }
 *
 * The first one holds the version "brain.Event:2" and nothing else.  The file grows in place, since TensorBoard follows
 * it; a record is handed to the system with one write, so a crash leaves whole records but perhaps for the last. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cambium/formats.h"
#include "core/io.h"

struct cb_events {
    int fd;
    char *path;
    cb_string event, record; /* being built */
};

/* ---- CRC-32C (Castagnoli) ---- */

static uint32_t crc32c(const void *bytes, size_t length)
{
    const uint32_t reversed_polynomial = 0x82F63B78;
    const uint8_t *b = bytes;
    uint32_t crc = ~0u;
    for (size_t i = 0; i < length; i++) {
        crc ^= b[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? reversed_polynomial : 0);
    }
    return ~crc;
}

/* TFRecord's mask, so that a checksum of data that holds checksums is not degenerate. */
static uint32_t masked_crc(const void *bytes, size_t length)
{
    uint32_t crc = crc32c(bytes, length);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* ---- protocol buffers ---- */

enum { WIRE_VARINT = 0, WIRE_DOUBLE = 1, WIRE_BYTES = 2, WIRE_FLOAT = 5 };

static bool put_little_endian(cb_string *out, uint64_t value, int bytes)
{
    uint8_t b[8];
    for (int i = 0; i < bytes; i++)
        b[i] = (uint8_t)(value >> (8 * i));
    return cb_string_append(out, b, (size_t)bytes);
}

static size_t encode_varint(uint64_t value, uint8_t b[10])
{
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        b[n++] = (uint8_t)(value | 0x80);
    b[n++] = (uint8_t)value;
    return n;
}

static bool put_varint(cb_string *out, uint64_t value)
{
    uint8_t b[10];
    return cb_string_append(out, b, encode_varint(value, b));
}

static bool put_key(cb_string *out, unsigned field, unsigned wire)
{
    return put_varint(out, field << 3 | wire);
}

static bool put_double(cb_string *out, unsigned field, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return put_key(out, field, WIRE_DOUBLE) && put_little_endian(out, bits, 8);
}

static bool put_float(cb_string *out, unsigned field, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return put_key(out, field, WIRE_FLOAT) && put_little_endian(out, bits, 4);
}

static bool put_text(cb_string *out, unsigned field, const char *text)
{
    size_t length = strlen(text);
    return put_key(out, field, WIRE_BYTES) && put_varint(out, length) && cb_string_append(out, text, length);
}

static size_t varint_size(uint64_t value)
{
    uint8_t b[10];
    return encode_varint(value, b);
}

/* ---- records ---- */

static double wall_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool write_record(cb_events *events)
{
    cb_string *r = &events->record;
    const cb_string *e = &events->event;
    cb_string_clear(r);
    if (!put_little_endian(r, e->length, 8) || !put_little_endian(r, masked_crc(r->data, 8), 4) ||
        !cb_string_append(r, e->data, e->length) || !put_little_endian(r, masked_crc(e->data, e->length), 4))
        return false;
    return cb_io_write(events->fd, r->data, r->length) || cb_io_failed(events->path, "cannot write");
}

static bool write_version(cb_events *events)
{
    cb_string *e = &events->event;
    return put_double(e, 1, wall_time()) && put_text(e, 3, "brain.Event:2") && write_record(events);
}

bool cb_events_scalar(cb_events *events, int64_t step, const char *tag, double value)
{
    cb_string *e = &events->event;
    size_t tag_length = strlen(tag);
    size_t value_size = 1 + varint_size(tag_length) + tag_length + 1 + sizeof(float);
    size_t summary_size = 1 + varint_size(value_size) + value_size;
    if (!cb_utf8_valid(tag, tag_length, NULL))
        return cb_fail(CB_ERR_ARGUMENT, "%s: tag: found bytes that are not UTF-8", events->path) == CB_OK;
    cb_string_clear(e);
    return put_double(e, 1, wall_time()) && put_key(e, 2, WIRE_VARINT) && put_varint(e, (uint64_t)step) && put_key(e, 5, WIRE_BYTES) &&
           put_varint(e, summary_size) && put_key(e, 1, WIRE_BYTES) && put_varint(e, value_size) && put_text(e, 1, tag) &&
           put_float(e, 2, (float)value) && write_record(events);
}

/* ---- the file ---- */

/* The name says when and where, as TensorBoard's own writers have it; a file of the same second gets another number. */
static bool open_file(cb_events *events, const char *directory, const char *suffix)
{
    enum { TRIES = 1000 };
    char host[128] = "localhost";
    if (gethostname(host, sizeof host - 1) != 0 || !*host || strchr(host, '/'))
        strcpy(host, "localhost");
    for (int i = 0; i < TRIES; i++) {
        cb_free(events->path);
        events->path = cb_format("%s/events.out.tfevents.%010lld.%s.%ld.%d%s", directory, (long long)time(NULL), host, (long)getpid(), i,
                                 suffix ? suffix : "");
        if (!events->path)
            return false;
        events->fd = cb_io_open(events->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND);
        if (events->fd >= 0)
            return true;
        if (errno != EEXIST)
            break;
    }
    return cb_io_failed(events->path, "cannot make this file");
}

cb_events *cb_events_open(const char *directory, const char *suffix)
{
    cb_events *events = cb_calloc(1, sizeof *events);
    if (!events)
        return NULL;
    events->fd = -1;
    if (open_file(events, directory, suffix) && write_version(events))
        return events;
    if (events->fd >= 0)
        unlink(events->path);
    cb_events_close(events);
    return NULL;
}

void cb_events_close(cb_events *events)
{
    if (!events)
        return;
    if (events->fd >= 0)
        cb_io_close(events->fd);
    cb_free(events->path);
    cb_string_free(&events->event);
    cb_string_free(&events->record);
    cb_free(events);
}
