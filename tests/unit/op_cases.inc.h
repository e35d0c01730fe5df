/* op_cases.inc.h: the cases of the public operations, in the order of tensor.h.  CASE: an expression that gives one
 * output; CASE_MANY: one that fills y[] and gives their number.  x[] are the inputs. */

/* ---- element-wise, two operands ---- */

CASE(add, cb_add(x[0], x[1]), .op = "add", .integers = true, .input = {{"ABC"}, {"ABC"}})
CASE(add_broadcast, cb_add(x[0], x[1]), .op = "add", .integers = true, .input = {{"A1C"}, {"BC"}})
CASE(add_0d, cb_add(x[0], x[1]), .op = "add", .input = {{"ABC"}, {""}})
CASE(sub, cb_sub(x[0], x[1]), .op = "sub", .integers = true, .input = {{"ABC"}, {"ABC"}})
CASE(sub_broadcast, cb_sub(x[0], x[1]), .op = "sub", .integers = true, .input = {{"BC"}, {"AB1"}})
CASE(mul, cb_mul(x[0], x[1]), .op = "mul", .integers = true, .input = {{"ABC"}, {"ABC"}})
CASE(mul_broadcast, cb_mul(x[0], x[1]), .op = "mul", .integers = true, .input = {{"A1C"}, {"1B1"}})
CASE(mul_itself, cb_mul(x[0], x[0]), .op = "mul", .input = {{"ABC"}})
CASE(div, cb_div(x[0], x[1]), .op = "div", .input = {{"ABC"}, {"ABC", POSITIVE}})
CASE(div_broadcast, cb_div(x[0], x[1]), .op = "div", .input = {{"B1"}, {"A1C", POSITIVE}})
CASE(pow, cb_pow(x[0], x[1]), .op = "pow", .input = {{"ABC", POSITIVE}, {"ABC"}}, .loose = 4)
CASE(pow_broadcast, cb_pow(x[0], x[1]), .op = "pow", .input = {{"B1", POSITIVE}, {"AB1"}}, .loose = 4)
CASE(maximum, cb_maximum(x[0], x[1]), .op = "maximum", .integers = true, .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}})
CASE(maximum_broadcast, cb_maximum(x[0], x[1]), .op = "maximum", .input = {{"AB1", DISTINCT}, {"C", DISTINCT}})
CASE(maximum_ties, cb_maximum(x[0], x[1]), .op = "maximum", .kinks = true, .input = {{"ABC", LEVELS}, {"ABC", LEVELS}})
CASE(minimum, cb_minimum(x[0], x[1]), .op = "minimum", .integers = true, .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}})
CASE(minimum_broadcast, cb_minimum(x[0], x[1]), .op = "minimum", .input = {{"BC", DISTINCT}, {"A1C", DISTINCT}})
CASE(minimum_ties, cb_minimum(x[0], x[1]), .op = "minimum", .kinks = true, .input = {{"ABC", LEVELS}, {"ABC", LEVELS}})
CASE(where, cb_where(x[0], x[1], x[2]), .op = "where", .integers = true, .input = {{"ABC", BOOLEAN}, {"ABC"}, {"ABC"}})
CASE(where_broadcast, cb_where(x[0], x[1], x[2]), .op = "where", .input = {{"B1", BOOLEAN}, {"A1C"}, {"BC"}})
CASE(lerp, cb_lerp(x[0], x[1], 0.3), .op = "lerp", .input = {{"ABC"}, {"ABC"}})
CASE(eq, cb_eq(x[0], x[1]), .integers = true, .input = {{"ABC", LEVELS}, {"BC", LEVELS}})
CASE(ne, cb_ne(x[0], x[1]), .integers = true, .input = {{"ABC", LEVELS}, {"BC", LEVELS}})
CASE(lt, cb_lt(x[0], x[1]), .integers = true, .input = {{"ABC", LEVELS}, {"BC", LEVELS}})
CASE(le, cb_le(x[0], x[1]), .integers = true, .input = {{"ABC", LEVELS}, {"BC", LEVELS}})
CASE(gt, cb_gt(x[0], x[1]), .integers = true, .input = {{"ABC", LEVELS}, {"BC", LEVELS}})
CASE(ge, cb_ge(x[0], x[1]), .integers = true, .input = {{"ABC", LEVELS}, {"BC", LEVELS}})

/* ---- with a number ---- */

CASE(scale, cb_scale(x[0], -1.5), .op = "scale", .input = {{"ABC"}})
CASE(add_scalar, cb_add_scalar(x[0], 0.75), .op = "add_scalar", .input = {{"ABC"}})
CASE(pow_scalar, cb_pow_scalar(x[0], 2.5), .op = "pow_scalar", .input = {{"ABC", POSITIVE}}, .loose = 2)
CASE(pow_scalar_cube, cb_pow_scalar(x[0], 3), .op = "pow_scalar", .input = {{"ABC", DISTINCT}}, .fixed = true)
CASE(pow_scalar_square, cb_pow_scalar(x[0], 2), .op = "square", .kinks = true, .input = {{"ABC", LEVELS}})
CASE(pow_scalar_one, cb_pow_scalar(x[0], 1), .op = "pow_scalar", .kinks = true, .input = {{"ABC", LEVELS}})
CASE(pow_scalar_zero, cb_pow_scalar(x[0], 0), .op = "pow_scalar", .kinks = true, .input = {{"ABC", LEVELS}})
CASE(pow_scalar_inverse, cb_pow_scalar(x[0], -1), .op = "pow_scalar", .input = {{"ABC", POSITIVE}}, .loose = 4)
CASE(clamp, cb_clamp(x[0], -1, 1), .op = "clamp", .integers = true, .input = {{"ABC", DISTINCT}})
CASE(clamp_ties, cb_clamp(x[0], -1, 0), .op = "clamp", .kinks = true, .integers = true, .input = {{"ABC", LEVELS}})

/* ---- element-wise, one operand ---- */

CASE(neg, cb_neg(x[0]), .op = "neg", .integers = true, .input = {{"ABC"}})
CASE(abs, cb_abs(x[0]), .op = "abs", .integers = true, .input = {{"ABC", DISTINCT}})
CASE(abs_ties, cb_abs(x[0]), .op = "abs", .kinks = true, .input = {{"ABC", LEVELS}})
CASE(sign, cb_sign(x[0]), .op = "sign", .kinks = true, .integers = true, .input = {{"ABC", LEVELS}})
CASE(floor, cb_floor(x[0]), .op = "floor", .input = {{"ABC", DISTINCT}})
CASE(round, cb_round(x[0]), .op = "round", .input = {{"ABC", DISTINCT}})
CASE(round_ties, cb_round(cb_scale(x[0], 0.5)), .op = "round", .input = {{"ABC", LEVELS}}, .kinks = true)
CASE(reciprocal, cb_reciprocal(x[0]), .op = "reciprocal", .input = {{"ABC", POSITIVE}})
CASE(square, cb_square(x[0]), .op = "square", .integers = true, .input = {{"ABC"}})
CASE(sqrt, cb_sqrt(x[0]), .op = "sqrt", .input = {{"ABC", POSITIVE}})
CASE(rsqrt, cb_rsqrt(x[0]), .op = "rsqrt", .input = {{"ABC", POSITIVE}})
CASE(exp, cb_exp(x[0]), .op = "exp", .input = {{"ABC"}})
CASE(expm1, cb_expm1(x[0]), .op = "expm1", .input = {{"ABC"}})
CASE(log, cb_log(x[0]), .op = "log", .input = {{"ABC", POSITIVE}})
CASE(log1p, cb_log1p(x[0]), .op = "log1p", .input = {{"ABC", UNIT}})
CASE(sin, cb_sin(x[0]), .op = "sin", .input = {{"ABC"}})
CASE(cos, cb_cos(x[0]), .op = "cos", .input = {{"ABC"}})
CASE(atan, cb_atan(x[0]), .op = "atan", .input = {{"ABC"}})
CASE(erf, cb_erf(x[0]), .op = "erf", .input = {{"ABC"}})
CASE(tanh, cb_tanh(x[0]), .op = "tanh", .input = {{"ABC"}})
CASE(sigmoid, cb_sigmoid(x[0]), .op = "sigmoid", .input = {{"ABC"}})
CASE(sigmoid_far, cb_sigmoid(cb_scale(x[0], 40)), .op = "sigmoid", .kinks = true, .input = {{"ABC"}}, .loose = 40)
CASE(softplus, cb_softplus(x[0]), .op = "softplus", .input = {{"ABC"}})
CASE(softplus_far, cb_softplus(cb_scale(x[0], 400)), .op = "softplus", .kinks = true, .input = {{"ABC"}}, .loose = 4)
CASE(relu, cb_relu(x[0]), .op = "relu", .input = {{"ABC", DISTINCT}})
CASE(relu_ties, cb_relu(x[0]), .op = "relu", .kinks = true, .input = {{"ABC", LEVELS}})
CASE(hard_swish, cb_hard_swish(cb_scale(x[0], 2)), .op = "hard_swish", .input = {{"ABC", DISTINCT}})
CASE(silu, cb_silu(x[0]), .op = "silu", .input = {{"ABC"}})
CASE(gelu, cb_gelu(x[0]), .op = "gelu", .input = {{"ABC"}})
CASE(gelu_tanh, cb_gelu_tanh(x[0]), .op = "gelu_tanh", .input = {{"ABC"}})
CASE(silu_mul, cb_silu_mul(x[0], x[1]), .op = "silu_mul", .input = {{"ABC"}, {"ABC"}})
CASE(gelu_mul, cb_gelu_mul(x[0], x[1]), .op = "gelu_mul", .input = {{"ABC"}, {"ABC"}})
CASE(gelu_tanh_mul, cb_gelu_tanh_mul(x[0], x[1]), .op = "gelu_tanh_mul", .input = {{"ABC"}, {"ABC"}})

/* ---- reductions ---- */

CASE(sum_last, cb_sum(x[0], -1, true), .op = "sum", .integers = true, .input = {{"ABC"}})
CASE(sum_middle, cb_sum(x[0], 1, false), .op = "sum", .integers = true, .input = {{"ABC"}})
CASE(sum_first, cb_sum(x[0], 0, false), .op = "sum", .input = {{"ABC"}})
CASE(sum_all, cb_sum(x[0], CB_ALL, false), .op = "sum", .integers = true, .input = {{"ABC"}})
CASE(sum_all_keep, cb_sum(x[0], CB_ALL, true), .op = "sum", .input = {{"ABC"}})
CASE(mean_last, cb_mean(x[0], -1, false), .op = "mean", .nonzero = "C", .input = {{"ABC"}})
CASE(mean_middle, cb_mean(x[0], 1, true), .op = "mean", .nonzero = "B", .input = {{"ABC"}})
CASE(mean_all, cb_mean(x[0], CB_ALL, false), .op = "mean", .nonzero = "ABC", .input = {{"ABC"}})
CASE(max_last, cb_max(x[0], -1, true), .op = "max", .nonzero = "C", .integers = true, .input = {{"ABC", DISTINCT}})
CASE(max_middle, cb_max(x[0], 1, false), .op = "max", .nonzero = "B", .input = {{"ABC", DISTINCT}})
CASE(max_all, cb_max(x[0], CB_ALL, false), .op = "max", .nonzero = "ABC", .input = {{"ABC", DISTINCT}})
CASE(max_ties, cb_max(x[0], -1, false), .op = "max", .nonzero = "C", .kinks = true, .input = {{"ABC", LEVELS}})
CASE(min_last, cb_min(x[0], -1, false), .op = "min", .nonzero = "C", .integers = true, .input = {{"ABC", DISTINCT}})
CASE(min_middle, cb_min(x[0], 1, true), .op = "min", .nonzero = "B", .input = {{"ABC", DISTINCT}})
CASE(min_all, cb_min(x[0], CB_ALL, false), .op = "min", .nonzero = "ABC", .input = {{"ABC", DISTINCT}})
CASE(min_ties, cb_min(x[0], 1, false), .op = "min", .nonzero = "B", .kinks = true, .input = {{"ABC", LEVELS}})
CASE(prod_last, cb_prod(x[0], -1, true), .op = "prod", .input = {{"ABC"}}, .fixed = true, .loose = 4)
CASE(prod_middle, cb_prod(x[0], 1, false), .op = "prod", .input = {{"ABC"}}, .loose = 4)
CASE(prod_all, cb_prod(x[0], CB_ALL, false), .op = "prod", .input = {{"AB"}}, .loose = 4)
CASE(prod_zeros, cb_prod(x[0], -1, false), .op = "prod", .integers = true, .input = {{"ABC", LEVELS}})
CASE(logsumexp_last, cb_logsumexp(x[0], -1, true), .op = "logsumexp", .nonzero = "C", .input = {{"ABC"}})
CASE(logsumexp_middle, cb_logsumexp(x[0], 1, false), .op = "logsumexp", .nonzero = "B", .input = {{"ABC"}})
CASE(logsumexp_all, cb_logsumexp(x[0], CB_ALL, false), .op = "logsumexp", .nonzero = "ABC", .input = {{"ABC"}})
CASE(logsumexp_far, cb_logsumexp(cb_scale(x[0], 512), -1, false), .op = "logsumexp", .nonzero = "C", .kinks = true, .no_half = true,
     .input = {{"ABC"}}, .loose = 500)
CASE(var_last, cb_var(x[0], -1, true, 1), .op = "var", .fixed = true, .input = {{"ABC"}})
CASE(var_middle, cb_var(x[0], 1, false, 0), .op = "var", .nonzero = "B", .input = {{"ABC"}})
CASE(var_all, cb_var(x[0], CB_ALL, false, 0), .op = "var", .nonzero = "ABC", .input = {{"ABC"}})
CASE(argmax, cb_argmax(x[0], -1, false), .nonzero = "C", .integers = true, .input = {{"ABC", DISTINCT}})
CASE(argmax_all, cb_argmax(x[0], CB_ALL, false), .nonzero = "ABC", .input = {{"ABC", DISTINCT}})
CASE(argmin, cb_argmin(x[0], 1, true), .nonzero = "B", .integers = true, .input = {{"ABC", DISTINCT}})
CASE(sum_to, cb_sum_to_nd(x[0], 2, (int64_t[]){x[0]->shape[1], 1}), .op = "sum_to", .input = {{"ABC"}})
CASE(cumsum_last, cb_cumsum(x[0], -1), .op = "cumsum", .integers = true, .input = {{"ABC"}})
CASE(cumsum_middle, cb_cumsum(x[0], 1), .op = "cumsum", .input = {{"ABC"}})
CASE(cumprod_last, cb_cumprod(x[0], -1), .op = "cumprod", .input = {{"ABC"}}, .fixed = true, .loose = 4)
CASE(cumprod_middle, cb_cumprod(x[0], 1), .op = "cumprod", .input = {{"ABC"}}, .loose = 4)
CASE(cumprod_zeros, cb_cumprod(x[0], -1), .op = "cumprod", .integers = true, .input = {{"ABC", LEVELS}})
CASE(softmax_last, cb_softmax(x[0], -1), .op = "softmax", .input = {{"ABC"}})
CASE(softmax_middle, cb_softmax(x[0], 1), .op = "softmax", .input = {{"ABC"}})
CASE(log_softmax_last, cb_log_softmax(x[0], -1), .op = "log_softmax", .input = {{"ABC"}})
CASE(log_softmax_first, cb_log_softmax(x[0], 0), .op = "log_softmax", .input = {{"ABC"}})

/* ---- shape ---- */

CASE(reshape, cb_reshape(x[0], x[0]->shape[0] * x[0]->shape[1], x[0]->shape[2]), .op = "reshape", .integers = true, .input = {{"ABC"}})
CASE(reshape_infer, cb_reshape(x[0], -1, x[0]->shape[2], 1), .op = "reshape", .nonzero = "C", .input = {{"ABC"}})
CASE(expand, cb_expand(x[0], 4, -1, 3, -1), .op = "expand", .input = {{"B1C"}})
CASE(permute, cb_permute(x[0], 2, 0, 1), .op = "permute", .integers = true, .input = {{"ABC"}})
CASE(repeat, cb_repeat(x[0], 2, 1, 3), .op = "reshape", .input = {{"BC"}})
CASE(repeat_none, cb_repeat(x[0], 2, 0), .op = "reshape", .input = {{"BC"}})
CASE(transpose, cb_transpose(x[0], 0, -1), .op = "permute", .input = {{"ABC"}})
CASE(squeeze, cb_squeeze(x[0], 1), .op = "reshape", .input = {{"A1C"}})
CASE(unsqueeze, cb_unsqueeze(x[0], -1), .op = "reshape", .input = {{"AC"}})
CASE(slice, cb_slice(x[0], -1, 1, 5, 2), .op = "slice", .integers = true, .fixed = true, .input = {{"ABC"}})
CASE(slice_negative, cb_slice(x[0], 1, -2, 99, 1), .op = "slice", .input = {{"ABC"}})
CASE(slice_empty, cb_slice(x[0], 0, 2, 1, 1), .op = "slice", .input = {{"ABC"}})
CASE(cat_middle, cb_cat(3, x, 1), .op = "cat", .integers = true, .input = {{"AMC"}, {"ANC"}, {"A1C"}})
CASE(cat_last, cb_cat(2, x, -1), .op = "cat", .input = {{"AM"}, {"AN"}})
CASE(cat_itself, cb_cat(2, ((cb_tensor *[]){x[0], x[0]}), 0), .op = "cat", .input = {{"AB"}})
CASE(stack_first, cb_stack(2, x, 0), .op = "stack", .input = {{"AB"}, {"AB"}})
CASE(stack_last, cb_stack(3, x, -1), .op = "stack", .input = {{"AB"}, {"AB"}, {"AB"}})
CASE_MANY(split, cb_split(x[0], 1, 3, (int64_t[]){1, 0, x[0]->shape[1] - 1}, y) ? 3 : 0, .op = "split", .nonzero = "B", .input = {{"ABC"}})
CASE(pad, cb_pad(x[0], 1, 2, 1, 3), .op = "pad", .integers = true, .input = {{"ABC"}})
CASE(pad_last, cb_pad(x[0], -1, 0, 3, 0), .op = "pad", .input = {{"ABC"}})
CASE(roll, cb_roll(x[0], 1, 1), .op = "roll", .integers = true, .input = {{"ABC"}})
CASE(roll_back, cb_roll(x[0], -1, -7), .op = "roll", .input = {{"ABC"}})
CASE(flip, cb_flip(x[0], 1), .op = "flip", .integers = true, .input = {{"ABC"}})
CASE(channels_last, cb_channels_last(x[0]), .op = "channels_last", .fixed = true, .input = {{"2345"}})
CASE(channels_last_chain, cb_mul(cb_tanh(cb_channels_last(x[0])), cb_add(x[1], cb_channels_last(x[0]))), .op = "mul", .fixed = true,
     .loose = 2, .input = {{"2345"}, {"2345"}})
CASE(contiguous, cb_contiguous(x[0]), .op = "contiguous", .input = {{"ABC"}})
CASE(cast, cb_cast(x[0], CB_F32), .op = "cast", .input = {{"ABC"}})

/* ---- indexing ---- */

CASE(embedding, cb_embedding(x[0], x[1]), .op = "embedding", .nonzero = "V", .input = {{"VC"}, {"AB", INDEX, 'V'}})
CASE(embedding_i32, cb_embedding(x[0], x[1]), .op = "embedding", .nonzero = "V", .input = {{"VC"}, {"M", INDEX32, 'V'}})
CASE(gather_last, cb_gather(x[0], -1, x[1]), .op = "gather", .nonzero = "C", .integers = true, .input = {{"ABC"}, {"ABM", INDEX, 'C'}})
CASE(gather_middle, cb_gather(x[0], 1, x[1]), .op = "gather", .nonzero = "B", .input = {{"ABC"}, {"AMC", INDEX32, 'B'}})
CASE(gather_part, cb_gather(x[0], 1, x[1]), .op = "gather", .fixed = true, .input = {{"ABC"}, {"1M3", INDEX, 'B'}})
CASE(scatter_add, cb_scatter_add(x[0], 1, x[1], x[2]), .op = "scatter_add", .nonzero = "B", .integers = true,
     .input = {{"ABC"}, {"AMC", INDEX, 'B'}, {"AMC"}}, .loose = 4)
CASE(scatter_add_last, cb_scatter_add(x[0], -1, x[1], x[2]), .op = "scatter_add", .nonzero = "C",
     .input = {{"AC"}, {"AM", INDEX32, 'C'}, {"AM"}}, .loose = 4)
CASE(scatter_add_part, cb_scatter_add(x[0], 1, x[1], x[2]), .op = "scatter_add", .fixed = true,
     .input = {{"ABC"}, {"1M3", INDEX, 'B'}, {"1M3"}}, .loose = 4)
CASE(index_select, cb_index_select(x[0], 1, x[1]), .op = "index_select", .nonzero = "B", .integers = true,
     .input = {{"ABC"}, {"M", INDEX, 'B'}})
CASE(index_select_last, cb_index_select(x[0], -1, x[1]), .op = "index_select", .nonzero = "C", .input = {{"ABC"}, {"M", INDEX32, 'C'}})
CASE(index_add, cb_index_add(x[0], 1, x[1], x[2]), .op = "index_add", .nonzero = "B", .integers = true,
     .input = {{"ABC"}, {"M", INDEX, 'B'}, {"AMC"}}, .loose = 4)
CASE(index_add_first, cb_index_add(x[0], 0, x[1], x[2]), .op = "index_add", .nonzero = "A", .input = {{"AB"}, {"M", INDEX32, 'A'}, {"MB"}},
     .loose = 4)
CASE_MANY(topk, cb_topk(x[0], x[0]->shape[2] > 1 ? 2 : x[0]->shape[2], -1, true, &y[0], &y[1]) ? 2 : 0, .op = "topk", .integers = true,
          .nonzero = "C", .input = {{"ABC", DISTINCT}})
CASE_MANY(topk_smallest, cb_topk(x[0], 1, 1, false, &y[0], &y[1]) ? 2 : 0, .op = "topk", .nonzero = "B", .input = {{"ABC", DISTINCT}})
CASE_MANY(sort, cb_sort(x[0], -1, false, &y[0], &y[1]) ? 2 : 0, .op = "sort", .nonzero = "C", .integers = true,
          .input = {{"ABC", DISTINCT}})
CASE_MANY(sort_descending, cb_sort(x[0], 1, true, &y[0], &y[1]) ? 2 : 0, .op = "sort", .nonzero = "B", .input = {{"ABC", DISTINCT}})
CASE_MANY(sort_ties, cb_sort(x[0], -1, true, &y[0], &y[1]) ? 2 : 0, .op = "sort", .nonzero = "C", .kinks = true, .input = {{"ABC", LEVELS}})

/* ---- products ---- */

CASE(matmul, cb_matmul(x[0], x[1]), .op = "matmul", .input = {{"MK"}, {"KN"}})
CASE(matmul_batch, cb_matmul(x[0], x[1]), .op = "matmul", .input = {{"ABMK"}, {"ABKN"}})
CASE(matmul_broadcast, cb_matmul(x[0], x[1]), .op = "matmul", .input = {{"A1MK"}, {"BKN"}})
CASE(matmul_shared, cb_matmul(x[0], x[1]), .op = "matmul", .input = {{"ABMK"}, {"KN"}})
CASE(matmul_vectors, cb_matmul(x[0], x[1]), .op = "matmul", .input = {{"K"}, {"K"}})
CASE(matmul_row, cb_matmul(x[0], x[1]), .op = "matmul", .input = {{"K"}, {"AKN"}})
CASE(matmul_column, cb_matmul(x[0], x[1]), .op = "matmul", .input = {{"AMK"}, {"K"}})
CASE(linear, cb_linear(x[0], x[1], NULL), .op = "linear", .input = {{"AMK"}, {"NK"}})
CASE(linear_bias, cb_linear(x[0], x[1], x[2]), .op = "linear", .input = {{"AMK"}, {"NK"}, {"N"}})
CASE(linear_vector, cb_linear(x[0], x[1], x[2]), .op = "linear", .input = {{"K"}, {"NK"}, {"N"}})

/* ---- convolutions ---- */

#define STRIDED ((cb_conv_options){.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}})
CASE(im2col, cb_im2col(x[0], 3, 2, STRIDED), .op = "im2col", .fixed = true, .input = {{"2365"}})
CASE(col2im, cb_col2im(x[0], 4, 3, 2, 2, (cb_conv_options){.stride = {2, 1}, .padding = {0, 1}}), .op = "col2im", .fixed = true,
     .input = {{"288"}})
CASE(conv2d, cb_conv(x[0], x[1], NULL), .op = "conv", .fixed = true, .input = {{"2365"}, {"4332"}})
CASE(conv2d_bias, cb_conv(x[0], x[1], x[2], .padding = {1, 0}), .op = "conv", .fixed = true, .input = {{"2365"}, {"4332"}, {"4"}})
CASE(conv2d_strided, cb_conv_with(x[0], x[1], x[2], STRIDED), .op = "conv", .fixed = true, .input = {{"2365"}, {"4332"}, {"4"}})
CASE(conv2d_groups, cb_conv(x[0], x[1], x[2], .groups = 2, .stride = {2, 2}), .op = "conv", .fixed = true,
     .input = {{"2465"}, {"6222"}, {"6"}})
CASE(conv2d_depthwise, cb_conv(x[0], x[1], NULL, .groups = 4, .padding = {1, 1}), .op = "conv", .fixed = true,
     .input = {{"2465"}, {"4133"}})
CASE(conv2d_point, cb_conv(x[0], x[1], x[2]), .op = "conv", .fixed = true, .input = {{"2365"}, {"4311"}, {"4"}})
CASE(conv1d, cb_conv(x[0], x[1], x[2], .stride = {2}, .padding = {2}, .dilation = {2}), .op = "conv", .fixed = true,
     .input = {{"237"}, {"433"}, {"4"}})
CASE(conv3d, cb_conv(x[0], x[1], x[2], .stride = {1, 2, 1}, .padding = {1, 0, 1}), .op = "conv", .fixed = true,
     .input = {{"22345"}, {"32223"}, {"3"}})
CASE(conv_transpose1d, cb_conv_transpose(x[0], x[1], x[2], .stride = {3}, .output_padding = {2}, .dilation = {2}), .op = "conv_data",
     .fixed = true, .input = {{"235"}, {"342"}, {"4"}})
CASE(conv_transpose2d, cb_conv_transpose(x[0], x[1], x[2], .stride = {2, 2}, .padding = {1, 0}, .output_padding = {1, 0}, .groups = 2),
     .op = "conv_data", .fixed = true, .input = {{"2434"}, {"4332"}, {"6"}})
CASE(conv_transpose3d, cb_conv_transpose(x[0], x[1], NULL, .stride = {2, 1, 1}), .op = "conv_data", .fixed = true,
     .input = {{"22323"}, {"23222"}})
#undef STRIDED

/* ---- pooling, resampling ---- */

CASE(max_pool2d, cb_max_pool(x[0], .kernel = {3, 2}, .stride = {2, 2}, .padding = {1, 1}), .op = "max_pool", .fixed = true,
     .input = {{"2365", DISTINCT}})
CASE(max_pool1d, cb_max_pool(x[0], .kernel = {3}, .stride = {1}, .dilation = {2}), .op = "max_pool", .fixed = true,
     .input = {{"AC7", DISTINCT}})
CASE(max_pool3d, cb_max_pool(x[0], .kernel = {2, 2, 2}), .op = "max_pool", .fixed = true, .input = {{"22445", DISTINCT}})
CASE(max_pool_ties, cb_max_pool(x[0], .kernel = {2, 2}, .stride = {1, 1}), .op = "max_pool", .fixed = true, .kinks = true,
     .input = {{"2265", LEVELS}})
CASE(avg_pool2d, cb_avg_pool(x[0], .kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 1}), .op = "resample", .fixed = true,
     .input = {{"2365"}})
CASE(avg_pool2d_exclude, cb_avg_pool(x[0], .kernel = {3, 2}, .padding = {1, 0}, .exclude_padding = true), .op = "resample", .fixed = true,
     .input = {{"2365"}})
CASE(avg_pool1d, cb_avg_pool(x[0], .kernel = {2}), .op = "resample", .fixed = true, .input = {{"AC7"}})
CASE(adaptive_avg_pool2d, cb_adaptive_avg_pool(x[0], 4, 2), .op = "resample", .fixed = true, .input = {{"2365"}})
CASE(global_avg_pool, cb_adaptive_avg_pool(x[0], 1, 1), .op = "resample", .nonzero = "MK", .input = {{"ACMK"}})
CASE(adaptive_avg_pool3d, cb_adaptive_avg_pool(x[0], 2, 1, 3), .op = "resample", .fixed = true, .input = {{"22345"}})
CASE(interpolate_nearest, cb_interpolate(x[0], .size = {9, 3}), .op = "resample", .fixed = true, .input = {{"2365"}})
CASE(interpolate_bilinear, cb_interpolate(x[0], .size = {9, 3}, .mode = CB_LINEAR), .op = "resample", .fixed = true, .input = {{"2365"}})
CASE(interpolate_bilinear_corners, cb_interpolate(x[0], .size = {4, 7}, .mode = CB_LINEAR, .align_corners = true), .op = "resample",
     .fixed = true, .input = {{"2365"}})
CASE(interpolate_bicubic, cb_interpolate(x[0], .size = {9, 3}, .mode = CB_CUBIC), .op = "resample", .fixed = true, .loose = 2,
     .input = {{"2365"}})
CASE(interpolate_bicubic_corners, cb_interpolate(x[0], .size = {4, 7}, .mode = CB_CUBIC, .align_corners = true), .op = "resample",
     .fixed = true, .loose = 2, .input = {{"2365"}})
CASE(interpolate_linear, cb_interpolate(x[0], .size = {5}, .mode = CB_LINEAR), .op = "resample", .fixed = true, .input = {{"AC7"}})
CASE(interpolate_trilinear, cb_interpolate(x[0], .size = {4, 2, 7}, .mode = CB_LINEAR), .op = "resample", .fixed = true,
     .input = {{"22345"}})
CASE(interpolate_bilinear_antialias, cb_interpolate(x[0], .size = {2, 7}, .mode = CB_LINEAR, .antialias = true), .op = "resample",
     .fixed = true, .input = {{"2398"}})
CASE(interpolate_bicubic_antialias, cb_interpolate(x[0], .size = {4, 3}, .mode = CB_CUBIC, .antialias = true), .op = "resample",
     .fixed = true, .loose = 2, .input = {{"2398"}})

/* loose: weights are differences of coordinates, which rounding moves by as much as the coordinates are larger */
CASE(grid_sample, cb_grid_sample(x[0], cb_add_scalar(x[1], 0.25), .mode = CB_LINEAR), .op = "grid_sample", .fixed = true, .loose = 8,
     .input = {{"2344"}, {"2532", DISTINCT}})
CASE(grid_sample_corners, cb_grid_sample(x[0], x[1], .mode = CB_LINEAR, .align_corners = true), .op = "grid_sample", .fixed = true,
     .loose = 8, .input = {{"2335"}, {"2532", DISTINCT}})
CASE(grid_sample_border, cb_grid_sample(x[0], x[1], .mode = CB_LINEAR, .outside = CB_OUTSIDE_BORDER, .align_corners = true),
     .op = "grid_sample", .fixed = true, .loose = 8, .input = {{"2335"}, {"2532", DISTINCT}})
CASE(grid_sample_reflection, cb_grid_sample(x[0], x[1], .mode = CB_LINEAR, .outside = CB_OUTSIDE_REFLECTION, .align_corners = true),
     .op = "grid_sample", .fixed = true, .loose = 8, .input = {{"2335"}, {"2532", DISTINCT}})
CASE(grid_sample_reflection_borders, cb_grid_sample(x[0], cb_add_scalar(x[1], 0.25), .mode = CB_LINEAR, .outside = CB_OUTSIDE_REFLECTION),
     .op = "grid_sample", .fixed = true, .loose = 8, .input = {{"2344"}, {"2532", DISTINCT}})
/* a half type's rounding of a coordinate may choose another element */
CASE(grid_sample_nearest, cb_grid_sample(x[0], cb_add_scalar(x[1], 0.07)), .op = "grid_sample", .fixed = true, .no_half = true,
     .input = {{"2344"}, {"2532", DISTINCT}})
CASE(affine_grid, cb_affine_grid(x[0], 3, 4, false), .op = "matmul", .fixed = true, .input = {{"223"}})
CASE(affine_grid_corners, cb_affine_grid(x[0], 3, 1, true), .op = "matmul", .fixed = true, .input = {{"223"}})

/* ---- more products ---- */

CASE(linear_t, cb_linear_t(x[0], x[1], NULL), .op = "linear", .input = {{"AMK"}, {"KN"}})
CASE(linear_t_bias, cb_linear_t(x[0], x[1], x[2]), .op = "linear", .input = {{"MK"}, {"KN"}, {"N"}})
CASE(linear_add, cb_linear_add(x[0], x[1], x[2], 0.5), .op = "linear_add", .input = {{"AMN"}, {"AMK"}, {"NK"}})
CASE(linear_add_in_place, cb_linear_add(cb_scale(x[0], 2), x[1], x[2], -1), .op = "linear_add", .input = {{"AMN"}, {"AMK"}, {"NK"}})
#define TWO_UPDATES 2, (const cb_low_rank[]){{x[2], x[3], 0.5}, {x[4], x[5], -2}}, halves_count(x[1]), halves(x[1])
CASE(low_rank_add, cb_low_rank_add(x[0], x[1], TWO_UPDATES), .op = "low_rank_add", .loose = 2,
     .input = {{"AMN"}, {"AMK"}, {"PK"}, {"NP"}, {"BK"}, {"NB"}})
CASE(low_rank_add_in_place, cb_low_rank_add(cb_scale(x[0], 2), x[1], TWO_UPDATES), .op = "low_rank_add", .loose = 2,
     .input = {{"MN"}, {"MK"}, {"BK"}, {"NB"}, {"PK"}, {"NP"}})
#undef TWO_UPDATES
CASE(linear_int8, cb_linear(x[0], cb_quantize(x[1], CB_INT8, 0), x[2]), .op = "linear", .own = true, .loose = 2,
     .input = {{"AMK"}, {"NK", TABLE}, {"N"}})
CASE(linear_add_int8, cb_linear_add(x[0], x[1], cb_quantize(x[2], CB_INT8, 3), 0.5), .op = "linear_add", .own = true, .loose = 2,
     .input = {{"AMN"}, {"AMK"}, {"NK", TABLE}})
CASE(linear_nf4, cb_linear(widened(x[0]), frozen(CB_NF4), NULL), .op = "linear", .own = true, .fixed = true, .loose = 8, .input = {{"AMK"}})
CASE(linear_q8_0, cb_linear(widened(x[0]), frozen(CB_Q8_0), NULL), .op = "linear", .own = true, .fixed = true, .loose = 8,
     .input = {{"AMK"}})
CASE(linear_q5_0, cb_linear(widened(x[0]), frozen(CB_Q5_0), NULL), .op = "linear", .own = true, .fixed = true, .loose = 8,
     .input = {{"AMK"}})
CASE(linear_q4_0, cb_linear(widened(x[0]), frozen(CB_Q4_0), NULL), .op = "linear", .own = true, .fixed = true, .loose = 8,
     .input = {{"AMK"}})
CASE(linear_q6_k, cb_linear(widened(x[0]), frozen(CB_Q6_K), NULL), .op = "linear", .own = true, .fixed = true, .loose = 8,
     .input = {{"AMK"}})
CASE(linear_q5_k, cb_linear(widened(x[0]), frozen(CB_Q5_K), NULL), .op = "linear", .own = true, .fixed = true, .loose = 8,
     .input = {{"AMK"}})
CASE(linear_q4_k, cb_linear(widened(x[0]), frozen(CB_Q4_K), NULL), .op = "linear", .own = true, .fixed = true, .loose = 8,
     .input = {{"AMK"}})
CASE(linear_low_rank, cb_linear_add(cb_linear(x[0], x[1], NULL), cb_linear(x[0], x[2], NULL), x[3], 2), .op = "linear_add", .loose = 2,
     .input = {{"MK"}, {"NK"}, {"PK"}, {"NP"}})

/* ---- layers ---- */

CASE(rms_norm, cb_rms_norm(x[0], x[1], 1e-5), .op = "rms_norm", .input = {{"ABC"}, {"C"}}, .loose = 2)
CASE(rms_norm_plain, cb_rms_norm(x[0], NULL, 1e-2), .op = "rms_norm", .input = {{"ABC"}}, .loose = 2)
CASE(layer_norm, cb_layer_norm(x[0], x[1], x[2], 1e-2), .op = "layer_norm", .input = {{"ABC"}, {"C"}, {"C"}}, .loose = 2)
CASE(layer_norm_weight, cb_layer_norm(x[0], x[1], NULL, 1e-2), .op = "layer_norm", .input = {{"ABC"}, {"C"}}, .loose = 2)
CASE(layer_norm_bias, cb_layer_norm(x[0], NULL, x[1], 1e-2), .op = "layer_norm", .input = {{"ABC"}, {"C"}}, .loose = 2)
CASE(layer_norm_plain, cb_layer_norm(x[0], NULL, NULL, 1e-2), .op = "layer_norm", .input = {{"ABC"}}, .loose = 2)
CASE(batch_norm, cb_batch_norm(x[0], x[1], x[2]), .op = "channel_norm", .loose = 4, .input = {{"ACMK"}, {"C"}, {"C"}})
CASE(batch_norm_rows, cb_batch_norm(x[0], NULL, NULL, .eps = 1e-2), .op = "channel_norm", .loose = 4, .input = {{"ZC"}})
CASE(batch_norm_last, cb_batch_norm(cb_channels_last(x[0]), x[1], x[2]), .op = "channel_norm", .loose = 4,
     .input = {{"ACMK"}, {"C"}, {"C"}})
CASE(batch_norm_running, cb_batch_norm(x[0], x[1], x[2], .running_mean = x[3], .running_var = x[4], .running_weight = 1),
     .op = "channel_norm", .loose = 4, .input = {{"ACM"}, {"C"}, {"C"}, {"C", TABLE}, {"C", VARIANCES}})
CASE(batch_norm_frozen, cb_batch_norm(x[0], NULL, x[1], .running_mean = x[2], .running_var = x[3], .running_weight = 1),
     .op = "channel_norm", .own = true, .loose = 4, .input = {{"ACM"}, {"C"}, {"C", TABLE}, {"C", VARIANCES}})
CASE(batch_norm_mixed, cb_batch_norm(x[0], x[1], NULL, .running_mean = x[2], .running_var = x[3], .running_weight = 0.7),
     .op = "channel_norm", .loose = 4, .input = {{"ACM"}, {"C"}, {"C", TABLE}, {"C", VARIANCES}})
CASE(group_norm, cb_group_norm(x[0], 2, x[1], x[2], 1e-5), .op = "channel_norm", .fixed = true, .loose = 4,
     .input = {{"B6MK"}, {"6"}, {"6"}})
CASE(group_norm_last, cb_group_norm(cb_channels_last(x[0]), 3, x[1], NULL, 1e-2), .op = "channel_norm", .fixed = true, .loose = 4,
     .input = {{"B6MK"}, {"6"}})
CASE(instance_norm, cb_group_norm(x[0], x[0]->shape[1], x[1], x[2], 1e-5), .op = "channel_norm", .nonzero = "C", .loose = 4,
     .input = {{"ACMK"}, {"C"}, {"C"}})
CASE(affine, cb_affine(x[0], x[1], x[2]), .op = "affine", .input = {{"ABC"}, {"C"}, {"C"}}, .loose = 2)
CASE(affine_scale, cb_affine(x[0], x[1], NULL), .op = "affine", .input = {{"BC"}, {"C"}}, .loose = 2)
CASE(rope, cb_rope(x[0], x[1], x[2], x[3]), .op = "rope", .nonzero = "VD",
     .input = {{"ATHD"}, {"VR", TABLE}, {"VR", TABLE}, {"AT", POSITIONS, 'V'}})
CASE(attention, cb_attention(x[0], x[1], x[2], .scale = 0.7), .op = "attention", .nonzero = "HD", .no_f16 = true, .plain_f64 = true,
     .loose = 2, .input = {{"ATHD"}, {"ASHD"}, {"ASHD"}})
CASE(attention_causal, cb_attention(x[0], x[1], x[2], .causal = true), .op = "attention", .nonzero = "GD", .no_f16 = true,
     .plain_f64 = true, .loose = 2, .input = {{"ATHD"}, {"ATGD"}, {"ATGD"}})
CASE(attention_tail, cb_attention(x[0], x[1], x[2], .causal = true), .op = "attention", .nonzero = "GD", .no_f16 = true, .plain_f64 = true,
     .loose = 2, .input = {{"ATHD"}, {"ASGD"}, {"ASGD"}})
CASE(attention_window, cb_attention(x[0], x[1], x[2], .causal = true, .window = 2), .op = "attention", .nonzero = "GD", .no_f16 = true,
     .plain_f64 = true, .loose = 2, .input = {{"ATHD"}, {"ATGD"}, {"ATGD"}})
CASE(attention_segments, cb_attention(x[0], x[1], x[2], .causal = true, .segments = x[3]), .op = "attention", .nonzero = "GD",
     .no_f16 = true, .plain_f64 = true, .loose = 2, .input = {{"ATHD"}, {"ATGD"}, {"ATGD"}, {"AT", SEGMENTS}})
CASE(attention_mask, cb_attention(x[0], x[1], x[2], .mask = x[3]), .op = "attention", .nonzero = "GD", .no_f16 = true, .plain_f64 = true,
     .loose = 2, .input = {{"ATHD"}, {"ASGD"}, {"ASGD"}, {"AHTS"}})
CASE(attention_mask_broadcast, cb_attention(x[0], x[1], x[2], .mask = x[3], .causal = true), .op = "attention", .nonzero = "GD",
     .no_f16 = true, .plain_f64 = true, .loose = 2, .input = {{"ATHD"}, {"ATGD"}, {"ATGD"}, {"H1T"}})
CASE(attention_prefix, cb_attention(x[0], x[1], x[2], .causal = true, .prefix_k = x[3], .prefix_v = x[4]), .op = "attention",
     .nonzero = "GD", .no_f16 = true, .plain_f64 = true, .loose = 2, .input = {{"ATHD"}, {"ATGD"}, {"ATGD"}, {"1PGD"}, {"1PGD"}})
CASE(attention_everything,
     cb_attention(x[0], x[1], x[2], .scale = 0.5, .causal = true, .window = 3, .mask = x[3], .prefix_k = x[4], .prefix_v = x[5],
                  .segments = x[6]),
     .op = "attention", .nonzero = "GD", .no_f16 = true, .plain_f64 = true, .loose = 2,
     .input = {{"ATHD"}, {"ATGD"}, {"ATGD"}, {"A11T"}, {"APGD"}, {"APGD"}, {"AT", SEGMENTS}})
/* an error of the logits, some tens in size, is a relative error of the probabilities */
CASE(linear_cross_entropy, cb_linear_cross_entropy(x[0], x[1], x[2]), .op = "linear_cross_entropy", .nonzero = "AMKV", .loose = 8,
     .input = {{"AMK"}, {"VK"}, {"AM", TARGETS, 'V'}})
CASE(linear_cross_entropy_int8, cb_linear_cross_entropy(x[0], cb_quantize(x[1], CB_INT8, 0), x[2]), .op = "linear_cross_entropy",
     .own = true, .nonzero = "AMKV", .loose = 8, .input = {{"AMK"}, {"VK", TABLE}, {"AM", TARGETS, 'V'}})
CASE(linear_cross_entropy_smooth, cb_linear_cross_entropy(x[0], x[1], x[2], .label_smoothing = 0.1, .normalizer = 7),
     .op = "linear_cross_entropy", .plain_f64 = true, .nonzero = "KV", .loose = 8, .input = {{"ZK"}, {"VK"}, {"Z", TARGETS32, 'V'}})
CASE(linear_cross_entropy_scaled,
     cb_scale(cb_linear_cross_entropy_with(x[0], x[1], x[2], (cb_linear_cross_entropy_options){.ignore_index = 0}), 3),
     .op = "linear_cross_entropy", .fixed = true, .loose = 8, .input = {{"MK"}, {"VK"}, {"M", INDEX, 'V'}})
CASE(cross_entropy, cb_cross_entropy_with(x[0], x[1], (cb_linear_cross_entropy_options){.ignore_index = -100}), .op = "cross_entropy",
     .plain_f64 = true, .nonzero = "MV", .input = {{"MV"}, {"M", TARGETS, 'V'}})
CASE(cross_entropy_smooth,
     cb_cross_entropy_with(x[0], x[1], (cb_linear_cross_entropy_options){.ignore_index = -100, .label_smoothing = 0.2, .normalizer = 5}),
     .op = "cross_entropy", .plain_f64 = true, .nonzero = "V", .input = {{"ZV"}, {"Z", TARGETS32, 'V'}})
CASE(dropout, cb_dropout(x[0], 0.4, &(cb_rng){.seed = 7}), .op = "dropout", .own = true, .input = {{"ABC"}})

/* ---- linear algebra ---- */

/* what does not depend on the signs that a factorisation may choose */
CASE_MANY(svd, svd_invariants(x[0], y), .op = "svd", .fixed = true, .no_half = true, .loose = 64, .input = {{"CB", DISTINCT}})
CASE_MANY(svd_wide, svd_invariants(x[0], y), .op = "svd", .fixed = true, .no_half = true, .loose = 64, .input = {{"BC", DISTINCT}})
CASE_MANY(svd_factors, cb_svd(x[0], &y[0], &y[1], &y[2]) ? 3 : 0, .op = "svd", .fixed = true, .own = true, .no_half = true, .loose = 64,
          .input = {{"CB", DISTINCT}})
CASE_MANY(qr, cb_qr(x[0], &y[0], &y[1]) ? 2 : 0, .op = "qr", .fixed = true, .no_half = true, .loose = 64, .input = {{"CB", DISTINCT}})
CASE_MANY(qr_square, cb_qr(x[0], &y[0], &y[1]) ? 2 : 0, .op = "qr", .fixed = true, .no_half = true, .loose = 64,
          .input = {{"BB", DISTINCT}})
CASE(inverse, cb_inverse(with_diagonal(x[0])), .op = "inverse", .no_half = true, .input = {{"ABB"}})
CASE(solve, cb_solve(x[0], x[1]), .op = "solve", .fixed = true, .no_half = true, .loose = 64, .input = {{"CB"}, {"BB", DISTINCT}})

CASE(solve_triangular, cb_solve_triangular(x[0], with_diagonal(x[1]), false), .op = "solve_triangular", .fixed = true, .no_half = true,
     .input = {{"CB"}, {"BB"}})
CASE(solve_triangular_transposed, cb_solve_triangular(x[0], with_diagonal(x[1]), true), .op = "solve_triangular", .fixed = true,
     .no_half = true, .input = {{"CB"}, {"BB"}})
CASE(cholesky, cb_cholesky(with_diagonal(cb_matmul(x[0], cb_transpose(x[0], 0, 1)))), .op = "cholesky", .fixed = true, .no_half = true,
     .loose = 4, .input = {{"NN"}})
/* what does not depend on the signs that eigenvectors may have; loose: the gaps between eigenvalues divide their rounding */
CASE_MANY(eigh, eigh_invariants(x[0], y), .op = "eigh", .fixed = true, .no_half = true, .loose = 64, .input = {{"NN", DISTINCT}})
CASE_MANY(eigh_factors, cb_eigh(cb_add(x[0], cb_transpose(x[0], 0, 1)), &y[0], &y[1]) ? 2 : 0, .op = "eigh", .fixed = true, .own = true,
          .no_half = true, .loose = 64, .input = {{"NN", DISTINCT}})

/* ---- transforms ---- */

CASE(fft, cb_fft(x[0], 1, false), .op = "fft", .nonzero = "S", .loose = 4, .input = {{"AS2"}})
CASE(fft_inverse, cb_fft(x[0], 1, true), .op = "fft", .nonzero = "S", .loose = 4, .input = {{"AS2"}})
CASE(fft_two, cb_fft(x[0], 2, false), .op = "fft", .nonzero = "MS", .loose = 4, .input = {{"AMS2"}})
CASE(fft_two_inverse, cb_fft(x[0], 2, true), .op = "fft", .nonzero = "MS", .loose = 4, .input = {{"AMS2"}})
CASE(fft_prime, cb_fft(x[0], 1, false), .op = "fft", .nonzero = "K", .loose = 4, .input = {{"AK2"}})
CASE(rfft, cb_rfft(x[0], 1), .op = "fft", .nonzero = "S", .loose = 4, .input = {{"AS"}})
CASE(rfft_two, cb_rfft(x[0], 2), .op = "fft", .nonzero = "NS", .loose = 4, .input = {{"ANS"}})
CASE(irfft, cb_irfft(x[0], 1, 7), .op = "fft", .fixed = true, .loose = 4, .input = {{"A42"}})
CASE(irfft_even, cb_irfft(x[0], 1, 6), .op = "fft", .fixed = true, .loose = 4, .input = {{"A42"}})
CASE(irfft_two, cb_irfft(x[0], 2, 6), .op = "fft", .fixed = true, .loose = 4, .input = {{"A342"}})

/* ---- sequences ---- */

/* loose: each of five times, and of two layers, adds the roundings of a step to those of the state before it */
CASE_MANY(lstm, cb_lstm(x[0], 1, (&(cb_recurrent_weights){x[1], x[2], x[3], x[4]}), x[5], x[6], &y[0], &y[1], &y[2]) ? 3 : 0,
          .op = "lstm_sequence", .fixed = true, .loose = 16, .input = {{"TB4"}, {"84"}, {"82"}, {"8"}, {"8"}, {"1B2"}, {"1B2"}})
#define FOUR_TIMES(w)                                                                                                                      \
    (const cb_recurrent_weights[])                                                                                                         \
    {                                                                                                                                      \
        w, w, w, w                                                                                                                         \
    }
#define SHARED ((cb_recurrent_weights){.w_ih = x[1], .w_hh = x[2]})
CASE_MANY(lstm_layers, cb_lstm(x[0], 2, FOUR_TIMES(SHARED), x[3], x[4], &y[0], &y[1], &y[2], .bidirectional = true) ? 3 : 0,
          .op = "lstm_sequence", .fixed = true, .loose = 16, .input = {{"TB4"}, {"84"}, {"82"}, {"4B2"}, {"4B2"}})
CASE_MANY(gru, cb_gru(x[0], 1, (&(cb_recurrent_weights){x[1], x[2], x[3], x[4]}), x[5], &y[0], &y[1]) ? 2 : 0, .op = "gru_sequence",
          .fixed = true, .loose = 16, .input = {{"TB4"}, {"64"}, {"62"}, {"6"}, {"6"}, {"1B2"}})
CASE_MANY(gru_layers, cb_gru(x[0], 2, FOUR_TIMES(SHARED), x[3], &y[0], &y[1], .bidirectional = true) ? 2 : 0, .op = "gru_sequence",
          .fixed = true, .loose = 16, .input = {{"TB4"}, {"64"}, {"62"}, {"4B2"}})
CASE_MANY(lstm_lengths,
          cb_lstm(x[0], 2, FOUR_TIMES(SHARED), x[3], x[4], &y[0], &y[1], &y[2], .bidirectional = true, .lengths = lengths(2, 5, 3)) ? 3 : 0,
          .op = "lstm_sequence", .fixed = true, .loose = 16, .input = {{"534"}, {"84"}, {"82"}, {"432"}, {"432"}})
CASE_MANY(gru_lengths, cb_gru(x[0], 2, FOUR_TIMES(SHARED), x[3], &y[0], &y[1], .bidirectional = true, .lengths = lengths(2, 5, 3)) ? 2 : 0,
          .op = "gru_sequence", .fixed = true, .loose = 16, .input = {{"534"}, {"64"}, {"62"}, {"432"}})
#undef SHARED
#undef FOUR_TIMES
CASE_MANY(lstm_sequence, cb_lstm_sequence(x[0], x[1], x[2], NULL, NULL, &y[0], &y[1], &y[2], .batch_first = true) ? 3 : 0,
          .op = "lstm_sequence", .fixed = true, .no_half = true, .loose = 16, .input = {{"BT8"}, {"82"}, {"8"}})
CASE_MANY(lstm_sequence_back,
          cb_lstm_sequence(x[0], x[1], NULL, x[2], x[3], &y[0], &y[1], &y[2], .batch_first = true, .backwards = true,
                           .lengths = lengths(2, 5, 3))
              ? 3
              : 0,
          .op = "lstm_sequence", .fixed = true, .no_half = true, .loose = 16, .input = {{"358"}, {"82"}, {"32"}, {"32"}})
CASE_MANY(gru_sequence_back,
          cb_gru_sequence(x[0], x[1], x[2], x[3], &y[0], &y[1], .batch_first = true, .backwards = true, .lengths = lengths(2, 5, 3)) ? 2
                                                                                                                                     : 0,
          .op = "gru_sequence", .fixed = true, .no_half = true, .loose = 16, .input = {{"356"}, {"62"}, {"6"}, {"32"}})
CASE_MANY(lstm_cell, cb_lstm_cell(x[0], x[1], &y[0], &y[1]) ? 2 : 0, .op = "lstm_cell", .fixed = true, .no_half = true,
          .input = {{"B8"}, {"B2"}})
CASE(gru_cell, cb_gru_cell(x[0], x[1], x[2]), .op = "gru_cell", .fixed = true, .no_half = true, .input = {{"B6"}, {"B6"}, {"B2"}})
/* loose: the loss adds up the rounded logarithms of all times; the gradient is their exponential */
CASE(ctc, cb_ctc(cb_log_softmax(x[0], -1), x[1], lengths(5, 4, 5), lengths(2, 1, 0)), .op = "ctc", .fixed = true, .loose = 8,
     .input = {{"534"}, {"33", INDEX, 'M'}})
CASE(ctc_blank, cb_ctc(cb_log_softmax(x[0], -1), x[1], lengths(5, 5, 1), lengths(2, 1, 3), .blank = 3, .zero_infinity = true), .op = "ctc",
     .fixed = true, .loose = 8, .input = {{"534"}, {"33", INDEX32, 'M'}})

/* ---- gradient surgery ---- */

CASE(detach, cb_mul(x[0], cb_detach(x[0])), .op = "mul", .kinks = true, .input = {{"ABC"}})
CASE(straight_through, cb_straight_through(cb_round(x[0]), cb_tanh(x[0])), .op = "straight_through", .kinks = true, .input = {{"ABC"}})
CASE(reverse_gradient, cb_reverse_gradient(x[0], 0.3), .op = "reverse_gradient", .kinks = true, .input = {{"ABC"}})
CASE(checkpoint, cb_checkpoint(checkpointed, NULL, 2, x, NULL), .op = "checkpoint", .loose = 4, .input = {{"ABC"}, {"C"}})
