/* zip.c: reading the directory at the end of a zip archive.  Every record is found through the one after it: the end
 * record leads to the directory (by way of the zip64 one where sizes or places need 64 bits), a directory entry to the
 * header before the member's data. */
#include "formats/zip.h"

#include <stdlib.h>
#include <string.h>

enum { END_SIZE = 22, LOCATOR_SIZE = 20, END64_SIZE = 56, ENTRY_SIZE = 46, LOCAL_SIZE = 30, COMMENT_MOST = 65535 };

static const uint32_t end_mark = 0x06054b50, locator_mark = 0x07064b50, end64_mark = 0x06064b50, entry_mark = 0x02014b50,
                      local_mark = 0x04034b50;

static uint64_t number(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static bool has_mark(const uint8_t *at, uint32_t mark)
{
    return number(at, 4) == mark;
}

static CB_COLD bool damaged(const cb_file_map *file, const char *problem)
{
    cb_fail(CB_ERR_FORMAT, "%s: zip archive: %s", file->path, problem);
    return false;
}

/* Where `size` bytes at `place` lie; NULL and an error when the file has no such bytes. */
static const uint8_t *within(const cb_file_map *file, uint64_t place, uint64_t size)
{
    if (place <= file->size && size <= file->size - place)
        return file->data + place;
    damaged(file, "found a place beyond the end of the file");
    return NULL;
}

/* ---- the directory ---- */

/* The end record is the last one; a comment may follow it. */
static const uint8_t *find_end(const cb_file_map *file)
{
    for (size_t back = END_SIZE; back <= file->size && back <= END_SIZE + COMMENT_MOST; back++) {
        const uint8_t *at = file->data + file->size - back;
        if (has_mark(at, end_mark) && number(at + 20, 2) == back - END_SIZE)
            return at;
    }
    damaged(file, "found no directory at its end: it is damaged or was cut off");
    return NULL;
}

static bool find_directory(const cb_file_map *file, uint64_t *place, uint64_t *size)
{
    const uint8_t *end = find_end(file);
    if (!end)
        return false;
    *size = number(end + 12, 4);
    *place = number(end + 16, 4);
    if (end - file->data < LOCATOR_SIZE || !has_mark(end - LOCATOR_SIZE, locator_mark))
        return true;
    const uint8_t *end64 = within(file, number(end - LOCATOR_SIZE + 8, 8), END64_SIZE);
    if (!end64)
        return false;
    *size = number(end64 + 40, 8);
    *place = number(end64 + 48, 8);
    return has_mark(end64, end64_mark) || damaged(file, "found no zip64 record where it is expected");
}

/* Fields that did not fit are in the zip64 part of the extra field, in this order. */
static bool read_extra(const cb_file_map *file, const uint8_t *at, size_t left, uint64_t *fields[3])
{
    while (left >= 4) {
        size_t size = (size_t)number(at + 2, 2);
        if (size > left - 4)
            break;
        if (number(at, 2) == 1) {
            at += 4;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != UINT32_MAX)
                    continue;
                if (size < 8)
                    return damaged(file, "found a zip64 entry that is too short");
                *fields[i] = number(at, 8);
                at += 8;
                size -= 8;
            }
            return true;
        }
        at += 4 + size;
        left -= 4 + size;
    }
    return true;
}

static bool find_data(const cb_file_map *file, uint64_t place, cb_zip_member *member)
{
    const uint8_t *local = within(file, place, LOCAL_SIZE);
    if (!local)
        return false;
    if (!has_mark(local, local_mark))
        return damaged(file, "found no member where its entry says");
    member->data = within(file, place + LOCAL_SIZE + number(local + 26, 2) + number(local + 28, 2), member->size);
    return member->data;
}

/* Reads an entry at `at` of `left` bytes; *size gets its length. */
static bool read_entry(cb_zip *zip, const cb_file_map *file, const uint8_t *at, uint64_t left, uint64_t *size)
{
    if (left < ENTRY_SIZE || !has_mark(at, entry_mark))
        return damaged(file, "found no entry in its directory where one is expected");
    size_t name_length = (size_t)number(at + 28, 2), extra_length = (size_t)number(at + 30, 2);
    *size = ENTRY_SIZE + name_length + extra_length + number(at + 32, 2);
    if (*size > left)
        return damaged(file, "found an entry that reaches beyond its directory");
    cb_zip_member member = {.name = (const char *)at + ENTRY_SIZE, .name_length = name_length};
    uint64_t packed = number(at + 20, 4), whole = number(at + 24, 4), place = number(at + 42, 4);
    if (!read_extra(file, at + ENTRY_SIZE + name_length, extra_length, (uint64_t *[]){&whole, &packed, &place}))
        return false;
    if (number(at + 10, 2) != 0 || number(at + 8, 2) & 1 || packed != whole)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: zip archive: %.*s: found a packed or encrypted member, expected it as torch.save stores it",
                       file->path, (int)(name_length < 200 ? name_length : 200), member.name) == CB_OK;
    member.size = (size_t)whole;
    if (!find_data(file, place, &member) || !cb_grow(&zip->members, &zip->capacity, zip->count + 1, sizeof *zip->members))
        return false;
    zip->members[zip->count++] = member;
    return true;
}

/* ---- the interface ---- */

static int by_name(const void *a_, const void *b_)
{
    const cb_zip_member *a = a_, *b = b_;
    size_t shorter = a->name_length < b->name_length ? a->name_length : b->name_length;
    int order = memcmp(a->name, b->name, shorter);
    return order ? order : (a->name_length > b->name_length) - (a->name_length < b->name_length);
}

bool cb_zip_open(cb_zip *zip, const cb_file_map *file)
{
    uint64_t place, left, size = 0;
    *zip = (cb_zip){0};
    const uint8_t *at = find_directory(file, &place, &left) ? within(file, place, left) : NULL;
    bool ok = at;
    for (; ok && left; at += size, left -= size)
        ok = read_entry(zip, file, at, left, &size);
    if (ok && zip->count)
        qsort(zip->members, zip->count, sizeof *zip->members, by_name);
    for (size_t i = 1; ok && i < zip->count; i++)
        ok = by_name(&zip->members[i - 1], &zip->members[i]) != 0 || damaged(file, "found two members of one name");
    if (!ok)
        cb_zip_close(zip);
    return ok;
}

void cb_zip_close(cb_zip *zip)
{
    cb_free(zip->members);
    *zip = (cb_zip){0};
}

const cb_zip_member *cb_zip_find(const cb_zip *zip, const char *name, size_t name_length)
{
    const cb_zip_member wanted = {.name = name, .name_length = name_length};
    return zip->count ? bsearch(&wanted, zip->members, zip->count, sizeof wanted, by_name) : NULL;
}
