/* test_method_kinds.c: what kinds of published methods do beside their forward pass: nested ranks, gates that become zero, frozen directions. */
#include "cambium/merge.h"
#include "letter_run.h"

static float *values(const cb_adapter *adapter, const char *name)
{
    return parameter(adapter, name)->data;
}

/* ---- dylora ---- */

enum { RANKS = 4, WIDTH = 48 };

/* Which row has a gradient: the one that is trained; -1: other than one. */
static int row_with_gradient(const cb_adapter *adapter)
{
    const float *grad = parameter(adapter, "layers.0.self_attn.q_proj.dylora_A")->grad->data;
    int row = -1, count = 0;
    for (int k = 0; k < RANKS; k++) {
        double sum = 0;
        for (int i = 0; i < WIDTH; i++)
            sum += fabs((double)grad[k * WIDTH + i]);
        if (sum > 0) {
            row = k;
            count++;
        }
    }
    return count == 1 ? row : -1;
}

/* An update that moves everything, as momentum and decay do, leaves the bits of what is not trained; every rank has its turn. */
static void dylora_trains_one_rank_an_update(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "dylora", "{\"r\": 4}", 1);
    randomise(adapter, 5);
    const char *directory = scratch_path("dylora");
    assert_ok(cb_adapter_save(adapter, directory, NULL));
    cb_adapter_free(adapter);
    adapter = cb_adapter_load(directory, cb_model_root(model), cb_model_type(model));
    assert_ok(adapter);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    bool seen[RANKS] = {0};
    for (int step = 0; step < 40; step++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *ids = some_ids();
        float *a = values(adapter, "layers.0.self_attn.q_proj.dylora_A"), *b = values(adapter, "layers.0.self_attn.q_proj.dylora_B");
        float before_a[RANKS * WIDTH], before_b[RANKS * WIDTH];
        assert_ok(cb_backward(cb_model_loss(model, ids, ids, 0, &(cb_context){.training = true})));
        int row = row_with_gradient(adapter);
        assert_true(row >= 0);
        memcpy(before_a, a, sizeof before_a);
        memcpy(before_b, b, sizeof before_b);
        for (size_t i = 0; i < count; i++) {
            for (int64_t k = 0; k < list[i].tensor->count; k++)
                ((float *)list[i].tensor->data)[k] += 0.125f;
            cb_zero_grad(list[i].tensor);
        }
        assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = step, .gradient_scale = 1}));
        for (int k = 0; k < RANKS; k++)
            for (int i = 0; i < WIDTH; i++) {
                assert_true(a[k * WIDTH + i] == before_a[k * WIDTH + i] + (k == row ? 0.125f : 0));
                assert_true(b[i * RANKS + k] == before_b[i * RANKS + k] + (k == row ? 0.125f : 0));
            }
        seen[row] = true;
        cb_scope_close(scope);
    }
    for (int k = 0; k < RANKS; k++)
        assert_true(seen[k]);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* With b ranks nothing of the others is read, merged or not. */
static void dylora_uses_any_first_ranks(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_tensor *ids = some_ids(), *last = NULL;
    for (int b = 1; b <= RANKS; b++) {
        char rank[16];
        snprintf(rank, sizeof rank, "%d", b);
        cb_adapter *adapter = made(model, "dylora", "{\"r\": 4}", 1);
        randomise(adapter, 5);
        assert_true(cb_adapter_set(adapter, "use_rank", rank)); /* while it is attached */
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        for (size_t i = 0; i < count; i++) { /* A (R, in), B (out, R) */
            cb_tensor *t = list[i].tensor;
            bool is_a = cb_ends_with(list[i].name, "_A");
            for (int64_t k = 0; k < t->count; k++)
                if ((is_a ? k / t->shape[1] : k % t->shape[1]) >= b)
                    ((float *)t->data)[k] = NAN;
        }
        cb_tensor *y = logits_of(model, ids);
        assert_true(isfinite(largest(y)));
        assert_true(!last || distance(y, last) > 1e-4);
        cb_fold *fold = cb_fold_in_place(&adapter, 1);
        assert_ok(fold);
        assert_within(logits_of(model, ids), y, 1e-5, "merged");
        cb_unfold(fold);
        last = y;
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
    cb_scope_close(scope);
}

/* The draws of many updates, one of each stream, are as often each rank as the distribution says: chi-square at 1e-4 of its ranks - 1 degrees. */
static void dylora_draws_ranks_by_its_distribution(void **state)
{
    (void)state;
    static const struct {
        const char *options;
        double shares[RANKS];
    } cases[] = {{"{\"r\": 4}", {1, 1, 1, 1}},
                 {"{\"r\": 4, \"min_rank\": 2}", {0, 1, 1, 1}},
                 {"{\"r\": 4, \"rank_distribution\": \"geometric\", \"geometric_p\": 0.5}", {8, 4, 2, 1}},
                 {"{\"r\": 4, \"min_rank\": 2, \"rank_distribution\": \"geometric\", \"geometric_p\": 0.25}", {0, 16, 12, 9}},
                 {"{\"r\": 4, \"rank_distribution\": \"geometric\", \"geometric_p\": 0}", {1, 1, 1, 1}},
                 {"{\"r\": 4, \"rank_distribution\": \"weights\", \"rank_weights\": [\"0\", \"3\", \"0.5\", \"0\"]}", {0, 6, 1, 0}}};
    static const double critical[] = {0, 15.14, 18.42, 21.11}; /* by degrees of freedom */
    cb_model *model = load_model("llama2");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        enum { DRAWS = 6000 };
        cb_adapter *adapter = made(model, "dylora", cases[c].options, 1);
        const cb_named_tensor *list;
        size_t count = cb_adapter_state(adapter, &list), drawn[RANKS + 1] = {0};
        const cb_tensor *active = NULL;
        for (size_t i = 0; i < count; i++)
            active = cb_ends_with(list[i].name, "active") ? list[i].tensor : active;
        assert_non_null(active);
        for (int step = 0; step < DRAWS; step++) {
            drawn[(int)cb_get(active, 0)]++;
            assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = step, .gradient_scale = 1}));
        }
        double total = 0, chi = 0;
        int degrees = -1;
        for (int b = 0; b < RANKS; b++)
            total += cases[c].shares[b];
        for (int b = 0; b < RANKS; b++) {
            double mean = cases[c].shares[b] / total * DRAWS, off = (double)drawn[b + 1] - mean;
            degrees += mean > 0;
            assert_true(mean > 0 || off == 0);
            chi += mean > 0 ? off * off / mean : 0;
        }
        assert_true(chi < critical[degrees]);
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
}

/* With all its ranks and the rule "full" an update is LoRA's, value and gradients. */
static void dylora_of_all_ranks_is_a_lora(void **state)
{
    (void)state;
    static const char *const kinds[][2] = {{"lora", "{\"r\": 4, \"lora_alpha\": 6}"},
                                           {"dylora", "{\"r\": 4, \"min_rank\": 4, \"rule\": \"full\", \"alpha\": 6}"}};
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_tensor *ids = some_ids(), *found[2][64] = {0};
    double losses[2];
    size_t count = 0;
    for (int k = 0; k < 2; k++) {
        cb_adapter *adapter = made(model, kinds[k][0], kinds[k][1], 1);
        const cb_named_tensor *list;
        count = cb_adapter_parameters(adapter, &list);
        assert_true(count > 0 && count <= 64);
        for (size_t i = 0; i < count; i++)
            for (int64_t n = 0; n < list[i].tensor->count; n++)
                ((float *)list[i].tensor->data)[n] = (float)sin((double)(n + 1) * (double)(i + 2)) / 8;
        cb_tensor *loss = cb_model_loss(model, ids, ids, 0, &(cb_context){.training = true});
        assert_ok(loss && cb_backward(loss));
        losses[k] = cb_item(loss);
        for (size_t i = 0; i < count; i++)
            found[k][i] = cb_contiguous(cb_add_scalar(list[i].tensor->grad, 0));
        cb_adapter_free(adapter);
    }
    assert_true(losses[0] == losses[1]);
    for (size_t i = 0; i < count; i++)
        assert_true(distance(found[0][i], found[1][i]) == 0 && largest(found[0][i]) > 0);
    cb_model_free(model);
    cb_scope_close(scope);
}

static void dylora_refuses_weights_that_are_none(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"{\"r\": 4, \"rank_distribution\": \"weights\"}", "rank_weights: found 0, expected one for each rank"},
        {"{\"r\": 4, \"rank_distribution\": \"weights\", \"rank_weights\": [\"1\", \"1\", \"1\"]}", "rank_weights: found 3"},
        {"{\"r\": 2, \"rank_distribution\": \"weights\", \"rank_weights\": [\"1\", \"-1\"]}", "rank_weights: found '-1'"},
        {"{\"r\": 2, \"rank_distribution\": \"weights\", \"rank_weights\": [\"1\", \"nan\"]}", "rank_weights: found 'nan'"},
        {"{\"r\": 2, \"rank_distribution\": \"weights\", \"rank_weights\": [\"0\", \"0\"]}", "rank_weights: all are 0"},
        {"{\"r\": 2, \"rank_weights\": [\"1\", \"1\"]}", "expected rank_distribution weights"},
        {"{\"r\": 2, \"rank_distribution\": \"normal\"}", "rank_distribution"}};
    cb_model *model = load_model("llama2");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cb_adapter *adapter = cb_adapter_new("dylora", "default");
        assert_false(cb_adapter_set_json(adapter, "options", wrong[i][0]) &&
                     cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
        assert_non_null(strstr(cb_error_message(), wrong[i][1]));
        cb_error_clear();
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
}

static void dylora_refuses_ranks_it_has_not(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "dylora", "{\"r\": 4, \"use_rank\": 2}", 1);
    randomise(adapter, 5);
    cb_tensor *ids = some_ids(), *y = logits_of(model, ids);
    const char *const wrong[][2] = {
        {"use_rank", "5"}, {"use_rank", "-1"}, {"use_rank", "two"}, {"alpha", "3"}, {"target_modules", "q_proj"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(cb_adapter_set(adapter, wrong[i][0], wrong[i][1]));
        cb_error_clear();
        assert_true(distance(logits_of(model, ids), y) == 0);
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- hydra ---- */

/* An adapter whose parameters are a function of their kind's own names alone: those that two kinds share have the same values. */
static void fill_in_order(const cb_adapter *adapter, const char *const *suffixes)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list), at = 0;
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < 2; k++)
            if (cb_ends_with(list[i].name, suffixes[k])) {
                for (int64_t n = 0; n < list[i].tensor->count; n++)
                    ((float *)list[i].tensor->data)[n] = (float)sin((double)(n + 1) * (double)(at + 2)) / 8;
                at++;
            }
    assert_true(at > 0);
}

/* With a sequential head that gives nothing (its second matrix is zero), or without one, an update is LoRA's: value and gradients, to the bit. */
static void hydra_with_one_head_is_a_lora(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *options, *suffixes[2];
    } cases[] = {
        {"lora", "{\"r\": 3, \"lora_alpha\": 6}", {"lora_A.weight", "lora_B.weight"}},
        {"hydra", "{\"r\": 3, \"sequential_rank\": 0, \"scale\": 2}", {"hydra_parallel_A", "hydra_parallel_B"}},
        {"hydra", "{\"r\": 3, \"sequential_rank\": 2, \"scale\": 2}", {"hydra_parallel_A", "hydra_parallel_B"}},
    };
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("qwen2");
    cb_tensor *ids = some_ids(), *found[3][64] = {0};
    double losses[3];
    size_t count[3] = {0};
    for (int c = 0; c < 3; c++) {
        cb_adapter *adapter = cb_adapter_new(cases[c].kind, NULL);
        assert_ok(cb_adapter_set_json(adapter, "options", cases[c].options) &&
                  cb_adapter_set(adapter, "target_modules", "v_proj,down_proj") &&
                  cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
        fill_in_order(adapter, cases[c].suffixes);
        cb_tensor *loss = cb_model_loss(model, ids, ids, 0, &(cb_context){.training = true});
        assert_ok(loss && cb_backward(loss));
        losses[c] = cb_item(loss);
        const cb_named_tensor *list;
        size_t parameters = cb_adapter_parameters(adapter, &list);
        for (size_t i = 0; i < parameters; i++)
            if (cb_ends_with(list[i].name, cases[c].suffixes[0]) || cb_ends_with(list[i].name, cases[c].suffixes[1]))
                found[c][count[c]++] = cb_contiguous(cb_add_scalar(list[i].tensor->grad, 0));
        cb_adapter_free(adapter);
    }
    for (int c = 1; c < 3; c++) {
        assert_true(losses[c] == losses[0] && count[c] == count[0] && count[0] > 0);
        for (size_t i = 0; i < count[0]; i++)
            assert_true(distance(found[c][i], found[0][i]) == 0 && largest(found[0][i]) > 0);
    }
    cb_model_free(model);
    cb_scope_close(scope);
}

static double deviation(const cb_tensor *t)
{
    double sum = 0;
    for (int64_t i = 0; i < t->count; i++)
        sum += cb_get(t, i) * cb_get(t, i);
    return sqrt(sum / (double)t->count);
}

/* Uniform within 1 / sqrt(in), within sqrt(6 / (in + rank)), and normal: deviations within four of their standard errors; all else is zero. */
static void hydra_heads_start_as_they_are_told(void **state)
{
    (void)state;
    enum { HEAD_RANK = 32 };
    static const char *const ways[] = {"kaiming", "xavier", "normal"};
    const double bounds[] = {sqrt(1.0 / WIDTH), sqrt(6.0 / (WIDTH + HEAD_RANK)), INFINITY};
    const double deviations[] = {bounds[0] / sqrt(3), bounds[1] / sqrt(3), 0.02};
    cb_model *model = load_model("llama2");
    for (int w = 0; w < 3; w++) {
        char options[160];
        snprintf(options, sizeof options,
                 "{\"r\": %d, \"sequential_rank\": %d, \"head_bias\": true, \"target_modules\": [\"o_proj\"], \"init_weights\": \"%s\"}",
                 HEAD_RANK, HEAD_RANK, ways[w]);
        cb_adapter *adapter = made(model, "hydra", options, 1);
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        for (size_t i = 0; i < count; i++) {
            if (cb_ends_with(list[i].name, "_A")) {
                assert_true(largest(list[i].tensor) <= bounds[w]);
                assert_true(fabs(deviation(list[i].tensor) / deviations[w] - 1) < 4 / sqrt(2.0 * HEAD_RANK * WIDTH));
            } else {
                assert_true(largest(list[i].tensor) == 0);
            }
        }
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
}

/* A bias that heads have is one that the layer must have, too, to take it up. */
static void hydra_biases_need_one_to_merge_into(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2"); /* its layers have none */
    cb_adapter *adapter = made(model, "hydra", "{\"r\": 2, \"sequential_rank\": 2, \"head_bias\": true}", 1);
    randomise(adapter, 3);
    assert_refused(!cb_fold_in_place(&adapter, 1), "adds a bias");
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* ---- pego ---- */

static cb_tensor *whole_loss(cb_model *model, cb_adapter *adapter, cb_tensor *ids)
{
    cb_tensor *loss = cb_model_loss(model, ids, ids, 0, &(cb_context){.training = true}), *rest = cb_adapter_regulariser(adapter);
    return rest ? cb_add(loss, rest) : loss;
}

/* All changes are zero at first: so are both sums, and what they say of A and B. */
static void pego_starts_without_a_penalty(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "pego", "{\"r\": 2, \"members\": 3}", 1);
    cb_tensor *penalty = cb_adapter_regulariser(adapter);
    assert_ok(penalty && cb_backward(penalty));
    assert_true(cb_item(penalty) == 0);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++)
        assert_true(list[i].tensor->grad && largest(list[i].tensor->grad) == 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Members change places: A's rows and B's columns, in all layers. */
static void exchange(const cb_adapter *adapter, int rank, int first, int second)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++) {
        cb_tensor *t = list[i].tensor;
        bool is_a = cb_ends_with(list[i].name, "_A");
        int64_t rows = is_a ? rank : t->shape[0], columns = is_a ? t->shape[1] : rank;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++) {
                int64_t x = is_a ? (first * rank + r) * t->shape[1] + c : r * t->shape[1] + first * rank + c;
                int64_t y = is_a ? (second * rank + r) * t->shape[1] + c : r * t->shape[1] + second * rank + c;
                float *data = t->data, kept = data[x];
                data[x] = data[y];
                data[y] = kept;
            }
    }
}

/* Sums come in another order: roundings of f32. */
static void pego_members_have_no_order(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_tensor *ids = some_ids();
    cb_adapter *adapter = made(model, "pego", "{\"r\": 2, \"members\": 3, \"orthogonal_weight\": 0.01}", 1);
    randomise(adapter, 5);
    cb_tensor *y = logits_of(model, ids);
    double loss = cb_item(whole_loss(model, adapter, ids));
    exchange(adapter, 2, 0, 2);
    assert_within(logits_of(model, ids), y, 1e-5, "members exchanged");
    assert_true(fabs(cb_item(whole_loss(model, adapter, ids)) - loss) < 1e-5 * loss);
    exchange(adapter, 1, 0, 2); /* half of a member is none: the loss is another */
    assert_within(logits_of(model, ids), y, 1e-5, "ranks exchanged");
    assert_true(fabs(cb_item(whole_loss(model, adapter, ids)) - loss) > 1e-3 * loss);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Each sum can be left out, and with both left out nothing is added. */
static void pego_penalties_add_up(void **state)
{
    (void)state;
    static const char *const parts[] = {"", ", \"diversify\": false", ", \"preserve\": false",
                                        ", \"preserve\": false, \"diversify\": false", ", \"orthogonal_weight\": 0"};
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    double penalties[5];
    for (int i = 0; i < 5; i++) {
        char options[128];
        snprintf(options, sizeof options, "{\"r\": 2, \"members\": 2%s}", parts[i]);
        cb_adapter *adapter = made(model, "pego", options, 1);
        randomise(adapter, 5);
        cb_tensor *penalty = cb_adapter_regulariser(adapter);
        assert_true(cb_ok() && (penalty != NULL) == (i < 3));
        penalties[i] = penalty ? cb_item(penalty) : 0;
        cb_adapter_free(adapter);
    }
    assert_true(penalties[1] > 0 && penalties[2] > 0);
    assert_true(fabs(penalties[1] + penalties[2] - penalties[0]) < 1e-5 * penalties[0]);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- codyra ---- */

/* 100 updates, of which the last 50 move gates in five stages of 10: by 0, 0.025, 0.05, 0.075, 0.1. */
static void codyra_moves_gates_to_zero(void **state)
{
    (void)state;
    static const struct {
        const char *rule;
        int64_t step;
        float before[4], after[4];
    } cases[] = {
        {"shrink_and_cut", 49, {0.5f, -0.1f, 0.01f, 0}, {0.5f, -0.1f, 0.01f, 0}},
        {"shrink_and_cut", 59, {0.5f, -0.1f, 0.01f, 0}, {0.5f, -0.1f, 0.01f, 0}},
        {"shrink_and_cut", 60, {0.5f, -0.1f, 0.01f, -0.04f}, {0.475f, -0.075f, 0, 0}},
        {"soft", 60, {0.5f, -0.1f, 0.01f, -0.04f}, {0.475f, -0.075f, 0, -0.015f}},
        {"shrink_and_cut", 99, {0.5f, -0.15f, 0.21f, -0.01f}, {0.4f, 0, 0.11f, 0}},
        {"soft", 99, {0.5f, -0.15f, 0.21f, -0.01f}, {0.4f, -0.05f, 0.11f, 0}},
    };
    cb_model *model = load_model("llama2");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char options[128];
        snprintf(options, sizeof options, "{\"r\": 4, \"threshold\": 0.1, \"stages\": 5, \"rule\": \"%s\"}", cases[i].rule);
        cb_adapter *adapter = cb_adapter_new("codyra", NULL);
        assert_ok(cb_adapter_set_json(adapter, "codyra", options) && cb_adapter_begin(adapter, 100));
        assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
        float *gate = values(adapter, "layers.1.self_attn.v_proj.codyra_gate");
        memcpy(gate, cases[i].before, sizeof cases[i].before);
        assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = cases[i].step, .gradient_scale = 1}));
        for (int k = 0; k < 4; k++)
            if (!(fabsf(gate[k] - cases[i].after[k]) < 1e-6f && (gate[k] == 0) == (cases[i].after[k] == 0)))
                fail_msg("%s after update %lld: gate %g became %g, expected %g", cases[i].rule, (long long)cases[i].step,
                         (double)cases[i].before[k], (double)gate[k], (double)cases[i].after[k]);
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
}

/* ---- lt_sft ---- */

static void shake(const cb_adapter *adapter, uint64_t seed)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++) {
        cb_rng rng = {.seed = seed, .stream = i};
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            ((float *)list[i].tensor->data)[k] += (i == 0 ? 3.0f : 1.0f) * (float)cb_rng_normal(&rng);
    }
}

static int64_t nonzero(const cb_adapter *adapter, const char *name)
{
    const float *x = values(adapter, name);
    int64_t count = 0;
    for (int64_t k = 0; k < WIDTH * WIDTH; k++)
        count += x[k] != 0;
    return count;
}

/* Ten updates, of which five are for all numbers; then those that went furthest, of all layers, are left, from zero. */
static void lt_sft_trains_what_went_furthest(void **state)
{
    (void)state;
    static const char first[] = "layers.0.self_attn.q_proj.sft_change", second[] = "layers.1.self_attn.q_proj.sft_change";
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = cb_adapter_new("lt_sft", NULL);
    assert_ok(cb_adapter_set_json(adapter, "lt_sft", "{\"density\": 0.25, \"target_modules\": [\"q_proj\"]}") &&
              cb_adapter_begin(adapter, 10));
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
    float kept[2][WIDTH * WIDTH];
    for (int64_t step = 0; step < 10; step++) {
        shake(adapter, 7 + (uint64_t)step);
        if (step == 4) {
            memcpy(kept[0], values(adapter, first), sizeof kept[0]);
            memcpy(kept[1], values(adapter, second), sizeof kept[1]);
        }
        assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = step, .gradient_scale = 1}));
        if (step < 4)
            assert_int_equal(nonzero(adapter, first) + nonzero(adapter, second), 2 * WIDTH * WIDTH);
        if (step == 4)
            assert_int_equal(nonzero(adapter, first) + nonzero(adapter, second), 0);
    }
    double smallest = INFINITY, largest_left = 0;
    for (int layer = 0; layer < 2; layer++) {
        const float *x = values(adapter, layer ? second : first);
        for (int k = 0; k < WIDTH * WIDTH; k++) {
            double size = fabs((double)kept[layer][k]);
            if (x[k] != 0)
                smallest = fmin(smallest, size);
            else
                largest_left = fmax(largest_left, size);
        }
    }
    assert_int_equal(nonzero(adapter, first) + nonzero(adapter, second), WIDTH * WIDTH / 2);
    assert_true(largest_left < smallest);
    assert_true(nonzero(adapter, first) > 2 * nonzero(adapter, second)); /* not a share of each layer */
    cb_tensor *ids = some_ids(), *wanted = logits_of(model, ids);
    assert_ok(cb_adapter_save(adapter, scratch_path("sft"), NULL));
    cb_adapter_free(adapter);
    adapter = cb_adapter_load(scratch_path("sft"), cb_model_root(model), cb_model_type(model));
    assert_ok(adapter);
    assert_int_equal(cb_adapter_parameter_count(adapter), WIDTH * WIDTH / 2);
    assert_true(distance(logits_of(model, ids), wanted) == 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Four updates for all numbers, then six for some.  AdamW that remembers nothing moves each by the learning rate at first; the head, which is
 * trained whole, is again what it was. */
static void check_phases(const cb_adapter *adapter, const cb_train_report *report)
{
    static double rates[11];
    const cb_tensor *change = parameter(adapter, "layers.0.self_attn.q_proj.sft_change"), *head = parameter(adapter, "lm_head.weight");
    cb_layer *const *saved;
    assert_int_equal(cb_adapter_saved_layers(adapter, &saved), 1);
    double moved = distance(head, saved[0]->weights[0].frozen);
    int64_t count = 0;
    rates[report->step] = report->learning_rate;
    for (int64_t k = 0; k < change->count; k++)
        count += cb_get(change, k) != 0;
    assert_int_equal(report->step == 4, moved == 0);
    assert_int_equal(report->step == 4, count == 0);
    for (int64_t k = 0; report->step == 5 && k < change->count; k++) {
        double x = fabs(cb_get(change, k));
        assert_true(x == 0 || fabs(x - report->learning_rate) < 1e-3 * report->learning_rate);
    }
    if (report->step == 5)
        assert_true(count > 0 && count < change->count / 2 && rates[5] == rates[1]);
    if (report->step == 10)
        assert_true(fabs(rates[4] / rates[1] - 1.0 / 4) < 1e-9 && fabs(rates[10] / rates[5] - 1.0 / 6) < 1e-9);
}

static void lt_sft_begins_anew_with_its_second_phase(void **state)
{
    (void)state;
    static const char options[] =
        "{\"density\": 0.1, \"full_share\": 0.4, \"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"lm_head\"]}";
    for (int64_t stop_after = 0; stop_after < 7; stop_after += stop_after ? 1 : 4) {
        char *output = cb_format("%s/phases-%lld", scratch, (long long)stop_after);
        for (int part = stop_after ? 0 : 1; part < 2; part++) {
            cb_model *model = load_model("llama2");
            cb_adapter *adapter = made(model, "lt_sft", options, 3);
            train_on_letters(
                model, adapter,
                (letter_run){
                    .output = output, .steps = 10, .stop_after = part ? 0 : stop_after, .watch = stop_after ? NULL : check_phases});
            cb_adapter_free(adapter);
            cb_model_free(model);
        }
        assert_true(same_adapters(output, scratch_path("phases-0")));
        cb_free(output);
    }
}

/* What all numbers reach in eight updates some cannot in two: the best of the first phase is not the run's. */
static void lt_sft_keeps_the_best_of_its_second_phase(void **state)
{
    (void)state;
    for (int64_t stop_after = 0; stop_after < 10; stop_after += stop_after ? 1 : 7) {
        char *output = cb_format("%s/best-%lld", scratch, (long long)stop_after);
        cb_model *model = NULL;
        for (int part = stop_after ? 0 : 1; part < 2; part++) {
            cb_model_free(model);
            model = load_model("llama2");
            cb_adapter *adapter =
                made(model, "lt_sft", "{\"density\": 0.001, \"full_share\": 0.8, \"target_modules\": [\"q_proj\", \"down_proj\"]}", 3);
            train_on_letters(model, adapter,
                             (letter_run){.output = output, .steps = 10, .stop_after = part ? 0 : stop_after, .eval_steps = 1});
            cb_adapter_free(adapter);
        }
        cb_adapter *best = cb_adapter_load(output, cb_model_root(model), cb_model_type(model));
        assert_ok(best);
        assert_true(cb_adapter_parameter_count(best) < 100);
        assert_true(same_adapters(output, scratch_path("best-0")));
        cb_adapter_free(best);
        cb_model_free(model);
        cb_free(output);
    }
}

/* What it trains whole goes back to where it began, also while the adapter is off: in a blend. */
static void lt_sft_rewinds_what_is_hidden(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = cb_adapter_new("lt_sft", NULL);
    assert_ok(cb_adapter_set_json(adapter, "lt_sft", "{\"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"lm_head\"]}") &&
              cb_adapter_begin(adapter, 2) && cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
    cb_adapter_set_strength(adapter, 0);
    const cb_tensor *head = parameter(adapter, "lm_head.weight"), *base = cb_layer_find(cb_model_root(model), "lm_head")->weights[0].tensor;
    shake(adapter, 3);
    assert_true(head != base && distance(head, base) > 0.1);
    assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = 0, .gradient_scale = 1}));
    assert_true(distance(head, base) == 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* Which places of a fresh adapter are trained, of all its layers. */
static int64_t marked(const cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_state(adapter, &list);
    int64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            sum += cb_get(list[i].tensor, k) != 0;
    return sum;
}

/* By default all of the base model is there to choose from, norms and heads aside, with its biases. */
static void lt_sft_adapts_the_base_alone(void **state)
{
    (void)state;
    cb_model *model = cb_model_load(CB_TEST_DATA "/encoders/roberta");
    cb_adapter *adapter = made(model, "lt_sft", "{\"total_step\": 2}", 1), *bare = NULL;
    cb_module *const *modules;
    size_t count = cb_adapter_modules(adapter, &modules);
    int64_t biases = 0, numbers = cb_adapter_parameter_count(adapter);
    bool embeddings = false;
    for (size_t i = 0; i < count; i++) {
        const cb_layer *layer = modules[i]->layer;
        assert_true(layer->kind != CB_LAYER_NORM && strncmp(layer->name, "roberta.", 8) == 0);
        embeddings |= layer->kind == CB_LAYER_EMBEDDING;
        biases += layer->kind == CB_LAYER_LINEAR ? layer->out_features : 0;
    }
    assert_true(embeddings);
    cb_adapter_free(adapter);
    bare = made(model, "lt_sft", "{\"total_step\": 2, \"biases\": false}", 1);
    assert_int_equal(cb_adapter_parameter_count(bare), numbers - biases);
    cb_adapter_free(bare);
    cb_model_free(model);
}

/* Random places are there from the start, as many as asked for, others with another seed, and stay. */
static void lt_sft_takes_random_places(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    float masks[3][WIDTH * WIDTH];
    for (int i = 0; i < 3; i++) {
        char *options = cb_format(
            "{\"density\": 0.25, \"selection\": \"random\", \"selection_seed\": %d, \"target_modules\": [\"q_proj\"]}", i == 2 ? 4 : 3);
        cb_adapter *adapter = made(model, "lt_sft", options, 1);
        assert_ok(cb_adapter_begin(adapter, 1));
        assert_int_equal(marked(adapter), WIDTH * WIDTH / 2);
        shake(adapter, 5);
        assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = 0, .gradient_scale = 1}));
        assert_int_equal(marked(adapter), WIDTH * WIDTH / 2);
        assert_int_equal(nonzero(adapter, "layers.0.self_attn.q_proj.sft_change") +
                             nonzero(adapter, "layers.1.self_attn.q_proj.sft_change"),
                         WIDTH * WIDTH / 2);
        const cb_named_tensor *list;
        cb_adapter_state(adapter, &list);
        memcpy(masks[i], list[0].tensor->data, sizeof masks[i]);
        cb_adapter_free(adapter);
        cb_free(options);
    }
    assert_memory_equal(masks[0], masks[1], sizeof *masks);
    assert_true(memcmp(masks[0], masks[2], sizeof *masks) != 0);
    cb_model_free(model);
}

/* Each of three iterations adds a third, keeps what was chosen before, and begins from zero. */
static void lt_sft_chooses_again(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "lt_sft", "{\"density\": 0.75, \"iterations\": 3, \"target_modules\": [\"q_proj\"]}", 1);
    assert_refused(!cb_adapter_begin(adapter, 5), "lt_sft: found 5 of 5 updates, expected 6 or more");
    assert_ok(cb_adapter_begin(adapter, 12));
    int64_t first, end;
    for (int64_t step = 0; step < 12; step++) {
        assert_true(cb_adapter_phase(adapter, step, &first, &end));
        assert_int_equal(first, step / 2 * 2);
        assert_int_equal(end, step / 2 * 2 + 2);
        const cb_named_tensor *list;
        cb_adapter_state(adapter, &list);
        float before[WIDTH * WIDTH];
        memcpy(before, list[0].tensor->data, sizeof before);
        shake(adapter, 50 + (uint64_t)step);
        assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = step, .gradient_scale = 1}));
        if (step > 1)
            for (int k = 0; k < WIDTH * WIDTH; k++)
                assert_true(before[k] == 0 || cb_get(list[0].tensor, k) != 0);
        if (step > 0)
            assert_int_equal(marked(adapter), WIDTH * WIDTH / 2 * ((step + 3) / 4));
        if (step % 4 == 1)
            assert_int_equal(nonzero(adapter, "layers.0.self_attn.q_proj.sft_change"), 0);
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* What no update moved is not chosen, even where there is room for it; where nothing moved there is nothing to go on with. */
static void lt_sft_chooses_none_that_stayed(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    for (int moved = 0; moved < 2; moved++) {
        cb_adapter *adapter = made(model, "lt_sft", "{\"density\": 0.25, \"target_modules\": [\"q_proj\"]}", 1);
        assert_ok(cb_adapter_begin(adapter, 2));
        for (int k = 0; k < 5 * moved; k++)
            ((float *)parameter(adapter, "sft_change")->data)[7 * k] = 1 + (float)k;
        bool ok = cb_adapter_stepped(adapter, &(cb_adapter_step){.step = 0, .gradient_scale = 1});
        if (!moved)
            assert_refused(!ok, "lt_sft: found no number that moved");
        else
            assert_true(ok && marked(adapter) == 5);
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
}

/* Layers that are trained whole go on from one iteration to the next, as D does. */
static void lt_sft_rewinds_once_an_iteration(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(
        model, "lt_sft", "{\"density\": 0.5, \"iterations\": 2, \"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"lm_head\"]}", 1);
    cb_layer *const *saved;
    assert_int_equal(cb_adapter_saved_layers(adapter, &saved), 1);
    assert_ok(cb_adapter_begin(adapter, 8));
    for (int64_t step = 0; step < 8; step++) {
        shake(adapter, 30 + (uint64_t)step);
        assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = step, .gradient_scale = 1}));
        assert_int_equal(step % 4 == 1, distance(parameter(adapter, "lm_head.weight"), saved[0]->weights[0].frozen) == 0);
        assert_int_equal(step % 4 == 1, nonzero(adapter, "layers.0.self_attn.q_proj.sft_change") == 0);
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* The adapter's config with what is from `from` through `last` replaced by `to`. */
static void edit_config(const char *directory, const char *from, const char *last, const char *to)
{
    size_t size;
    char *path = cb_path_join(directory, "adapter_config.json"), *text = cb_file_read(path, 1u << 20, &size), *at = strstr(text, from);
    const char *end = at ? strstr(at, last) : NULL;
    assert_non_null(end);
    char *edited = cb_format("%.*s%s%s", (int)(at - text), text, to, end + strlen(last));
    assert_true(edited && cb_file_write(path, edited, strlen(edited)));
    cb_free(edited);
    cb_free(text);
    cb_free(path);
}

/* One that is read is no longer made: training goes on in one phase, however many it was made in, and without its counts it is none. */
static void lt_sft_goes_on_from_a_file(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "lt_sft", "{\"density\": 0.002, \"iterations\": 2, \"target_modules\": [\"q_proj\"]}", 1);
    assert_ok(cb_adapter_begin(adapter, 4));
    for (int64_t step = 0; step < 4; step++) {
        shake(adapter, 70 + (uint64_t)step);
        assert_ok(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = step, .gradient_scale = 1}));
    }
    const char *directory = scratch_path("iterated");
    assert_ok(cb_adapter_save(adapter, directory, NULL));
    cb_adapter_free(adapter);
    for (int64_t steps = 2; steps < 30; steps += 27) {
        int64_t first, end;
        adapter = cb_adapter_load(directory, cb_model_root(model), cb_model_type(model));
        assert_ok(adapter && cb_adapter_begin(adapter, steps));
        for (int64_t step = 0; step < steps; step++) {
            assert_true(cb_adapter_phase(adapter, step, &first, &end));
            assert_true(first == 0 && end == steps);
        }
        cb_adapter_free(adapter);
    }
    edit_config(directory, ".q_proj\": 1", "1", ".q_proj\": 1e300");
    assert_refused(!cb_adapter_load(directory, cb_model_root(model), cb_model_type(model)), "counts: found no number from 1 to");
    edit_config(directory, ".q_proj\": 1e300", "1e300", ".q_proj\": 1.5");
    assert_refused(!cb_adapter_load(directory, cb_model_root(model), cb_model_type(model)), "counts: found no number from 1 to");
    edit_config(directory, "\"counts\": {", "}", "\"counts\": {}");
    assert_refused(!cb_adapter_load(directory, cb_model_root(model), cb_model_type(model)), "counts: found none");
    cb_model_free(model);
}

static void lt_sft_refuses_runs_of_one_phase(void **state)
{
    (void)state;
    cb_adapter *adapter = cb_adapter_new("lt_sft", NULL);
    assert_ok(adapter);
    assert_refused(!cb_adapter_begin(adapter, 1), "lt_sft: found 1 of 1 updates, expected 2 or more");
    assert_ok(cb_adapter_begin(adapter, 2));
    cb_adapter_free(adapter);
}

/* ---- beside what is trained ---- */

/* A frozen adapter does in a training pass what it does in any; a trained one draws. */
static void what_is_frozen_draws_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *options;
    } kinds[] = {{"dylora", "{\"r\": 4}"}, {"poly", "{\"r\": 2, \"n_skills\": 3}"}};
    for (int i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load_model("llama2");
        cb_adapter *adapter = made(model, kinds[i].kind, kinds[i].options, 1);
        randomise(adapter, 5);
        cb_rng rng = {.seed = 2};
        const cb_context training = {.training = true, .rng = &rng};
        cb_tensor *ids = some_ids(), *plain = logits_of(model, ids);
        assert_true(distance(logits_in(model, ids, &training), plain) > 1e-4);
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        for (size_t k = 0; k < count; k++)
            list[k].tensor->requires_grad = false;
        assert_within(logits_in(model, ids, &training), plain, 1e-6, kinds[i].kind);
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

/* Trained together with the base, it goes through its steps: every rank has its turn. */
static void a_base_in_training_drives_its_adapter(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "dylora", "{\"r\": 4}", 1);
    cb_trainee what;
    assert_ok(cb_train_whole(&what, model, adapter, NULL, "", CB_F32));
    assert_ok(what.begin && what.begin(&what, 40) && what.stepped);
    const cb_tensor *active = NULL;
    bool seen[RANKS + 1] = {0};
    for (size_t i = 0; i < what.state_count; i++)
        active = cb_ends_with(what.state[i].name, "active") ? what.state[i].tensor : active;
    assert_non_null(active);
    for (int step = 0; step < 40; step++) {
        seen[(int)cb_get(active, 0)] = true;
        assert_ok(what.stepped && what.stepped(&what, &(cb_adapter_step){.step = step, .gradient_scale = 1}));
    }
    for (int b = 1; b <= RANKS; b++)
        assert_true(seen[b]);
    cb_train_whole_free(&what);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* A layer that the adapter trains whole is the model's and the adapter's, and one thing to train: an optimiser would move it twice. */
static void a_base_in_training_has_each_weight_once(void **state)
{
    (void)state;
    static const char *const options[] = {"{\"r\": 4}", "{\"r\": 4, \"modules_to_save\": [\"lm_head\", \"up_proj\"]}"};
    size_t counts[2];
    for (int k = 0; k < 2; k++) {
        cb_model *model = load_model("llama2");
        cb_adapter *adapter = made(model, "lora", options[k], 1);
        cb_trainee what;
        assert_ok(cb_train_whole(&what, model, adapter, NULL, "", CB_F32));
        for (size_t i = 0; i < what.count; i++)
            for (size_t j = 0; j < i; j++)
                assert_ptr_not_equal(what.parameters[i].tensor, what.parameters[j].tensor);
        counts[k] = what.count;
        cb_train_whole_free(&what);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
    assert_int_equal(counts[0], counts[1]);
}

/* ---- frozen directions ---- */

static cb_tensor *frozen(const cb_model *model, const cb_adapter *adapter, const char *name)
{
    (void)model;
    const char *directory = scratch_path("frozen");
    assert_ok(cb_adapter_save(adapter, directory, NULL));
    char *path = cb_format("%s/adapter_model.safetensors", directory);
    cb_safetensors *file = cb_safetensors_open(path);
    const cb_weight_entry *entry = cb_safetensors_find(file, name);
    assert_non_null(entry);
    cb_tensor *t = entry_tensor(entry);
    cb_safetensors_close(file);
    cb_free(path);
    return t;
}

#define Q_PROJ "base_model.model.model.layers.0.self_attn.q_proj."

/* Rows of one basis: orthonormal; those of two adapters are the same, for the same column, or orthogonal; other seeds are other bases. */
static void adapters_share_an_orthogonal_basis(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    static const char *const options[] = {"{\"r\": 48}", "{\"r\": 9}", "{\"r\": 9, \"first_column\": 0}", "{\"r\": 9, \"first_column\": 9}",
                                          "{\"r\": 9, \"first_column\": 0, \"basis_seed\": 1}"};
    cb_tensor *rows[5];
    for (int i = 0; i < 5; i++) {
        cb_adapter *adapter = made(model, "orthogonal_adaptation", options[i], 3 + (uint64_t)i);
        rows[i] = frozen(model, adapter, Q_PROJ "orthogonal_A");
        cb_tensor *products = cb_matmul(rows[i], cb_transpose(rows[i], 0, 1));
        for (int64_t k = 0; k < products->count; k++)
            assert_true(fabs(cb_get(products, k) - (k % (products->shape[0] + 1) == 0)) < 1e-6);
        cb_adapter_free(adapter);
    }
    for (int i = 1; i < 4; i++) { /* each is one of the whole basis */
        cb_tensor *products = cb_matmul(rows[i], cb_transpose(rows[0], 0, 1));
        for (int r = 0; r < 9; r++) {
            int same = 0;
            for (int k = 0; k < WIDTH; k++) {
                double p = fabs(cb_get(products, r * WIDTH + k));
                assert_true(p < 1e-6 || fabs(p - 1) < 1e-6);
                same += p > 0.5;
            }
            assert_int_equal(same, 1);
        }
    }
    assert_true(largest(cb_matmul(rows[2], cb_transpose(rows[3], 0, 1))) < 1e-6);
    assert_true(distance(rows[2], rows[4]) > 0.1);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* B A is the best approximation of W of its rank: A's rows are orthonormal, B's columns orthogonal, and W - B A has nothing along either. */
static void lora_xs_has_the_weights_own_directions(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "lora_xs", "{\"r\": 5}", 3);
    cb_tensor *a = frozen(model, adapter, Q_PROJ "lora_xs_A"), *b = frozen(model, adapter, Q_PROJ "lora_xs_B");
    cb_tensor *weight = cb_cast(cb_layer_weight(cb_layer_find(cb_model_root(model), "model.layers.0.self_attn.q_proj"), "weight"), CB_F32);
    cb_tensor *rest = cb_sub(weight, cb_matmul(b, a)), *rows = cb_matmul(a, cb_transpose(a, 0, 1));
    cb_tensor *columns = cb_matmul(cb_transpose(b, 0, 1), b);
    double top = largest(columns), smallest = top, left = 0;
    for (int64_t k = 0; k < 25; k++) {
        assert_true(fabs(cb_get(rows, k) - (k % 6 == 0)) < 1e-5);
        assert_true(k % 6 == 0 || fabs(cb_get(columns, k)) < 1e-4 * top);
        smallest = k % 6 == 0 ? fmin(smallest, cb_get(columns, k)) : smallest;
    }
    assert_true(largest(cb_matmul(rest, cb_transpose(a, 0, 1))) < 1e-3 * largest(b)); /* ten power iterations */
    cb_rng rng = {.seed = 1};
    cb_tensor *v = cb_randn(CB_F32, &rng, WIDTH, 1);
    for (int i = 0; i < 200; i++) { /* the largest singular value of the rest */
        v = cb_matmul(cb_transpose(rest, 0, 1), cb_matmul(rest, v));
        left = sqrt(cb_item(cb_sum(cb_square(v), CB_ALL, false)));
        v = cb_scale(v, 1 / left);
    }
    assert_true(left <= smallest * (1 + 1e-3));
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dylora_trains_one_rank_an_update),
        cmocka_unit_test(dylora_uses_any_first_ranks),
        cmocka_unit_test(dylora_draws_ranks_by_its_distribution),
        cmocka_unit_test(dylora_of_all_ranks_is_a_lora),
        cmocka_unit_test(dylora_refuses_weights_that_are_none),
        cmocka_unit_test(dylora_refuses_ranks_it_has_not),
        cmocka_unit_test(hydra_with_one_head_is_a_lora),
        cmocka_unit_test(hydra_heads_start_as_they_are_told),
        cmocka_unit_test(hydra_biases_need_one_to_merge_into),
        cmocka_unit_test(pego_starts_without_a_penalty),
        cmocka_unit_test(pego_members_have_no_order),
        cmocka_unit_test(pego_penalties_add_up),
        cmocka_unit_test(codyra_moves_gates_to_zero),
        cmocka_unit_test(lt_sft_trains_what_went_furthest),
        cmocka_unit_test(lt_sft_begins_anew_with_its_second_phase),
        cmocka_unit_test(lt_sft_keeps_the_best_of_its_second_phase),
        cmocka_unit_test(lt_sft_rewinds_what_is_hidden),
        cmocka_unit_test(lt_sft_adapts_the_base_alone),
        cmocka_unit_test(lt_sft_takes_random_places),
        cmocka_unit_test(lt_sft_chooses_again),
        cmocka_unit_test(lt_sft_chooses_none_that_stayed),
        cmocka_unit_test(lt_sft_rewinds_once_an_iteration),
        cmocka_unit_test(lt_sft_goes_on_from_a_file),
        cmocka_unit_test(lt_sft_refuses_runs_of_one_phase),
        cmocka_unit_test(what_is_frozen_draws_nothing),
        cmocka_unit_test(a_base_in_training_drives_its_adapter),
        cmocka_unit_test(a_base_in_training_has_each_weight_once),
        cmocka_unit_test(adapters_share_an_orthogonal_basis),
        cmocka_unit_test(lora_xs_has_the_weights_own_directions),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
