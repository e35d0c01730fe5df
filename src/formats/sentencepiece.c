/* sentencepiece.c: reading a SentencePiece model.  Fields that do not bear on encoding are passed over. */
#include "formats/sentencepiece.h"

#include <math.h>
#include <string.h>

#include "formats/protobuf.h"

enum { max_pieces = 4 << 20, longest_piece = 512 };

static bool is(const cb_protobuf_field *field, uint32_t number, int wire)
{
    return field->number == number && (int)field->wire == wire;
}

static bool check_piece(const char *what, const cb_spm_piece *piece, size_t id)
{
    if (!piece->text || piece->length == 0 || piece->length > longest_piece)
        return cb_fail(CB_ERR_FORMAT, "%s: piece %zu: found %zu bytes of text, expected 1 to %d", what, id, piece->length, longest_piece),
               false;
    if (!cb_utf8_valid(piece->text, piece->length, NULL) || memchr(piece->text, 0, piece->length))
        return cb_fail(CB_ERR_FORMAT, "%s: piece %zu: found bytes that are no text in UTF-8", what, id), false;
    if (!isfinite(piece->score))
        return cb_fail(CB_ERR_FORMAT, "%s: piece %zu: found score %g, expected a number", what, id, (double)piece->score), false;
    if (piece->type < CB_SPM_NORMAL || piece->type > CB_SPM_BYTE)
        return cb_fail(CB_ERR_FORMAT, "%s: piece %zu: found type %d, expected 1 to 6", what, id, (int)piece->type), false;
    return true;
}

static bool add_piece(cb_spm *model, cb_protobuf m)
{
    cb_spm_piece piece = {.type = CB_SPM_NORMAL};
    const uint8_t *text = NULL;
    cb_protobuf_field field;
    while (cb_protobuf_next(&m, &field)) {
        if (is(&field, 1, CB_WIRE_BYTES)) {
            text = field.bytes;
            piece.length = field.length;
        } else if (is(&field, 2, CB_WIRE_32)) {
            piece.score = cb_protobuf_float(&field);
        } else if (is(&field, 3, CB_WIRE_VARINT)) {
            piece.type = field.value <= CB_SPM_BYTE ? (cb_spm_type)field.value : 0;
        }
    }
    if (m.damaged)
        return false;
    if (model->count == max_pieces)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: more than %d pieces", m.what, max_pieces), false;
    piece.text = (char *)text;
    if (!check_piece(m.what, &piece, model->count) ||
        (model->count == model->capacity && !cb_grow(&model->pieces, &model->capacity, model->count + 1, sizeof *model->pieces)))
        return false;
    piece.text = cb_strndup((const char *)text, piece.length);
    if (!piece.text)
        return false;
    model->pieces[model->count++] = piece;
    return true;
}

static int32_t as_id(uint64_t value)
{
    int64_t number = (int64_t)value;
    return number < 0 || number > INT32_MAX ? -1 : (int32_t)number;
}

static bool read_trainer(cb_spm *model, cb_protobuf m)
{
    cb_protobuf_field field;
    while (cb_protobuf_next(&m, &field)) {
        if (field.wire != CB_WIRE_VARINT)
            continue;
        switch (field.number) {
        case 3:
            if (field.value < CB_SPM_UNIGRAM || field.value > CB_SPM_CHAR)
                return cb_fail(CB_ERR_FORMAT, "%s: found model_type %llu, expected 1 to 4", m.what, (unsigned long long)field.value), false;
            model->model_type = (cb_spm_model_type)field.value;
            break;
        case 24:
            model->whitespace_as_suffix = field.value != 0;
            break;
        case 35:
            model->byte_fallback = field.value != 0;
            break;
        case 40:
            model->unk_id = as_id(field.value);
            break;
        case 41:
            model->bos_id = as_id(field.value);
            break;
        case 42:
            model->eos_id = as_id(field.value);
            break;
        default:
            break;
        }
    }
    return !m.damaged;
}

static bool read_normalizer(cb_spm *model, cb_protobuf m)
{
    cb_protobuf_field field;
    while (cb_protobuf_next(&m, &field)) {
        bool yes = field.value != 0;
        if (is(&field, 2, CB_WIRE_BYTES) && field.length) {
            cb_free(model->charsmap);
            model->charsmap = (uint8_t *)cb_strndup((const char *)field.bytes, field.length);
            model->charsmap_length = field.length;
            if (!model->charsmap)
                return false;
        } else if (is(&field, 3, CB_WIRE_VARINT)) {
            model->add_dummy_prefix = yes;
        } else if (is(&field, 4, CB_WIRE_VARINT)) {
            model->remove_extra_whitespaces = yes;
        } else if (is(&field, 5, CB_WIRE_VARINT)) {
            model->escape_whitespaces = yes;
        }
    }
    return !m.damaged;
}

/* An id that no piece has says that there is no such token; only the unknown one must be there. */
static bool check_ids(cb_spm *model, const char *what)
{
    if (!model->count)
        return cb_fail(CB_ERR_FORMAT, "%s: found no pieces, expected a SentencePiece model", what), false;
    if (model->bos_id >= 0 && (size_t)model->bos_id >= model->count)
        model->bos_id = -1;
    if (model->eos_id >= 0 && (size_t)model->eos_id >= model->count)
        model->eos_id = -1;
    if (model->unk_id < 0 || (size_t)model->unk_id >= model->count)
        return cb_fail(CB_ERR_FORMAT, "%s: found unk_id %d, expected one of the %zu pieces", what, model->unk_id, model->count), false;
    return true;
}

bool cb_spm_parse(cb_spm *model, const char *what, const void *bytes, size_t length)
{
    *model = (cb_spm){.model_type = CB_SPM_UNIGRAM,
                      .add_dummy_prefix = true,
                      .remove_extra_whitespaces = true,
                      .escape_whitespaces = true,
                      .bos_id = 1,
                      .eos_id = 2};
    cb_protobuf m = {what, bytes, bytes, (const uint8_t *)bytes + length, false};
    cb_protobuf_field field;
    bool ok = true;
    while (ok && cb_protobuf_next(&m, &field)) {
        if (field.wire != CB_WIRE_BYTES)
            continue;
        cb_protobuf inner = cb_protobuf_inner(&m, &field);
        ok = field.number == 1   ? add_piece(model, inner)
             : field.number == 2 ? read_trainer(model, inner)
             : field.number == 3 ? read_normalizer(model, inner)
                                 : true;
    }
    if (ok && !m.damaged && check_ids(model, what))
        return true;
    cb_spm_free(model);
    return false;
}

void cb_spm_free(cb_spm *model)
{
    for (size_t i = 0; i < model->count; i++)
        cb_free(model->pieces[i].text);
    cb_free(model->pieces);
    cb_free(model->charsmap);
    *model = (cb_spm){0};
}
