/* test_gguf.c: GGUF files: the container, models in it against what transformers computes with the originals (files made by
 * tests/oracle/gguf_models.py with the gguf package), tokenizers, and files that must be refused. */
#include "model_fixtures.h"

#include "cambium/gguf.h"
#include "format_fixtures.h"

static const char *gguf_path(const char *name)
{
    static char path[4][512];
    static unsigned turn;
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/gguf/%s.gguf", CB_TEST_DATA, name);
    return out;
}

/* ---- models ---- */

static const char *const gguf_models[] = {"llama3", "llama_sharded", "llama_yarn_rope", "qwen2", "qwen3", "gpt2"};

static void logits_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gguf_models / sizeof *gguf_models; i++) {
        fixture f = fixture_open_with(gguf_models[i], gguf_path(gguf_models[i]), CB_F32);
        assert_close(gguf_models[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(logits_equal_transformers, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
