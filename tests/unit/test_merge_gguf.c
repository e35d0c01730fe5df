/* test_merge_gguf.c: adapters folded into GGUF files: against what PEFT computes, tensor by tensor, and with everything else of the file
 * as it was. */
#include "cambium/gguf.h"
#include "cambium/merge.h"
#include "format_fixtures.h"
#include "random_adapter.h"

#define QUANTIZED_BASE CB_TEST_DATA "/quantized/base"

static cb_merge_options merge_options(void)
{
    cb_merge_options o = {0};
    assert_true(cb_options_init(cb_merge_option_table, &o));
    return o;
}

/* ---- logits ---- */

static const char *adapter_path(const char *name, const char *file)
{
    static char path[2][512];
    static unsigned turn;
    char *out = path[turn++ % 2];
    snprintf(out, sizeof path[0], CB_TEST_DATA "/adapters/%s/%s", name, file);
    return out;
}

/* Merges a reference adapter into `base` and compares with the logits that PEFT computed. */
static void check_reference(const char *name, const char *base, const char *extra)
{
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(base);
    cb_adapter *adapter = cb_adapter_load(adapter_path(name, ""), cb_model_root(model), cb_model_type(model));
    cb_merge_options o = merge_options();
    o.dtype = CB_MERGE_F32;
    cb_difference d;
    if (!cb_merge_fold(model, &adapter, 1, "merged.gguf", &o, &d))
        fail_msg("%s: %s", name, cb_error_message());
    assert_true(d.positions > 0 && d.weight_error == 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_safetensors *file = cb_safetensors_open(adapter_path(name, "expected.safetensors"));
    const cb_weight_entry *ids = cb_safetensors_find(file, "input_ids"), *logits = cb_safetensors_find(file, "logits");
    cb_model *merged = cb_model_load("merged.gguf");
    assert_ok();
    cb_tensor *found = cb_model_logits(merged, as_i32(cb_from_nd(ids->dtype, ids->data, ids->ndim, ids->shape)), NULL);
    assert_close(name, found, cb_from_nd(logits->dtype, logits->data, logits->ndim, logits->shape), 1e-4);
    cb_gguf *gguf = cb_gguf_open("merged.gguf");
    assert_true(!extra || cb_gguf_find(gguf, extra));
    cb_gguf_close(gguf);
    cb_model_free(merged);
    cb_safetensors_close(file);
    cb_scope_close(scope);
    assert_int_equal(unlink("merged.gguf"), 0);
}

static void merged_files_compute_what_peft_does(void **state)
{
    (void)state;
    static const struct {
        const char *adapter, *base, *extra; /* extra: a tensor that the base lacks */
    } cases[] = {{"lora_all_linear", "llama2", NULL},
                 {"lora_patterns", "llama2", NULL},
                 {"lora_rslora", "llama2", NULL},
                 {"lora_embedding", "llama2", NULL},
                 {"lora_gpt2", "gpt2", NULL},
                 {"lora_gpt2_bias_all", "gpt2", NULL},
                 {"lora_embedding_gpt2", "gpt2", NULL},
                 {"lora_bias_all", "qwen2", NULL},
                 {"lora_modules_to_save", "llama2", NULL},
                 {"lora_norms_saved", "llama2", NULL},
                 {"lora_llama3", "llama3", NULL},
                 {"lora_mistral", "mistral", NULL},
                 {"lora_qwen3", "qwen3", NULL},
                 {"dora_biases", "qwen2", NULL},
                 {"dora_gpt2", "gpt2", NULL},
                 {"ia3_biases", "qwen2", NULL},
                 {"ia3_default", "llama2", NULL},
                 {"ia3_gpt2", "gpt2", NULL},
                 {"lora_head", "smollm", "output.weight"},
                 {"tokens_untied", "llama2", NULL},
                 {"tokens_tied", "smollm", NULL},
                 {"tokens_apart", "qwen2", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(cb_gguf_export(model_path(cases[i].base), "base.gguf", "f32"));
        check_reference(cases[i].adapter, "base.gguf", cases[i].extra);
        check_reference(cases[i].adapter, model_path(cases[i].base), cases[i].extra);
        assert_int_equal(names_in("."), 1);
        assert_int_equal(unlink("base.gguf"), 0);
    }
}

/* ---- what stays ---- */

/* The quantised base in `dtype` as base.gguf, with metadata that this build has no use for, and another alignment. */
static void make_base(const char *dtype)
{
    assert_true(cb_gguf_export(QUANTIZED_BASE, "plain.gguf", dtype));
    cb_gguf *plain = cb_gguf_open("plain.gguf");
    cb_gguf_metadata m = {.alignment = 64};
    static const char *const words[] = {"one", "", "three"};
    const uint64_t numbers[] = {1, UINT64_MAX};
    assert_true(cb_gguf_put_u32(&m, "general.alignment", 64) && cb_gguf_put_strings(&m, "strange.words", 3, words));
    for (size_t i = 0; i < cb_gguf_value_count(plain); i++)
        assert_true(cb_gguf_put_value(&m, cb_gguf_value_at(plain, i)->key, cb_gguf_value_at(plain, i)));
    assert_true(cb_gguf_put_array(&m, "strange.numbers", CB_GGUF_U64, 2, numbers));
    assert_true(cb_gguf_put_string(&m, "tokenizer.chat_template", "{{ messages }}") && cb_gguf_put_bool(&m, "strange.flag", true));
    size_t count = cb_gguf_count(plain);
    cb_weight_entry *entries = calloc(count, sizeof *entries);
    for (size_t i = 0; i < count; i++)
        entries[i] = *cb_gguf_at(plain, i);
    assert_true(cb_gguf_write("base.gguf", &m, entries, count, NULL, NULL));
    free(entries);
    cb_gguf_metadata_free(&m);
    cb_gguf_close(plain);
    assert_int_equal(unlink("plain.gguf"), 0);
}

/* Merges a random LoRA of q and down of block 1 into base.gguf. */
static void merge_into_base(cb_merge_options *o, cb_difference *d)
{
    cb_model *model = cb_model_load("base.gguf");
    cb_adapter *adapter = random_adapter(model,
                                         "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": [\"layers.1.self_attn.q_proj\", "
                                         "\"layers.1.mlp.down_proj\"]}",
                                         7);
    if (!cb_merge_fold(model, &adapter, 1, "merged.gguf", o, d))
        fail_msg("%s", cb_error_message());
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static bool is_target(const char *name)
{
    return strcmp(name, "blk.1.attn_q.weight") == 0 || strcmp(name, "blk.1.ffn_down.weight") == 0;
}

static void all_else_is_kept_as_it_was(void **state)
{
    (void)state;
    make_base("q8_0");
    cb_merge_options o = merge_options();
    cb_difference d;
    merge_into_base(&o, &d);
    assert_true(d.weight_error > 0 && d.weight_error < 0.01 && d.mean_kl > 0);
    cb_gguf *base = cb_gguf_open("base.gguf"), *merged = cb_gguf_open("merged.gguf");
    assert_int_equal(cb_gguf_value_count(base), cb_gguf_value_count(merged));
    for (size_t i = 0; i < cb_gguf_value_count(base); i++) {
        const cb_gguf_value *a = cb_gguf_value_at(base, i), *b = cb_gguf_value_at(merged, i);
        assert_string_equal(a->key, b->key);
        assert_true(a->type == b->type && a->is_array == b->is_array && a->count == b->count && a->size == b->size);
        assert_memory_equal(a->data, b->data, a->size);
    }
    assert_int_equal(cb_gguf_count(base), cb_gguf_count(merged));
    for (size_t i = 0; i < cb_gguf_count(base); i++) {
        const cb_weight_entry *a = cb_gguf_at(base, i), *b = cb_gguf_at(merged, i);
        assert_string_equal(a->name, b->name);
        assert_string_equal(a->type_name, b->type_name);
        assert_int_equal(a->size, b->size);
        assert_int_equal(memcmp(a->data, b->data, a->size) == 0, !is_target(a->name));
    }
    cb_gguf_close(base);
    cb_gguf_close(merged);
}

/* ---- what changes ---- */

/* Rows of q in GGUF's order: 2j and 2j + 1 of a head are rows j and j + 8 of Hugging Face's. */
static int64_t hf_row(const char *name, int64_t row)
{
    enum { HEAD = 16 };
    return strstr(name, "attn_q") ? row / HEAD * HEAD + row % HEAD / 2 + row % 2 * (HEAD / 2) : row;
}

/* dequantise, add alpha / r B A, quantise: by hand */
static void matrices_are_read_changed_and_rounded_again(void **state)
{
    (void)state;
    static const char *const types[] = {"q8_0", "q4_0", "q5_0", "f16", "bf16"};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        cb_scope *scope = cb_scope_open();
        make_base(types[t]);
        cb_merge_options o = merge_options();
        o.max_kl = 10;
        cb_difference d;
        merge_into_base(&o, &d);
        cb_gguf *base = cb_gguf_open("base.gguf"), *merged = cb_gguf_open("merged.gguf");
        cb_model *model = cb_model_load("base.gguf");
        cb_adapter *adapter = random_adapter(model,
                                             "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": [\"layers.1.self_attn.q_proj\", "
                                             "\"layers.1.mlp.down_proj\"]}",
                                             7);
        const cb_named_tensor *list;
        assert_int_equal(cb_adapter_parameters(adapter, &list), 4);
        static const char *const names[] = {"blk.1.attn_q.weight", "blk.1.ffn_down.weight"};
        for (int i = 0; i < 2; i++) {
            const cb_weight_entry *from = cb_gguf_find(base, names[i]), *to = cb_gguf_find(merged, names[i]);
            assert_string_equal(to->type_name, from->type_name);
            cb_tensor *w = cb_cast(cb_wrap_nd(from->dtype, from->data, 2, from->shape), CB_F32);
            const cb_tensor *a = list[2 * i].tensor, *b = list[2 * i + 1].tensor;
            for (int64_t row = 0; row < w->shape[0]; row++)
                for (int64_t c = 0; c < w->shape[1]; c++) {
                    double sum = 0;
                    for (int64_t r = 0; r < 3; r++)
                        sum += cb_get(b, hf_row(names[i], row) * 3 + r) * cb_get(a, r * w->shape[1] + c);
                    ((float *)w->data)[row * w->shape[1] + c] += (float)(5.0 / 3 * sum);
                }
            cb_tensor *found = cb_cast(cb_wrap_nd(to->dtype, to->data, 2, to->shape), CB_F32);
            cb_tensor *wanted = cb_cast(cb_dtype_is_quantized(to->dtype) ? cb_quantize(w, to->dtype, 0) : cb_cast(w, to->dtype), CB_F32);
            int64_t differ = 0; /* sums in f32 in another order now and then round to the next code */
            for (int64_t k = 0; k < w->count; k++)
                differ += fabs(cb_get(found, k) - cb_get(wanted, k)) > 1e-6;
            if (differ > w->count / 200)
                fail_msg("%s, %s: %d of %d elements differ", types[t], names[i], (int)differ, (int)w->count);
        }
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_gguf_close(base);
        cb_gguf_close(merged);
        cb_scope_close(scope);
        assert_int_equal(unlink("merged.gguf") | unlink("base.gguf"), 0);
    }
}

static void another_type_may_be_asked_for(void **state)
{
    (void)state;
    make_base("f32");
    cb_merge_options o = merge_options();
    assert_true(cb_options_set(cb_merge_option_table, &o, "dtype", "q5_0"));
    cb_difference d;
    merge_into_base(&o, &d);
    cb_gguf *merged = cb_gguf_open("merged.gguf");
    assert_int_equal(cb_gguf_int(merged, "general.file_type", 0), 8);
    assert_int_equal(cb_gguf_int(merged, "general.quantization_version", 0), 2);
    assert_string_equal(cb_gguf_find(merged, "blk.0.attn_v.weight")->type_name, "Q5_0");
    assert_string_equal(cb_gguf_find(merged, "output_norm.weight")->type_name, "F32");
    assert_string_equal(cb_gguf_string(merged, "tokenizer.chat_template", ""), "{{ messages }}");
    cb_gguf_close(merged);
}

/* ---- refusals ---- */

static void refuse(const char *base, const char *output, const cb_merge_options *o, cb_status status, const char *part)
{
    cb_model *model = cb_model_load(base);
    cb_adapter *adapter = random_adapter(model, "{\"r\": 3}", 7);
    int before = names_in(".");
    assert_false(cb_merge_fold(model, &adapter, 1, output, o, NULL));
    assert_message(status, part);
    assert_int_equal(names_in("."), before);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    make_base("q4_0");
    cb_merge_options o = merge_options();
    o.max_kl = 1e-9;
    refuse("base.gguf", "merged.gguf", &o, CB_ERR_NUMERIC, "not kept: next tokens differ");
    o = merge_options();
    o.min_agreement = 1;
    o.max_kl = 10;
    refuse("base.gguf", "merged.gguf", &o, CB_ERR_NUMERIC, "not kept: the likeliest token");
    o = merge_options();
    refuse("base.gguf", "base.gguf", &o, CB_ERR_ARGUMENT, "exists and is not an empty directory");
    refuse("base.gguf", "merged", &o, CB_ERR_UNSUPPORTED, "base.gguf: is a GGUF file, and merged a directory: end its name in .gguf");
    o.quantize = CB_QUANTIZE_NF4;
    refuse("base.gguf", "merged.gguf", &o, CB_ERR_UNSUPPORTED, "quantize: found a kind for model directories");
    o = merge_options();
    assert_true(cb_options_set(cb_merge_option_table, &o, "dtype", "q8_0"));
    refuse(QUANTIZED_BASE, "merged", &o, CB_ERR_ARGUMENT, "dtype: found q8_0, a model directory holds keep, f32, bf16 or f16");
    o = merge_options();
    refuse(CB_TEST_DATA "/quantized/int8", "merged.gguf", &o, CB_ERR_UNSUPPORTED, "quantised");
    cb_interrupt();
    refuse("base.gguf", "merged.gguf", &o, CB_ERR_INTERRUPTED, "interrupted");
    cb_interrupt_clear();
}

static cb_model *faulty_model;
static cb_adapter *faulty_adapter;

static bool merge_one(void)
{
    cb_merge_options o = {.max_kl = 10};
    bool ok = cb_merge_fold(faulty_model, &faulty_adapter, 1, "merged.gguf", &o, NULL);
    unlink("merged.gguf");
    return ok;
}

static void memory_may_fail(void **state)
{
    (void)state;
    make_base("q8_0");
    faulty_model = cb_model_load("base.gguf");
    faulty_adapter = random_adapter(faulty_model, "{\"r\": 2, \"target_modules\": [\"q_proj\"]}", 7);
    assert_true(merge_one()); /* what is made once is made */
    fail_every_allocation(merge_one);
    assert_int_equal(names_in("."), 1);
    cb_adapter_free(faulty_adapter);
    cb_model_free(faulty_model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(merged_files_compute_what_peft_does),
        FILE_TEST(all_else_is_kept_as_it_was),
        FILE_TEST(matrices_are_read_changed_and_rounded_again),
        FILE_TEST(another_type_may_be_asked_for),
        FILE_TEST(what_cannot_be_is_refused),
        FILE_TEST(memory_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
