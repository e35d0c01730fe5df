/* quantized.c: quantised weights in safetensors checkpoints, read in place and written.
 *
 * The field has no type for them: a weight is some tensors beside one another, and quantization_config in config.json says whose they are.
 *
 *     bitsandbytes, 4 bits   NAME.weight  U8 (count / 2, 1)  codes            NAME.weight.absmax  F32, or U8 when doubly quantised
 *                            NAME.weight.quant_map  F32 (16) levels           NAME.weight.nested_absmax, .nested_quant_map  F32
 *                            NAME.weight.quant_state.bitsandbytes__nf4  U8: JSON with block sizes, shape, offset
 *     bitsandbytes, 8 bits   NAME.weight  I8 (rows, columns)                  NAME.SCB  F32 (rows): largest magnitude of a row
 *                            NAME.weight_format  U8 (): 0
 *     compressed-tensors     NAME.weight  I8 (rows, columns)                  NAME.weight_scale  (rows, 1 or groups)
 *
 * The first two are what transformers with bitsandbytes saves and loads.  bitsandbytes knows no 8-bit blocks; compressed-tensors
 * ("int-quantized") is what transformers and vLLM load for those. */
#include "formats/quantized.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "kernels/kernels.h"

enum { STATE_BYTES = 256, NESTED_BLOCK = 256, NAME_LENGTH = 1024 };

/* The ends of names: of what belongs to "NAME.weight", after "NAME." */
static const char *const part_ends[] = {"weight.absmax",
                                        "weight.quant_map",
                                        "weight.nested_absmax",
                                        "weight.nested_quant_map",
                                        "weight.quant_state.bitsandbytes__nf4",
                                        "weight.quant_state.bitsandbytes__fp4",
                                        "SCB",
                                        "weight_format",
                                        "weight_scale",
                                        "weight_zero_point",
                                        "weight_shape",
                                        NULL};

/* ---- reading ---- */

/* The tensor whose name ends in `end` where the weight's ends in "weight". */
static const cb_weight_entry *part(const cb_weights *weights, const cb_weight_entry *weight, const char *end)
{
    char name[NAME_LENGTH];
    size_t length = strlen(weight->name);
    if (length < 6 || strcmp(weight->name + length - 6, "weight") != 0)
        return NULL;
    int n = snprintf(name, sizeof name, "%.*s%s", (int)(length - 6), weight->name, end);
    return n > 0 && n < NAME_LENGTH ? cb_weights_find(weights, name) : NULL;
}

const cb_weight_entry *cb_quantized_owner(const cb_weights *weights, const char *name)
{
    for (int i = 0; part_ends[i]; i++) {
        size_t length = strlen(name), end = strlen(part_ends[i]);
        if (length <= end || strcmp(name + length - end, part_ends[i]) != 0 || name[length - end - 1] != '.')
            continue;
        char owner[NAME_LENGTH];
        int n = snprintf(owner, sizeof owner, "%.*sweight", (int)(length - end), name);
        cb_quantized_format format;
        const cb_weight_entry *entry = n > 0 && n < NAME_LENGTH ? cb_weights_find(weights, owner) : NULL;
        return entry && cb_quantized_format_of(weights, entry, &format) ? entry : NULL;
    }
    return NULL;
}

static bool is_int8(const cb_weight_entry *entry)
{
    return entry->dtype == CB_DTYPE_COUNT && entry->type_name && strcmp(entry->type_name, "I8") == 0;
}

bool cb_quantized_format_of(const cb_weights *weights, const cb_weight_entry *entry, cb_quantized_format *format)
{
    *format = (cb_quantized_format){.kind = CB_QUANTIZE_NF4, .plain = CB_F32};
    if (part(weights, entry, "weight.quant_state.bitsandbytes__nf4") || part(weights, entry, "weight.quant_state.bitsandbytes__fp4")) {
        format->double_quant = part(weights, entry, "weight.nested_absmax") != NULL;
        return true;
    }
    format->kind = CB_QUANTIZE_INT8;
    if (!is_int8(entry))
        return false;
    if (part(weights, entry, "SCB"))
        return true;
    const cb_weight_entry *scale = part(weights, entry, "weight_scale");
    if (!scale || entry->ndim != 2)
        return false;
    format->kind = CB_QUANTIZE_INT8_BLOCK;
    format->plain = scale->dtype;
    format->block = scale->ndim == 2 && scale->shape[1] > 0 ? entry->shape[1] / scale->shape[1] : entry->shape[1];
    return true;
}

static CB_COLD cb_tensor *refuse(const cb_weight_entry *entry, const char *problem)
{
    cb_fail(CB_ERR_FORMAT, "tensor %.200s: %s", entry->name, problem);
    return NULL;
}

/* A part as f32, in place where it is that already and aligned. */
static cb_tensor *floats(const cb_weights *weights, const cb_weight_entry *weight, const char *end, int64_t least)
{
    const cb_weight_entry *entry = part(weights, weight, end);
    cb_tensor *t = NULL;
    if (!entry)
        cb_fail(CB_ERR_FORMAT, "tensor %.200s: its %s is missing", weight->name, end);
    else if (!cb_dtype_is_float(entry->dtype))
        cb_fail(CB_ERR_FORMAT, "tensor %.200s: found %s, expected floats", entry->name,
                entry->type_name ? entry->type_name : cb_dtype_name(entry->dtype));
    else
        t = cb_weight_entry_tensor(entry);
    if (t && t->count != least) {
        cb_fail(CB_ERR_FORMAT, "tensor %.200s: found %lld numbers, expected %lld for %.200s", entry->name, (long long)t->count,
                (long long)least, weight->name);
        return NULL;
    }
    cb_no_grad t = cb_contiguous(cb_cast(t, CB_F32));
    return t;
}

/* What the JSON of a 4-bit weight says. */
typedef struct quant_state {
    int64_t block, rows, columns, nested_block;
    double offset;
} quant_state;

static bool read_state(const cb_weight_entry *entry, quant_state *state)
{
    json_t *json = cb_json_parse(entry->name, entry->data, entry->size);
    const json_t *shape = json_object_get(json, "shape");
    bool ok = json != NULL;
    if (ok && (!json_is_array(shape) || json_array_size(shape) != 2))
        ok = refuse(entry, "shape: expected two numbers") != NULL;
    if (ok) {
        state->rows = json_integer_value(json_array_get(shape, 0));
        state->columns = json_integer_value(json_array_get(shape, 1));
        state->block = cb_json_int(entry->name, json, "blocksize", 64);
        state->nested_block = cb_json_int(entry->name, json, "nested_blocksize", NESTED_BLOCK);
        state->offset = cb_json_float(entry->name, json, "nested_offset", 0);
        ok = cb_ok();
    }
    json_decref(json);
    if (ok && (state->block < 2 || state->block > 1 << 20 || state->block % 2 || state->nested_block < 1 || state->nested_block > 1 << 20 ||
               !isfinite(state->offset)))
        ok = refuse(entry, "blocksize, nested_blocksize or nested_offset: found a value out of range") != NULL;
    return ok;
}

static bool standard_levels(const cb_weight_entry *weight, const cb_tensor *map)
{
    for (int i = 0; i < 16; i++)
        if (!(fabs(cb_get(map, i) - (double)cbk_nf4_levels[i]) <= 1e-6))
            return refuse(weight, "its quant_map is not nf4's") != NULL;
    return true;
}

static int64_t pieces(int64_t count, int64_t size)
{
    return count / size + (count % size != 0);
}

static cb_tensor *read_nf4(const cb_weights *weights, const cb_weight_entry *entry, int64_t rows, int64_t columns)
{
    const cb_weight_entry *state_entry = part(weights, entry, "weight.quant_state.bitsandbytes__nf4");
    quant_state state = {0};
    if (!state_entry) {
        cb_fail(CB_ERR_UNSUPPORTED, "tensor %.200s: is fp4, expected nf4", entry->name);
        return NULL;
    }
    if (!read_state(state_entry, &state))
        return NULL;
    int64_t count = rows * columns, blocks = pieces(count, state.block);
    if (state.rows != rows || state.columns != columns || columns % 2 || entry->size != (size_t)count / 2) {
        cb_fail(CB_ERR_FORMAT, "tensor %.200s: found %zu bytes for (%lld, %lld), expected (%lld, %lld) of an even width, two to a byte",
                entry->name, entry->size, (long long)state.rows, (long long)state.columns, (long long)rows, (long long)columns);
        return NULL;
    }
    const cb_tensor *levels = floats(weights, entry, "weight.quant_map", 16);
    if (!levels || !standard_levels(entry, levels))
        return NULL;
    cb_scaled_codes codes = {
        .codes = entry->data, .block = state.block, .nested_block = state.nested_block, .scale_offset = (float)state.offset};
    cb_tensor *kept[CB_KEPT] = {NULL};
    const cb_weight_entry *absmax = part(weights, entry, "weight.absmax");
    if (absmax && absmax->dtype == CB_U8) {
        kept[0] = floats(weights, entry, "weight.nested_absmax", pieces(blocks, state.nested_block));
        kept[1] = floats(weights, entry, "weight.nested_quant_map", 256);
        if (!kept[0] || !kept[1])
            return NULL;
        if (absmax->size != (size_t)blocks)
            return refuse(absmax, "found another number of scales than there are blocks");
        codes.scale_codes = absmax->data;
        codes.nested_scale = kept[0]->data;
        codes.scale_levels = kept[1]->data;
    } else {
        kept[0] = floats(weights, entry, "weight.absmax", blocks);
        if (!kept[0])
            return NULL;
        codes.scale = kept[0]->data;
    }
    return cb_wrap_scaled(CB_NF4, &codes, kept, rows, columns);
}

static cb_tensor *read_int8(const cb_weights *weights, const cb_weight_entry *entry, int64_t rows, int64_t columns)
{
    if (entry->ndim != 2 || entry->shape[0] != rows || entry->shape[1] != columns) {
        cb_fail(CB_ERR_FORMAT, "tensor %.200s: has shape %s, expected (%lld, %lld)", entry->name,
                cb_shape_text_nd(entry->ndim, entry->shape), (long long)rows, (long long)columns);
        return NULL;
    }
    const cb_weight_entry *scales = part(weights, entry, "SCB"), *layout = part(weights, entry, "weight_format"),
                          *zero = part(weights, entry, "weight_zero_point");
    if (layout && (layout->size != 1 || *(const uint8_t *)layout->data != 0)) {
        cb_fail(CB_ERR_UNSUPPORTED, "tensor %.200s: found a layout for some GPU, expected 0 (rows)", layout->name);
        return NULL;
    }
    for (size_t i = 0; zero && i < zero->size; i++)
        if (((const uint8_t *)zero->data)[i]) {
            cb_fail(CB_ERR_UNSUPPORTED, "tensor %.200s: found zero points, expected symmetric quantisation", zero->name);
            return NULL;
        }
    cb_tensor *scale;
    int64_t block = columns;
    if (scales) {
        scale = floats(weights, entry, "SCB", rows);
        cb_no_grad scale = cb_scale(scale, 1.0 / 127);
    } else {
        scales = part(weights, entry, "weight_scale");
        int64_t groups = scales && scales->ndim == 2 && rows > 0 ? scales->shape[1] : 1;
        if (groups <= 0 || columns % groups)
            return refuse(entry, "its weight_scale does not divide its rows evenly");
        scale = floats(weights, entry, "weight_scale", rows * groups);
        block = columns / groups;
    }
    if (!scale)
        return NULL;
    cb_scaled_codes codes = {.codes = entry->data, .block = block > 0 ? block : 1, .scale = scale->data};
    cb_tensor *kept[CB_KEPT] = {scale};
    return cb_wrap_scaled(CB_INT8, &codes, kept, rows, columns);
}

cb_tensor *cb_quantized_tensor(const cb_weights *weights, const cb_weight_entry *entry, int64_t rows, int64_t columns)
{
    cb_quantized_format format;
    if (!cb_quantized_format_of(weights, entry, &format))
        return refuse(entry, "is not quantised in a way that is known");
    int64_t count;
    if (rows < 0 || columns < 0 || __builtin_mul_overflow(rows, columns, &count))
        return refuse(entry, "too large");
    return format.kind == CB_QUANTIZE_NF4 ? read_nf4(weights, entry, rows, columns) : read_int8(weights, entry, rows, columns);
}

/* ---- writing ---- */

/* One part: the end of its name and what it holds. */
typedef struct part_plan {
    const char *end;
    cb_dtype dtype;
    int64_t shape[2];
    int ndim;
} part_plan;

static int plan_parts(const cb_quantized_format *f, int64_t rows, int64_t columns, part_plan *plan)
{
    int64_t count = rows * columns, blocks = f->block > 0 ? pieces(count, f->block) : 0;
    int n = 0;
    if (f->kind == CB_QUANTIZE_NF4) {
        plan[n++] = (part_plan){"weight", CB_U8, {count / 2, 1}, 2};
        plan[n++] = (part_plan){"weight.absmax", f->double_quant ? CB_U8 : CB_F32, {blocks}, 1};
        plan[n++] = (part_plan){"weight.quant_map", CB_F32, {16}, 1};
        plan[n++] = (part_plan){"weight.quant_state.bitsandbytes__nf4", CB_U8, {STATE_BYTES}, 1};
        if (f->double_quant) {
            plan[n++] = (part_plan){"weight.nested_absmax", CB_F32, {pieces(blocks, NESTED_BLOCK)}, 1};
            plan[n++] = (part_plan){"weight.nested_quant_map", CB_F32, {256}, 1};
        }
    } else if (f->kind == CB_QUANTIZE_INT8) {
        plan[n++] = (part_plan){"weight", CB_INT8, {rows, columns}, 2};
        plan[n++] = (part_plan){"SCB", CB_F32, {rows}, 1};
        plan[n++] = (part_plan){"weight_format", CB_U8, {0}, 0};
    } else {
        plan[n++] = (part_plan){"weight", CB_INT8, {rows, columns}, 2};
        plan[n++] = (part_plan){"weight_scale", f->plain, {rows, f->block > 0 ? columns / f->block : 1}, 2};
    }
    return n;
}

bool cb_quantized_can(const cb_quantized_format *f, const char *name, int64_t rows, int64_t columns)
{
    const char *problem = NULL;
    if (rows <= 0 || columns <= 0)
        problem = "is empty";
    else if (!cb_ends_with(name, ".weight"))
        problem = "has a name that does not end in .weight, behind which the names of its scales go";
    else if (f->kind == CB_QUANTIZE_NF4 && columns % 2)
        problem = "has rows of an odd width, which nf4 cannot hold";
    else if (f->kind == CB_QUANTIZE_INT8_BLOCK && columns % f->block)
        problem = "has rows that are no multiple of the block";
    if (problem)
        cb_fail(CB_ERR_UNSUPPORTED, "tensor %.200s: %s; leave its module out", name, problem);
    return !problem;
}

int cb_quantized_parts(const cb_quantized_format *f, const char *name, int64_t rows, int64_t columns, cb_weight_entry *parts)
{
    if (!cb_quantized_can(f, name, rows, columns))
        return 0;
    part_plan plan[CB_QUANTIZED_PARTS];
    int n = plan_parts(f, rows, columns, plan);
    size_t stem = strlen(name) - strlen("weight");
    for (int i = 0; i < n; i++) {
        parts[i] =
            (cb_weight_entry){.name = cb_format("%.*s%s", (int)stem, name, plan[i].end), .dtype = plan[i].dtype, .ndim = plan[i].ndim};
        if (plan[i].dtype == CB_INT8) {
            parts[i].dtype = CB_DTYPE_COUNT;
            parts[i].type_name = "I8";
        }
        int64_t count = 1;
        for (int d = 0; d < plan[i].ndim; d++)
            count *= parts[i].shape[d] = plan[i].shape[d];
        parts[i].size = cb_dtype_bytes(plan[i].dtype, count);
    }
    return n;
}

/* The codes and scales of one weight, all parts of it in memory. */
struct cb_quantized_weight {
    cb_quantized_format format;
    int64_t rows, columns;
    void *codes, *parts[CB_QUANTIZED_PARTS];
    float *scale;
    double error;
};

/* int8 codes against scales that are rounded to what the file holds. */
static void codes_for_scales(const float *x, int64_t count, int64_t block, const float *scale, int8_t *codes)
{
    for (int64_t i = 0; i < count && !cb_rehearsing(); i++) {
        float s = scale[i / block], code = s > 0 ? rintf(x[i] / s) : 0;
        codes[i] = (int8_t)fminf(127, fmaxf(-128, code));
    }
}

static void write_state(const cb_quantized_format *f, int64_t rows, int64_t columns, double offset, char *to)
{
    const char *dtype = f->plain == CB_BF16 ? "bfloat16" : f->plain == CB_F16 ? "float16" : "float32";
    char text[STATE_BYTES];
    int n = snprintf(text, sizeof text, "{\"quant_type\": \"nf4\", \"blocksize\": %lld, \"dtype\": \"%s\", \"shape\": [%lld, %lld]",
                     (long long)f->block, dtype, (long long)rows, (long long)columns);
    if (f->double_quant)
        n += snprintf(text + n, sizeof text - (size_t)n,
                      ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %.17g", NESTED_BLOCK, offset);
    memset(to, ' ', STATE_BYTES); /* the length is promised before the offset is known */
    memcpy(to, text, (size_t)n);
    to[n] = '}';
}

/* What the codes stand for against what was asked for, relative root mean square. */
static double relative_error(const cb_quantized_weight *w, cb_dtype dtype, const cb_scaled_codes *codes, const float *x)
{
    enum { PIECE = 4096 };
    float piece[PIECE];
    int64_t count = w->rows * w->columns;
    double off = 0, size = 0;
    for (int64_t i = 0; i < count && !cb_rehearsing(); i += PIECE) {
        int64_t n = count - i < PIECE ? count - i : PIECE;
        cbk_dequantize(dtype, codes, i, n, CB_F32, piece);
        for (int64_t j = 0; j < n; j++) {
            off += ((double)piece[j] - (double)x[i + j]) * ((double)piece[j] - (double)x[i + j]);
            size += (double)x[i + j] * (double)x[i + j];
        }
    }
    return size > 0 ? sqrt(off / size) : 0;
}

static bool make_nf4(cb_quantized_weight *w, const float *x)
{
    int64_t count = w->rows * w->columns, blocks = pieces(count, w->format.block);
    cb_scaled_codes codes = {.codes = w->parts[0], .block = w->format.block, .scale = w->scale, .nested_block = NESTED_BLOCK};
    if (!cbk_quantize_scaled(CB_NF4, x, count, w->format.block, w->parts[0], w->scale))
        return false;
    memcpy(w->parts[2], cbk_nf4_levels, 16 * sizeof(float));
    if (w->format.double_quant) {
        cbk_quantize_scales(w->scale, blocks, w->parts[1], w->parts[4], &codes.scale_offset);
        memcpy(w->parts[5], cbk_dynamic_levels(), 256 * sizeof(float));
        codes.scale = NULL;
        codes.scale_codes = w->parts[1];
        codes.nested_scale = w->parts[4];
        codes.scale_levels = w->parts[5];
    } else {
        memcpy(w->parts[1], w->scale, (size_t)blocks * sizeof *w->scale);
    }
    write_state(&w->format, w->rows, w->columns, (double)codes.scale_offset, w->parts[3]);
    w->error = relative_error(w, CB_NF4, &codes, x);
    return true;
}

static bool make_int8(cb_quantized_weight *w, const float *x)
{
    bool blocks = w->format.kind == CB_QUANTIZE_INT8_BLOCK;
    int64_t count = w->rows * w->columns, block = blocks ? w->format.block : w->columns, scales = count / block;
    if (!cbk_quantize_scaled(CB_INT8, x, count, block, w->parts[0], w->scale))
        return false;
    if (!blocks) {
        memcpy(w->parts[1], w->scale, (size_t)scales * sizeof *w->scale);
        *(uint8_t *)w->parts[2] = 0;
    }
    cbk_unary(CBK_SCALE, CB_F32, w->scale, w->scale, scales, 1.0 / 127, 0);
    if (blocks) {
        cbk_convert(w->scale, CB_F32, w->parts[1], w->format.plain, scales);
        cbk_convert(w->parts[1], w->format.plain, w->scale, CB_F32, scales);
        codes_for_scales(x, count, block, w->scale, w->parts[0]);
    }
    cb_scaled_codes codes = {.codes = w->parts[0], .block = block, .scale = w->scale};
    w->error = relative_error(w, CB_INT8, &codes, x);
    return true;
}

cb_quantized_weight *cb_quantized_make(const cb_quantized_format *format, const float *x, int64_t rows, int64_t columns)
{
    cb_quantized_weight *w = cb_calloc(1, sizeof *w);
    if (!w)
        return NULL;
    *w = (cb_quantized_weight){.format = *format, .rows = rows, .columns = columns};
    part_plan plan[CB_QUANTIZED_PARTS];
    int n = plan_parts(format, rows, columns, plan);
    int64_t block = format->kind == CB_QUANTIZE_INT8 ? columns : format->block;
    bool ok = (w->scale = cb_alloc((size_t)pieces(rows * columns, block) * sizeof *w->scale)) != NULL;
    for (int i = 0; ok && i < n; i++) {
        int64_t count = 1;
        for (int d = 0; d < plan[i].ndim; d++)
            count *= plan[i].shape[d];
        ok = (w->parts[i] = cb_alloc(cb_dtype_bytes(plan[i].dtype, count))) != NULL;
    }
    ok = ok && (format->kind == CB_QUANTIZE_NF4 ? make_nf4(w, x) : make_int8(w, x));
    if (ok)
        return w;
    cb_quantized_free(w);
    return NULL;
}

const void *cb_quantized_part(const cb_quantized_weight *w, int index)
{
    return w->parts[index];
}

double cb_quantized_error(const cb_quantized_weight *w)
{
    return w->error;
}

void cb_quantized_free(cb_quantized_weight *w)
{
    if (!w)
        return;
    for (int i = 0; i < CB_QUANTIZED_PARTS; i++)
        cb_free(w->parts[i]);
    cb_free(w->scale);
    cb_free(w);
}

bool cb_holds_quantized(const char *directory, bool *quantized)
{
    cb_weights *weights = cb_weights_open(directory);
    cb_quantized_format format;
    for (size_t i = 0; weights && !*quantized && i < cb_weights_count(weights); i++)
        *quantized = cb_quantized_format_of(weights, cb_weights_at(weights, i), &format);
    cb_weights_close(weights);
    return weights != NULL;
}
