/* op_table.c: the table of ops, made from op_list.h: the only place to name a new op. */
#include "tensor/op.h"

#define CB_OP(name) extern const cb_op cb_op_##name;
#include "tensor/op_list.h"
#undef CB_OP

#define CB_OP(name) &cb_op_##name,
const cb_op *const cb_op_table[] = {
#include "tensor/op_list.h"
};
#undef CB_OP

const size_t cb_op_table_count = sizeof cb_op_table / sizeof *cb_op_table;
