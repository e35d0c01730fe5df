/* pickle_names.c: the names that a pickle of tensors may use, and what stands for each here. */
#include <string.h>

#include "formats/pickle.h"

const cb_pickle_name cb_pickle_names[] = {
    {"collections", "OrderedDict", CB_ROLE_ORDERED_DICT, NULL},
    {"torch", "Size", CB_ROLE_SIZE, NULL},
    {"torch", "device", CB_ROLE_IGNORED, NULL},
    {"torch", "Tensor", CB_ROLE_CLASS, NULL},
    {"torch.nn.parameter", "Parameter", CB_ROLE_CLASS, NULL},
    {"torch._utils", "_rebuild_tensor", CB_ROLE_TENSOR, NULL},
    {"torch._utils", "_rebuild_tensor_v2", CB_ROLE_TENSOR, NULL},
    {"torch._utils", "_rebuild_tensor_v3", CB_ROLE_TENSOR_V3, NULL},
    {"torch._utils", "_rebuild_parameter", CB_ROLE_PARAMETER, NULL},
    {"torch._utils", "_rebuild_parameter_with_state", CB_ROLE_PARAMETER, NULL},
    {"torch._tensor", "_rebuild_from_type_v2", CB_ROLE_FROM_TYPE, NULL},
    {"torch", "FloatStorage", CB_ROLE_STORAGE, "F32"},
    {"torch", "DoubleStorage", CB_ROLE_STORAGE, "F64"},
    {"torch", "HalfStorage", CB_ROLE_STORAGE, "F16"},
    {"torch", "BFloat16Storage", CB_ROLE_STORAGE, "BF16"},
    {"torch", "LongStorage", CB_ROLE_STORAGE, "I64"},
    {"torch", "IntStorage", CB_ROLE_STORAGE, "I32"},
    {"torch", "ShortStorage", CB_ROLE_STORAGE, "I16"},
    {"torch", "CharStorage", CB_ROLE_STORAGE, "I8"},
    {"torch", "ByteStorage", CB_ROLE_STORAGE, "U8"},
    {"torch", "BoolStorage", CB_ROLE_STORAGE, "BOOL"},
    {"torch", "ComplexFloatStorage", CB_ROLE_STORAGE, "C64"},
    {"torch.storage", "UntypedStorage", CB_ROLE_STORAGE, NULL},
    {"torch", "float32", CB_ROLE_DTYPE, "F32"},
    {"torch", "float64", CB_ROLE_DTYPE, "F64"},
    {"torch", "float16", CB_ROLE_DTYPE, "F16"},
    {"torch", "bfloat16", CB_ROLE_DTYPE, "BF16"},
    {"torch", "int64", CB_ROLE_DTYPE, "I64"},
    {"torch", "int32", CB_ROLE_DTYPE, "I32"},
    {"torch", "int16", CB_ROLE_DTYPE, "I16"},
    {"torch", "int8", CB_ROLE_DTYPE, "I8"},
    {"torch", "uint64", CB_ROLE_DTYPE, "U64"},
    {"torch", "uint32", CB_ROLE_DTYPE, "U32"},
    {"torch", "uint16", CB_ROLE_DTYPE, "U16"},
    {"torch", "uint8", CB_ROLE_DTYPE, "U8"},
    {"torch", "bool", CB_ROLE_DTYPE, "BOOL"},
    {"torch", "complex64", CB_ROLE_DTYPE, "C64"},
    {"torch", "float8_e4m3fn", CB_ROLE_DTYPE, "F8_E4M3"},
    {"torch", "float8_e5m2", CB_ROLE_DTYPE, "F8_E5M2"},
    {"torch", "float8_e4m3fnuz", CB_ROLE_DTYPE, "F8_E4M3FNUZ"},
    {"torch", "float8_e5m2fnuz", CB_ROLE_DTYPE, "F8_E5M2FNUZ"},
    {"torch", "float8_e8m0fnu", CB_ROLE_DTYPE, "F8_E8M0"},
};
enum { NAMES = sizeof cb_pickle_names / sizeof *cb_pickle_names };

static bool same(const char *known, const char *text, size_t length)
{
    return strlen(known) == length && memcmp(known, text, length) == 0;
}

int cb_pickle_name_find(const char *module, size_t module_length, const char *name, size_t name_length)
{
    for (int i = 0; i < NAMES; i++)
        if (same(cb_pickle_names[i].name, name, name_length) && same(cb_pickle_names[i].module, module, module_length))
            return i;
    return -1;
}
