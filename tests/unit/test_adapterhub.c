/* test_adapterhub.c: adapters of AdapterHub's package (tests/oracle/adapterhub.py): what the package computes with them, and the directories
 * that are written. */
#include "adapter_fixtures.h"
#include "cambium/convert.h"
#include "cambium/training.h"

static const char *const names[] = {"seq_bn",
                                    "seq_bn_gpt2",
                                    "double_seq_bn",
                                    "double_seq_bn_gpt2",
                                    "bn_norms",
                                    "bn_after",
                                    "par_bn",
                                    "par_bn_gpt2",
                                    "adapter_plus",
                                    "compacter",
                                    "compacter_own",
                                    "compacter_shared",
                                    "seq_bn_inv",
                                    "seq_bn_inv_gpt2",
                                    "loreft",
                                    "noreft_gpt2",
                                    "direft",
                                    "seq_bn_roberta",
                                    "double_seq_bn_distilbert",
                                    "bn_after_bert",
                                    "seq_bn_inv_roberta"};
enum { NAMES = sizeof names / sizeof *names };

static char *hub_path(const char *name)
{
    return cb_format(CB_TEST_DATA "/adapterhub/%s", name);
}

typedef struct hub_case {
    char *path;
    cb_model *model;
    expected e;
    cb_tensor *ids;
} hub_case;

/* A decoder, or an encoder. */
static cb_model *load_base(const char *name)
{
    char *path = cb_format(CB_TEST_DATA "/encoders/%s", name);
    cb_model *model = cb_is_directory(path) ? cb_model_load(path) : load_model(name);
    assert_ok(model);
    cb_free(path);
    return model;
}

static bool is_encoder(const hub_case *c)
{
    return cb_model_head_kind(c->model) == CB_HEAD_MASKED_LM;
}

static cb_tensor *loss_of(const hub_case *c, const cb_context *ctx)
{
    cb_tensor *labels = expected_tensor(&c->e, "labels");
    return cb_model_loss(c->model, c->ids, is_encoder(c) ? cb_cast(labels, CB_I32) : targets_of(labels), 0, ctx);
}

static hub_case open_case(const char *name)
{
    hub_case c = {.path = hub_path(name)};
    char *file = cb_format("%s/expected.safetensors", c.path);
    json_t *config = load_json("%s/adapter_config.json", c.path);
    c.model = load_base(json_string_value(json_object_get(config, "model_name")));
    json_decref(config);
    c.e.file = cb_safetensors_open(file);
    assert_ok(c.e.file);
    c.ids = cb_cast(expected_tensor(&c.e, "input_ids"), CB_I32);
    cb_free(file);
    return c;
}

static void close_case(hub_case *c)
{
    cb_safetensors_close(c->e.file);
    cb_model_free(c->model);
    cb_free(c->path);
}

static cb_adapter *load_on(const hub_case *c, const char *path)
{
    cb_adapter *adapter = cb_adapter_load(path, cb_model_root(c->model), cb_model_type(c->model));
    assert_ok(adapter);
    return adapter;
}

/* Our parameter of one of the package's keys: their last parts agree, and the number of the block. */
static cb_tensor *parameter_of(const cb_adapter *adapter, const char *key)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    const char *style = strstr(key, ".style."), *block = strstr(key, ".layers.")  ? strstr(key, ".layers.")
                                                         : strstr(key, ".layer.") ? strstr(key, ".layer.")
                                                                                  : strstr(key, ".h.");
    const char *middle = strstr(key, "attention_adapters") ? "att"
                         : strstr(key, "attention.output") ? "attention"
                         : strstr(key, "output.adapters")  ? ".output."
                         : strstr(key, "output_adapters")  ? (strstr(key, "distilbert") ? "ffn" : "mlp")
                                                           : "";
    assert_non_null(style);
    char number[32] = ""; /* ".layers.0." */
    if (block && block < style)
        snprintf(number, sizeof number, "%.*s", (int)(strchr(strchr(block + 1, '.') + 1, '.') - block + 1), block);
    for (size_t i = 0; i < count; i++)
        if (cb_ends_with(list[i].name, style + strlen(".style")) && strstr(list[i].name, number) && strstr(list[i].name, middle))
            return list[i].tensor;
    return NULL;
}

/* f32 sums in another order: 1e-4 of the largest value, or what is left of numbers around 1 that cancel, as a gate's do */
static void check_hub_gradients(const cb_adapter *adapter, const expected *e, const char *name)
{
    size_t compared = 0;
    for (size_t i = 0; i < cb_safetensors_count(e->file); i++) {
        const cb_weight_entry *entry = cb_safetensors_at(e->file, i);
        if (strncmp(entry->name, "grad.", 5) != 0)
            continue;
        cb_tensor *t = parameter_of(adapter, entry->name + 5);
        if (!t)
            fail_msg("%s: no parameter for %s", name, entry->name);
        assert_non_null(t->grad);
        cb_tensor *wanted = entry_tensor(entry);
        double d = distance(t->grad, wanted), top = largest(wanted);
        if (!(d <= fmax(1e-4 * top, 5e-8)))
            fail_msg("%s: %s differs by %g, largest value %g", name, entry->name, d, top);
        compared++;
    }
    assert_true(compared > 1);
}

static void the_package_computes_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        cb_scope *scope = cb_scope_open();
        hub_case c = open_case(names[i]);
        cb_adapter *adapter = load_on(&c, c.path);
        assert_within(logits_of(c.model, c.ids), expected_tensor(&c.e, "logits"), 1e-5, names[i]);
        cb_tensor *loss = loss_of(&c, &(cb_context){0});
        assert_ok(loss);
        assert_true(fabs(cb_item(loss) - cb_get(expected_tensor(&c.e, "loss"), 0)) < 1e-5 * fabs(cb_item(loss)));
        assert_ok(cb_backward(loss));
        check_hub_gradients(adapter, &c.e, names[i]);
        cb_adapter_set_strength(adapter, 0);
        assert_true(distance(logits_of(c.model, c.ids), expected_tensor(&c.e, "logits")) > 1e-2);
        cb_adapter_free(adapter);
        close_case(&c);
        cb_scope_close(scope);
    }
}

/* Our own directory and the package's hold the same adapter; LoReFT's R is orthonormalised on the way. */
static void directories_come_back(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        cb_scope *scope = cb_scope_open();
        hub_case c = open_case(names[i]);
        cb_adapter *adapter = load_on(&c, c.path);
        cb_tensor *wanted = logits_of(c.model, c.ids);
        const char *own = scratch_path(names[i]), *hub = scratch_path("hub");
        assert_ok(cb_adapter_save(adapter, own, NULL));
        cb_adapter_free(adapter);
        adapter = load_on(&c, own);
        assert_true(distance(logits_of(c.model, c.ids), wanted) == 0);
        cb_adapter_free(adapter);
        assert_ok(cb_adapter_rewrite(own, cb_model_root(c.model), cb_model_type(c.model), "adapterhub", hub));
        adapter = load_on(&c, hub);
        assert_within(logits_of(c.model, c.ids), wanted, strcmp(names[i], "loreft") == 0 ? 1e-5 : 0, names[i]);
        cb_adapter_free(adapter);
        close_case(&c);
        cb_scope_close(scope);
    }
}

/* A pass over all tokens and one over some after those in the cache; what edits the last tokens of a prompt is another thing there. */
static void generation_continues_a_prompt(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        if (strcmp(names[i], "bn_norms") == 0 || strstr(names[i], "reft"))
            continue; /* a gate is a mean over tokens */
        cb_scope *scope = cb_scope_open();
        hub_case c = open_case(names[i]);
        if (is_encoder(&c)) {
            close_case(&c);
            cb_scope_close(scope);
            continue;
        }
        cb_adapter *adapter = load_on(&c, c.path);
        cb_tensor *whole = logits_of(c.model, c.ids);
        cb_cache *cache = cb_cache_new(c.model, 2, 11);
        cb_context ctx = {.cache = cache};
        cb_tensor *parts[] = {cb_model_logits(c.model, cb_contiguous(cb_slice(c.ids, 1, 0, 6, 1)), &ctx),
                              cb_model_logits(c.model, cb_contiguous(cb_slice(c.ids, 1, 6, 7, 1)), &ctx),
                              cb_model_logits(c.model, cb_contiguous(cb_slice(c.ids, 1, 7, 11, 1)), &ctx)};
        assert_ok(parts[0] && parts[1] && parts[2]);
        assert_within(cb_cat(3, parts, 1), whole, 1e-5, names[i]);
        cb_cache_free(cache);
        cb_adapter_free(adapter);
        close_case(&c);
        cb_scope_close(scope);
    }
}

/* ReFT's tokens: counted from each sequence's first, with and without a cache, in packed rows and beside padding. */
static void reft_edits_the_tokens_of_each_sequence(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "reft", "{\"r\": 2, \"suffix_positions\": 1, \"prefix_positions\": 2, \"dropout\": 0}", 1);
    assert_ok(adapter);
    int32_t ids[9], segments[9] = {-1, -1, 0, 0, 0, 0, 1, 1, 1}, positions[9] = {0, 0, 0, 1, 2, 3, 0, 1, 2};
    for (int i = 0; i < 9; i++)
        ids[i] = 5 + 7 * i;
    cb_tensor *first = logits_of(model, cb_from(CB_I32, ids + 2, 1, 4)), *second = logits_of(model, cb_from(CB_I32, ids + 6, 1, 3)),
              *y = NULL;
    cb_context ctx = {.segments = cb_from(CB_I32, segments, 1, 9), .positions = cb_from(CB_I32, positions, 1, 9)};
    cb_no_grad y = cb_model_logits(model, cb_from(CB_I32, ids, 1, 9), &ctx);
    assert_ok(y);
    assert_within(cb_slice(y, 1, 2, 6, 1), first, 1e-5, "the first of a row");
    assert_within(cb_slice(y, 1, 6, 9, 1), second, 1e-5, "the second");
    /* what is generated after a prompt is not edited: as after a prompt of which nothing is, but for what attention sees */
    cb_cache *cache = cb_cache_new(model, 1, 9);
    cb_context cached = {.cache = cache};
    assert_ok(cb_model_logits(model, cb_from(CB_I32, ids, 1, 4), &cached));
    cb_tensor *with = cb_model_logits(model, cb_from(CB_I32, ids + 4, 1, 1), &cached);
    cb_cache_truncate(cache, 4);
    cb_adapter_set_strength(adapter, 0);
    cb_tensor *without = cb_model_logits(model, cb_from(CB_I32, ids + 4, 1, 1), &cached);
    assert_true(distance(with, without) == 0);
    cb_cache_free(cache);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* A gate's mean is over the tokens of a sequence, not of what is packed beside it or of padding. */
static void a_gate_is_of_each_sequence(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "bottleneck", "{\"use_gating\": true, \"mh_adapter\": true}", 1);
    assert_ok(adapter);
    randomise(adapter, 3);
    int32_t ids[9], segments[9] = {-1, -1, 0, 0, 0, 0, 1, 1, 1}, positions[9] = {0, 0, 0, 1, 2, 3, 0, 1, 2};
    for (int i = 0; i < 9; i++)
        ids[i] = 5 + 7 * i;
    cb_tensor *first = logits_of(model, cb_from(CB_I32, ids + 2, 1, 4)), *second = logits_of(model, cb_from(CB_I32, ids + 6, 1, 3)),
              *y = NULL;
    cb_context ctx = {.segments = cb_from(CB_I32, segments, 1, 9), .positions = cb_from(CB_I32, positions, 1, 9)};
    cb_no_grad y = cb_model_logits(model, cb_from(CB_I32, ids, 1, 9), &ctx);
    assert_ok(y);
    assert_within(cb_slice(y, 1, 2, 6, 1), first, 1e-5, "the first of a row");
    assert_within(cb_slice(y, 1, 6, 9, 1), second, 1e-5, "the second");
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* In a model the map of the embedding is undone before the head: of a model that does nothing in between nothing remains. */
static void an_invertible_map_is_undone(void **state)
{
    (void)state;
    static const char *const forms[] = {"nice", "glow"};
    for (int i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load_model("llama2");
        char *options = cb_format("{\"inv_adapter\": \"%s\", \"output_adapter\": false}", forms[i]);
        cb_adapter *adapter = made(model, "bottleneck", options, 1);
        assert_ok(adapter);
        randomise(adapter, 3);
        cb_module *const *modules;
        assert_int_equal(cb_adapter_modules(adapter, &modules), 2);
        cb_rng rng = {.seed = 2};
        cb_tensor *x = cb_randn(CB_F32, &rng, 2, 3, 48), *there = modules[0]->kind->before(modules[0], x, &(cb_context){0});
        assert_true(distance(there, x) > 0.1);
        assert_within(modules[1]->kind->before(modules[1], there, &(cb_context){0}), x, 1e-6, forms[i]);
        cb_free(options);
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

/* Of an encoder with its norm behind the sum too: with U zero a module adds nothing, and maps whose networks give zero are the identity. */
static void what_gives_zero_changes_no_bit(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_base("roberta");
    int32_t ids[] = {0, 5, 9, 7, 2, 11};
    cb_tensor *x = cb_from(CB_I32, ids, 1, 6), *plain = logits_of(model, x);
    cb_adapter *adapter = made(model, "bottleneck", "{\"mh_adapter\": true, \"inv_adapter\": \"nice\"}", 1);
    assert_ok(adapter);
    assert_true(distance(logits_of(model, x), plain) > 1e-3); /* it starts at random */
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list), silenced = 0;
    for (size_t i = 0; i < count; i++)
        if (strstr(list[i].name, "adapter_up.") || strstr(list[i].name, ".2.")) {
            memset(list[i].tensor->data, 0, (size_t)list[i].tensor->count * sizeof(float));
            silenced++;
        }
    assert_int_equal(silenced, 2 * 2 + 4);
    assert_true(distance(logits_of(model, x), plain) == 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Downstream the map is not undone: a head of labels has no module on it, and a language's adapter goes under it. */
static void labels_come_without_the_inverse(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    hub_case c = open_case("seq_bn_inv_roberta");
    cb_model *model =
        cb_model_load(CB_TEST_DATA "/encoders/roberta", .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .labels = 3, .head_follows = true);
    assert_ok(model);
    cb_tensor *plain = logits_of(model, c.ids);
    cb_adapter *words = load_on(&c, c.path), *labels = cb_adapter_load(c.path, cb_model_root(model), cb_model_type(model));
    assert_ok(labels);
    cb_module *const *modules;
    assert_int_equal(cb_adapter_modules(labels, &modules) + 1, cb_adapter_modules(words, &modules));
    assert_true(distance(logits_of(model, c.ids), plain) > 1e-3);
    cb_adapter_free(labels);
    cb_adapter_free(words);
    cb_model_free(model);
    close_case(&c);
    cb_scope_close(scope);
}

static void a_norm_behind_the_sum_is_not_left_out(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_base("bert");
    cb_adapter *adapter = made(model, "bottleneck", "{\"original_ln_after\": false, \"residual_before_ln\": \"false\"}", 1);
    int32_t ids[] = {5, 9, 7};
    assert_ok(adapter);
    assert_refused(!cb_model_logits(model, cb_from(CB_I32, ids, 1, 3), &(cb_context){0}), "original_ln_after: found false for layer bert.");
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* The same losses and gradients when a block's halves are run again in the backward pass. */
static void checkpointing_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        cb_scope *scope = cb_scope_open();
        hub_case c = open_case(names[i]);
        cb_adapter *adapter = load_on(&c, c.path);
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        cb_tensor *plain[64] = {0};
        for (int again = 0; again < 2; again++) {
            cb_context ctx = {.checkpoint = again};
            assert_ok(cb_backward(loss_of(&c, &ctx)));
            for (size_t k = 0; k < count; k++) {
                assert_non_null(list[k].tensor->grad);
                if (again)
                    assert_true(distance(list[k].tensor->grad, plain[k]) <= 1e-6 * largest(plain[k]));
                else
                    plain[k] = cb_contiguous(cb_add_scalar(list[k].tensor->grad, 0));
                cb_zero_grad(list[k].tensor);
            }
        }
        cb_adapter_free(adapter);
        close_case(&c);
        cb_scope_close(scope);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    static const char *const refused[][3] = {
        {"bottleneck", "{\"cross_adapter\": true}", "cross_adapter: found true, and the model has no cross attention"},
        {"bottleneck", "{\"residual_before_ln\": \"post_add\"}", "residual_before_ln: found post_add"},
        {"bottleneck", "{\"original_ln_after\": false}", "original_ln_after: found false, which loses the stream"},
        {"bottleneck", "{\"scaling\": \"lerned\"}", "scaling: found 'lerned', expected a number, learned or channel"},
        {"bottleneck", "{\"leave_out\": [\"x\"]}", "leave_out: found 'x', expected the number of a block"},
        {"bottleneck", "{\"phm_layer\": true, \"reduction_factor\": 8}", "phm_dim: found 4 for layer model.layers.0.mlp"},
        {"bottleneck", "{\"target_modules\": [\"layers.0\"]}", "inv_adapter: found none for layer model.layers.0"},
        {"bottleneck", "{\"target_modules\": [\"lm_head\"], \"inv_adapter\": \"nice\"}", "not the first block, whose map it undoes"},
        {"reft", "{\"prefix_positions\": 0}", "prefix_positions and suffix_positions: found 0 and 0"},
        {"reft", "{\"r\": 49}", "rank: found 49 for layer model.layers.0 of width 48"},
    };
    cb_model *model = load_model("llama2");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_refused(!attempt(model, refused[i][0], refused[i][1], 1), refused[i][2]);
    cb_adapter *adapter = made(model, "bottleneck", "{\"target_modules\": [\"q_proj\"]}", 1);
    assert_ok(adapter && cb_adapter_save(adapter, scratch_path("linear"), NULL));
    cb_adapter_free(adapter);
    assert_refused(!cb_adapter_rewrite(scratch_path("linear"), cb_model_root(model), "llama", "adapterhub", scratch_path("never")),
                   "no place for: it has modules on attention, MLP and blocks");
    assert_refused(!cb_adapter_rewrite(scratch_path("linear"), cb_model_root(model), "llama", "mlx", scratch_path("never")),
                   "holds LoRA only");
    cb_model_free(model);
}

/* ---- fusions ---- */

static const char *const fusions[][2] = {{"fusion", "llama2"}, {"fusion_static", "gpt2"}};
enum { FUSIONS = sizeof fusions / sizeof *fusions };

typedef struct fused {
    cb_model *model;
    cb_composition parts;
    expected e;
    cb_tensor *ids;
} fused;

static bool load_parts(fused *f, const char *path)
{
    return cb_composition_load(&f->parts, path, cb_model_root(f->model), cb_model_type(f->model));
}

static fused open_fused(int i)
{
    fused f = {.model = load_model(fusions[i][1])};
    char *path = hub_path(fusions[i][0]), *file = cb_format("%s/expected.safetensors", path);
    f.e.file = cb_safetensors_open(file);
    assert_ok(f.e.file && load_parts(&f, path));
    f.ids = cb_cast(expected_tensor(&f.e, "input_ids"), CB_I32);
    cb_free(file);
    cb_free(path);
    return f;
}

static void close_fused(fused *f)
{
    cb_model_set_blend(f->model, NULL, NULL, NULL);
    cb_composition_free(&f->parts);
    cb_safetensors_close(f->e.file);
    cb_model_free(f->model);
}

static cb_tensor *fused_logits(fused *f)
{
    assert_ok(cb_composition_use(&f->parts, f->model));
    return logits_of(f->model, f->ids);
}

/* Our parameter of a key of the fusion's file. */
static cb_tensor *fused_parameter(const cb_mixer *mixer, const char *key)
{
    const cb_named_tensor *list;
    size_t count = cb_mixer_parameters(mixer, &list);
    const char *place = strstr(key, "_adapters.adapter_fusion_layer.style,words."), *middle = strstr(key, "attention") ? "attn" : "mlp";
    assert_non_null(place);
    const char *suffix = strchr(place, ',') + strlen(",words"),
               *block = strstr(key, ".layers.") ? strstr(key, ".layers.") : strstr(key, ".h.");
    char number[32];
    snprintf(number, sizeof number, "%.*s", (int)(strchr(strchr(block + 1, '.') + 1, '.') - block + 1), block);
    for (size_t i = 0; i < count; i++)
        if (cb_ends_with(list[i].name, suffix) && strstr(list[i].name, number) && strstr(list[i].name, middle))
            return list[i].tensor;
    fail_msg("no parameter for %s", key);
    return NULL;
}

static void the_package_fuses_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < FUSIONS; i++) {
        cb_scope *scope = cb_scope_open();
        fused f = open_fused(i);
        assert_within(fused_logits(&f), expected_tensor(&f.e, "logits"), 1e-5, fusions[i][0]);
        cb_tensor *loss = cb_model_loss(f.model, f.ids, targets_of(expected_tensor(&f.e, "labels")), 0, &(cb_context){0});
        assert_ok(loss);
        assert_true(fabs(cb_item(loss) - cb_get(expected_tensor(&f.e, "loss"), 0)) < 1e-5 * fabs(cb_item(loss)));
        assert_ok(cb_backward(loss));
        int compared = 0;
        for (size_t k = 0; k < cb_safetensors_count(f.e.file); k++) {
            const cb_weight_entry *entry = cb_safetensors_at(f.e.file, k);
            if (strncmp(entry->name, "grad.", 5) != 0)
                continue;
            cb_tensor *t = fused_parameter(f.parts.mixer, entry->name + 5), *wanted = entry_tensor(entry);
            assert_non_null(t->grad);
            double d = distance(t->grad, wanted), top = largest(wanted);
            if (!(d <= fmax(1e-4 * top, 1e-7))) /* key.bias moves all scores alike: zero but for rounding */
                fail_msg("%s: %s differs by %g, largest value %g", fusions[i][0], entry->name, d, top);
            compared++;
        }
        assert_true(compared >= 6);
        close_fused(&f);
        cb_scope_close(scope);
    }
}

/* Our directory and the package's hold the same fusion; what we write the package reads (tests/oracle/adapterhub_fusion.py --load). */
static void fusions_come_back(void **state)
{
    (void)state;
    for (int i = 0; i < FUSIONS; i++) {
        cb_scope *scope = cb_scope_open();
        fused f = open_fused(i);
        cb_tensor *wanted = fused_logits(&f);
        const char *own = scratch_path(fusions[i][0]), *hub = scratch_path("fused");
        assert_ok(cb_composition_save(&f.parts, own, NULL));
        assert_ok(cb_composition_save_hub(&f.parts, hub, cb_model_root(f.model), cb_model_type(f.model)));
        char *alone = cb_format("%s/style,words", hub);
        for (int k = 0; k < 3; k++) {
            cb_model_set_blend(f.model, NULL, NULL, NULL);
            cb_composition_free(&f.parts);
            const char *path = k == 0 ? own : k == 1 ? hub : alone; /* the last: a fusion beside its adapters */
            assert_true(cb_is_composition(path));
            assert_ok(load_parts(&f, path));
            assert_true(distance(fused_logits(&f), wanted) == 0);
        }
        cb_free(alone);
        close_fused(&f);
        cb_scope_close(scope);
    }
}

static void put_file(const char *directory, const char *name, const char *text)
{
    char *path = cb_path_join(directory, name);
    assert_ok(path && cb_file_write(path, text, strlen(text)));
    cb_free(path);
}

static void fusions_that_cannot_be_are_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    fused f = open_fused(0);
    const char *hub = scratch_path("hostile");
    assert_ok(cb_composition_save_hub(&f.parts, hub, cb_model_root(f.model), cb_model_type(f.model)));
    cb_composition_free(&f.parts);
    char *inner = cb_format("%s/style,words", hub);
#define SETUP(type, children) "{\"adapter_setup\": {\"type\": \"" type "\", \"children\": [" children "]}}"
#define SINGLE(name)          "{\"type\": \"single\", \"children\": [\"" name "\"]}"
#define CONFIG(name, fields)  "{\"name\": \"" name "\", \"config\": {" fields "}}"
    static const struct {
        bool inside;
        const char *text, *message;
    } cases[] = {{false, SETUP("Stack", SINGLE("style")), "found the type Stack, expected Fuse"},
                 {false, SETUP("Fuse", ""), "expected Fuse with children"},
                 {false, SETUP("Fuse", "{\"type\": \"Stack\", \"children\": []}"), "child 0 is of type Stack, expected single"},
                 {false, SETUP("Fuse", SINGLE("../style") ", " SINGLE("words")), "adapter 0: expected its name"},
                 {false, SETUP("Fuse", SINGLE("style") ", " SINGLE("style")), "found the adapter style twice"},
                 {false, SETUP("Fuse", SINGLE("words") ", " SINGLE("style")), "words,style"},
                 {false, "{\"adapter_setup\": 3}", "found the type (none)"},
                 {true, CONFIG("style,words", "\"temperature\": true"), "config.temperature: found true, expected false"},
                 {true, CONFIG("style,words", "\"key\": false"), "config.key: found false, expected true"},
                 {true, CONFIG("style,words", "\"residual_before\": true"), "config.residual_before: found true"},
                 {true, CONFIG("style", ""), "expected those of the setup"},
                 {true, "{\"name\": \"a,b\", \"adapter_names\": [\"style\", \"words\"], \"config\": {}}", "found none"},
                 {true, "{\"name\": 3}", "name"},
                 {true, "{\"name\": \"style,words\", \"config\": 3}", "config: expected an object"}};
    char *good[2] = {NULL, NULL}, *files[2] = {cb_format("%s/adapter_setup.json", hub), cb_format("%s/adapter_fusion_config.json", inner)};
    for (int i = 0; i < 2; i++)
        assert_ok((good[i] = cb_file_read(files[i], 1 << 20, NULL)));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(cb_file_write(files[cases[i].inside], cases[i].text, strlen(cases[i].text)));
        assert_refused(!load_parts(&f, hub), cases[i].message);
        assert_int_equal(f.parts.count, 0);
        assert_ok(cb_file_write(files[cases[i].inside], good[cases[i].inside], strlen(good[cases[i].inside])));
    }
    assert_ok(load_parts(&f, hub));
    cb_composition_free(&f.parts);
    char *part = cb_format("%s/style", hub), *config = cb_format("%s/adapter_config.json", part),
         *text = cb_file_read(config, 1 << 20, NULL);
    static const char *const fields[] = {"use_gating", "is_parallel", "ln_after"};
    for (int i = 0; i < 3; i++) { /* the other adapter's tensors are missing then, or the fusion is refused */
        char *off = cb_format("\"%s\": false", fields[i]), *at = strstr(text, off);
        assert_non_null(at);
        char *changed = cb_format("%.*s\"%s\": true%s", (int)(at - text), text, fields[i], at + strlen(off));
        put_file(part, "adapter_config.json", changed);
        assert_refused(!load_parts(&f, hub), i == 1 ? "found is_parallel" : "is missing");
        cb_free(off);
        cb_free(changed);
    }
    put_file(inner, "model_adapter_fusion.safetensors", "no tensors");
    put_file(part, "adapter_config.json", text);
    assert_refused(!load_parts(&f, hub), "model_adapter_fusion.safetensors");
    cb_free(part);
    cb_free(config);
    cb_free(text);
    for (int i = 0; i < 2; i++) {
        cb_free(good[i]);
        cb_free(files[i]);
    }
    cb_free(inner);
    close_fused(&f);
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_package_computes_the_same),
        cmocka_unit_test(directories_come_back),
        cmocka_unit_test(generation_continues_a_prompt),
        cmocka_unit_test(reft_edits_the_tokens_of_each_sequence),
        cmocka_unit_test(a_gate_is_of_each_sequence),
        cmocka_unit_test(an_invertible_map_is_undone),
        cmocka_unit_test(what_gives_zero_changes_no_bit),
        cmocka_unit_test(labels_come_without_the_inverse),
        cmocka_unit_test(a_norm_behind_the_sum_is_not_left_out),
        cmocka_unit_test(checkpointing_changes_nothing),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(the_package_fuses_the_same),
        cmocka_unit_test(fusions_come_back),
        cmocka_unit_test(fusions_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
