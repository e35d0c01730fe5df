/* vector_kernels.inc.h: all vector kernels and their table.  Compiled once per instruction set: isa_portable.c,
 * isa_avx2.c, isa_avx512.c and isa_avx512bf16.c set CBK_LEVEL, CBK_TABLE and CBK_NAME and include it.
 * Each of the files below builds on those before it. */

/* clang-format off */
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vector_table.h"
#include "kernels/cpu/vector.h"
#include "kernels/cpu/elementwise.inc.h"
#include "kernels/cpu/reduce.inc.h"
#include "kernels/cpu/merge.inc.h"
#include "kernels/cpu/norm.inc.h"
#include "kernels/cpu/channels.inc.h"
#include "kernels/cpu/pool.inc.h"
#include "kernels/cpu/optimizer.inc.h"
#include "kernels/cpu/random.inc.h"
#include "kernels/cpu/tile.inc.h"
#include "kernels/cpu/thin.inc.h"
#include "kernels/cpu/low_rank.inc.h"
#include "kernels/cpu/attention_forward.inc.h"
#include "kernels/cpu/attention_backward.inc.h"
#include "kernels/cpu/dequantize.inc.h"
/* clang-format on */

const cbk_vector_table CBK_TABLE = {
    .name = CBK_NAME,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .binary = binary,
    .unary = unary,
    .unary_backward = unary_backward,
    .axpby = axpby,
    .gated_forward = gated_forward,
    .gated_backward = gated_backward,
    .sum = sum,
    .all_finite = all_finite,
    .add_rows = add_rows,
    .split = split,
    .add_agreeing = add_agreeing,
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward = rms_norm_backward,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward = layer_norm_backward,
    .softmax_forward = softmax_forward,
    .softmax_backward = softmax_backward,
    .rope = rope,
    .cross_entropy = cross_entropy,
    .channel_sums = channel_sums,
    .run_sums = run_sums,
    .channel_mix = channel_mix,
    .max_window = max_window,
    .max_gradient = max_gradient,
    .adamw = adamw,
    .sgd = sgd,
    .philox = philox,
    .uniform = uniform,
    .normal = normal,
    .thin_dots = thin_dots,
    .thin_columns = thin_columns,
    .thin_pack_rows = thin_pack_rows,
    .thin_pack_columns = thin_pack_columns,
    .expand = expand,
    .attention_pack = attention_pack,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .dequantize = dequantize,
    .decoded_dots_pack = decoded_dots_pack,
    .decoded_dots = decoded_dots,
};
