/* loss_cases.inc.h: the cases of the losses, in the form of op_cases.inc.h. */

CASE(mse_mean, cb_mse_loss(x[0], x[1], CB_REDUCE_MEAN), .op = "mean", .nonzero = "ABC", .input = {{"ABC"}, {"ABC"}})
CASE(mse_sum, cb_mse_loss(x[0], x[1], CB_REDUCE_SUM), .op = "sum", .input = {{"ABC"}, {"ABC"}})
CASE(mse_none, cb_mse_loss(x[0], x[1], CB_REDUCE_NONE), .op = "square", .input = {{"ABC"}, {"ABC"}}, .loose = 2)
CASE(l1_mean, cb_l1_loss(x[0], x[1], CB_REDUCE_MEAN), .op = "abs", .nonzero = "ABC", .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}})
CASE(l1_sum, cb_l1_loss(x[0], x[1], CB_REDUCE_SUM), .op = "abs", .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}})
CASE(l1_none, cb_l1_loss(x[0], x[1], CB_REDUCE_NONE), .op = "abs", .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}})
/* differences of DISTINCT inputs are odd multiples of 1/32 or nearly: 0.79 is none */
CASE(huber_mean, cb_huber_loss(x[0], x[1], 0.79, CB_REDUCE_MEAN), .op = "mean", .nonzero = "ABC", .fixed = true,
     .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}}, .loose = 2)
CASE(huber_sum, cb_huber_loss(x[0], x[1], 0.79, CB_REDUCE_SUM), .op = "sum", .fixed = true, .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}},
     .loose = 2)
CASE(huber_none, cb_huber_loss(x[0], x[1], 0.79, CB_REDUCE_NONE), .op = "mul", .input = {{"ABC", DISTINCT}, {"ABC", DISTINCT}}, .loose = 2)
CASE(huber_ties, cb_huber_loss(x[0], x[1], 1, CB_REDUCE_NONE), .op = "mul", .kinks = true, .input = {{"ABC", LEVELS}, {"ABC", LEVELS}})
CASE(bce_mean, cb_bce_with_logits_loss(x[0], x[1], 1, CB_REDUCE_MEAN), .op = "softplus", .nonzero = "ABC",
     .input = {{"ABC"}, {"ABC", UNIT}})
CASE(bce_sum_weighted, cb_bce_with_logits_loss(x[0], x[1], 3, CB_REDUCE_SUM), .op = "softplus", .input = {{"ABC"}, {"ABC", UNIT}},
     .loose = 4)
CASE(bce_none, cb_bce_with_logits_loss(x[0], x[1], 0.5, CB_REDUCE_NONE), .op = "softplus", .input = {{"ABC"}, {"ABC", UNIT}}, .loose = 2)
CASE(bce_far, cb_bce_with_logits_loss(cb_scale(x[0], 400), x[1], 2, CB_REDUCE_NONE), .op = "softplus", .kinks = true,
     .input = {{"ABC"}, {"ABC", UNIT}}, .loose = 4)
CASE(kl_div_mean, cb_kl_div_loss(x[0], x[1], false, CB_REDUCE_MEAN), .op = "log", .nonzero = "AC", .input = {{"AC"}, {"AC", UNIT}},
     .loose = 4)
CASE(kl_div_sum, cb_kl_div_loss(cb_log_softmax(x[0], -1), x[1], false, CB_REDUCE_SUM), .op = "log_softmax",
     .input = {{"ABC"}, {"ABC", PROBABILITIES}}, .loose = 16)
CASE(kl_div_none, cb_kl_div_loss(x[0], x[1], false, CB_REDUCE_NONE), .op = "log", .input = {{"ABC"}, {"ABC", UNIT}}, .loose = 2)
CASE(kl_div_log_mean, cb_kl_div_loss(x[0], x[1], true, CB_REDUCE_MEAN), .op = "exp", .nonzero = "AC", .input = {{"AC"}, {"AC"}}, .loose = 8)
CASE(kl_div_log_none, cb_kl_div_loss(x[0], x[1], true, CB_REDUCE_NONE), .op = "mul", .input = {{"ABC"}, {"ABC", LOG_PROBABILITIES}},
     .loose = 4)
CASE(cosine_similarity_last, cb_cosine_similarity(x[0], x[1], -1, 1e-8), .op = "div", .nonzero = "C", .fixed = true,
     .input = {{"ABC"}, {"ABC"}}, .loose = 4)
CASE(cosine_similarity_middle, cb_cosine_similarity(x[0], x[1], 1, 1e-8), .op = "div", .nonzero = "B",
     .input = {{"ABC", POSITIVE}, {"ABC", POSITIVE}}, .loose = 8)
/* PyTorch's gradient is not the derivative where a length is below eps */
CASE(cosine_similarity_eps, cb_cosine_similarity(x[0], x[1], -1, 100), .op = "div", .fixed = true, .own = true, .input = {{"ABC"}, {"ABC"}},
     .loose = 4)
CASE(cosine_embedding_mean, cb_cosine_embedding_loss(x[0], x[1], x[2], 0.25, CB_REDUCE_MEAN), .op = "mean", .fixed = true,
     .input = {{"MC"}, {"MC"}, {"M", PLUS_MINUS}}, .loose = 4)
CASE(cosine_embedding_sum, cb_cosine_embedding_loss(x[0], x[1], x[2], 0, CB_REDUCE_SUM), .op = "sum", .fixed = true,
     .input = {{"MC"}, {"MC"}, {"M", PLUS_MINUS}}, .loose = 8)
CASE(cosine_embedding_none, cb_cosine_embedding_loss(x[0], x[1], x[2], 0.1, CB_REDUCE_NONE), .op = "sum", .fixed = true,
     .input = {{"TC"}, {"TC"}, {"T", PLUS_MINUS}}, .loose = 4)
CASE(soft_cross_entropy_mean, cb_soft_cross_entropy(x[0], x[1], 0, CB_REDUCE_MEAN), .op = "log_softmax", .nonzero = "MV",
     .input = {{"MV"}, {"MV", PROBABILITIES}}, .loose = 2)
CASE(soft_cross_entropy_smooth, cb_soft_cross_entropy(x[0], x[1], 0.1, CB_REDUCE_SUM), .op = "log_softmax", .nonzero = "V",
     .input = {{"MV"}, {"MV", UNIT}}, .loose = 8)
CASE(soft_cross_entropy_none, cb_soft_cross_entropy(x[0], x[1], 0.2, CB_REDUCE_NONE), .op = "log_softmax", .nonzero = "V",
     .input = {{"ABV"}, {"ABV", PROBABILITIES}}, .loose = 2)
CASE(normalize, cb_normalize(x[0], 1), .op = "rsqrt", .nonzero = "B", .input = {{"ABC", POSITIVE}}, .loose = 4)
CASE(ranking, cb_ranking_loss(x[0], x[1], (cb_ranking_loss_options){.scale = 5}), .op = "log_softmax", .fixed = true, .nonzero = "MCV",
     .input = {{"MC"}, {"VC"}}, .loose = 16)
CASE(ranking_symmetric, cb_ranking_loss(x[0], x[1], (cb_ranking_loss_options){.scale = 3, .symmetric = true}), .op = "log_softmax",
     .fixed = true, .nonzero = "MCV", .input = {{"MC"}, {"VC"}}, .loose = 16)
CASE(ranking_dot, cb_ranking_loss(x[0], x[1], (cb_ranking_loss_options){.scale = 1, .dot = true}), .op = "log_softmax", .fixed = true,
     .nonzero = "MCV", .input = {{"MC"}, {"VC"}}, .loose = 16)
CASE(contrast, cb_contrast_loss(x[0], x[1], x[2], NULL, 0.5), .op = "mean", .fixed = true, .input = {{"MC"}, {"MC"}, {"VC"}}, .loose = 32)
CASE(contrast_left_out, cb_contrast_loss(x[0], x[1], x[2], x[3], 0.5), .op = "mean", .fixed = true,
     .input = {{"MC"}, {"MC", CONSTANT}, {"VC", CONSTANT}, {"MV", BOOLEAN}}, .loose = 32)
CASE(cosent, cb_cosent_loss(x[0], x[1], 2), .op = "logsumexp", .nonzero = "V", .input = {{"V"}, {"V", CONSTANT}}, .loose = 16)
/* a place without targets (NaN) does not count */
CASE(dense_l2, cb_dense_loss(x[0], with_holes(x[1], x[1]), CB_DENSE_L2), .op = "sum", .fixed = true,
     .input = {{"ABCT"}, {"ABCT", CONSTANT}}, .loose = 64)
CASE(dense_l1, cb_dense_loss(x[0], x[1], CB_DENSE_L1), .op = "sum", .fixed = true, .input = {{"ABCT", DISTINCT}, {"ABCT", PLUS_MINUS}},
     .loose = 64)
CASE(dense_silog, cb_dense_loss(x[0], with_holes(x[1], cb_exp(x[1])), CB_DENSE_SILOG), .op = "sum", .fixed = true,
     .input = {{"A1CT", POSITIVE}, {"A1CT", CONSTANT}}, .loose = 64)
CASE(dense_cosine, cb_dense_loss(x[0], with_holes(x[1], x[1]), CB_DENSE_COSINE), .op = "sum", .fixed = true,
     .input = {{"ABCT"}, {"ABCT", CONSTANT}}, .loose = 64)
CASE(dense_bce, cb_dense_loss(x[0], with_holes(x[1], cb_sigmoid(x[1])), CB_DENSE_BCE), .op = "sum", .fixed = true,
     .input = {{"A1CT"}, {"A1CT", CONSTANT}}, .loose = 64)

/* without targets, and between domains */
CASE(entropy_none, cb_entropy_loss(x[0], CB_REDUCE_NONE), .op = "neg", .nonzero = "V", .input = {{"ABV"}}, .loose = 16)
CASE(entropy_mean, cb_entropy_loss(x[0], CB_REDUCE_MEAN), .op = "mean", .nonzero = "MV", .input = {{"MV"}}, .loose = 16)
CASE(entropy_sum, cb_entropy_loss(x[0], CB_REDUCE_SUM), .op = "sum", .nonzero = "V", .input = {{"MV"}}, .loose = 16)
CASE(marginal_entropy, cb_marginal_entropy(x[0]), .op = "neg", .nonzero = "MV", .input = {{"MV"}}, .loose = 16)
CASE(mutual_information, cb_prediction_information(x[0]), .op = "sub", .nonzero = "MV", .input = {{"MV"}}, .loose = 16)
CASE(certainty_weights, cb_certainty_weights(x[0]), .nonzero = "MV", .input = {{"MV", CONSTANT}}, .loose = 16)
CASE(pseudo_label, cb_pseudo_label_loss(x[0], x[1], 0.4), .op = "mean", .fixed = true, .input = {{"MV"}, {"MV", CONSTANT}}, .loose = 4)
CASE(anchor_attention, cb_anchor_attention_loss(x[0], x[1]), .op = "mean", .nonzero = "MC", .fixed = true,
     .input = {{"MC"}, {"VC", CONSTANT}}, .loose = 64)
/* weights and bandwidths carry no gradient though they depend on the inputs: no differences where they do */
CASE(class_confusion, cb_class_confusion_loss(x[0], 2.5), .op = "scale", .nonzero = "MV", .kinks = true, .input = {{"MV"}}, .loose = 16)
CASE(coral, cb_coral_loss(x[0], x[1]), .op = "scale", .fixed = true, .input = {{"MC"}, {"VC"}}, .loose = 16)
CASE(mmd_fixed, cb_mmd_loss(x[0], x[1], .count = 1, .bandwidth = 3), .op = "sum", .fixed = true, .input = {{"MC"}, {"VC"}}, .loose = 16)
CASE(mmd_kernels, cb_mmd_loss(x[0], x[1], .count = 0), .op = "sum", .fixed = true, .kinks = true, .input = {{"MC"}, {"VC"}}, .loose = 16)
CASE(mmd_linear, cb_mmd_loss_with(1, &x[0], &x[1], &(cb_mmd_kernel){3, 4}, true), .op = "sum", .fixed = true, .input = {{"MC"}, {"MC"}},
     .loose = 16)
CASE(mmd_joint, cb_mmd_loss_with(2, (cb_tensor *[]){x[0], x[2]}, (cb_tensor *[]){x[1], x[3]}, (cb_mmd_kernel[]){{5, 0}, {1, 1.68}}, false),
     .op = "sum", .fixed = true, .kinks = true, .input = {{"MC"}, {"VC"}, {"MV"}, {"VV"}}, .loose = 16)
CASE(domain, cb_domain_loss(x[0], x[1], NULL, NULL), .op = "scale", .nonzero = "MV", .input = {{"M"}, {"V"}}, .loose = 4)
CASE(domain_weighted, cb_domain_loss(x[0], x[1], x[2], x[3]), .op = "scale", .nonzero = "MV",
     .input = {{"M"}, {"V"}, {"M", PROBABILITIES}, {"V", PROBABILITIES}}, .loose = 4)
CASE(multilinear_map, cb_multilinear_map(x[0], x[1], NULL, NULL), .op = "reshape", .nonzero = "MCV", .input = {{"MC"}, {"MV"}}, .loose = 2)
CASE(multilinear_map_random, cb_multilinear_map(x[0], x[1], x[2], x[3]), .op = "scale", .nonzero = "MCVT",
     .input = {{"MC"}, {"MV"}, {"CT", CONSTANT}, {"VT", CONSTANT}}, .loose = 16)
CASE(classifier_discrepancy, cb_classifier_discrepancy(x[0], x[1]), .op = "mean", .nonzero = "MV",
     .input = {{"MV", DISTINCT}, {"MV", DISTINCT}}, .fixed = true, .loose = 16)
CASE(margin_disparity, cb_margin_disparity_loss(x[0], x[1], x[2], x[3], 4), .op = "sub", .fixed = true,
     .input = {{"MV", CONSTANT}, {"MV"}, {"VV", CONSTANT}, {"VV"}}, .loose = 16)
/* of places; PyTorch's are in tests/oracle/adami.py */
CASE(place_entropy, cb_place_entropy_loss(x[0], x[1]), .op = "scale", .fixed = true, .own = true, .input = {{"ABCT"}, {"B", POSITIVE}},
     .loose = 16)
CASE(class_ratio_mean, cb_class_ratio(x[0], CB_RATIO_MEAN), .op = "mean", .fixed = true, .own = true, .input = {{"ABCT"}}, .loose = 16)
CASE(class_ratio_largest, cb_class_ratio(x[0], CB_RATIO_LARGEST), .op = "div", .fixed = true, .own = true, .input = {{"ABC", DISTINCT}},
     .loose = 16)
CASE(ratio_divergence, cb_ratio_divergence(x[0], x[1], false), .op = "mean", .fixed = true, .own = true,
     .input = {{"AB", UNIT}, {"AB", UNIT}}, .loose = 16)
CASE(ratio_divergence_reverse, cb_ratio_divergence(x[0], x[1], true), .op = "mean", .fixed = true, .own = true,
     .input = {{"AB", UNIT}, {"AB", UNIT}}, .loose = 16)
CASE(ratio_penalty, cb_ratio_penalty(x[0], x[1], 0.1), .op = "mean", .fixed = true, .own = true,
     .input = {{"AB", DISTINCT}, {"AB", PROBABILITIES}}, .loose = 16)
