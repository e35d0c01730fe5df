/* gguf_types.c: the element types of GGUF files. */
#include <strings.h>

#include "formats/gguf.h"

/* Types without a dtype of ours have their sizes here too, so that a file that holds them is checked and shown. */
static const cb_gguf_tensor_type types[] = {
    {0, "F32", 1, 4},        {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},    {3, "Q4_1", 32, 20},    {6, "Q5_0", 32, 22},
    {7, "Q5_1", 32, 24},     {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},    {10, "Q2_K", 256, 84},  {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144},  {13, "Q5_K", 256, 176},   {14, "Q6_K", 256, 210}, {15, "Q8_K", 256, 292}, {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74}, {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50}, {20, "IQ4_NL", 32, 18}, {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},  {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},       {25, "I16", 1, 2},      {26, "I32", 1, 4},
    {27, "I64", 1, 8},       {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56}, {30, "BF16", 1, 2},     {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},  {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},  {41, "Q1_0", 128, 18},
};
enum { TYPES = sizeof types / sizeof *types };

const cb_gguf_tensor_type *cb_gguf_tensor_type_of(uint32_t id)
{
    for (int i = 0; i < TYPES; i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

const cb_gguf_tensor_type *cb_gguf_tensor_type_named(const char *name)
{
    for (int i = 0; i < TYPES; i++)
        if (strcasecmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

bool cb_gguf_shape_size(const cb_gguf_tensor_type *type, int ndim, const int64_t *shape, size_t *size)
{
    uint64_t count = 1;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 1 || __builtin_mul_overflow(count, (uint64_t)shape[i], &count))
            return false;
    int64_t row = ndim ? shape[ndim - 1] : 1;
    if (row % type->block || __builtin_mul_overflow(count / type->block, (uint64_t)type->bytes, &count) || count > INT64_MAX)
        return false;
    *size = (size_t)count;
    return true;
}

size_t cb_gguf_scalar_size(cb_gguf_type type)
{
    static const uint8_t sizes[CB_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return sizes[type];
}
